// SPDX-License-Identifier: Apache-2.0
// Gives every field of a config its value from a parsed file. Wrong types are
// collected, not thrown, so that one look at the message mends the file.
#pragma once

#include <set>
#include <string>

#include "base/mistakes.h"
#include "config/json_text.h"
#include "peft/adapter_config.h"

namespace peft::detail {

class FieldReader final : public FieldVisitor {
 public:
  /// Both must outlive the reader; `object` is a JSON object.
  FieldReader(const Json& object, Mistakes& mistakes)
      : object_(object), mistakes_(mistakes) {}

  /// Whether a field of this name was asked for and found.
  bool has_read(const std::string& name) const { return read_.contains(name); }

  void field(const char* name, bool& value) override;
  void field(const char* name, std::int64_t& value) override;
  void field(const char* name, double& value) override;
  void field(const char* name, std::optional<std::int64_t>& value) override;
  void field(const char* name, std::string& value) override;
  void field(const char* name, std::optional<std::string>& value) override;
  void field(const char* name, std::vector<std::string>& value) override;
  void field(const char* name, OneOrMany<std::string>& value) override;
  void field(const char* name, OneOrMany<std::int64_t>& value) override;
  void field(const char* name, Patterns<std::int64_t>& value) override;
  void field(const char* name, Patterns<double>& value) override;
  void field(const char* name, Patterns<std::vector<bool>>& value) override;
  void field(const char* name, ModuleChoice& value) override;
  void field(const char* name, InitChoice& value) override;
  void field(const char* name, JsonText& value) override;

 private:
  const Json* find(const char* name);
  const Json* find_given(const char* name);
  void wrong(const std::string& name, const Json& found, const char* expected);
  template <class Value>
  void read_one(const char* name, Value& value, const char* expected);
  template <class Value>
  bool read_list(const char* name, const Json& list, std::vector<Value>& into);
  template <class Value>
  void read_one_or_many(
      const char* name,
      OneOrMany<Value>& value,
      const char* expected);
  template <class Value>
  void read_patterns(const char* name, Patterns<Value>& value);

  const Json& object_;
  Mistakes& mistakes_;
  std::set<std::string> read_;
};

}  // namespace peft::detail
