// SPDX-License-Identifier: Apache-2.0
#include "matrix/layer_cases.h"
#include "peft/layer_kinds.h"

namespace peft_test {
namespace {

// GPT-2's layer: y = x W + b, W [inputs, outputs]. It has no bias, and could.
struct InputsFirstImpl : nn::Module {
  InputsFirstImpl() {
    weight = register_parameter("weight", torch::randn({7, 5}) * 0.3);
  }
  Tensor forward(const Tensor& x) const {
    return bias.defined() ? torch::addmm(bias, x, weight) : x.mm(weight);
  }
  Tensor weight, bias;
};

void add_product_node(GraphBuilder& graph, nn::Module&) {
  graph.node(
      "torch.ops.aten.mm.default",
      {{"self", value("x")}, {"mat2", value("p_layer_weight")}},
      {"y"},
      "layer,transformers.pytorch_utils.Conv1D");
}

LayerCase inputs_first() {
  return {
      .name = "inputs_first",
      .weights = {{
          .form = Form::matrix,
          .weight = [](nn::Module& m) -> Tensor& {
            return m.as<InputsFirstImpl>()->weight;
          },
          .bias = [](nn::Module& m) { return &m.as<InputsFirstImpl>()->bias; },
          .inputs_first = true,
      }},
      .make = [] { return std::make_shared<InputsFirstImpl>(); },
      .forward =
          [](nn::Module& m, const Tensor& x) {
            return m.as<InputsFirstImpl>()->forward(x);
          },
      .input = normal({4, 7}),
      .add_node = add_product_node};
}

// Two experts, each of which sees all rows.
template <bool inputs_first>
struct StackImpl : nn::Module {
  StackImpl() {
    weight = register_parameter(
        "weight",
        torch::randn(
            inputs_first ? std::vector<int64_t>{2, 7, 5}
                         : std::vector<int64_t>{2, 5, 7}) *
            0.3);
  }
  Tensor weight;
};

template <bool inputs_first>
LayerCase stack(std::string name) {
  using Stack = StackImpl<inputs_first>;
  const auto weight = [](nn::Module& m) -> Tensor& {
    return m.as<Stack>()->weight;
  };
  return {
      .name = std::move(name),
      .weights = {{
          .form = Form::stack,
          .weight = weight,
          .inputs_first = inputs_first,
          .bare = true,
      }},
      .make = [] { return std::make_shared<Stack>(); },
      .forward =
          [weight](nn::Module& m, const Tensor& x) {
            const Tensor& w = weight(m);
            return torch::bmm(x, inputs_first ? w : w.transpose(1, 2));
          },
      .input = normal({2, 3, 7}),
      .batch = 1,
      .takes_mixed_batches = false};
}

WeightCase projection(
    Tensor nn::MultiheadAttentionImpl::*weight,
    std::pair<int64_t, int64_t> bias_rows) {
  return {
      .form = Form::matrix,
      .weight = [weight](nn::Module& m) -> Tensor& {
        return m.as<nn::MultiheadAttention>()->*weight;
      },
      .bias =
          [](nn::Module& m) {
            return &m.as<nn::MultiheadAttention>()->in_proj_bias;
          },
      .bias_rows = bias_rows};
}

WeightCase out_projection() {
  return {
      .form = Form::matrix,
      .weight = [](nn::Module& m) -> Tensor& {
        return m.as<nn::MultiheadAttention>()->out_proj->weight;
      },
      .bias =
          [](nn::Module& m) {
            return &m.as<nn::MultiheadAttention>()->out_proj->bias;
          }};
}

// libtorch's attention has the positions first, then the batch.
LayerCase attention(
    std::string name,
    nn::MultiheadAttentionOptions options,
    std::vector<WeightCase> weights) {
  return {
      .name = std::move(name),
      .weights = std::move(weights),
      .make =
          [options] {
            auto attention = nn::MultiheadAttention(options);
            const torch::NoGradGuard no_grad;
            attention->in_proj_bias.normal_(0, 0.3);  // it starts at zero
            attention->out_proj->bias.normal_(0, 0.3);
            return attention.ptr();
          },
      .forward =
          [](nn::Module& m, const Tensor& x) {
            auto* attention = m.as<nn::MultiheadAttention>();
            const Tensor memory =
                x.slice(2, 0, attention->options.kdim()).contiguous();
            return std::get<0>(attention->forward(x, memory, memory));
          },
      .input = normal({3, 2, 6}),
      .batch = 1,
      .rounds = 2,
      .every_dtype = false};
}

LayerCase packed_attention() {
  return attention(
      "attention",
      nn::MultiheadAttentionOptions(6, 2),
      {projection(&nn::MultiheadAttentionImpl::in_proj_weight, {0, 18}),
       out_projection()});
}

LayerCase separate_attention() {
  using Layer = nn::MultiheadAttentionImpl;
  return attention(
      "attention_separate",
      nn::MultiheadAttentionOptions(6, 2).kdim(5).vdim(5),
      {projection(&Layer::q_proj_weight, {0, 6}),
       projection(&Layer::k_proj_weight, {6, 12}),
       projection(&Layer::v_proj_weight, {12, 18}),
       out_projection()});
}

// What forward reads is a protected list, which a derived class may name.
template <class Layer>
struct Opened : Layer {
  static Tensor& weight(nn::Module& m, std::size_t place) {
    return (m.as<Layer>()->*(&Opened::flat_weights_))[place];
  }
};

template <class Holder>
LayerCase recurrent(std::string name, std::function<Holder()> make) {
  using Layer = typename Holder::ContainedType;
  std::vector<WeightCase> weights;
  for (const std::size_t place : {0, 1}) {  // weight_ih_l0, weight_hh_l0
    weights.push_back(
        {.form = Form::matrix,
         .weight = [place](nn::Module& m) -> Tensor& {
           return Opened<Layer>::weight(m, place);
         },
         .bare = true});
  }
  return {
      .name = std::move(name),
      .weights = std::move(weights),
      .make = [make] { return make().ptr(); },
      .forward =
          [](nn::Module& m, const Tensor& x) {
            return std::get<0>(m.as<Holder>()->forward(x));
          },
      .input = normal({3, 2, 5}),
      .batch = 1,
      .every_dtype = false,
      .runs_on_factors = false,
      .takes_mixed_batches = false,
      .moves_with_adapters = false};
}

}  // namespace

std::vector<LayerCase> other_layer_cases() {
  using peft::WeightUse;
  peft::register_layer<InputsFirstImpl>(
      {{"weight", &InputsFirstImpl::weight, WeightUse::linear_transposed}});
  peft::register_layer<StackImpl<false>>(
      {{"weight", &StackImpl<false>::weight, WeightUse::linear}});
  peft::register_layer<StackImpl<true>>(
      {{"weight", &StackImpl<true>::weight, WeightUse::linear_transposed}});
  return {
      inputs_first(),
      stack<false>("stack"),
      stack<true>("stack_inputs_first"),
      packed_attention(),
      separate_attention(),
      recurrent<nn::LSTM>("lstm", [] { return nn::LSTM(5, 4); }),
      recurrent<nn::GRU>("gru", [] { return nn::GRU(5, 4); }),
      recurrent<nn::RNN>("rnn", [] { return nn::RNN(5, 4); })};
}

}  // namespace peft_test
