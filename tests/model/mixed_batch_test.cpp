// SPDX-License-Identifier: Apache-2.0
// Batches in which each row names its adapter, in models of several layers.
// Each kind of layer by itself is in matrix/operations_matrix_test.cpp.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/message_of.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
using testing::HasSubstr;
using torch::Tensor;
using Names = std::vector<std::string>;

peft::LoraConfig lora(int64_t r, const peft::ModuleChoice& targets) {
  peft::LoraConfig config;
  config.r = r;
  config.lora_alpha = 5;
  config.target_modules = targets;
  return config;
}

// Runs `forward` with every row's own adapter alone and picks its rows.
template <class Forward>
Tensor row_by_row(
    const peft::Adapters& adapters,
    const Names& names,
    int64_t batch_dim,
    const Forward& forward) {
  std::vector<Tensor> rows;
  for (std::size_t i = 0; i < names.size(); ++i) {
    std::unique_ptr<peft::UseAdapter> use;
    std::unique_ptr<peft::DisableAdapters> none;
    if (names[i] == "__base__") {
      none = std::make_unique<peft::DisableAdapters>(adapters);
    } else {
      use = std::make_unique<peft::UseAdapter>(adapters, names[i]);
    }
    rows.push_back(forward().select(batch_dim, static_cast<int64_t>(i)));
  }
  return torch::stack(rows, batch_dim);
}

class MixedBatches : public testing::Test {
 protected:
  void SetUp() override { torch::manual_seed(5); }

  static Tensor ids() {
    return torch::tensor(
        {{1, 2, 3}, {9, 0, 1}, {4, 4, 7}, {0, 8, 8}, {5, 2, 6}});
  }

  // Adapters of three methods, of different ranks, on different layers.
  peft::Adapters make_adapters(TextModel& model) {
    model->eval();
    peft::inject_adapter_in_model(
        lora(2, {"up", "down", "head", "embedding"}), *model, "a");
    peft::LoraConfig dora = lora(3, {"up", "head"});
    dora.use_dora = true;
    peft::inject_adapter_in_model(dora, *model, "b");
    peft::IA3Config ia3;
    ia3.target_modules = {"up", "down", "head"};
    ia3.feedforward_modules = {"down"};
    auto adapters = peft::inject_adapter_in_model(ia3, *model, "c");
    for (const auto& name : adapters.names()) {
      randomise(adapters.parameters(name));
    }
    return adapters;
  }
};

TEST_F(MixedBatches, MixMethodsRanksAndLayers) {
  TextModel model;
  auto adapters = make_adapters(model);
  const auto forward = [&] { return model->forward(ids()); };
  for (const Names& names :
       {Names{"a", "b", "c", "__base__", "a"},
        Names{"c", "c", "b", "b", "b"},
        Names{"__base__", "__base__", "a", "__base__", "c"}}) {
    const peft::BatchAdapters scope(adapters, names);
    const Tensor mixed = forward();
    EXPECT_TRUE(torch::allclose(
        mixed, row_by_row(adapters, names, 0, forward), 1e-4, 1e-5));
  }
}

TEST_F(MixedBatches, GradientsAreThoseOfEachAdaptersOwnRows) {
  TextModel model;
  auto adapters = make_adapters(model);
  const Names names = {"b", "a", "c", "a", "b"};
  const auto forward = [&] { return model->forward(ids()); };
  const auto parameters = adapters.trainable_parameters();
  const Tensor direction = torch::randn({5, 3, 3});
  const auto gradients = [&](const Tensor& y) {
    return torch::autograd::grad({(y * direction).sum()}, parameters);
  };
  const auto expected = gradients(row_by_row(adapters, names, 0, forward));
  const peft::BatchAdapters scope(adapters, names);
  const auto found = gradients(forward());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_TRUE(torch::allclose(found[i], expected[i], 1e-4, 1e-5)) << i;
  }
}

// The first adapter's rows see the same random numbers as they do alone.
TEST_F(MixedBatches, DropoutActsOnEachAdaptersOwnRows) {
  nn::Sequential model;
  model->push_back("fc", nn::Linear(6, 4));
  peft::LoraConfig config = lora(2, {"fc"});
  config.lora_dropout = 0.5;
  peft::inject_adapter_in_model(config, *model, "a");
  config.lora_dropout = 0;
  auto adapters = peft::inject_adapter_in_model(config, *model, "b");
  randomise(adapters.parameters("a"));
  randomise(adapters.parameters("b"));
  model->train();
  const Tensor x = torch::randn({4, 6});
  const auto a = adapters.parameters("a");
  const auto run = [&](const Tensor& input) {
    torch::manual_seed(7);
    return model->forward(input);
  };
  Tensor mixed;
  {
    const peft::BatchAdapters scope(adapters, {"a", "b", "__base__", "a"});
    mixed = run(x);
  }
  const peft::UseAdapter scope(adapters, "a");
  const Tensor alone = run(torch::stack({x[0], x[3]}));
  EXPECT_TRUE(
      torch::allclose(torch::stack({mixed[0], mixed[3]}), alone, 1e-4, 1e-6));
  const auto of_mixed = torch::autograd::grad({mixed.pow(2).sum()}, a);
  const auto of_alone = torch::autograd::grad({alone.pow(2).sum()}, a);
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(torch::allclose(of_mixed[i], of_alone[i], 1e-4, 1e-5));
  }
}

