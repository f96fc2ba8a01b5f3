// SPDX-License-Identifier: Apache-2.0
#include "graph/node_text.h"

#include <set>

#include "base/text.h"
#include "graph/scope.h"

namespace peft::graph {

using detail::concat;

namespace {

std::string metadata_of(const Json& node, const char* name) {
  const Json* metadata = optional_field(node, "metadata");
  const Json* text = metadata ? optional_field(*metadata, name) : nullptr;
  return text ? as_text(*text) : "";
}

// The last 'File "x.py", line 3, in forward' of a Python stack trace.
std::string innermost_source(const std::string& trace) {
  const auto begin = trace.rfind("File \"");
  if (begin == std::string::npos) {
    return "";
  }
  return trace.substr(begin, trace.find('\n', begin) - begin);
}

}  // namespace

const Json& list_field(const Json& object, const char* name) {
  return as_list(field(object, name));
}

std::pair<std::string, std::string> calling_module(const Json& node) {
  // Entries "key,path,class", the innermost last.
  const std::string stack = metadata_of(node, "nn_module_stack");
  const std::string entry = stack.substr(stack.rfind(';') + 1);
  const auto first = entry.find(',');
  const auto last = entry.rfind(',');
  if (first == std::string::npos || first == last) {
    return {};
  }
  std::string path = entry.substr(first + 1, last - first - 1);
  path = path.substr(0, path.find('@'));  // "lin@1": called again
  return {path, entry.substr(last + 1)};
}

Origin read_origin(const Json& node) {
  Origin origin{.target = as_text(field(node, "target"))};
  if (const Json* name = optional_field(node, "name")) {
    origin.node = as_text(*name);
  } else if (const auto names = flat_names(field(node, "outputs"));
             !names.empty()) {
    origin.node = names.front();  // older archives do not name nodes
  }
  origin.module_path = calling_module(node).first;
  origin.source = innermost_source(metadata_of(node, "stack_trace"));
  return origin;
}

void check_given_once(const Json& node) {
  std::set<std::string> given;
  for (const Json& input : list_field(node, "inputs")) {
    const std::string& name = as_text(field(input, "name"));
    if (!name.empty() && !given.insert(name).second) {
      throw BrokenJson(concat("its argument '", name, "' is given twice"));
    }
  }
}

std::vector<std::string> flat_names(const Json& outputs) {
  std::vector<std::string> names;
  for (const Json& output : as_list(outputs)) {
    const auto [tag, value] = as_union(output);
    if (tag == "as_tensors") {
      for (const Json& item : as_list(*value)) {
        names.push_back(as_text(field(item, "name")));
      }
    } else {
      names.push_back(defined_name(output));
    }
  }
  return names;
}

}  // namespace peft::graph
