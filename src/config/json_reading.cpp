// SPDX-License-Identifier: Apache-2.0
// The reading half of json_text.h.
#include <algorithm>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "base/mistakes.h"
#include "base/text.h"
#include "config/json_text.h"

namespace peft::detail {
namespace {

// Deeper files are broken or hostile: writing them back would recurse as deep.
constexpr int deepest = 64;

// What Watcher throws through the parser: the rest of "<file>: ...".
struct Refusal {
  std::string text;
};

// Follows the parser through objects to find what it would let pass: keys
// given twice (the last one would win) and nesting without end.
class Watcher {
 public:
  bool operator()(int depth, Json::parse_event_t event, const Json& parsed) {
    using Event = Json::parse_event_t;
    if (depth > deepest) {
      throw Refusal{concat("nested more than ", deepest, " levels deep")};
    }
    if (event == Event::object_start) {
      open_.emplace_back();
    } else if (event == Event::object_end) {
      open_.pop_back();
    } else if (event == Event::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!open_.back().insert(key).second) {
        throw Refusal{
            concat("the key \"", key, "\" is twice in one object; keep one")};
      }
    }
    return true;
  }

 private:
  std::vector<std::set<std::string>> open_;
};

// "line 3, column 5" of the byte at `position`, counted from 1.
std::string place(const std::string& text, std::size_t position) {
  std::size_t line = 1;
  std::size_t column = 1;
  for (std::size_t i = 0; i + 1 < position && i < text.size(); ++i) {
    const bool end = text[i] == '\n';
    line += end ? 1 : 0;
    column = end ? 1 : column + 1;
  }
  return concat("line ", line, ", column ", column);
}

// The word of Python's json module that JSON does not have and that stands
// where parsing stopped, or "".
std::string python_number_at(const std::string& text, std::size_t position) {
  for (const std::string_view word : {"-Infinity", "Infinity", "NaN"}) {
    const std::size_t first =
        position > word.size() ? position - word.size() : 0;
    const std::size_t found = text.find(word, first);
    if (found != std::string::npos && found < position) {
      return std::string(word);
    }
  }
  return "";
}

// nlohmann's reason without its own names, "unexpected end of input", and
// without the bytes it read last, which may be half a character.
std::string reason(std::string what) {
  const std::size_t last_read = what.find("; last read: ");
  what.resize(std::min(last_read, what.size()));
  for (const std::string_view end_of_names : {" - ", "] "}) {
    const std::size_t found = what.find(end_of_names);
    if (found != std::string::npos) {
      return what.substr(found + end_of_names.size());
    }
  }
  return what;
}

std::string syntax_mistake(
    const std::string& text,
    const Json::parse_error& error) {
  const std::string word = python_number_at(text, error.byte);
  if (!word.empty()) {
    return concat(
        word,
        " at ",
        place(text, error.byte),
        ": Python writes it, but it is not JSON, and no value of an adapter "
        "can be ",
        word,
        "; put a finite number there");
  }
  return concat(
      "not valid JSON at ",
      place(text, error.byte),
      ": ",
      reason(error.what()));
}

}  // namespace

Json parse_json(
    const std::string& text,
    const std::string& origin,
    ErrorKind kind) {
  std::string mistake;
  try {
    return Json::parse(text, Watcher());
  } catch (const Json::parse_error& error) {
    mistake = syntax_mistake(text, error);
  } catch (const Json::exception& error) {
    mistake = concat("cannot be read: ", reason(error.what()));
  } catch (const Refusal& found) {
    mistake = found.text;
  }
  throw Error(kind, concat(origin, ": ", mistake));
}

bool is_broken(const JsonText& json) {
  return !Json::accept(json.text);
}

bool is_truthy(const JsonText& json) {
  const Json value = Json::parse(json.text, nullptr, false);
  if (value.is_discarded() || value.is_null()) {
    return false;
  }
  if (value.is_boolean()) {
    return value.get<bool>();
  }
  if (value.is_number()) {
    return value.get<double>() != 0;
  }
  if (value.is_string()) {
    return !value.get_ref<const std::string&>().empty();
  }
  return !value.empty();
}

void check_unknown_fields(
    const std::string& path,
    const UnknownFields& fields,
    Mistakes& mistakes) {
  for (const auto& [name, json] : fields) {
    if (is_broken(json)) {
      mistakes.add(
          ErrorKind::config,
          concat(path, "unknown_fields: '", name, "' is not JSON text"));
    }
  }
}

}  // namespace peft::detail
