// SPDX-License-Identifier: Apache-2.0
// Good headers, the frame around them, and the report of all mistakes at once.
// What can be wrong inside: safetensors_json_test, safetensors_rules_test.
#include "files/safetensors_header.h"

#include <string>

#include <gmock/gmock.h>

#include "support/safetensors_bytes.h"

namespace {

using peft_test::entry;
using peft_test::error;
using peft_test::json_error;
using peft_test::length_of;
using peft_test::make_file;
using peft_test::read;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

const char good[] =
    R"({"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},)"
    R"("__metadata__":{"format":"pt","":"\u00e9"},)"
    R"("a":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}}  )";

TEST(SafetensorsHeaderTest, ReadsAGoodHeader) {
  const auto header = read(make_file(good, 8));
  ASSERT_EQ(header.tensors.size(), 2);
  const size_t data = 8 + sizeof(good) - 1;
  const auto& a = header.tensors[0];
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.dtype->name, "U8");
  EXPECT_THAT(a.shape, ElementsAre(2, 2));
  EXPECT_EQ(a.begin, data);
  EXPECT_EQ(a.end, data + 4);
  EXPECT_EQ(header.tensors[1].name, "b");
  EXPECT_EQ(header.tensors[1].begin, data + 4);
  EXPECT_THAT(
      header.metadata, ElementsAre(Pair("", "\xc3\xa9"), Pair("format", "pt")));
}

TEST(SafetensorsHeaderTest, ReadsAnEmptyHeader) {
  EXPECT_TRUE(read(make_file("{}", 0)).tensors.empty());
  EXPECT_TRUE(read(make_file("{}\n\t ", 0)).tensors.empty());
  EXPECT_TRUE(read(make_file("{\"__metadata__\":{}}", 0)).metadata.empty());
}

TEST(SafetensorsHeaderTest, ReadsScalarsAndEmptyTensors) {
  const auto header = read(make_file(
      "{\"s\":{" + entry("[]", "[0,4]") + "},\"e\":{" +
          entry("[3,0]", "[4,4]") + "},\"z\":{" + entry("[0]", "[0,0]") + "}}",
      4));
  ASSERT_EQ(header.tensors.size(), 3);
  EXPECT_EQ(header.tensors[0].name, "z");
  EXPECT_EQ(header.tensors[1].name, "s");
  EXPECT_TRUE(header.tensors[1].shape.empty());
  EXPECT_EQ(header.tensors[2].name, "e");
}

TEST(SafetensorsHeaderTest, EveryCutOfAGoodFileIsAnError) {
  const std::string file = make_file(good, 8);
  for (size_t size = 0; size < file.size(); ++size) {
    error(file.substr(0, size));
  }
}

TEST(SafetensorsHeaderTest, TooShort) {
  EXPECT_THAT(error(""), HasSubstr("it has 0 bytes, too short"));
  EXPECT_THAT(error("1234567"), HasSubstr("it has 7 bytes, too short"));
}

TEST(SafetensorsHeaderTest, HeaderLongerThanTheFile) {
  EXPECT_THAT(
      error(length_of(3) + "{}"),
      HasSubstr("a header of 3 bytes, but only 2 bytes follow"));
  EXPECT_THAT(
      error(length_of(~uint64_t{0}) + "{}"),
      HasSubstr("18446744073709551615 bytes, but only 2"));
}

TEST(SafetensorsHeaderTest, HeaderLargerThanAllowed) {
  std::string json = "{}";
  json.resize(100'000'001, ' ');
  EXPECT_THAT(
      error(make_file(json, 0)), HasSubstr("at most 100000000 are allowed"));
  json.pop_back();
  EXPECT_TRUE(read(make_file(json, 0)).tensors.empty());
}

TEST(SafetensorsHeaderTest, DoesNotStartWithABrace) {
  for (const char* json : {"", " {}", "[]", "\xef\xbb\xbf{}", "\"{}\""}) {
    EXPECT_THAT(json_error(json), HasSubstr("does not start with '{'"));
  }
}

TEST(SafetensorsHeaderTest, ReportsAllMistakesAtOnce) {
  EXPECT_THAT(
      json_error(
          "{\"__metadata__\":{\"m\":1},\"a\":{" + entry("[2]", "[8,0]") +
          "},\"b\":{" + entry("[2]", "[0,7]") + "},\"c\":{" +
          entry("[2]", "[0]", "F31") + "},\"d\":7}"),
      AllOf(
          HasSubstr("6 mistakes"),
          HasSubstr("'m' in __metadata__"),
          HasSubstr("tensor 'a' ends"),
          HasSubstr("tensor 'b', F32 [2], needs 8 bytes"),
          HasSubstr("tensor 'c' has an unknown dtype 'F31'"),
          HasSubstr("tensor 'c' has 1 data_offsets"),
          HasSubstr("tensor 'd' is the number 7")));
}

}  // namespace
