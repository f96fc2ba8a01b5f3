// SPDX-License-Identifier: Apache-2.0
#include "files/pickle_machine.h"

#include "base/text.h"
#include "peft/error.h"

namespace peft::detail {

PickleMachine::PickleMachine(
    std::string_view pickle,
    std::string origin,
    std::function<bool(const std::string& global)> is_known,
    Call call)
    : pickle_(pickle),
      origin_(std::move(origin)),
      is_known_(std::move(is_known)),
      call_(std::move(call)) {}

void PickleMachine::refuse(const std::string& what) const {
  throw Error(ErrorKind::file, concat(origin_, ": ", what));
}

std::string_view PickleMachine::take(std::uint64_t count) {
  if (count > pickle_.size() - at_) {
    refuse("its pickle ends too early (is the file complete?)");
  }
  const std::string_view taken = pickle_.substr(at_, count);
  at_ += count;
  return taken;
}

std::string_view PickleMachine::line() {
  const auto end = pickle_.find('\n', at_);
  const auto text =
      take(end == std::string_view::npos ? pickle_.size() : end - at_);
  take(1);
  return text;
}

// Two's complement in as many bytes as it takes.
std::int64_t PickleMachine::long_integer(std::size_t bytes) {
  const std::string_view digits = take(bytes);
  if (bytes > sizeof(std::int64_t)) {
    refuse("its pickle has an integer of more than 64 bits");
  }
  std::uint64_t value = 0;
  const bool negative =
      bytes > 0 && (static_cast<std::uint8_t>(digits.back()) & 0x80) != 0;
  for (std::size_t i = 0; i < sizeof(value); ++i) {
    const std::uint64_t byte = i < bytes ? static_cast<std::uint8_t>(digits[i])
        : negative                       ? 0xff
                                         : 0;
    value |= byte << (8 * i);
  }
  return static_cast<std::int64_t>(value);
}

PickleValue& PickleMachine::make(PickleValue value) {
  values_.push_back(std::move(value));
  return values_.back();
}

void PickleMachine::push(PickleValue value) {
  stack_.push_back(&make(std::move(value)));
}

PickleValue& PickleMachine::top() {
  const std::size_t bottom = marks_.empty() ? 0 : marks_.back();
  if (stack_.size() <= bottom) {
    refuse("its pickle takes a value that is not there");
  }
  return *stack_.back();
}

PickleValue& PickleMachine::pop() {
  PickleValue& value = top();
  stack_.pop_back();
  return value;
}

std::vector<const PickleValue*> PickleMachine::pop_to_mark() {
  if (marks_.empty()) {
    refuse("its pickle ends a list that it did not begin");
  }
  const auto from = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<const PickleValue*> items(from, stack_.end());
  stack_.erase(from, stack_.end());
  marks_.pop_back();
  return items;
}

void PickleMachine::push_tuple(std::size_t count) {
  std::vector<const PickleValue*> items(count);
  for (std::size_t i = count; i-- > 0;) {
    items[i] = &pop();
  }
  push({.kind = Kind::tuple, .items = std::move(items)});
}

void PickleMachine::remember(std::uint64_t place) {
  memory_[place] = &top();
}

void PickleMachine::recall(std::uint64_t place) {
  const auto found = memory_.find(place);
  if (found == memory_.end()) {
    refuse("its pickle speaks of a value that it did not give before");
  }
  stack_.push_back(found->second);
}

void PickleMachine::name_global(
    std::string_view module,
    std::string_view name) {
  std::string global = concat(module, ".", name);
  if (!is_known_(global)) {
    refuse(concat(
        "it needs the Python name '",
        global,
        "', and only a dict of tensors is read here, without running any "
        "code. If the file is yours, load it in Python and save it again with "
        "safe_serialization=True; if it is not, beware of it"));
  }
  push({.kind = Kind::global, .text = std::move(global)});
}

void PickleMachine::reduce() {
  const PickleValue& arguments = pop();
  const PickleValue& callee = pop();
  if (callee.kind != Kind::global || arguments.kind != Kind::tuple) {
    refuse("its pickle calls what is not a name, or not with a tuple");
  }
  push(call_(callee.text, arguments));
}

// ("storage", torch.FloatStorage, "0", "cpu", 32)
void PickleMachine::make_storage() {
  const PickleValue& id = pop();
  const auto& items = id.items;
  const bool fits = id.kind == Kind::tuple && items.size() >= 5 &&
      items[0]->kind == Kind::text && items[0]->text == "storage" &&
      items[1]->kind == Kind::global && items[2]->kind == Kind::text &&
      items[4]->kind == Kind::integer;
  if (!fits) {
    refuse("its pickle has a persistent id that is not a tensor's storage");
  }
  push({.kind = Kind::storage, .items = {items.begin(), items.begin() + 5}});
}

void PickleMachine::add_items(Kind to, std::vector<const PickleValue*> items) {
  PickleValue& container = top();
  if (container.kind != to || (to == Kind::dict && items.size() % 2 != 0)) {
    refuse("its pickle adds entries to what cannot have them");
  }
  container.items.insert(container.items.end(), items.begin(), items.end());
}

}  // namespace peft::detail
