// SPDX-License-Identifier: Apache-2.0
// Writing adapter_config.json with Python's spelling. That whole files equal
// Python's is for parity/config_parity.py; here are the rules one by one.
#include <limits>
#include <string>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "peft/lora_config.h"
#include "support/error_of.h"

namespace {

using peft::ErrorKind;
using peft::LoraConfig;
using peft::to_json;
using peft_test::error_of;
using testing::HasSubstr;

// The line (or lines) of `field` in the text of `config`.
std::string written(const LoraConfig& config, const std::string& field) {
  const std::string text = to_json(config);
  const std::size_t start = text.find("\"" + field + "\": ");
  const std::size_t end = text.find("\n  \"", start);
  const std::size_t value = start + field.size() + 4;
  std::string found = text.substr(value, end - value);
  if (found.ends_with(",")) {
    found.pop_back();
  }
  return found;
}

std::string written_alpha(double alpha) {
  LoraConfig config;
  config.alpha_pattern = {{"q", alpha}};
  const std::string text = written(config, "alpha_pattern");
  return text.substr(11, text.size() - 11 - 4);  // {\n    "q": ...\n  }
}

TEST(WriteConfig, WritesEveryFieldSortedWithoutANewlineAtTheEnd) {
  const std::string text = to_json(LoraConfig());
  EXPECT_TRUE(text.starts_with(
      "{\n  \"alora_invocation_tokens\": null,\n  \"alpha_pattern\": {},\n"));
  EXPECT_TRUE(text.ends_with("\"velora_config\": null\n}"));
  const auto parsed = nlohmann::ordered_json::parse(text);
  EXPECT_EQ(parsed.size(), 41);
  std::string before;
  for (const auto& [key, value] : parsed.items()) {
    EXPECT_LT(before, key);
    before = key;
  }
}

TEST(WriteConfig, SpellsNumbersAsPythonDoes) {
  EXPECT_EQ(written(LoraConfig(), "lora_alpha"), "8");
  EXPECT_EQ(written(LoraConfig(), "lora_dropout"), "0.0");
  EXPECT_EQ(written_alpha(16), "16");
  EXPECT_EQ(written_alpha(-2), "-2");
  EXPECT_EQ(written_alpha(0.1), "0.1");
  EXPECT_EQ(written_alpha(-2.5), "-2.5");
  EXPECT_EQ(written_alpha(1e-4), "0.0001");
  EXPECT_EQ(written_alpha(1.5e-5), "1.5e-05");
  EXPECT_EQ(written_alpha(123456.75), "123456.75");
  EXPECT_EQ(written_alpha(1e16), "1e+16");
  EXPECT_EQ(written_alpha(2.5e300), "2.5e+300");
  EXPECT_EQ(written_alpha(9007199254740992), "9007199254740992.0");
}

TEST(WriteConfig, SortsModuleListsAndDropsDoubles) {
  LoraConfig config;
  config.target_modules = {"v", "q", "v"};
  EXPECT_EQ(written(config, "target_modules"), "[\n    \"q\",\n    \"v\"\n  ]");
  config.target_modules = std::vector<std::string>{};
  EXPECT_EQ(written(config, "target_modules"), "[]");
  config.target_modules = "all-linear";
  EXPECT_EQ(written(config, "target_modules"), "\"all-linear\"");
}

TEST(WriteConfig, WritesEmptyListsAsNull) {
  EXPECT_EQ(written(LoraConfig(), "modules_to_save"), "null");
  EXPECT_EQ(written(LoraConfig(), "layers_to_transform"), "null");
  EXPECT_EQ(written(LoraConfig(), "target_parameters"), "null");
}

TEST(WriteConfig, EscapesAllButAscii) {
  LoraConfig config;
  config.revision = "é😀\x7f\"\\\n";
  EXPECT_EQ(
      written(config, "revision"),
      "\"\\u00e9\\ud83d\\ude00\\u007f\\\"\\\\\\n\"");
}

TEST(WriteConfig, WritesInitialisations) {
  LoraConfig config;
  EXPECT_EQ(written(config, "init_lora_weights"), "true");
  config.init_lora_weights = false;
  EXPECT_EQ(written(config, "init_lora_weights"), "false");
  config.init_lora_weights = "gaussian";
  EXPECT_EQ(written(config, "init_lora_weights"), "\"gaussian\"");
}

TEST(WriteConfig, ReadsBackWhatItWrote) {
  LoraConfig config;
  config.rank_pattern = {{"a", 3}, {"b", 4}};
  config.layers_to_transform = {2, 1};
  config.kasa_config.text = R"({"beta": 2.0})";
  config.unknown_fields = {{"later", {"[1.0]"}}};
  peft::set_warning_handler([](const std::string&) {});
  const auto again = peft::parse_adapter_config(to_json(config));
  peft::set_warning_handler(nullptr);
  EXPECT_EQ(to_json(*again), to_json(config));
}

TEST(WriteConfig, RefusesWhatJsonCannotHold) {
  const auto mistake = [](const LoraConfig& config) {
    return error_of(ErrorKind::config, [&] { to_json(config); });
  };
  LoraConfig config;
  config.lora_alpha = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(mistake(config), HasSubstr("lora_alpha is nan"));
  config = {};
  config.kasa_config.text = "beta = 2";
  EXPECT_THAT(mistake(config), HasSubstr("kasa_config"));
  config = {};
  config.revision = "\xff";
  EXPECT_THAT(mistake(config), HasSubstr("not UTF-8"));
}

}  // namespace
