// SPDX-License-Identifier: Apache-2.0
// One test for each rule that the values of a safetensors header can break.
#include "files/safetensors_rules.h"

#include <string>

#include <gmock/gmock.h>

#include "support/safetensors_bytes.h"

namespace {

using peft_test::entry;
using peft_test::error;
using peft_test::json_error;
using peft_test::make_file;
using peft_test::read;
using peft_test::tensor_error;
using peft_test::two;
using testing::AllOf;
using testing::HasSubstr;

TEST(SafetensorsRulesTest, UnknownDtype) {
  EXPECT_THAT(
      tensor_error(entry("[2]", "[0,8]", "f32")),
      AllOf(
          HasSubstr("tensor 't' has an unknown dtype 'f32'"),
          HasSubstr("BOOL, F4, "),
          HasSubstr(", U64)")));
}

TEST(SafetensorsRulesTest, ShapeLargerThanMemory) {
  for (const char* shape :
       {"[4294967296,4294967296]",
        "[4294967296,4294967296,0]",
        "[0,4294967296,4294967296]",
        "[18446744073709551615]",
        "[9223372036854775807]",
        "[4611686018427387904]",
        "[2305843009213693953]"}) {
    EXPECT_THAT(
        tensor_error(entry(shape, "[0,8]")),
        HasSubstr("is larger than any memory"))
        << shape;
  }
  EXPECT_THAT(
      tensor_error(entry("[18446744073709551616]", "[0,8]")),
      HasSubstr("not a whole number below 2^64"));
}

TEST(SafetensorsRulesTest, HalfAByte) {
  EXPECT_THAT(
      tensor_error(entry("[3]", "[0,1]", "F4"), 1),
      HasSubstr("tensor 't', F4 [3], does not end at a whole byte"));
  EXPECT_EQ(
      read(make_file("{\"t\":{" + entry("[4]", "[0,3]", "F6_E3M2") + "}}", 3))
          .tensors.size(),
      1);
}

TEST(SafetensorsRulesTest, OffsetsAreNotTwo) {
  EXPECT_THAT(
      tensor_error(entry("[2]", "[8]")),
      HasSubstr("tensor 't' has 1 data_offsets, expected 2"));
  EXPECT_THAT(
      tensor_error(entry("[2]", "[0,8,8]")), HasSubstr("3 data_offsets"));
}

TEST(SafetensorsRulesTest, EndsBeforeItBegins) {
  EXPECT_THAT(
      tensor_error(entry("[2]", "[8,0]")),
      HasSubstr("tensor 't' ends (0) before it begins (8)"));
}

TEST(SafetensorsRulesTest, OffsetsDoNotFitTheShape) {
  EXPECT_THAT(
      tensor_error(entry("[3]", "[0,8]")),
      HasSubstr("'t', F32 [3], needs 12 bytes, but its data_offsets hold 8"));
  EXPECT_THAT(
      tensor_error(entry("[0]", "[0,8]")), HasSubstr("needs 0 bytes, but"));
  EXPECT_THAT(
      tensor_error(entry("[1,1,1,1,1,1,1,1,1]", "[0,8]")),
      HasSubstr("F32 [1, 1, 1, 1, 1, 1, 1, 1, ...], needs 4 bytes"));
}

TEST(SafetensorsRulesTest, PastTheEnd) {
  EXPECT_THAT(
      tensor_error(entry("[4]", "[0,16]")),
      HasSubstr("its tensors need 16 bytes of data, but it has only 8; tensor "
                "'t' lies past its end"));
  const std::string huge = "18446744073709551615";
  EXPECT_THAT(
      tensor_error(entry("[1]", "[" + huge + "," + huge + "]")),
      HasSubstr("but it has only 8"));
}

TEST(SafetensorsRulesTest, Overlap) {
  EXPECT_THAT(
      error(make_file(two("[0,4]", "[2,6]"), 6)),
      HasSubstr("tensor 'b' overlaps tensor 'a'"));
  EXPECT_THAT(error(make_file(two("[0,4]", "[0,4]"), 4)), HasSubstr("overlap"));
  EXPECT_THAT(
      json_error(
          "{\"a\":{" + entry("[2]", "[0,8]") + "},\"e\":{" +
          entry("[0]", "[4,4]") + "}}"),
      HasSubstr("tensor 'e' overlaps tensor 'a'"));
}

TEST(SafetensorsRulesTest, Hole) {
  EXPECT_THAT(
      error(make_file(two("[0,4]", "[6,10]"), 10)),
      HasSubstr("bytes 4 to 6 of its data, before tensor 'b', belong to no"));
  EXPECT_THAT(
      error(make_file(two("[8,12]", "[4,8]"), 12)),
      HasSubstr("bytes 0 to 4 of its data, before tensor 'b', belong to no"));
}

TEST(SafetensorsRulesTest, BytesLeftOver) {
  EXPECT_THAT(
      error(make_file(two("[0,4]", "[4,8]"), 9)),
      HasSubstr("the last 1 of its 9 bytes of data belong to no tensor"));
  EXPECT_THAT(json_error("{}"), HasSubstr("the last 8 of its 8 bytes"));
}

}  // namespace