TEST_F(MixedBatches, ATransformerOfLibtorchHasPositionsFirst) {
  nn::TransformerEncoderLayer layer(
      nn::TransformerEncoderLayerOptions(8, 2).dim_feedforward(6).dropout(0));
  const peft::ModuleChoice targets = {"self_attn", "linear1", "linear2"};
  peft::inject_adapter_in_model(lora(2, targets), *layer, "a");
  auto adapters = peft::inject_adapter_in_model(lora(3, targets), *layer, "b");
  randomise(adapters.parameters("a"));
  randomise(adapters.parameters("b"));
  const Tensor x = torch::randn({5, 3, 8});
  const Names names = {"b", "__base__", "a"};
  const auto forward = [&] { return layer->forward(x); };
  const Tensor expected = row_by_row(adapters, names, 1, forward);
  {
    const peft::BatchAdapters scope(
        adapters, names, peft::BatchOrder::positions_first);
    EXPECT_TRUE(torch::allclose(forward(), expected, 1e-4, 1e-5));
  }
  const peft::BatchAdapters scope(adapters, names);
  EXPECT_THAT(message_of(forward), HasSubstr("[5, 3, 8] of 'linear1'"));
}

struct WithHead : nn::Module {
  WithHead() {
    body = register_module("body", nn::Linear(6, 4));
    head = register_module("head", nn::Linear(4, 3));
  }
  Tensor forward(const Tensor& x) { return head(torch::tanh(body(x))); }
  nn::Linear body{nullptr}, head{nullptr};
};

TEST_F(MixedBatches, RowsHaveTheirAdaptersOwnHeads) {
  WithHead model;
  peft::LoraConfig config = lora(2, {"body"});
  config.modules_to_save = {"head"};
  peft::inject_adapter_in_model(config, model, "a");
  config.lora_bias = true;
  auto adapters = peft::inject_adapter_in_model(config, model, "b");
  randomise(adapters.parameters("a"));
  randomise(adapters.parameters("b"));
  const Tensor x = torch::randn({4, 2, 6});
  const Names names = {"b", "a", "__base__", "b"};
  const auto forward = [&] { return model.forward(x); };
  const Tensor expected = row_by_row(adapters, names, 0, forward);
  const peft::BatchAdapters scope(adapters, names);
  EXPECT_TRUE(torch::allclose(forward(), expected, 1e-4, 1e-5));
}

TEST_F(MixedBatches, PositionsOfARowMayStandInTheBatchDimension) {
  WithHead model;
  peft::inject_adapter_in_model(lora(2, {"body", "head"}), model, "a");
  auto adapters =
      peft::inject_adapter_in_model(lora(3, {"body", "head"}), model, "b");
  randomise(adapters.parameters("a"));
  randomise(adapters.parameters("b"));
  const Tensor x = torch::randn({3, 4, 6});
  const Names names = {"b", "__base__", "a"};
  const Tensor expected =
      row_by_row(adapters, names, 0, [&] { return model.forward(x); });
  const peft::BatchAdapters scope(adapters, names);
  // How many positions there are, nothing tells yet.
  EXPECT_THAT(
      message_of([&] { model.forward(x.reshape({12, 6})); }),
      HasSubstr("cannot be told apart"));
  EXPECT_TRUE(torch::allclose(model.forward(x), expected, 1e-4, 1e-5));
  const Tensor flat = model.forward(x.reshape({12, 6}));
  EXPECT_TRUE(torch::allclose(flat.view({3, 4, 3}), expected, 1e-4, 1e-5));
  // Rows that were picked, as for an expert, are not the batch's.
  EXPECT_THAT(
      message_of([&] { model.forward(x.reshape({12, 6}).slice(0, 0, 6)); }),
      HasSubstr("cannot be told apart"));
}

