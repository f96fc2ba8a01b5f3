// SPDX-License-Identifier: Apache-2.0
#include "base/open_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "base/mistakes.h"
#include "base/text.h"

namespace peft::detail {
namespace {

const char* hint(int error_number) {
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
      return "check the path and its folders";
    case EACCES:
    case EPERM:
      return "check the permissions of the file and its folders";
    case EROFS:
      return "choose a folder that can be written to";
    case ENOSPC:
    case EDQUOT:
      return "free some space, or choose another disk";
    case EFBIG:
      return "raise the file size limit, see 'ulimit -f'";
    case EISDIR:
      return "name a file, not a folder";
    case EMFILE:
    case ENFILE:
      return "close some files, or raise the limit, see 'ulimit -n'";
    case ENAMETOOLONG:
      return "choose a shorter name";
    case ELOOP:
      return "the symbolic links go round in a circle";
    default:
      return nullptr;
  }
}

}  // namespace

Descriptor::~Descriptor() {
  if (number_ >= 0) {
    ::close(number_);
  }
}

void raise_file_error(const std::string& heading, int error_number) {
  std::string reason = std::generic_category().message(error_number);
  if (const char* advice = hint(error_number)) {
    reason += concat(" (", advice, ")");
  }
  throw Error(ErrorKind::file, concat(heading, ": ", reason));
}

std::string cannot_read(const std::filesystem::path& path) {
  return concat("cannot read '", path.string(), "'");
}

int open_for_reading(const std::filesystem::path& path, size_t& size) {
  // O_NONBLOCK: opening a pipe without a writer would wait for one forever.
  const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
  int number = -1;
  do {
    number = ::open(path.c_str(), flags);
  } while (number < 0 && errno == EINTR);
  if (number < 0) {
    raise_file_error(cannot_read(path), errno);
  }
  struct stat status = {};
  const int failed = ::fstat(number, &status) == 0 ? 0 : errno;
  if (failed == 0 && S_ISREG(status.st_mode)) {
    size = static_cast<size_t>(status.st_size);
    return number;
  }
  ::close(number);
  if (failed != 0) {
    raise_file_error(cannot_read(path), failed);
  }
  if (S_ISDIR(status.st_mode)) {
    raise_file_error(cannot_read(path), EISDIR);
  }
  throw Error(
      ErrorKind::file,
      concat(cannot_read(path), ": it is a pipe or a device, not a file"));
}

}  // namespace peft::detail
