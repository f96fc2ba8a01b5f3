// SPDX-License-Identifier: Apache-2.0
// One test for each way in which the JSON of a safetensors header can be wrong
// in form.
#include "files/safetensors_json.h"

#include <string>

#include <gmock/gmock.h>

#include "support/safetensors_bytes.h"

namespace {

using peft_test::entry;
using peft_test::json_error;
using peft_test::tensor_error;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

TEST(SafetensorsJsonTest, NotJson) {
  const char* broken[] = {
      "{",
      "{\"a\"}",
      "{]",
      "{}}",
      "{} x",
      "{a:1}",
      "{}//",
      "{\"a\":01}",
      "{\"a\":NaN}",
      "{'a':1}",
      "{\"a\":{},}",
      "{\"a\nb\":{}}",
      "{\"\\x\":{}}",
      "{\"\\ud800\":{}}"};
  for (const char* json : broken) {
    EXPECT_THAT(json_error(json), HasSubstr("is not valid JSON")) << json;
  }
}

TEST(SafetensorsJsonTest, NotUtf8) {
  // A lone byte, an overlong form, a surrogate, a cut sequence, outside text.
  for (const char* json :
       {"{\"\xff\":{}}",
        "{\"\xc0\xaf\":{}}",
        "{\"\xed\xa0\x80\":{}}",
        "{\"\xe2\x82\":{}}",
        "{}\xff"}) {
    EXPECT_THAT(
        json_error(json),
        AllOf(HasSubstr("is not valid JSON"), Not(HasSubstr("\xff"))));
  }
}

TEST(SafetensorsJsonTest, ZeroByte) {
  EXPECT_THAT(
      json_error(std::string("{}\0{}", 5)), HasSubstr("contains a zero byte"));
}

TEST(SafetensorsJsonTest, DuplicateTensor) {
  EXPECT_THAT(
      json_error(
          "{\"t\":{" + entry("[2]", "[0,8]") + "},\"t\":{" +
          entry("[2]", "[0,8]") + "}}"),
      HasSubstr("tensor 't' is there twice"));
  // The same name, spelled in another way.
  EXPECT_THAT(
      json_error(
          "{\"t\":{" + entry("[2]", "[0,8]") + "},\"\\u0074\":{" +
          entry("[0]", "[8,8]") + "}}"),
      HasSubstr("tensor 't' is there twice"));
}

TEST(SafetensorsJsonTest, DuplicateMetadata) {
  EXPECT_THAT(
      json_error("{\"__metadata__\":{},\"__metadata__\":{}}"),
      HasSubstr("__metadata__ is there twice"));
  EXPECT_THAT(
      json_error("{\"__metadata__\":{\"a\":\"1\",\"a\":\"1\"}}"),
      HasSubstr("the value of 'a' in __metadata__ is there twice"));
}

TEST(SafetensorsJsonTest, DuplicateField) {
  EXPECT_THAT(
      tensor_error("\"dtype\":\"F32\"," + entry("[2]", "[0,8]")),
      HasSubstr("'dtype' of tensor 't' is there twice"));
  EXPECT_THAT(
      tensor_error(entry("[2]", "[0,8]") + ",\"shape\":[2]"),
      HasSubstr("'shape' of tensor 't' is there twice"));
}

TEST(SafetensorsJsonTest, TensorIsNoObject) {
  EXPECT_THAT(
      json_error("{\"t\":[0,8]}"),
      HasSubstr("tensor 't' is a list, expected an object"));
  EXPECT_THAT(json_error("{\"t\":null}"), HasSubstr("'t' is null, expected"));
  EXPECT_THAT(json_error("{\"t\":\"a\"}"), HasSubstr("is the string 'a', exp"));
  EXPECT_THAT(json_error("{\"t\":1.5}"), HasSubstr("'t' is 1.5"));
  EXPECT_THAT(json_error("{\"t\":true}"), HasSubstr("'t' is true"));
}

TEST(SafetensorsJsonTest, MissingField) {
  EXPECT_THAT(
      tensor_error(""),
      AllOf(
          HasSubstr("3 mistakes"),
          HasSubstr("tensor 't' has no 'dtype'"),
          HasSubstr("tensor 't' has no 'shape'"),
          HasSubstr("tensor 't' has no 'data_offsets'")));
}

TEST(SafetensorsJsonTest, UnknownField) {
  EXPECT_THAT(
      tensor_error(entry("[2]", "[0,8]") + ",\"stride\":{\"a\":[1]}"),
      HasSubstr(
          "tensor 't' has an unknown field 'stride' (known are dtype, shape,"));
}

TEST(SafetensorsJsonTest, DtypeIsNoString) {
  EXPECT_THAT(
      tensor_error("\"dtype\":32,\"shape\":[2],\"data_offsets\":[0,8]"),
      HasSubstr("'dtype' of tensor 't' is the number 32, expected a string"));
  EXPECT_THAT(
      tensor_error("\"dtype\":[\"F32\"],\"shape\":[2],\"data_offsets\":[0,8]"),
      HasSubstr("'dtype' of tensor 't' is a list, expected a string"));
}

TEST(SafetensorsJsonTest, ShapeIsNoListOfSizes) {
  const auto shape_error = [](const std::string& shape) {
    return tensor_error(entry(shape, "[0,8]"));
  };
  EXPECT_THAT(
      shape_error("2"),
      HasSubstr("'shape' of tensor 't' is the number 2, expected a list of "));
  EXPECT_THAT(shape_error("{\"a\":2}"), HasSubstr("'t' is an object"));
  EXPECT_THAT(shape_error("[\"2\"]"), HasSubstr("a list with the string '2'"));
  EXPECT_THAT(shape_error("[[2]]"), HasSubstr("is a list with a list"));
  EXPECT_THAT(shape_error("[2.0]"), HasSubstr("is a list with 2.0, not a w"));
  EXPECT_THAT(shape_error("[2e0]"), HasSubstr("is a list with 2e0, not a w"));
  EXPECT_THAT(shape_error("[null,2,null]"), Not(HasSubstr("mistakes")));
}

TEST(SafetensorsJsonTest, NegativeSize) {
  EXPECT_THAT(
      tensor_error(entry("[-2]", "[0,8]")), HasSubstr("negative number -2"));
}

TEST(SafetensorsJsonTest, OffsetsAreNoNumbers) {
  EXPECT_THAT(
      tensor_error(entry("[2]", "[0,\"8\"]")),
      HasSubstr("'data_offsets' of tensor 't' is a list with the string '8'"));
  EXPECT_THAT(tensor_error(entry("[2]", "[-8,0]")), HasSubstr("number -8"));
  EXPECT_THAT(tensor_error(entry("[2]", "8")), HasSubstr("the number 8, exp"));
}

TEST(SafetensorsJsonTest, MetadataIsNotText) {
  EXPECT_THAT(
      json_error("{\"__metadata__\":[]}"),
      HasSubstr("__metadata__ is a list, expected an object"));
  EXPECT_THAT(
      json_error("{\"__metadata__\":null}"), HasSubstr("__metadata__ is null"));
  EXPECT_THAT(
      json_error("{\"__metadata__\":{\"a\":1}}"),
      HasSubstr("the value of 'a' in __metadata__ is the number 1, expected a "
                "string"));
  EXPECT_THAT(
      json_error("{\"__metadata__\":{\"a\":{\"b\":\"c\"}}}"),
      HasSubstr("the value of 'a' in __metadata__ is an object"));
}

TEST(SafetensorsJsonTest, DeepNesting) {
  constexpr size_t depth = 1'000'000;
  for (const char* start :
       {"{\"a\":", "{\"a\":{\"b\":", "{\"a\":{\"shape\":"}) {
    std::string json = start;
    json.append(depth, '[');
    EXPECT_THAT(json_error(json), HasSubstr("is not valid JSON"));
    json.append(depth, ']').append(start[5] == '{' ? "}}" : "}");
    EXPECT_THAT(json_error(json), Not(HasSubstr("is not valid JSON")));
  }
  std::string objects;
  for (size_t i = 0; i < depth; ++i) {
    objects += "{\"a\":";
  }
  EXPECT_THAT(json_error(objects), HasSubstr("is not valid JSON"));
}

TEST(SafetensorsJsonTest, StopsAfterVeryManyMistakes) {
  std::string json = "{";
  for (int i = 0; i < 100'000; ++i) {
    json += "\"" + std::to_string(i) + "\":1,";
  }
  EXPECT_THAT(json_error(json), HasSubstr("1000 mistakes"));
}

TEST(SafetensorsJsonTest, PrintsNamesSafely) {
  const std::string name(60, 'a');
  EXPECT_THAT(
      json_error("{\"\\u001b[31m\\n" + name + name + "\":1}"),
      AllOf(HasSubstr("tensor '?[31m?aaa"), HasSubstr("aaa...' is")));
}

}  // namespace
