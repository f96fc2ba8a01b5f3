// SPDX-License-Identifier: Apache-2.0
// save_safetensors: what cannot be written, full disks and kills.
#include "peft/safetensors.h"

#include <map>
#include <string>

#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>

#include "support/error_of.h"
#include "support/file_size_limit.h"
#include "support/kill_while_saving.h"
#include "support/state_dict.h"
#include "support/temp_folder.h"

namespace {

using peft::ErrorKind;
using peft::save_safetensors;
using peft::StateDict;
using peft_test::dict;
using peft_test::error_of;
using peft_test::read_bytes;
using peft_test::TempFolder;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Metadata = std::map<std::string, std::string>;

std::string save_error(const StateDict& tensors, const Metadata& metadata) {
  const TempFolder folder;
  const std::string text = error_of(ErrorKind::file, [&] {
    save_safetensors(tensors, folder / "f", metadata);
  });
  EXPECT_THAT(folder.names(), IsEmpty());
  return text;
}

std::string save_error(const at::Tensor& tensor) {
  return save_error(dict({{"t", tensor}}), {});
}

TEST(SafetensorsWriterTest, RefusesTensorsThatHaveNoPlaceInAFile) {
  EXPECT_THAT(save_error(at::Tensor()), HasSubstr("tensor 't' is undefined"));
  EXPECT_THAT(
      save_error(at::ones({2}, at::kComplexDouble)),
      AllOf(HasSubstr("has dtype ComplexDouble"), HasSubstr("BOOL, U8")));
  EXPECT_THAT(
      save_error(at::empty({2}, at::TensorOptions().device(at::kMeta))),
      HasSubstr("is on the meta device"));
  EXPECT_THAT(
      save_error(at::ones({2, 2}).to_sparse()), HasSubstr("to_dense() first"));
  EXPECT_THAT(
      save_error(
          at::ones({1}, at::kByte).view(at::kFloat4_e2m1fn_x2).squeeze()),
      HasSubstr("no dimension to pack"));
  EXPECT_THAT(
      save_error(dict({{"__metadata__", at::ones({1})}}), {}),
      HasSubstr("rename it"));
}

TEST(SafetensorsWriterTest, RefusesNamesThatAreNotUtf8) {
  EXPECT_THAT(
      save_error(dict({{"\xff", at::ones({1})}}), {}), HasSubstr("not UTF-8"));
  EXPECT_THAT(
      save_error(StateDict(), {{"k", "\xff"}}),
      HasSubstr("the value of metadata 'k'"));
  EXPECT_THAT(
      save_error(StateDict(), {{"\xff", ""}}),
      HasSubstr("the key of metadata"));
}

TEST(SafetensorsWriterTest, ReportsAllThatCannotBeWritten) {
  EXPECT_THAT(
      save_error(
          dict({{"a", at::Tensor()}, {"b", at::ones({1}, at::kComplexHalf)}}),
          {{"k", "\xff"}}),
      AllOf(
          HasSubstr("3 mistakes"),
          HasSubstr("tensor 'a'"),
          HasSubstr("tensor 'b'"),
          HasSubstr("metadata 'k'")));
}

TEST(SafetensorsWriterTest, LeavesTheOldFileWhenTheDiskIsFull) {
  const TempFolder folder;
  save_safetensors(dict({{"t", at::ones({8})}}), folder / "f");
  const std::string bytes = read_bytes(folder / "f");
  {
    const peft_test::FileSizeLimit limit(1 << 16);
    EXPECT_THAT(
        error_of(
            ErrorKind::file,
            [&] {
              save_safetensors(
                  dict({{"t", at::ones({1 << 20})}}), folder / "f");
            }),
        HasSubstr("File too large"));
  }
  EXPECT_EQ(read_bytes(folder / "f"), bytes);
  EXPECT_THAT(folder.names(), ElementsAre("f"));
}

TEST(SafetensorsWriterTest, SurvivesBeingKilled) {
  const TempFolder folder;
  const StateDict contents[] = {
      dict({{"t", at::ones({100'000})}}),
      dict({{"t", at::zeros({50'000}).add_(2)}, {"u", at::ones({70'000})}})};
  std::string bytes[2];
  for (int i = 0; i < 2; ++i) {
    save_safetensors(contents[i], folder / "f");
    bytes[i] = read_bytes(folder / "f");
  }
  peft_test::kill_while_saving(
      [&](int i) { save_safetensors(contents[i], folder / "f"); },
      [&] {
        const std::string found = read_bytes(folder / "f");
        EXPECT_TRUE(found == bytes[0] || found == bytes[1])
            << found.size() << " bytes";
      });
}

}  // namespace
