// SPDX-License-Identifier: Apache-2.0
// Tensors through a file and back: every dtype and layout, names and metadata.
// That the bytes are those of the Python library is
// tests/parity/safetensors_parity.py.
#include "peft/safetensors.h"

#include <map>
#include <string>

#include <ATen/ops/arange.h>
#include <ATen/ops/complex.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/imag.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>

#include "support/state_dict.h"
#include "support/temp_folder.h"

namespace {

using peft::load_safetensors;
using peft::save_safetensors;
using peft::StateDict;
using peft_test::dict;
using peft_test::read_bytes;
using peft_test::TempFolder;
using testing::ElementsAre;
using testing::IsEmpty;
using Metadata = std::map<std::string, std::string>;

// `tensor`, saved alone and loaded.
at::Tensor reloaded(const at::Tensor& tensor) {
  const TempFolder folder;
  save_safetensors(dict({{"t", tensor}}), folder / "f");
  return load_safetensors(folder / "f")["t"];
}

TEST(SafetensorsTest, WritesTheKnownBytes) {
  const TempFolder folder;
  save_safetensors(
      dict(
          {{"b", at::tensor({1, 2}, at::kByte)},
           {"a\"\n", at::tensor({1.0f})},
           {"a", at::full({}, -1, at::kLong)}}),
      folder / "f");
  const std::string json =
      R"({"__metadata__":{"format":"pt"},)"
      R"("a":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
      R"("a\"\n":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},)"
      R"("b":{"dtype":"U8","shape":[2],"data_offsets":[12,14]}}    )";
  ASSERT_EQ(json.size() % 8, 0);
  const std::string length{static_cast<char>(json.size()), 0, 0, 0, 0, 0, 0, 0};
  const std::string data(
      "\xff\xff\xff\xff\xff\xff\xff\xff\0\0\x80\x3f\1\2", 14);
  EXPECT_EQ(read_bytes(folder / "f"), length + json + data);
}

TEST(SafetensorsTest, KeepsEveryDtype) {
  constexpr at::ScalarType types[] = {
      at::kBool,
      at::kByte,
      at::kChar,
      at::kShort,
      at::kUInt16,
      at::kInt,
      at::kUInt32,
      at::kLong,
      at::kUInt64,
      at::kHalf,
      at::kBFloat16,
      at::kFloat,
      at::kDouble,
      at::kComplexFloat,
      at::kFloat8_e4m3fn,
      at::kFloat8_e5m2,
      at::kFloat8_e4m3fnuz,
      at::kFloat8_e5m2fnuz,
      at::kFloat8_e8m0fnu,
      at::kFloat4_e2m1fn_x2};
  for (const auto type : types) {
    const at::Tensor tensor = at::arange(48, at::kByte)
                                  .remainder(type == at::kBool ? 2 : 48)
                                  .view(type)
                                  .view({2, -1});
    const at::Tensor back = reloaded(tensor);
    EXPECT_EQ(back.scalar_type(), type);
    EXPECT_EQ(back.sizes(), tensor.sizes());
    EXPECT_TRUE(at::equal(back.view(at::kByte), tensor.view(at::kByte)))
        << c10::toString(type);
  }
}

TEST(SafetensorsTest, KeepsScalarsAndEmptyTensors) {
  EXPECT_EQ(reloaded(at::full({}, 2.5f)).item<float>(), 2.5f);
  EXPECT_EQ(reloaded(at::full({}, 2.5f)).dim(), 0);
  EXPECT_THAT(reloaded(at::empty({3, 0, 2})).sizes(), ElementsAre(3, 0, 2));
  EXPECT_THAT(reloaded(at::empty({0})).sizes(), ElementsAre(0));
}

TEST(SafetensorsTest, WritesAnyStridesAsRows) {
  const at::Tensor base = at::arange(24, at::kFloat).view({4, 6});
  for (const at::Tensor& tensor :
       {base.t(),
        base.slice(1, 1, 6, 2),
        base.select(1, 3),
        base.flip({0}).t(),
        at::ones({1, 3}).expand({4, 3}),
        base.view(at::kFloat4_e2m1fn_x2).t()}) {
    const at::Tensor back = reloaded(tensor);
    EXPECT_TRUE(back.is_contiguous());
    EXPECT_EQ(back.sizes(), tensor.sizes());
    const auto bytes = [](const at::Tensor& t) {
      return t.element_size() == 1 ? t.view(at::kByte) : t;
    };
    EXPECT_TRUE(at::equal(bytes(back), bytes(tensor)));
  }
}

TEST(SafetensorsTest, WritesTheValuesOfConjugateAndNegativeViews) {
  const at::Tensor z = at::complex(at::ones({2}), at::full({2}, 3.0f));
  ASSERT_TRUE(z.conj().is_conj());
  EXPECT_EQ(
      reloaded(z.conj())[0].item<c10::complex<float>>(),
      c10::complex<float>(1, -3));
  const at::Tensor negative = at::imag(z.conj());
  ASSERT_TRUE(negative.is_neg());
  EXPECT_EQ(reloaded(negative)[0].item<float>(), -3);
}

TEST(SafetensorsTest, WritesAliasesAndParametersByValue) {
  const TempFolder folder;
  const at::Tensor a = at::arange(6, at::kFloat).requires_grad_();
  save_safetensors(
      dict({{"a", a}, {"again", a}, {"part", a.slice(0, 2, 4)}}), folder / "f");
  const StateDict back = load_safetensors(folder / "f");
  EXPECT_TRUE(at::equal(back["again"], a));
  EXPECT_TRUE(at::equal(back["part"], a.slice(0, 2, 4)));
  EXPECT_FALSE(back["a"].requires_grad());
  back["a"].fill_(9);
  EXPECT_TRUE(at::equal(back["again"], a));
}

TEST(SafetensorsTest, KeepsNamesAndMetadata) {
  const TempFolder folder;
  const std::string name(
      "\"\\/\b\f\n\r\t\x01\x7f\0\xc3\xa9\xf0\x9f\x98\x80", 18);
  const Metadata metadata = {{"format", "pt"}, {name, name}, {"", ""}};
  save_safetensors(
      dict({{name, at::ones({1})}, {"", at::ones({1})}}),
      folder / "f",
      metadata);
  Metadata back = {{"old", ""}};
  const StateDict tensors = load_safetensors(folder / "f", &back);
  EXPECT_EQ(back, metadata);
  EXPECT_THAT(tensors.keys(), ElementsAre("", name));
}

TEST(SafetensorsTest, WritesNoTensorsAndNoMetadata) {
  const TempFolder folder;
  save_safetensors(StateDict(), folder / "f", {});
  EXPECT_EQ(
      read_bytes(folder / "f"), std::string("\x8\0\0\0\0\0\0\0{}      ", 16));
  Metadata metadata = {{"old", ""}};
  EXPECT_TRUE(load_safetensors(folder / "f", &metadata).is_empty());
  EXPECT_THAT(metadata, IsEmpty());
}

}  // namespace
