// SPDX-License-Identifier: Apache-2.0
// For config_parity.py: reads one adapter config per line (a JSON string that
// holds the text of a file) and answers each with one line:
//   {"json": text of to_json, "warnings": [...], "check": mistakes or null}
//   {"error": what, "kind": number}
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/mistakes.h"
#include "peft/adapter_config.h"
#include "peft/error.h"

namespace {

nlohmann::json check(const peft::AdapterConfig& config) {
  peft::detail::Mistakes mistakes(peft::ErrorKind::config, "check");
  config.check(mistakes);
  try {
    mistakes.raise_if_any();
  } catch (const peft::Error& error) {
    return error.what();
  }
  return nullptr;
}

nlohmann::json answer(const std::string& text) {
  std::vector<std::string> warnings;
  peft::set_warning_handler(
      [&](const std::string& warning) { warnings.push_back(warning); });
  try {
    const auto config = peft::parse_adapter_config(text);
    return {
        {"json", peft::to_json(*config)},
        {"warnings", warnings},
        {"check", check(*config)}};
  } catch (const peft::Error& error) {
    return {{"error", error.what()}, {"kind", int(error.kind())}};
  }
}

}  // namespace

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    const auto request = nlohmann::json::parse(line);
    std::cout << answer(request.get<std::string>()).dump() << std::endl;
  }
}
