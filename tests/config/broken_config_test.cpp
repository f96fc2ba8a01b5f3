// SPDX-License-Identifier: Apache-2.0
// Adapter configs that are missing, no JSON, or of no known method.
#include <string>

#include <gmock/gmock.h>

#include "peft/adapter_config.h"
#include "peft/lora_config.h"
#include "support/error_of.h"
#include "support/temp_folder.h"

namespace {

using peft::ErrorKind;
using peft::LoraConfig;
using peft::parse_adapter_config;
using peft_test::error_of;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::string mistake(ErrorKind kind, const std::string& json) {
  return error_of(kind, [&] { parse_adapter_config(json, "a.json"); });
}

TEST(BrokenConfig, SaysWhatIsNoJson) {
  EXPECT_THAT(
      mistake(ErrorKind::file, "{\"peft_type\": \"LORA\",\n \"r\": }"),
      HasSubstr("a.json: not valid JSON at line 2"));
  EXPECT_THAT(
      mistake(ErrorKind::file, R"({"peft_type": "LORA", "lora_alpha": NaN})"),
      AllOf(HasSubstr("NaN at line 1"), HasSubstr("Python writes it")));
  EXPECT_THAT(
      mistake(ErrorKind::file, R"({"r": -Infinity})"), HasSubstr("-Infinity"));
  EXPECT_THAT(mistake(ErrorKind::file, R"({"r": 1e999})"), HasSubstr("1e999"));
  EXPECT_THAT(mistake(ErrorKind::file, ""), HasSubstr("not valid JSON"));
  EXPECT_THAT(mistake(ErrorKind::file, "[1]"), HasSubstr("a JSON object"));
  EXPECT_THAT(mistake(ErrorKind::file, "{\"a\": \"\xff\"}"), HasSubstr("JSON"));
}

TEST(BrokenConfig, RefusesKeysGivenTwice) {
  EXPECT_THAT(
      mistake(ErrorKind::file, R"({"peft_type": "LORA", "r": 1, "r": 2})"),
      HasSubstr("the key \"r\" is twice"));
  EXPECT_THAT(
      mistake(ErrorKind::file, R"({"rank_pattern": {"q": 1, "q": 2}})"),
      HasSubstr("the key \"q\" is twice"));
  EXPECT_NO_THROW(parse_adapter_config(
      R"({"peft_type": "LORA", "rank_pattern": {"r": 1}, "r": 2})"));
}

TEST(BrokenConfig, RefusesEndlessNesting) {
  const std::string deep(200'000, '[');
  EXPECT_THAT(mistake(ErrorKind::file, "{\"x\": " + deep), HasSubstr("nested"));
}

TEST(BrokenConfig, NamesWrongTypesAndBadValuesTogether) {
  EXPECT_THAT(
      mistake(
          ErrorKind::config,
          R"({"peft_type": "LORA", "r": "four", "lora_dropout": 2.5})"),
      AllOf(HasSubstr("r: "), HasSubstr("lora_dropout")));
}

TEST(BrokenConfig, KnowsTheMethodsOfPeft) {
  EXPECT_THAT(
      mistake(ErrorKind::config, "{\"r\": 8}"),
      AllOf(HasSubstr("'peft_type' is missing"), HasSubstr("'LORA'")));
  EXPECT_THAT(
      mistake(ErrorKind::config, R"({"peft_type": 3})"),
      HasSubstr("peft_type: found 3"));
  EXPECT_THAT(
      mistake(ErrorKind::unsupported, R"({"peft_type": "VERA"})"),
      AllOf(HasSubstr("'VERA'"), HasSubstr("not built yet")));
  EXPECT_THAT(
      mistake(ErrorKind::config, R"({"peft_type": "lora"})"),
      HasSubstr("did you mean 'LORA'?"));
  EXPECT_THAT(
      mistake(ErrorKind::config, R"({"peft_type": "ZZZ"})"),
      AllOf(HasSubstr("unknown"), Not(HasSubstr("did you mean"))));
}

TEST(LoadConfig, ReadsTheFileOfAFolder) {
  peft_test::TempFolder folder;
  peft_test::write_bytes(
      folder / "adapter_config.json", R"({"peft_type": "LORA", "r": 3})");
  const auto config = peft::load_adapter_config(folder.path());
  EXPECT_EQ(dynamic_cast<const LoraConfig&>(*config).r, 3);
}

TEST(LoadConfig, SaysWhereItLooked) {
  peft_test::TempFolder folder;
  const auto load = [&](const std::filesystem::path& path) {
    return error_of(ErrorKind::file, [&] { peft::load_adapter_config(path); });
  };
  EXPECT_THAT(
      load(folder.path()),
      AllOf(
          HasSubstr("Can't find 'adapter_config.json'"),
          HasSubstr(folder.path().string())));
  EXPECT_THAT(load(folder / "no"), HasSubstr("there is no such folder"));

  std::filesystem::create_directory(folder / "second");
  const auto file = folder.path() / "second" / "adapter_config.json";
  peft_test::write_bytes(file, R"({"peft_type": 1})");
  EXPECT_THAT(load(folder.path()), HasSubstr("subfolders 'second'"));
  EXPECT_THAT(load(file), HasSubstr("is a file; give the folder"));
  EXPECT_THAT(
      error_of(
          ErrorKind::config,
          [&] { peft::load_adapter_config(folder / "second"); }),
      HasSubstr(file.string()));
}

}  // namespace
