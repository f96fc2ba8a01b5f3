// SPDX-License-Identifier: Apache-2.0
// Runs the opcodes of a pickle on a stack of plain values. Values are made, and
// none is called: what a call would give is worked out by the caller.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace peft::detail {

/// A value of a pickle. They may contain one another in circles, so whoever
/// walks them must not follow them without end.
struct PickleValue {
  enum class Kind {
    none,
    boolean,
    integer,
    number,
    text,
    tuple,
    list,
    dict,     // items: key, value, key, value
    global,   // text: "collections.OrderedDict"
    storage,  // what persistent() gave; items: of the tuple that named it
    tensor,   // items: storage, offset, sizes, strides
  };
  Kind kind = Kind::none;
  std::int64_t integer = 0;
  std::string text = {};
  std::vector<const PickleValue*> items = {};
};

class PickleMachine {
 public:
  /// What becomes of `global(arguments)`.
  using Call = std::function<
      PickleValue(const std::string& global, const PickleValue& arguments)>;

  /// `is_known` tells which globals may be named. Everything that is wrong is
  /// an Error (file) that starts with `origin`.
  PickleMachine(
      std::string_view pickle,
      std::string origin,
      std::function<bool(const std::string& global)> is_known,
      Call call);

  /// The one value of the pickle; lives as long as the machine.
  const PickleValue& run();

  [[noreturn]] void refuse(const std::string& what) const;

 private:
  using Kind = PickleValue::Kind;

  std::string_view take(std::uint64_t count);
  std::string_view line();
  template <class Number>
  Number number() {
    Number value;  // little-endian, as this machine is
    std::memcpy(&value, take(sizeof(value)).data(), sizeof(value));
    return value;
  }
  std::int64_t long_integer(std::size_t bytes);

  PickleValue& make(PickleValue value);
  void push(PickleValue value);
  PickleValue& top();
  PickleValue& pop();
  std::vector<const PickleValue*> pop_to_mark();
  void push_tuple(std::size_t count);
  void remember(std::uint64_t place);
  void recall(std::uint64_t place);
  void name_global(std::string_view module, std::string_view name);
  void reduce();
  void make_storage();
  void add_items(Kind to, std::vector<const PickleValue*> items);

  // Each runs `code` if it is one of its own.
  bool run_scalar(std::uint8_t code);
  bool run_container(std::uint8_t code);
  bool run_memory(std::uint8_t code);
  bool run_object(std::uint8_t code);

  std::string_view pickle_;
  std::size_t at_ = 0;
  std::string origin_;
  std::function<bool(const std::string&)> is_known_;
  Call call_;
  std::deque<PickleValue> values_;
  std::vector<PickleValue*> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint64_t, PickleValue*> memory_;
};

}  // namespace peft::detail
