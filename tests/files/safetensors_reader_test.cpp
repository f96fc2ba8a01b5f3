// SPDX-License-Identifier: Apache-2.0
// load_safetensors: no copies, and loaded tensors and files do not disturb each
// other. Broken files: safetensors_json_test, safetensors_rules_test.
#include "peft/safetensors.h"

#include <cstdint>
#include <string>

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>

#include "support/error_of.h"
#include "support/state_dict.h"
#include "support/temp_folder.h"

namespace {

using peft::ErrorKind;
using peft::load_safetensors;
using peft::save_safetensors;
using peft::StateDict;
using peft_test::dict;
using peft_test::error_of;
using peft_test::read_bytes;
using peft_test::TempFolder;
using peft_test::write_bytes;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// The error of a file with this header and 8 bytes of data.
std::string load_error(const std::string& json) {
  const TempFolder folder;
  std::string length(8, '\0');
  length[0] = static_cast<char>(json.size());
  write_bytes(folder / "f", length + json + "12345678");
  return error_of(ErrorKind::file, [&] {
    static_cast<void>(load_safetensors(folder / "f"));
  });
}

TEST(SafetensorsReaderTest, LoadsInTheOrderOfTheData) {
  const TempFolder folder;
  save_safetensors(
      dict(
          {{"a", at::ones({1}, at::kHalf)},
           {"c", at::ones({1})},
           {"b", at::ones({1})},
           {"d", at::ones({1}, at::kBool)}}),
      folder / "f");
  EXPECT_THAT(
      load_safetensors(folder / "f").keys(), ElementsAre("b", "c", "a", "d"));
}

TEST(SafetensorsReaderTest, LoadsWithoutCopying) {
  const TempFolder folder;
  save_safetensors(
      dict({{"a", at::ones({8})}, {"b", at::ones({8})}}), folder / "f");
  const StateDict tensors = load_safetensors(folder / "f");
  EXPECT_EQ(
      static_cast<char*>(tensors["b"].data_ptr()) -
          static_cast<char*>(tensors["a"].data_ptr()),
      32);
}

TEST(SafetensorsReaderTest, CopiesTensorsThatAreNotAligned) {
  const TempFolder folder;
  const std::string json =
      R"({"t":{"dtype":"I32","shape":[2],"data_offsets":[1,9]},)"
      R"("u":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  const std::string length{static_cast<char>(json.size()), 0, 0, 0, 0, 0, 0, 0};
  const std::string data("\7\1\0\0\0\2\0\0\0", 9);
  write_bytes(folder / "f", length + json + data);
  const at::Tensor tensor = load_safetensors(folder / "f")["t"];
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 4, 0);
  EXPECT_TRUE(at::equal(tensor, at::tensor({1, 2}, at::kInt)));
}

TEST(SafetensorsReaderTest, WritingToALoadedTensorLeavesTheFile) {
  const TempFolder folder;
  save_safetensors(dict({{"t", at::ones({1000})}}), folder / "f");
  const std::string bytes = read_bytes(folder / "f");
  const at::Tensor tensor = load_safetensors(folder / "f")["t"];
  tensor.fill_(2);
  EXPECT_EQ(tensor.sum().item<float>(), 2000);
  EXPECT_EQ(read_bytes(folder / "f"), bytes);
  EXPECT_EQ(load_safetensors(folder / "f")["t"].sum().item<float>(), 1000);
}

TEST(SafetensorsReaderTest, LoadedTensorsOutliveTheFile) {
  const TempFolder folder;
  save_safetensors(dict({{"t", at::ones({1000})}}), folder / "f");
  at::Tensor part = load_safetensors(folder / "f")["t"].slice(0, 10, 20);
  std::filesystem::remove(folder / "f");
  EXPECT_EQ(part.sum().item<float>(), 10);
}

TEST(SafetensorsReaderTest, SavesOverTheFileItLoadedFrom) {
  const TempFolder folder;
  save_safetensors(
      dict({{"a", at::ones({100'000})}, {"b", at::zeros({100'000})}}),
      folder / "f");
  StateDict tensors = load_safetensors(folder / "f");
  tensors["a"].mul_(3);
  save_safetensors(tensors, folder / "f");
  EXPECT_EQ(tensors["a"].sum().item<float>(), 300'000);
  EXPECT_EQ(tensors["b"].sum().item<float>(), 0);
  EXPECT_TRUE(at::equal(load_safetensors(folder / "f")["a"], tensors["a"]));
}

TEST(SafetensorsReaderTest, RefusesDtypesThatLibtorchLacks) {
  EXPECT_THAT(
      load_error(R"({"t":{"dtype":"F6_E2M3","shape":[8],"data_offsets":[0,6]},)"
                 R"("u":{"dtype":"F4","shape":[4,1],"data_offsets":[6,8]}})"),
      AllOf(
          HasSubstr("2 mistakes"),
          HasSubstr("tensor 't' has dtype F6_E2M3, which libtorch does not"),
          HasSubstr("tensor 'u' has dtype F4, which libtorch holds only")));
}

TEST(SafetensorsReaderTest, NamesTheBrokenFile) {
  const TempFolder folder;
  EXPECT_THAT(load_error("{"), HasSubstr("/f': its header is not valid JSON"));
  const auto load = [&](const std::string& name) {
    return error_of(ErrorKind::file, [&] {
      static_cast<void>(load_safetensors(folder / name));
    });
  };
  EXPECT_THAT(load("none"), HasSubstr("/none': No such file or directory"));
  EXPECT_THAT(load(""), HasSubstr("Is a directory"));
  write_bytes(folder / "empty", "");
  EXPECT_THAT(load("empty"), HasSubstr("it has 0 bytes"));
}

}  // namespace
