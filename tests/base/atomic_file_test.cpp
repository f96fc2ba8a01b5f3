// SPDX-License-Identifier: Apache-2.0
// Whatever happens while a file is written, its path holds the old bytes or
// the new ones, whole, and nothing else is left in its folder.
#include "base/atomic_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include <gmock/gmock.h>

#include "support/error_of.h"
#include "support/file_size_limit.h"
#include "support/kill_while_saving.h"
#include "support/temp_folder.h"

namespace {

namespace fs = std::filesystem;
using peft::ErrorKind;
using peft::detail::AtomicFile;
using peft::detail::read_text_file;
using peft_test::error_of;
using peft_test::read_bytes;
using peft_test::TempFolder;
using peft_test::write_bytes;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

void write_whole(const fs::path& path, const std::string& bytes) {
  AtomicFile file(path);
  file.write(bytes.data(), bytes.size());
  file.publish();
}

std::string write_error(const fs::path& path) {
  return error_of(ErrorKind::file, [&] { write_whole(path, "new"); });
}

std::string read_error(const fs::path& path) {
  return error_of(ErrorKind::file, [&] { read_text_file(path); });
}

mode_t mode_of(const fs::path& path) {
  struct stat status = {};
  EXPECT_EQ(::stat(path.c_str(), &status), 0);
  return status.st_mode & 0777;
}

TEST(AtomicFileTest, WritesANewFile) {
  const TempFolder folder;
  AtomicFile file(folder / "a");
  file.write("one ", 4);
  file.write("", 0);
  file.write("two", 3);
  file.flush();
  EXPECT_FALSE(fs::exists(folder / "a"));
  file.publish();
  EXPECT_EQ(read_bytes(folder / "a"), "one two");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(AtomicFileTest, ReplacesAFile) {
  const TempFolder folder;
  write_bytes(folder / "a", "old and longer");
  write_whole(folder / "a", "new");
  EXPECT_EQ(read_bytes(folder / "a"), "new");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(AtomicFileTest, WritesAnEmptyFile) {
  const TempFolder folder;
  write_whole(folder / "a", "");
  EXPECT_TRUE(fs::is_empty(folder / "a"));
}

TEST(AtomicFileTest, WritesIntoTheCurrentFolder) {
  const TempFolder folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  write_whole("a", "new");
  fs::current_path(before);
  EXPECT_EQ(read_bytes(folder / "a"), "new");
}

TEST(AtomicFileTest, LeavesNothingWhenGivenUp) {
  const TempFolder folder;
  write_bytes(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.write("new", 3);
    file.flush();
    EXPECT_EQ(folder.names().size(), 2);
  }
  EXPECT_EQ(read_bytes(folder / "a"), "old");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(AtomicFileTest, GivesANewFileTheUsualMode) {
  const TempFolder folder;
  const mode_t before = ::umask(027);
  write_whole(folder / "a", "new");
  ::umask(before);
  EXPECT_EQ(mode_of(folder / "a"), 0640);
}

TEST(AtomicFileTest, KeepsTheModeOfAnOldFile) {
  const TempFolder folder;
  for (const mode_t mode : {0600, 0664, 0666, 0755}) {
    write_bytes(folder / "a", "old");
    ASSERT_EQ(::chmod((folder / "a").c_str(), mode), 0);
    write_whole(folder / "a", "new");
    EXPECT_EQ(mode_of(folder / "a"), mode);
  }
}

TEST(AtomicFileTest, FollowsLinks) {
  const TempFolder folder;
  fs::create_directory(folder / "other");
  write_bytes(folder / "other/a", "old");
  fs::create_symlink("other/a", folder / "link");
  fs::create_symlink(folder / "link", folder / "link_to_link");
  write_whole(folder / "link_to_link", "new");
  EXPECT_TRUE(fs::is_symlink(folder / "link_to_link"));
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(read_bytes(folder / "other/a"), "new");
  EXPECT_THAT(folder.names(), ElementsAre("link", "link_to_link", "other"));
}

TEST(AtomicFileTest, MakesTheFileThatALinkLacks) {
  const TempFolder folder;
  fs::create_symlink("a", folder / "link");
  write_whole(folder / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(read_bytes(folder / "a"), "new");
}

TEST(AtomicFileTest, RefusesACircleOfLinks) {
  const TempFolder folder;
  fs::create_symlink("b", folder / "a");
  fs::create_symlink("a", folder / "b");
  EXPECT_THAT(write_error(folder / "a"), HasSubstr("go round in a circle"));
}

TEST(AtomicFileTest, NeedsTheFolder) {
  const TempFolder folder;
  EXPECT_THAT(
      write_error(folder / "none/a"),
      AllOf(
          HasSubstr("cannot write '" + (folder / "none/a").string() + "': "),
          HasSubstr("No such file or directory"),
          HasSubstr("check the path and its folders")));
  EXPECT_THAT(folder.names(), IsEmpty());
}

TEST(AtomicFileTest, RefusesAFolder) {
  const TempFolder folder;
  EXPECT_THAT(write_error(folder.path()), HasSubstr("name a file"));
  EXPECT_THAT(write_error(folder / "a/"), HasSubstr("name a file"));
  EXPECT_THAT(write_error(""), HasSubstr("No such file"));
  EXPECT_THAT(folder.names(), IsEmpty());
}

TEST(AtomicFileTest, RefusesPipesAndDevices) {
  const TempFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(write_error(folder / "pipe"), HasSubstr("not a file"));
  EXPECT_THAT(write_error("/dev/null"), HasSubstr("not a file"));
  EXPECT_THAT(folder.names(), ElementsAre("pipe"));
}

TEST(AtomicFileTest, NeedsPermission) {
  if (::geteuid() == 0) {
    GTEST_SKIP() << "root may write anywhere";
  }
  const TempFolder folder;
  write_bytes(folder / "a", "old");
  ASSERT_EQ(::chmod((folder / "a").c_str(), 0400), 0);
  EXPECT_THAT(write_error(folder / "a"), HasSubstr("Permission denied"));
  ASSERT_EQ(::chmod((folder / "a").c_str(), 0600), 0);
  ASSERT_EQ(::chmod(folder.path().c_str(), 0500), 0);
  EXPECT_THAT(write_error(folder / "a"), HasSubstr("Permission denied"));
  EXPECT_THAT(write_error(folder / "b"), HasSubstr("check the permissions"));
  ASSERT_EQ(::chmod(folder.path().c_str(), 0700), 0);
  EXPECT_EQ(read_bytes(folder / "a"), "old");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(AtomicFileTest, WritesIntoAFolderThatCannotBeListed) {
  const TempFolder folder;
  ASSERT_EQ(::chmod(folder.path().c_str(), 0300), 0);
  write_whole(folder / "a", "new");
  ASSERT_EQ(::chmod(folder.path().c_str(), 0700), 0);
  EXPECT_EQ(read_bytes(folder / "a"), "new");
}

TEST(AtomicFileTest, TakesTheLongestNames) {
  const TempFolder folder;
  const std::string longest(255, 'a');
  write_whole(folder / longest, "new");
  EXPECT_EQ(read_bytes(folder / longest), "new");
  EXPECT_THAT(
      write_error(folder / (longest + "a")), HasSubstr("a shorter name"));
  EXPECT_THAT(folder.names(), ElementsAre(longest));
}

TEST(AtomicFileTest, LeavesTheOldFileWhenTheDiskIsFull) {
  const TempFolder folder;
  write_bytes(folder / "a", "old");
  const std::string bytes(1 << 20, 'n');
  {
    const peft_test::FileSizeLimit limit(1 << 16);
    EXPECT_THAT(
        error_of(ErrorKind::file, [&] { write_whole(folder / "a", bytes); }),
        AllOf(
            HasSubstr("cannot write '" + (folder / "a").string() + "': "),
            HasSubstr("writing the new file"),
            HasSubstr("File too large")));
  }
  EXPECT_EQ(read_bytes(folder / "a"), "old");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(AtomicFileTest, ReportsAFailedRename) {
  const TempFolder folder;
  AtomicFile file(folder / "a");
  file.write("new", 3);
  fs::create_directories(folder / "a/b");
  EXPECT_THAT(
      error_of(ErrorKind::file, [&] { file.publish(); }),
      HasSubstr("renaming the new file"));
}

TEST(AtomicFileTest, SurvivesBeingKilled) {
  const TempFolder folder;
  const std::string contents[] = {
      std::string(300'000, 'a'), std::string(500'000, 'b')};
  write_whole(folder / "a", contents[0]);
  peft_test::kill_while_saving(
      [&](int i) { write_whole(folder / "a", contents[i]); },
      [&] {
        const std::string bytes = read_bytes(folder / "a");
        EXPECT_TRUE(bytes == contents[0] || bytes == contents[1])
            << bytes.size() << " bytes";
      });
}

TEST(ReadTextFileTest, ReadsAllOfIt) {
  const TempFolder folder;
  const std::string text = std::string(100'000, 'a') + '\0' + "z\r\n";
  write_bytes(folder / "a", text);
  EXPECT_EQ(read_text_file(folder / "a"), text);
  write_bytes(folder / "empty", "");
  EXPECT_EQ(read_text_file(folder / "empty"), "");
}

TEST(ReadTextFileTest, NeedsAReadableFile) {
  const TempFolder folder;
  EXPECT_THAT(
      read_error(folder / "none"),
      AllOf(
          HasSubstr("cannot read '" + (folder / "none").string() + "': "),
          HasSubstr("No such file or directory")));
  EXPECT_THAT(read_error(folder.path()), HasSubstr("Is a directory"));
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(read_error(folder / "pipe"), HasSubstr("not a file"));
  EXPECT_THAT(read_error("/dev/zero"), HasSubstr("not a file"));
  if (::geteuid() != 0) {
    write_bytes(folder / "a", "a");
    ASSERT_EQ(::chmod((folder / "a").c_str(), 0), 0);
    EXPECT_THAT(read_error(folder / "a"), HasSubstr("Permission denied"));
  }
}

TEST(ReadTextFileTest, RefusesHugeFiles) {
  const TempFolder folder;
  write_bytes(folder / "a", "");
  fs::resize_file(folder / "a", 100'000'001);
  EXPECT_THAT(read_error(folder / "a"), HasSubstr("larger than 100 MB"));
}

}  // namespace
