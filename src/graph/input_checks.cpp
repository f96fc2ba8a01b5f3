// SPDX-License-Identifier: Apache-2.0
#include "graph/input_checks.h"

#include "base/text.h"
#include "graph/serialized_enums.h"

namespace peft::graph {
namespace {

using detail::concat;

std::optional<SizeExpression> read_size(const Json& json) {
  const auto [tag, value] = as_union(json);
  if (tag == "as_int") {
    return SizeExpression::fixed(as_integer(*value));
  }
  return SizeExpression::parse(as_text(field(*value, "expr_str")));
}

std::string range_text(const Range& range) {
  if (range.least && range.most) {
    return concat(*range.least, " to ", *range.most);
  }
  return range.least ? concat("at least ", *range.least)
                     : concat("at most ", *range.most);
}

bool allows(const Range& range, std::int64_t size) {
  const bool large_enough =
      !range.least || *range.least <= 2 || size >= *range.least;
  return large_enough && (!range.most || size <= *range.most);
}

}  // namespace

InputCheck::InputCheck(std::string name, const Json& meta)
    : name_(std::move(name)) {
  const auto dtype = to_scalar_type(as_integer(field(meta, "dtype")));
  if (!dtype) {
    throw BrokenJson(concat("the dtype of input '", name_, "' is not known"));
  }
  dtype_ = *dtype;
  for (const Json& size : as_list(field(meta, "sizes"))) {
    sizes_.push_back(read_size(size));
  }
}

std::string InputCheck::shape() const {
  std::string text;
  for (const auto& size : sizes_) {
    text += concat(text.empty() ? "" : ", ", size ? size->text() : "?");
  }
  return concat("[", text, "]");
}

void InputCheck::bind(const at::Tensor& tensor, Symbols& symbols) const {
  for (std::size_t i = 0; i < sizes_.size(); ++i) {
    if (sizes_[i] && sizes_[i]->is_symbol() &&
        static_cast<std::int64_t>(i) < tensor.dim()) {
      symbols.emplace(sizes_[i]->text(), tensor.size(static_cast<int64_t>(i)));
    }
  }
}

void InputCheck::check(
    const at::Tensor& tensor,
    Symbols& symbols,
    const std::map<std::string, Range>& ranges,
    detail::Mistakes& mistakes) const {
  if (tensor.scalar_type() != dtype_) {
    mistakes.add(concat(
        "input '",
        name_,
        "' is ",
        c10::toString(tensor.scalar_type()),
        ", the program takes ",
        c10::toString(dtype_),
        "; convert it with .to(...)"));
  }
  if (tensor.dim() != static_cast<std::int64_t>(sizes_.size())) {
    mistakes.add(concat(
        "input '",
        name_,
        "' has shape ",
        tensor.sizes(),
        ", the program takes ",
        shape()));
    return;
  }
  for (std::size_t i = 0; i < sizes_.size(); ++i) {
    if (!sizes_[i]) {
      continue;
    }
    const std::int64_t size = tensor.size(static_cast<std::int64_t>(i));
    const auto wrong = [&](const auto& taken, const std::string& why) {
      mistakes.add(concat(
          "input '",
          name_,
          "' has size ",
          size,
          " at dimension ",
          i,
          ", where the program takes ",
          taken,
          " (",
          why,
          ")"));
    };
    if (!sizes_[i]->solve(size, symbols)) {
      wrong(sizes_[i]->text(), "of whole numbers");
      continue;
    }
    const auto wanted = sizes_[i]->evaluate(symbols);
    if (wanted && *wanted != size) {
      wrong(
          *wanted,
          sizes_[i]->is_fixed()
              ? "dynamic_shapes of torch.export.export lets it vary"
              : sizes_[i]->text());
    }
    const auto names = sizes_[i]->symbols();
    const auto range =
        names.size() == 1 ? ranges.find(*names.begin()) : ranges.end();
    if (range == ranges.end() || !symbols.contains(range->first)) {
      continue;
    }
    if (sizes_[i]->is_symbol() && !allows(range->second, size)) {
      wrong(range_text(range->second), sizes_[i]->text());
    } else if (!allows(range->second, symbols.at(range->first))) {
      wrong(
          concat(
              sizes_[i]->text(),
              " with ",
              range->first,
              " ",
              range_text(range->second)),
          concat(range->first, " would be ", symbols.at(range->first)));
    }
  }
}

}  // namespace peft::graph
