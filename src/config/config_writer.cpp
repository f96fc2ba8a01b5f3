// SPDX-License-Identifier: Apache-2.0
// Configs to the text of adapter_config.json.
#include <algorithm>
#include <cmath>
#include <string_view>

#include "base/text.h"
#include "config/json_text.h"
#include "config/peft_version.h"
#include "peft/adapter_config.h"
#include "peft/error.h"

namespace peft {
namespace {

using detail::concat;
using detail::Json;

// Python's alphas are integers unless someone chose a fraction.
Json as_python_number(double value) {
  constexpr double exact = 9007199254740992;  // 2^53
  if (std::trunc(value) == value && std::abs(value) < exact) {
    return static_cast<std::int64_t>(value);
  }
  return value;
}

template <class Value>
Json one_or_many(const OneOrMany<Value>& value) {
  if (value.is_none()) {
    return nullptr;
  }
  return value.is_one() ? Json(*value.begin()) : Json(value.values());
}

class FieldWriter final : public FieldVisitor {
 public:
  /// `path` stands before the names of fields in messages: "eva_config.".
  explicit FieldWriter(std::string path = "") : path_(std::move(path)) {}

  Json object = Json::object();

  /// Those of them that no field has written.
  void add_unknown(const UnknownFields& fields) {
    for (const auto& [name, json] : fields) {
      if (!object.contains(name)) {
        object[name] =
            detail::parse_json(json.text, path_ + name, ErrorKind::config);
      }
    }
  }

  void field(const char* name, bool& value) override { object[name] = value; }

  void field(const char* name, std::int64_t& value) override {
    object[name] = value;
  }

  void field(const char* name, double& value) override {
    must_be_finite(name, value);
    object[name] = std::string_view(name) == "lora_alpha"
        ? as_python_number(value)
        : Json(value);
  }

  void field(const char* name, std::optional<std::int64_t>& value) override {
    object[name] = value ? Json(*value) : Json();
  }

  void field(const char* name, std::string& value) override {
    object[name] = value;
  }

  void field(const char* name, std::optional<std::string>& value) override {
    object[name] = value ? Json(*value) : Json();
  }

  void field(const char* name, std::vector<std::string>& value) override {
    object[name] = value.empty() ? Json() : Json(value);
  }

  void field(const char* name, std::optional<std::vector<std::int64_t>>& value)
      override {
    object[name] = value ? Json(*value) : Json();
  }

  void field(const char* name, OneOrMany<std::string>& value) override {
    object[name] = one_or_many(value);
  }

  void field(const char* name, OneOrMany<std::int64_t>& value) override {
    object[name] = one_or_many(value);
  }

  void field(const char* name, Patterns<std::int64_t>& value) override {
    Json& patterns = object[name] = Json::object();
    for (const auto& [key, number] : value) {
      patterns.emplace(key, number);  // of equal keys the first one counts
    }
  }

  void field(const char* name, Patterns<double>& value) override {
    Json& patterns = object[name] = Json::object();
    for (const auto& [key, number] : value) {
      must_be_finite(concat(name, "['", key, "']"), number);
      patterns.emplace(key, as_python_number(number));
    }
  }

  void field(const char* name, Patterns<std::vector<bool>>& value) override {
    object[name] = nullptr;  // PEFT's default, where others are {}
    for (const auto& [key, flags] : value) {
      object[name].emplace(key, flags);
    }
  }

  void field(const char* name, ModuleChoice& value) override {
    if (value.is_none()) {
      object[name] = nullptr;
    } else if (value.is_pattern()) {
      object[name] = value.pattern();
    } else {
      // A set in Python, written in any order there; sorted here.
      auto names = value.names();
      std::sort(names.begin(), names.end());
      names.erase(std::unique(names.begin(), names.end()), names.end());
      object[name] = names;
    }
  }

  void field(const char* name, InitChoice& value) override {
    object[name] =
        value.is_named() ? Json(value.scheme()) : Json(value.is_default());
  }

  void field(const char* name, TokenChoice& value) override {
    if (!value.is_by_layer()) {
      object[name] = value.is_list() ? Json(value.tokens()) : Json();
      return;
    }
    Json& by_layer = object[name] = Json::object();
    for (const auto& [layer, tokens] : value.by_layer()) {
      by_layer.emplace(layer, tokens);
    }
  }

  void field(const char* name, JsonText& value) override {
    object[name] = detail::parse_json(value.text, name, ErrorKind::config);
  }

 protected:
  void visit_nested(const char* name, bool is_given, const VisitFields& visit)
      override {
    if (!is_given) {
      object[name] = nullptr;
      return;
    }
    FieldWriter inner(concat(path_, name, "."));
    inner.add_unknown(visit(inner));
    object[name] = std::move(inner.object);
  }

 private:
  void must_be_finite(const std::string& name, double value) const {
    if (!std::isfinite(value)) {
      throw Error(
          ErrorKind::config,
          concat(
              "cannot write an adapter config: ",
              path_,
              name,
              " is ",
              value,
              ", a number JSON does not have"));
    }
  }

  const std::string path_;
};

}  // namespace

std::string to_json(const AdapterConfig& config) {
  FieldWriter writer;
  config.clone()->visit(writer);  // visit() may change what it visits
  writer.object["peft_type"] = config.peft_type();
  if (config.peft_version.empty()) {  // read from a file that does not say
    writer.object["peft_version"] = detail::known_peft_version();
  }
  writer.add_unknown(config.unknown_fields);
  try {
    return detail::python_json(writer.object);
  } catch (const Json::exception& error) {
    throw Error(
        ErrorKind::config,
        concat(
            "cannot write an adapter config, one of its texts is not UTF-8: ",
            error.what()));
  }
}

}  // namespace peft
