// SPDX-License-Identifier: Apache-2.0
#include "matrix/layer_cases.h"

namespace peft_test {
namespace {

std::vector<std::pair<std::string, Json>> arguments_of(
    nn::Module& layer,
    const std::string& input) {
  return {
      {input, value("x")},
      {"weight", value("p_layer_weight")},
      {"bias",
       layer.named_parameters(false).contains("bias") ? value("p_layer_bias")
                                                      : none()}};
}

void add_linear_node(GraphBuilder& graph, nn::Module& layer) {
  graph.node(
      "torch.ops.aten.linear.default",
      arguments_of(layer, "input"),
      {"y"},
      "layer,torch.nn.modules.linear.Linear");
}

void add_embedding_node(GraphBuilder& graph, nn::Module&) {
  graph.node(
      "torch.ops.aten.embedding.default",
      {{"weight", value("p_layer_weight")}, {"indices", value("x")}},
      {"y"},
      "layer,torch.nn.modules.sparse.Embedding");
}

template <class Convolution>
void add_convolution_node(GraphBuilder& graph, nn::Module& layer) {
  const auto& options = layer.as<Convolution>()->options;
  const auto list = [](const auto& expanded) {
    return integers({expanded->begin(), expanded->end()});
  };
  auto arguments = arguments_of(layer, "input");
  arguments.emplace_back("stride", list(options.stride()));
  const bool same =
      std::holds_alternative<torch::enumtype::kSame>(options.padding());
  const std::string dims = std::to_string(options.stride()->size());
  if (same) {
    arguments.emplace_back("padding", text("same"));
  } else {
    using Sizes = torch::ExpandingArray<
        std::tuple_size_v<std::decay_t<decltype(*options.stride())>>>;
    arguments.emplace_back("padding", list(std::get<Sizes>(options.padding())));
  }
  arguments.emplace_back("dilation", list(options.dilation()));
  arguments.emplace_back("groups", integer(options.groups()));
  graph.node(
      "torch.ops.aten.conv" + dims + (same ? "d.padding" : "d.default"),
      arguments,
      {"y"},
      "layer,torch.nn.modules.conv.Conv" + dims + "d");
}

template <class Holder>
LayerCase layer(
    std::string name,
    std::function<Holder()> make,
    std::function<Tensor()> input,
    Form form,
    ProgramLayerHost::AddNode add_node = nullptr) {
  WeightCase weight{.form = form, .weight = [](nn::Module& m) -> Tensor& {
                      return m.as<Holder>()->weight;
                    }};
  if constexpr (!std::is_same_v<Holder, nn::Embedding>) {
    weight.bias = [](nn::Module& m) { return &m.as<Holder>()->bias; };
  }
  const bool has_batch =
      !name.ends_with("_1d") && !name.ends_with("_unbatched");
  return {
      .name = std::move(name),
      .weights = {std::move(weight)},
      .make = [make] { return make().ptr(); },
      .forward = [](nn::Module& m,
                    const Tensor& x) { return m.as<Holder>()->forward(x); },
      .input = std::move(input),
      .add_node = std::move(add_node),
      .batch = has_batch ? std::optional<int64_t>(0) : std::nullopt};
}

template <class Holder>
LayerCase in_groups(LayerCase layer, int64_t groups) {
  layer.weights[0].groups = groups;
  layer.join_groups = [](nn::Module& m) { m.as<Holder>()->options.groups(1); };
  return layer;
}

// Every second column of a wider tensor: not contiguous.
std::function<Tensor()> strided(std::vector<int64_t> shape) {
  return [shape] {
    auto wide = shape;
    wide.back() *= 2;
    return torch::randn(wide).slice(-1, 0, wide.back(), 2);
  };
}

nn::Conv2dOptions conv2d(int64_t in, int64_t out, int64_t k) {
  return nn::Conv2dOptions(in, out, k);
}

}  // namespace

void PrintTo(const LayerCase& layer, std::ostream* out) {
  *out << layer.name;
}

std::vector<LayerCase> layer_cases() {
  std::vector<LayerCase> cases = {
      layer<nn::Linear>(
          "linear_2d",
          [] { return nn::Linear(7, 5); },
          normal({4, 7}),
          Form::matrix,
          add_linear_node),
      layer<nn::Linear>(
          "linear_3d_strided",
          [] { return nn::Linear(7, 5); },
          strided({2, 3, 7}),
          Form::matrix,
          add_linear_node),
      layer<nn::Linear>(
          "linear_1d",
          [] { return nn::Linear(7, 5); },
          normal({7}),
          Form::matrix,
          add_linear_node),
      layer<nn::Linear>(
          "linear_empty",
          [] { return nn::Linear(7, 5); },
          normal({0, 7}),
          Form::matrix,
          add_linear_node),
      layer<nn::Linear>(
          "linear_no_bias",
          [] { return nn::Linear(nn::LinearOptions(7, 5).bias(false)); },
          normal({4, 7}),
          Form::matrix,
          add_linear_node),
      layer<nn::Conv1d>(
          "conv1d_dilated",
          [] { return nn::Conv1d(nn::Conv1dOptions(3, 5, 3).dilation(2)); },
          normal({2, 3, 9}),
          Form::kernel,
          add_convolution_node<nn::Conv1dImpl>),
      layer<nn::Conv1d>(
          "conv1d_unbatched",
          [] { return nn::Conv1d(nn::Conv1dOptions(3, 5, 3)); },
          normal({3, 9}),
          Form::kernel,
          add_convolution_node<nn::Conv1dImpl>),
      layer<nn::Conv2d>(
          "conv2d_strided_padded",
          [] { return nn::Conv2d(conv2d(3, 4, 3).stride(2).padding(1)); },
          normal({2, 3, 7, 6}),
          Form::kernel,
          add_convolution_node<nn::Conv2dImpl>),
      layer<nn::Conv2d>(
          "conv2d_same",
          [] {
            return nn::Conv2d(
                conv2d(3, 4, 3).padding(torch::kSame).dilation(2));
          },
          normal({2, 3, 7, 6}),
          Form::kernel,
          add_convolution_node<nn::Conv2dImpl>),
      layer<nn::Conv2d>(
          "conv2d_reflect",
          [] {
            return nn::Conv2d(
                conv2d(3, 4, 3).padding(1).padding_mode(torch::kReflect));
          },
          normal({2, 3, 7, 6}),
          Form::kernel),
      layer<nn::Conv2d>(
          "conv2d_circular",
          [] {
            return nn::Conv2d(
                conv2d(3, 4, 3).padding(1).padding_mode(torch::kCircular));
          },
          normal({2, 3, 7, 6}),
          Form::kernel),
      layer<nn::Conv2d>(
          "conv2d_replicate_1x1",
          [] {
            return nn::Conv2d(
                conv2d(3, 4, 1).padding(1).padding_mode(torch::kReplicate));
          },
          normal({2, 3, 7, 6}),
          Form::kernel),
      layer<nn::Conv3d>(
          "conv3d_1x1x3",
          [] { return nn::Conv3d(nn::Conv3dOptions(2, 4, {1, 1, 3})); },
          normal({2, 2, 3, 4, 5}),
          Form::kernel,
          add_convolution_node<nn::Conv3dImpl>),
      in_groups<nn::Conv1d>(
          layer<nn::Conv1d>(
              "conv1d_groups",
              [] { return nn::Conv1d(nn::Conv1dOptions(6, 9, 3).groups(3)); },
              normal({2, 6, 8}),
              Form::kernel,
              add_convolution_node<nn::Conv1dImpl>),
          3),
      in_groups<nn::Conv2d>(
          layer<nn::Conv2d>(
              "conv2d_depthwise",
              [] { return nn::Conv2d(conv2d(3, 6, 3).groups(3).padding(1)); },
              normal({2, 3, 5, 4}),
              Form::kernel,
              add_convolution_node<nn::Conv2dImpl>),
          3),
      layer<nn::Embedding>(
          "embedding",
          [] { return nn::Embedding(9, 5); },
          [] { return torch::tensor({{1, 8, 1}, {0, 3, 2}}, torch::kLong); },
          Form::table,
          add_embedding_node),
  };
  for (LayerCase& other : other_layer_cases()) {
    cases.push_back(std::move(other));
  }
  return cases;
}

}  // namespace peft_test