// Batch and positions are one dimension from the start; windows are cut from
// the rows, as Swin's are.
TEST_F(MixedBatches, RowsMayStandTogetherInTheFirstDimension) {
  WithHead model;
  peft::LoraConfig biased = lora(2, {"body", "head"});
  biased.lora_bias = true;
  peft::inject_adapter_in_model(biased, model, "a");
  peft::LoraConfig dora = lora(3, {"body", "head"});
  dora.use_dora = true;
  auto adapters = peft::inject_adapter_in_model(dora, model, "b");
  randomise(adapters.parameters("a"));
  randomise(adapters.parameters("b"));
  const Tensor x = torch::randn({3, 8, 6});
  const Names names = {"b", "__base__", "a"};
  const Tensor expected =
      row_by_row(adapters, names, 0, [&] { return model.forward(x); });
  const peft::BatchAdapters scope(
      adapters, names, peft::BatchOrder::rows_together);
  for (const auto& shape :
       {std::vector<int64_t>{24, 6}, {12, 2, 6}, {6, 2, 2, 6}, {3, 8, 6}}) {
    const Tensor y = model.forward(x.reshape(shape));
    EXPECT_TRUE(torch::allclose(y.reshape({3, 8, 3}), expected, 1e-4, 1e-5));
  }
  EXPECT_THAT(
      message_of([&] { model.forward(x.reshape({8, 3, 6})); }),
      HasSubstr("of 3 rows"));
}

TEST_F(MixedBatches, AllRowsMayShareOnePosition) {
  TextModel model;
  auto adapters = make_adapters(model);
  const Tensor one = torch::tensor({{1, 2, 3}});
  const Names names = {"a", "b", "c"};
  const Tensor expected = row_by_row(
      adapters, names, 0, [&] { return model->forward(one.expand({3, 3})); });
  const peft::BatchAdapters scope(adapters, names);
  EXPECT_TRUE(torch::allclose(model->forward(one), expected, 1e-4, 1e-5));
}

TEST_F(MixedBatches, RunWhereTheModelsOwnAdaptersAreDisabled) {
  TextModel model;
  auto adapters = make_adapters(model);
  const auto forward = [&] { return model->forward(ids()); };
  const Names names = {"a", "b", "__base__", "a", "b"};
  const Tensor expected = row_by_row(adapters, names, 0, forward);
  adapters.enable_adapters(false);
  const peft::BatchAdapters scope(adapters, names);
  EXPECT_TRUE(torch::allclose(forward(), expected, 1e-4, 1e-5));
}

// A head that reads the table of tokens, whose DoRA has no form as a matrix.
TEST_F(MixedBatches, AWeightMayBeReadInOtherWays) {
  struct Tied : nn::Module {
    Tensor forward(const Tensor& tokens) {
      return torch::linear(torch::tanh(table(tokens)), table->weight);
    }
    nn::Embedding table = register_module("table", nn::Embedding(10, 4));
  } model;
  peft::inject_adapter_in_model(lora(2, {"table"}), model, "a");
  peft::LoraConfig dora = lora(3, {"table"});
  dora.use_dora = true;
  auto adapters = peft::inject_adapter_in_model(dora, model, "b");
  randomise(adapters.parameters("a"));
  randomise(adapters.parameters("b"));
  const Names names = {"b", "a", "__base__", "b", "a"};
  const auto forward = [&] { return model.forward(ids()); };
  const Tensor expected = row_by_row(adapters, names, 0, forward);
  const peft::BatchAdapters scope(adapters, names);
  EXPECT_TRUE(torch::allclose(forward(), expected, 1e-4, 1e-5));
  EXPECT_THAT(
      message_of([&] { model.table->weight.norm(); }),
      HasSubstr("has adapters on 'table'"));
}

TEST_F(MixedBatches, MistakesAreNamed) {
  TextModel model;
  auto adapters = make_adapters(model);
  EXPECT_THAT(
      message_of([&] { (void)peft::BatchAdapters(adapters, {"a", "x", "y"}); }),
      testing::AllOf(HasSubstr("'x'"), HasSubstr("'y'"), HasSubstr("'a'")));
  EXPECT_THAT(
      message_of([&] { (void)peft::BatchAdapters(adapters, {}); }),
      HasSubstr("no rows were given"));
  const peft::BatchAdapters scope(adapters, {"a", "b"});
  EXPECT_THAT(
      message_of([&] { model->forward(ids()); }),
      testing::AllOf(
          HasSubstr("of 2 rows"),
          HasSubstr("1 for 'a'"),
          HasSubstr("[5, 3] of 'embedding'")));
}

