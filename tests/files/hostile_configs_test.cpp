// SPDX-License-Identifier: Apache-2.0
// Damaged adapter_config.json of every method: cut, with bits turned, with
// anything in the place of every value.
#include "support/hostile_folder.h"

namespace peft_test {
namespace {

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
  void try_everything_at(const std::vector<Pointer>& places) {
    const OrderedJson config = OrderedJson::parse(config_);
    for (const Pointer& place : places) {
      for (const std::string& value : hostile_values()) {
        loads_with_config(
            with(config, place, value), place.to_string() + " = " + value);
      }
    }
    EXPECT_TRUE(loads_with_config(config_, "the good config"));
  }

  void try_everything_everywhere() {
    try_everything_at(places_of(OrderedJson::parse(config_)));
  }
};

peft::LoraConfig lora() {
  peft::LoraConfig config;
  config.r = 3;
  config.lora_alpha = 5;
  config.target_modules = {"up", "down"};
  config.modules_to_save = {"head"};
  config.rank_pattern = {{"up", 2}};
  config.alpha_pattern = {{"1.down", 7}};
  config.layers_to_transform = {0, 1};
  config.layers_pattern = {"blocks"};
  return config;
}

TEST_F(HostileConfig, OfLora) {
  save(lora());
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
  try_everything_at(
      {Pointer("/trainable_token_indices"),
       Pointer("/trainable_token_indices/0"),
       Pointer("/trainable_token_indices/1")});
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
  save(config);
  config.eva_config = peft::EvaConfig{};
  config.corda_config = peft::CordaConfig{};
  config.lora_ga_config = peft::LoraGAConfig{};
  config_ = peft::to_json(config);
  const OrderedJson json = OrderedJson::parse(config_);
  for (const char* name : {"eva_config", "corda_config", "lora_ga_config"}) {
    try_everything_at(places_of(json.at(name), Pointer() / name));
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
  const OrderedJson config = OrderedJson::parse(config_);
  for (const auto& [name, value] : config.items()) {
    const std::string entry = OrderedJson(name).dump() + ":" + value.dump();
    EXPECT_FALSE(loads_with_config(
        "{" + entry + "," + config.dump().substr(1), name + " twice"));
    OrderedJson less = config;
    less.erase(name);
    loads_with_config(less.dump(), "without " + name);
    EXPECT_FALSE(loads_with_config(
        with(config, Pointer() / name, endless_list()), name + " nested"));
  }
}

}  // namespace
}  // namespace peft_test
