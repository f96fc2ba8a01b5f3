// SPDX-License-Identifier: Apache-2.0
// The opcodes that a dict of tensors is written with, and those that name
// things, which PickleMachine lets be known or refuses.
#include "base/text.h"
#include "files/pickle_machine.h"

namespace peft::detail {

const PickleValue& PickleMachine::run() {
  while (true) {
    const auto code = number<std::uint8_t>();
    if (code == '.') {
      if (stack_.size() != 1 || !marks_.empty()) {
        refuse("its pickle ends in the middle of a value");
      }
      return *stack_.front();
    }
    if (!run_scalar(code) && !run_container(code) && !run_memory(code) &&
        !run_object(code)) {
      refuse(concat(
          "its pickle has the opcode ",
          int{code},
          " at byte ",
          at_ - 1,
          ", which a dict of tensors does not need"));
    }
  }
}

bool PickleMachine::run_scalar(std::uint8_t code) {
  const auto integer = [&](std::int64_t value) {
    push({.kind = Kind::integer, .integer = value});
  };
  const auto text = [&](std::uint64_t size) {
    push({.kind = Kind::text, .text = std::string(take(size))});
  };
  switch (code) {
    case 'N':
      push({.kind = Kind::none});
      return true;
    case 0x88:  // NEWTRUE
    case 0x89:  // NEWFALSE
      push({.kind = Kind::boolean, .integer = code == 0x88});
      return true;
    case 'J':
      integer(number<std::int32_t>());
      return true;
    case 'K':
      integer(number<std::uint8_t>());
      return true;
    case 'M':
      integer(number<std::uint16_t>());
      return true;
    case 0x8a:  // LONG1
      integer(long_integer(number<std::uint8_t>()));
      return true;
    case 'G':
      take(sizeof(double));
      push({.kind = Kind::number});
      return true;
    case 'X':
      text(number<std::uint32_t>());
      return true;
    case 0x8c:  // SHORT_BINUNICODE
      text(number<std::uint8_t>());
      return true;
    default:
      return false;
  }
}

bool PickleMachine::run_container(std::uint8_t code) {
  switch (code) {
    case '(':
      marks_.push_back(stack_.size());
      return true;
    case ')':
    case 0x85:  // TUPLE1
    case 0x86:  // TUPLE2
    case 0x87:  // TUPLE3
      push_tuple(code == ')' ? 0u : code - 0x84u);
      return true;
    case 't':
      push({.kind = Kind::tuple, .items = pop_to_mark()});
      return true;
    case ']':
      push({.kind = Kind::list});
      return true;
    case '}':
      push({.kind = Kind::dict});
      return true;
    case 'a':
      add_items(Kind::list, {&pop()});
      return true;
    case 'e':
      add_items(Kind::list, pop_to_mark());
      return true;
    case 's': {
      const PickleValue& value = pop();
      const PickleValue& key = pop();
      add_items(Kind::dict, {&key, &value});
      return true;
    }
    case 'u':
      add_items(Kind::dict, pop_to_mark());
      return true;
    default:
      return false;
  }
}

bool PickleMachine::run_memory(std::uint8_t code) {
  switch (code) {
    case 'q':
      remember(number<std::uint8_t>());
      return true;
    case 'r':
      remember(number<std::uint32_t>());
      return true;
    case 0x94:  // MEMOIZE
      remember(memory_.size());
      return true;
    case 'h':
      recall(number<std::uint8_t>());
      return true;
    case 'j':
      recall(number<std::uint32_t>());
      return true;
    default:
      return false;
  }
}

bool PickleMachine::run_object(std::uint8_t code) {
  switch (code) {
    case 0x80:  // PROTO
      if (const auto protocol = number<std::uint8_t>();
          protocol < 2 || protocol > 5) {
        refuse(concat("its pickle is of protocol ", int{protocol}));
      }
      return true;
    case 0x95:  // FRAME
      number<std::uint64_t>();
      return true;
    case 'c': {
      const std::string_view module = line();
      name_global(module, line());
      return true;
    }
    case 0x93: {  // STACK_GLOBAL
      const PickleValue& name = pop();
      const PickleValue& module = pop();
      if (name.kind != Kind::text || module.kind != Kind::text) {
        refuse("its pickle names a class by what is no text");
      }
      name_global(module.text, name.text);
      return true;
    }
    case 'Q':
      make_storage();
      return true;
    case 'R':
      reduce();
      return true;
    case 'b':  // attributes of an OrderedDict: state_dict()'s _metadata
      pop();
      if (top().kind != Kind::dict) {
        refuse("its pickle sets attributes of what is not a dict");
      }
      return true;
    default:
      return false;
  }
}

}  // namespace peft::detail
