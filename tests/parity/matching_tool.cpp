// SPDX-License-Identifier: Apache-2.0
// For matching_parity.py: reads one request per line and answers each with one
// line. A request is either
//   {"config": text of adapter_config.json,
//    "modules": [{"path", "others", "type", "supported", "linear"}, ...]}
//     -> {"adapted": [...], "ranks": [...], "alphas": [...],
//         "unmatched": {...}, "notes": [...], "saved": [...]} or {"error"}
// or
//   {"regex": r, "texts": [...]} -> {"whole": [...], "prefix": [...]}
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "matching/name_pattern.h"
#include "matching/target_matcher.h"
#include "peft/adapter_config.h"
#include "peft/error.h"

namespace {

using nlohmann::json;
using peft::detail::ModuleName;

std::vector<ModuleName> modules_of(const json& request) {
  std::vector<ModuleName> modules;
  for (const auto& entry : request.at("modules")) {
    ModuleName module;
    module.path = entry.at("path");
    module.others = entry.value("others", std::vector<std::string>());
    module.type = entry.at("type");
    module.supported = entry.at("supported");
    module.linear = entry.at("linear");
    modules.push_back(std::move(module));
  }
  return modules;
}

json match(const json& request) {
  const auto config = peft::parse_adapter_config(request.at("config"));
  const auto modules = modules_of(request);
  const auto report = peft::detail::match_targets(*config, modules);
  const auto rules = config->target_rules();
  json ranks = json::array();
  json alphas = json::array();
  for (const auto& path : report.adapted()) {
    const auto rank = peft::detail::value_for_path(rules.rank_pattern, path);
    const auto alpha = peft::detail::value_for_path(rules.alpha_pattern, path);
    ranks.push_back(rank ? json(*rank) : json());
    alphas.push_back(alpha ? json(*alpha) : json());
  }
  return {
      {"adapted", report.adapted()},
      {"ranks", ranks},
      {"alphas", alphas},
      {"unmatched",
       {{"target_modules", report.unmatched_targets},
        {"exclude_modules", report.unmatched_excludes},
        {"modules_to_save", report.unmatched_modules_to_save},
        {"rank_pattern", report.unmatched_rank_patterns},
        {"alpha_pattern", report.unmatched_alpha_patterns}}},
      {"notes", report.notes},
      {"saved", peft::detail::match_modules_to_save(*config, modules)}};
}

json match_regex(const json& request) {
  const peft::detail::NamePattern pattern(request.at("regex"));
  json whole = json::array();
  json prefix = json::array();
  for (const std::string text : request.at("texts")) {
    const auto found = pattern.match_prefix(text);
    whole.push_back(pattern.matches_whole(text));
    prefix.push_back(found ? json(*found) : json());
  }
  return {{"whole", whole}, {"prefix", prefix}};
}

}  // namespace

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    const json request = json::parse(line);
    json answer;
    try {
      answer =
          request.contains("regex") ? match_regex(request) : match(request);
    } catch (const peft::Error& error) {
      answer = {{"error", error.what()}};
    }
    std::cout << answer.dump() << std::endl;
  }
}
