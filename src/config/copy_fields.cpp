// SPDX-License-Identifier: Apache-2.0
#include "config/copy_fields.h"

#include <any>
#include <map>

namespace peft::detail {
namespace {

using Values = std::map<std::string, std::any>;

// Collects values, or gives fields those that were collected.
class Copier final : public FieldVisitor {
 public:
  Copier(const std::set<std::string>& names, Values& values, bool gives)
      : names_(names), values_(values), gives_(gives) {}

  void field(const char* n, bool& v) override { see(n, v); }
  void field(const char* n, std::int64_t& v) override { see(n, v); }
  void field(const char* n, double& v) override { see(n, v); }
  void field(const char* n, std::optional<std::int64_t>& v) override {
    see(n, v);
  }
  void field(const char* n, std::string& v) override { see(n, v); }
  void field(const char* n, std::optional<std::string>& v) override {
    see(n, v);
  }
  void field(const char* n, std::vector<std::string>& v) override { see(n, v); }
  void field(const char* n, std::optional<std::vector<std::int64_t>>& v)
      override {
    see(n, v);
  }
  void field(const char* n, OneOrMany<std::string>& v) override { see(n, v); }
  void field(const char* n, OneOrMany<std::int64_t>& v) override { see(n, v); }
  void field(const char* n, Patterns<std::int64_t>& v) override { see(n, v); }
  void field(const char* n, Patterns<double>& v) override { see(n, v); }
  void field(const char* n, Patterns<std::vector<bool>>& v) override {
    see(n, v);
  }
  void field(const char* n, ModuleChoice& v) override { see(n, v); }
  void field(const char* n, InitChoice& v) override { see(n, v); }
  void field(const char* n, TokenChoice& v) override { see(n, v); }
  void field(const char* n, JsonText& v) override { see(n, v); }

 protected:
  void visit_nested(const char*, bool, const VisitFields&) override {}

 private:
  template <class Value>
  void see(const char* name, Value& value) {
    if (!names_.contains(name)) {
      return;
    }
    if (!gives_) {
      values_[name] = value;
    } else if (const auto found = values_.find(name); found != values_.end()) {
      value = std::any_cast<const Value&>(found->second);
    }
  }

  const std::set<std::string>& names_;
  Values& values_;
  const bool gives_;
};

}  // namespace

void copy_fields(
    AdapterConfig& from,
    AdapterConfig& to,
    const std::set<std::string>& names) {
  Values values;
  Copier collector(names, values, /*gives=*/false);
  from.visit(collector);
  Copier giver(names, values, /*gives=*/true);
  to.visit(giver);
}

const std::set<std::string>& target_fields() {
  static const std::set<std::string> names = {
      "target_modules",
      "exclude_modules",
      "modules_to_save",
      "layers_to_transform",
      "layers_pattern",
      "target_parameters",
      "feedforward_modules",
      "bias",
      "trainable_token_indices",
      "ensure_weight_tying"};
  return names;
}

}  // namespace peft::detail
