// SPDX-License-Identifier: Apache-2.0
// Damaged adapter_config.json of every method: cut, with bits turned, with
// anything in the place of every value.
#include <nlohmann/json.hpp>

#include "support/hostile_folder.h"

namespace peft_test {
namespace {

using Json = nlohmann::ordered_json;

const std::vector<std::string>& hostile_values() {
  static const std::vector<std::string> values = {
      "null",
      "true",
      "false",
      "-1",
      "0",
      "1",
      "2.5",
      "-2.5",
      "1e308",
      "1e999",
      "NaN",
      "-Infinity",
      "2147483648",
      "9223372036854775807",
      "-9223372036854775808",
      "18446744073709551615",
      "\"\"",
      "\"up\"",
      "\"(\"",
      "\"(a*)*b|.*up\"",
      "\"\\u0000\"",
      "[]",
      "[null]",
      "[-1, 9223372036854775807]",
      "[\"up\", \"\"]",
      "[\"up\", \"up\", \"(\"]",
      "[[1]]",
      "{}",
      "{\"\": 1}",
      "{\"up\": -1}",
      "{\"up\": 9223372036854775807}",
      "{\"up\": 1e308}",
      "{\"(\": 2}",
      "{\"up\": [true]}",
      "{\"up\": [-1, 99]}",
      "{\"a\": {\"a\": {}}}"};
  return values;
}

class HostileConfig : public HostileFolder {
 protected:
  // A place of the config, and those within it.
  static void add_places(
      const Json& value,
      const std::string& path,
      std::vector<std::string>& places) {
    if (!path.empty()) {
      places.push_back(path);
    }
    if (value.is_structured()) {
      for (const auto& [key, inner] : value.items()) {
        add_places(inner, path + "/" + nlohmann::detail::escape(key), places);
      }
    }
  }

  std::string with(const std::string& path, const std::string& value) const {
    Json changed = Json::parse(config_);
    changed[Json::json_pointer(path)] = "@";
    std::string text = changed.dump();
    text.replace(text.find("\"@\""), 3, value);
    return text;
  }

  void try_everything_everywhere() {
    std::vector<std::string> places;
    add_places(Json::parse(config_), "", places);
    for (const std::string& place : places) {
      for (const std::string& value : hostile_values()) {
        loads_with_config(with(place, value), place + " = " + value);
      }
    }
    EXPECT_TRUE(loads_with_config(config_, "the good config"));
  }
};

peft::LoraConfig lora() {
  peft::LoraConfig config;
  config.r = 3;
  config.lora_alpha = 5;
  config.target_modules = {"embedding", "up", "down"};
  config.modules_to_save = {"head"};
  config.rank_pattern = {{"up", 2}};
  config.alpha_pattern = {{"1.down", 7}};
  config.layers_to_transform = {0, 1};
  config.layers_pattern = {"blocks"};
  return config;
}

TEST_F(HostileConfig, OfLora) {
  auto config = lora();
  config.target_modules = {"up", "down"};
  save(config);
  try_everything_everywhere();
}

TEST_F(HostileConfig, OfTokenRows) {
  auto config = lora();
  config.target_modules = {"up", "down", "head"};
  config.modules_to_save = {};
  config.layers_to_transform = {};
  config.layers_pattern = {};
  config.trainable_token_indices = {1, 3};
  save(config);
  const std::string place = "/trainable_token_indices";
  for (const std::string& value : hostile_values()) {
    loads_with_config(with(place, value), place + " = " + value);
    for (const char* inner : {"/0", "/1"}) {
      loads_with_config(with(place + inner, value), inner + value);
    }
  }
}

TEST_F(HostileConfig, OfAdaLora) {
  peft::AdaLoraConfig config;
  config.init_r = 3;
  config.target_r = 2;
  config.total_step = 10;
  config.target_modules = {"up", "down"};
  config.rank_pattern = {{"blocks.0.up.lora_E", {true, false, true}}};
  save(config);
  try_everything_everywhere();
}

TEST_F(HostileConfig, OfIa3) {
  peft::IA3Config config;
  config.target_modules = {"up", "down"};
  config.feedforward_modules = {"down"};
  config.modules_to_save = {"head"};
  save(config);
  try_everything_everywhere();
}

// The configs that tell of an initialisation from data.
TEST_F(HostileConfig, OfNestedConfigs) {
  auto config = lora();
  config.eva_config = peft::EvaConfig{};
  config.corda_config = peft::CordaConfig{};
  config.lora_ga_config = peft::LoraGAConfig{};
  config_ = peft::to_json(config);
  for (const char* scheme : {"eva", "corda", "lora_ga"}) {
    const std::string field = std::string("/") + scheme + "_config";
    std::vector<std::string> places;
    add_places(
        Json::parse(config_)[scheme + std::string("_config")], field, places);
    for (const std::string& place : places) {
      for (const std::string& value : hostile_values()) {
        loads_with_config(with(place, value), place + " = " + value);
      }
    }
  }
}

TEST_F(HostileConfig, CutOrWithBitsTurned) {
  save(lora());
  for (std::size_t size = 0; size + 1 < config_.size(); ++size) {
    EXPECT_FALSE(loads_with_config(
        config_.substr(0, size), "cut to " + std::to_string(size)));
  }
  for (int i = 0; i < 600; ++i) {
    loads_with_config(damaged(config_), "damage " + std::to_string(i));
  }
}

TEST_F(HostileConfig, WithKeysTwiceMissingOrNested) {
  save(lora());
  const Json config = Json::parse(config_);
  for (const auto& [name, value] : config.items()) {
    const std::string entry = Json(name).dump() + ":" + value.dump();
    EXPECT_FALSE(loads_with_config(
        "{" + entry + "," + config.dump().substr(1), name + " twice"));
    Json less = config;
    less.erase(name);
    loads_with_config(less.dump(), "without " + name);
    EXPECT_FALSE(loads_with_config(
        with("/" + name, std::string(100'000, '[') + std::string(100'000, ']')),
        name + " nested"));
  }
}

}  // namespace
}  // namespace peft_test
