// SPDX-License-Identifier: Apache-2.0
#include "base/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <random>

#include "base/mistakes.h"
#include "base/open_file.h"
#include "base/text.h"
#include "base/warning.h"

namespace peft::detail {
namespace {

namespace fs = std::filesystem;

std::string cannot_write(const fs::path& path) {
  return concat("cannot write '", path.string(), "'");
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

// The file that `path` leads to, so that links stay links.
fs::path follow_links(const fs::path& path) {
  constexpr int most = 40;  // as the kernel
  fs::path target = path;
  for (int i = 0; i < most; ++i) {
    std::error_code error;
    const fs::path link = fs::read_symlink(target, error);
    if (error) {
      return target;
    }
    target = link.is_absolute() ? link : folder_of(target) / link;
  }
  raise_file_error(cannot_write(path), ELOOP);
}

// The permissions of the file to replace, if there is one; it must be a file
// that may be replaced.
std::optional<mode_t> old_mode(const fs::path& path) {
  if (!path.has_filename()) {
    raise_file_error(cannot_write(path), path.empty() ? ENOENT : EISDIR);
  }
  struct stat old = {};
  if (::stat(path.c_str(), &old) != 0) {
    return std::nullopt;  // open() reports what else may be wrong
  }
  if (S_ISDIR(old.st_mode)) {
    raise_file_error(cannot_write(path), EISDIR);
  }
  if (!S_ISREG(old.st_mode)) {
    throw Error(
        ErrorKind::file,
        concat(cannot_write(path), ": it is a pipe or a device, not a file"));
  }
  // A rename would not ask; a file marked read-only is meant to stay.
  if (::access(path.c_str(), W_OK) != 0) {
    raise_file_error(cannot_write(path), errno);
  }
  return old.st_mode & 0777;
}

// ".<name>.<16 hex digits>.new" in the same folder.
fs::path new_name(const fs::path& path) {
  static constexpr char digits[] = "0123456789abcdef";
  std::random_device random;
  std::string suffix;
  for (int i = 0; i < 16; ++i) {
    suffix += digits[random() % 16];
  }
  constexpr size_t most = 200;  // names longer than 255 bytes are refused
  std::string name = path.filename().string();
  if (name.size() > most) {
    name = "peft";
  }
  return folder_of(path) / concat(".", name, ".", suffix, ".new");
}

int create_new(const fs::path& path, mode_t mode) {
  const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
  int number = -1;
  do {
    number = ::open(path.c_str(), flags, mode);
  } while (number < 0 && errno == EINTR);
  return number;
}

// A rename lasts through a power cut once its folder is flushed. The new file
// is in place by now, so that failing here is no reason to throw.
void flush_folder(const fs::path& path) {
  const fs::path folder = folder_of(path);
  const int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
  const Descriptor opened(::open(folder.c_str(), flags));
  if (opened.number() < 0) {
    return;  // a folder may be writable and yet not readable
  }
  int failed = 0;
  do {
    failed = ::fsync(opened.number()) == 0 ? 0 : errno;
  } while (failed == EINTR);
  if (failed != 0 && failed != EINVAL && failed != ENOTSUP) {
    warn(concat(
        "'",
        path.string(),
        "' is written, but its folder cannot be flushed to disk: ",
        std::generic_category().message(failed)));
  }
}

}  // namespace

AtomicFile::AtomicFile(fs::path path) : path_(follow_links(path)) {
  const std::optional<mode_t> mode = old_mode(path_);
  do {
    new_path_ = new_name(path_);
    descriptor_ = create_new(new_path_, mode.value_or(0666));
  } while (descriptor_ < 0 && errno == EEXIST);
  if (descriptor_ < 0) {
    raise_file_error(cannot_write(path_), errno);
  }
  if (mode) {
    // Undoes the umask; file systems without permissions refuse, harmlessly.
    static_cast<void>(::fchmod(descriptor_, *mode));
  }
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
  }
  if (!new_path_.empty()) {
    ::unlink(new_path_.c_str());
  }
}

void AtomicFile::write(const void* data, size_t size) {
  constexpr size_t most = size_t{1} << 30;  // some systems refuse 2 GiB
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::write(descriptor_, next, std::min(size, most));
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written < 0) {
      fail("writing");
    }
    next += written;
    size -= static_cast<size_t>(written);
  }
}

void AtomicFile::flush() {
  if (descriptor_ < 0) {
    return;
  }
  while (::fsync(descriptor_) != 0) {
    if (errno != EINTR) {
      fail("flushing");
    }
  }
  const int closed = ::close(descriptor_);
  descriptor_ = -1;  // closed even when close() reports a late failure
  if (closed != 0 && errno != EINTR) {
    fail("closing");
  }
}

void AtomicFile::publish() {
  flush();
  if (::rename(new_path_.c_str(), path_.c_str()) != 0) {
    fail("renaming");
  }
  new_path_.clear();
  flush_folder(path_);
}

void AtomicFile::fail(const std::string& doing) const {
  const int error_number = errno;
  raise_file_error(
      concat(
          cannot_write(path_),
          ": ",
          doing,
          " the new file '",
          new_path_.string(),
          "'"),
      error_number);
}

}  // namespace peft::detail
