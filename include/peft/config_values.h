// SPDX-License-Identifier: Apache-2.0
// The types that fields of configs have where a plain number or text does not
// do: choices of modules, of tokens and of an initialisation, patterns, and
// JSON that is only kept.
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "peft/export.h"

namespace peft {

/// A choice of modules: nothing, a list of names, or one pattern.
///
///   config.target_modules = {"query", "value"};         // path suffixes
///   config.target_modules = "all-linear";               // every linear layer
///   config.target_modules = R"(.*\.(q|v)_proj)";        // regex, whole path
///
/// A list entry selects the module of that path and those whose path ends
/// with "." + entry. A string is a Python regular expression that must match
/// the whole path (PCRE2 runs it).
class PEFT_API ModuleChoice {
 public:
  ModuleChoice() = default;
  ModuleChoice(const char* pattern) : pattern_(pattern) {}
  ModuleChoice(std::string pattern) : pattern_(std::move(pattern)) {}
  ModuleChoice(std::initializer_list<std::string> names) : names_(names) {}
  ModuleChoice(std::vector<std::string> names) : names_(std::move(names)) {}

  bool is_none() const { return !pattern_ && !names_; }
  bool is_pattern() const { return pattern_.has_value(); }
  bool is_list() const { return names_.has_value(); }
  /// The regex or "all-linear"; only when is_pattern().
  const std::string& pattern() const { return pattern_.value(); }
  /// The names in the order given; only when is_list().
  const std::vector<std::string>& names() const { return names_.value(); }

  friend bool operator==(const ModuleChoice&, const ModuleChoice&) = default;

 private:
  std::optional<std::string> pattern_;
  std::optional<std::vector<std::string>> names_;
};

/// How new adapter weights start: true (the method's default), false (not the
/// identity; for debugging), or a named scheme such as "gaussian".
class PEFT_API InitChoice {
 public:
  InitChoice(bool on = true) : on_(on) {}
  InitChoice(const char* scheme) : scheme_(scheme) {}
  InitChoice(std::string scheme) : scheme_(std::move(scheme)) {}

  /// True for a bare `true`; false for `false` and for named schemes.
  bool is_default() const { return on_ && scheme_.empty(); }
  bool is_named() const { return !scheme_.empty(); }
  const std::string& scheme() const { return scheme_; }

  friend bool operator==(const InitChoice&, const InitChoice&) = default;

 private:
  bool on_ = true;
  std::string scheme_;
};

/// A value, a list of values, or nothing; written to files as it was given.
///   config.layers_to_transform = {0, 1};   config.layers_pattern = "layers";
template <class Value>
class OneOrMany {
 public:
  OneOrMany() = default;
  template <std::convertible_to<Value> One>
  OneOrMany(One one) : values_{Value(std::move(one))}, is_one_(true) {}
  OneOrMany(std::initializer_list<Value> values)
      : values_(values), is_none_(false) {}
  OneOrMany(std::vector<Value> values)
      : values_(std::move(values)), is_none_(false) {}

  bool is_none() const { return is_none_ && !is_one_; }
  bool is_one() const { return is_one_; }
  bool empty() const { return values_.empty(); }
  std::size_t size() const { return values_.size(); }
  auto begin() const { return values_.begin(); }
  auto end() const { return values_.end(); }
  const std::vector<Value>& values() const { return values_; }

  friend bool operator==(const OneOrMany&, const OneOrMany&) = default;

 private:
  std::vector<Value> values_;
  bool is_one_ = false;
  bool is_none_ = true;
};

/// Values for modules whose path matches a pattern, tried in this order:
///   config.rank_pattern = {{"q", 4}, {"layers.0.k", 8}};
/// A key is a Python regular expression for a path suffix at a dot boundary.
template <class Value>
using Patterns = std::vector<std::pair<std::string, Value>>;

/// A choice of tokens: nothing, a list of token ids for the model's input
/// embedding, or ids by layer.
///
///   config.trainable_token_indices = {1, 3};
///   config.trainable_token_indices = {{"embed_tokens", {1, 3}}, {"head",
///   {2}}};
class PEFT_API TokenChoice {
 public:
  using Tokens = std::vector<std::int64_t>;

  TokenChoice() = default;
  TokenChoice(std::initializer_list<std::int64_t> tokens) : tokens_(tokens) {}
  TokenChoice(Tokens tokens) : tokens_(std::move(tokens)) {}
  TokenChoice(std::initializer_list<std::pair<std::string, Tokens>> by_layer)
      : by_layer_(by_layer) {}
  TokenChoice(Patterns<Tokens> by_layer) : by_layer_(std::move(by_layer)) {}

  bool is_none() const { return !tokens_ && !by_layer_; }
  bool is_list() const { return tokens_.has_value(); }
  bool is_by_layer() const { return by_layer_.has_value(); }
  /// The ids in the order given; only when is_list().
  const Tokens& tokens() const { return tokens_.value(); }
  /// Names of layers, in the order given, and their ids; only when
  /// is_by_layer().
  const Patterns<Tokens>& by_layer() const { return by_layer_.value(); }

  friend bool operator==(const TokenChoice&, const TokenChoice&) = default;

 private:
  std::optional<Tokens> tokens_;
  std::optional<Patterns<Tokens>> by_layer_;
};

/// A field of a config file that is kept as it came, as JSON text.
struct JsonText {
  std::string text = "null";
  bool is_null() const { return text == "null"; }
  friend bool operator==(const JsonText&, const JsonText&) = default;
};

/// Fields of a config file that this version does not know, kept and written
/// back: name and JSON text.
using UnknownFields = std::vector<std::pair<std::string, JsonText>>;

}  // namespace peft
