// SPDX-License-Identifier: Apache-2.0
#include "methods/token_rows.h"

#include <algorithm>
#include <numeric>

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>

#include "base/text.h"

namespace peft::detail {
namespace {

using Form = WeightLayout::Form;
using Carrier = ParameterSpec::Carrier;

class TokenRows final : public Method {
 public:
  explicit TokenRows(std::vector<std::int64_t> tokens)
      : tokens_(std::move(tokens)) {}

  void check(
      const WeightLayout& layout,
      const std::string& where,
      Mistakes& mistakes) const override {
    const bool is_plain_matrix =
        layout.form == Form::matrix && !layout.inputs_first;
    if (layout.form != Form::table && !is_plain_matrix) {
      mistakes.add(
          ErrorKind::unsupported,
          concat(
              where,
              ": trainable_token_indices need the rows of an embedding or of "
              "a linear layer, found ",
              layout.describe()));
      return;
    }
    const std::int64_t rows = rows_of(layout);
    std::vector<std::string> beyond;
    for (const std::int64_t token : tokens_) {
      if (token >= rows) {
        beyond.push_back(std::to_string(token));
      }
    }
    if (!beyond.empty()) {
      mistakes.add(
          ErrorKind::config,
          concat(
              where,
              ": trainable_token_indices has ",
              list_names(beyond),
              ", and the weight has ",
              rows,
              " rows, counted from 0"));
    }
  }

  std::vector<ParameterSpec> parameters(
      const WeightLayout& layout) const override {
    const auto count = static_cast<std::int64_t>(tokens_.size());
    const std::int64_t features =
        layout.form == Form::table ? layout.outputs : layout.inputs;
    ParameterSpec rows{
        .dict = "trainable_tokens_delta",
        .leaf = "",
        .file_name = "trainable_tokens_delta",
        .shape = {count, features},
        .carrier = Carrier::bare_parameter};
    // The tokens in rising order, and the place of each in the rows.
    ParameterSpec index{
        .dict = "",
        .leaf = "",
        .file_name = "",
        .shape = {2, count},
        .carrier = Carrier::none,
        .is_buffer = true,
        .dtype = at::kLong};
    return {std::move(rows), std::move(index)};
  }

  void initialise(const Application& on) const override {
    std::vector<std::int64_t> order(tokens_.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](auto a, auto b) {
      return token(a) < token(b);
    });
    std::vector<std::int64_t> sorted;
    for (const std::int64_t place : order) {
      sorted.push_back(token(place));
    }
    const at::Tensor& index = on.parameters[1];
    index[0].copy_(at::tensor(sorted, at::TensorOptions(at::kLong)));
    index[1].copy_(at::tensor(order, at::TensorOptions(at::kLong)));
    on.parameters[0].copy_(on.base.detach().index_select(
        0,
        at::tensor(tokens_, at::TensorOptions(at::kLong))
            .to(on.base.device())));
  }

  at::Tensor effective(const at::Tensor& weight, const Application& on)
      const override {
    const at::Tensor index = index_of(on);
    return weight.index_copy(
        0,
        index[0],
        on.parameters[0].index_select(0, index[1]).to(weight.scalar_type()));
  }

  CheapForm cheap_form(const Application& on) const override {
    return Rows{on.parameters[0], index_of(on)};
  }

 private:
  std::int64_t token(std::int64_t place) const {
    return tokens_[static_cast<std::size_t>(place)];
  }

  // Where the rows are; nobody moves it with them.
  static at::Tensor index_of(const Application& on) {
    return on.parameters[1].to(on.parameters[0].device());
  }

  static std::int64_t rows_of(const WeightLayout& layout) {
    return layout.form == Form::table ? layout.inputs : layout.outputs;
  }

  std::vector<std::int64_t> tokens_;
};

}  // namespace

std::unique_ptr<const Method> make_token_rows(
    std::vector<std::int64_t> tokens) {
  return std::make_unique<TokenRows>(std::move(tokens));
}

}  // namespace peft::detail