// Two names divide a batch of four, and are too few all the same.
TEST_F(MixedBatches, TooFewNamesAreRefused) {
  WithHead model;
  auto adapters =
      peft::inject_adapter_in_model(lora(2, {"body", "head"}), model, "a");
  const peft::BatchAdapters scope(adapters, {"a", "__base__"});
  for (const Tensor& x : {torch::randn({4, 6}), torch::randn({4, 3, 6})}) {
    EXPECT_THAT(message_of([&] { model.forward(x); }), HasSubstr("of 2 rows"));
  }
}

// GPT-2's layer: batch and positions are one dimension in it, from the start.
struct FlattenedImpl : nn::Module {
  FlattenedImpl() {
    weight = register_parameter("weight", torch::randn({6, 4}));
    bias = register_parameter("bias", torch::randn({4}));
  }
  Tensor forward(const Tensor& x) {
    return torch::addmm(bias, x.reshape({-1, 6}), weight)
        .view({x.size(0), -1, 4});
  }
  Tensor weight, bias;
};
TORCH_MODULE(Flattened);

TEST_F(MixedBatches, AFlattenedLayerTellsItsPositions) {
  peft::register_layer<FlattenedImpl>(
      {{"weight", &FlattenedImpl::weight, peft::WeightUse::linear_transposed}});
  struct Model : nn::Module {
  } model;
  const Flattened layer = model.register_module("layer", Flattened());
  peft::inject_adapter_in_model(lora(2, {"layer"}), model, "a");
  auto adapters = peft::inject_adapter_in_model(lora(3, {"layer"}), model, "b");
  randomise(adapters.parameters("a"));
  randomise(adapters.parameters("b"));
  const Tensor x = torch::randn({3, 5, 6});
  const auto forward = [&] { return Flattened(layer)->forward(x); };
  const Names names = {"b", "a", "b"};
  const Tensor expected = row_by_row(adapters, names, 0, forward);
  const peft::BatchAdapters scope(adapters, names);
  EXPECT_TRUE(torch::allclose(forward(), expected, 1e-4, 1e-5));
}

TEST_F(MixedBatches, TheNameOfNoAdapterIsNoAdapters) {
  WithHead model;
  EXPECT_THAT(
      message_of([&] {
        peft::inject_adapter_in_model(lora(2, {"body"}), model, "__base__");
      }),
      HasSubstr("stands for no adapter"));
}

// F::linear adds its bias in place.
TEST_F(MixedBatches, OneAdapterForAllRowsTrains) {
  WithHead model;
  peft::IA3Config ia3;
  ia3.target_modules = {"body", "head"};
  ia3.feedforward_modules = {"head"};
  auto adapters = peft::inject_adapter_in_model(ia3, model, "a");
  randomise(adapters.parameters("a"));
  const Tensor x = torch::randn({2, 3, 6}).requires_grad_();
  const Tensor expected = model.forward(x);
  const peft::BatchAdapters scope(adapters, {"a", "a"});
  const Tensor y = model.forward(x);
  EXPECT_TRUE(torch::allclose(y, expected, 1e-4, 1e-5));
  y.sum().backward();
  EXPECT_TRUE(x.grad().defined());
}

TEST_F(MixedBatches, ARecurrentLayerIsRefused) {
  nn::LSTM lstm(nn::LSTMOptions(4, 5).batch_first(true));
  struct Model : nn::Module {
  } model;
  model.register_module("lstm", lstm);
  auto adapters = peft::inject_adapter_in_model(lora(2, {"lstm"}), model, "a");
  const Tensor x = torch::randn({2, 3, 4});
  {
    const peft::BatchAdapters scope(adapters, {"a", "__base__"});
    EXPECT_THAT(
        message_of([&] { lstm->forward(x); }),
        HasSubstr("run each adapter's rows by themselves"));
  }
  lstm->forward(x);
}

TEST_F(MixedBatches, ActivatedAdaptersActFromTheirRowsOwnOffsets) {
  TextModel model;
  peft::LoraConfig config = lora(2, {"up", "head"});
  config.task_type = "CAUSAL_LM";
  config.alora_invocation_tokens = std::vector<int64_t>{4};
  peft::inject_adapter_in_model(config, *model, "a");
  auto adapters = peft::inject_adapter_in_model(lora(3, {"head"}), *model, "b");
  randomise(adapters.parameters("a"));
  randomise(adapters.parameters("b"));
  const peft::AloraScope offsets({{1}, {}, {2}, {3}, {1}});
  const Names names = {"b", "a", "a", "__base__", "a"};
  const auto forward = [&] { return model->forward(ids()); };
  const Tensor expected = row_by_row(adapters, names, 0, forward);
  const peft::BatchAdapters scope(adapters, names);
  EXPECT_TRUE(torch::allclose(forward(), expected, 1e-4, 1e-5));
}

}  // namespace
}  // namespace peft_test
