// SPDX-License-Identifier: Apache-2.0
// TorchScript models as hosts. The oracle is the same arithmetic written in
// plain libtorch on the effective weights.
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/script.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/error_of.h"
#include "support/temp_folder.h"

namespace peft_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using torch::Tensor;

// Two linear layers of one type, as a script would have them.
class Scripts : public testing::Test {
 protected:
  Scripts() {
    torch::manual_seed(4);
    const auto unit = model_._ivalue()->compilation_unit();
    auto linear = [&](int64_t in, int64_t out) {
      torch::jit::Module layer(
          "__torch__.torch.nn.modules.linear.Linear",
          unit,
          /*shouldMangle=*/true);
      layer.register_parameter("weight", torch::randn({out, in}), false);
      layer.register_parameter("bias", torch::randn({out}), false);
      layer.register_attribute("training", c10::BoolType::get(), true);
      layer.define(
          "def forward(self, x):\n"
          "  return torch.linear(x, self.weight, self.bias)\n");
      return layer;
    };
    model_.register_module("up", linear(4, 6));
    model_.register_module("down", linear(6, 3));
    model_.register_attribute("training", c10::BoolType::get(), true);
    model_.define(
        "def forward(self, x):\n"
        "  return self.down.forward(torch.tanh(self.up.forward(x)))\n");
  }

  static peft::LoraConfig config() {
    peft::LoraConfig config;
    config.r = 2;
    config.lora_alpha = 3;
    config.target_modules = "all-linear";
    config.init_lora_weights = false;
    return config;
  }

  Tensor forward(const Tensor& x) { return model_.forward({x}).toTensor(); }

  // The same in plain libtorch, with W + s B A in the place of W.
  Tensor expected(const Tensor& x, const std::vector<Tensor>& factors) {
    const auto weight = [&](const char* layer, std::size_t i) {
      const Tensor w = peft::base_weight(
          model_.attr(layer).toModule().attr("weight").toTensor());
      return w.detach() + 1.5 * factors[i + 1].mm(factors[i]);
    };
    const auto bias = [&](const char* layer) {
      return model_.attr(layer).toModule().attr("bias").toTensor().detach();
    };
    const Tensor h = torch::tanh(torch::linear(x, weight("up", 0), bias("up")));
    return torch::linear(h, weight("down", 2), bias("down"));
  }

  void expect_right_gradients(const peft::Adapters& adapters) {
    const Tensor x = torch::randn({5, 4});
    const auto factors = adapters.parameters("default");
    std::vector<Tensor> copies;
    for (const Tensor& factor : factors) {
      copies.push_back(factor.detach().clone().requires_grad_());
      factor.mutable_grad() = Tensor();
    }
    for (int i = 0; i < 3; ++i) {  // the profiling executor changes its mind
      forward(x).pow(2).sum().backward();
      expected(x, copies).pow(2).sum().backward();
    }
    ASSERT_EQ(factors.size(), 4);
    for (std::size_t i = 0; i < factors.size(); ++i) {
      ASSERT_TRUE(factors[i].grad().defined()) << i;
      EXPECT_TRUE(
          torch::allclose(factors[i].grad(), copies[i].grad(), 1e-4, 1e-4))
          << i;
    }
  }

  torch::jit::Module model_{"M"};
};

TEST_F(Scripts, AreOperatedAsModulesAre) {
  const Tensor x = torch::randn({2, 4});
  const Tensor before = forward(x);
  auto adapters = peft::inject_adapter_in_model(config(), model_, "a");
  const Tensor a = forward(x);
  peft::inject_adapter_in_model(config(), model_, "b");
  const Tensor b = forward(x);
  {
    const peft::BatchAdapters scope(adapters, {"b", "a"});
    const Tensor mixed = forward(x);
    EXPECT_TRUE(torch::allclose(mixed[0], b[0], 1e-4, 1e-5));
    EXPECT_TRUE(torch::allclose(mixed[1], a[1], 1e-4, 1e-5));
  }
  peft::merge_adapter(model_, {"a"});
  EXPECT_TRUE(torch::allclose(forward(x), a, 1e-4, 1e-5));
  peft::unmerge_adapter(model_);
  EXPECT_TRUE(torch::equal(forward(x), b));
  peft::add_weighted_adapter(
      peft::ScriptModule(model_), {"a", "b"}, {1, -1}, "difference");
  peft::merge_and_unload(model_, {"b"});
  EXPECT_TRUE(torch::allclose(forward(x), b, 1e-4, 1e-5));
  EXPECT_FALSE(torch::allclose(forward(x), before, 1e-4, 1e-5));
  EXPECT_FALSE(
      peft::is_adapted(model_.attr("up").toModule().attr("weight").toTensor()));
}

TEST_F(Scripts, AreAdaptedInPlace) {
  const Tensor x = torch::randn({5, 4});
  const Tensor before = forward(x);
  auto adapters = peft::inject_adapter_in_model(config(), model_);
  EXPECT_TRUE(torch::allclose(
      forward(x), expected(x, adapters.parameters("default")), 1e-5, 1e-6));
  peft::enable_adapters(model_, false);
  EXPECT_TRUE(torch::equal(forward(x), before));
  peft::enable_adapters(model_, true);
  EXPECT_EQ(peft::adapters_of(model_).names().size(), 1);
  peft::unload(model_);
  EXPECT_TRUE(torch::equal(forward(x), before));
  EXPECT_FALSE(
      peft::is_adapted(model_.attr("up").toModule().attr("weight").toTensor()));
}

TEST_F(Scripts, GiveEveryAdapterItsGradient) {
  for (int i = 0; i < 3; ++i) {
    forward(torch::randn({5, 4}));  // optimised before adapters come
  }
  auto adapters = peft::inject_adapter_in_model(config(), model_);
  expect_right_gradients(adapters);
  for (const char* layer : {"up", "down"}) {  // a bias that trains beside it
    model_.attr(layer).toModule().attr("bias").toTensor().requires_grad_();
  }
  expect_right_gradients(adapters);
}

TEST_F(Scripts, FollowTrainAndEval) {
  auto with_dropout = config();
  with_dropout.lora_dropout = 0.5;
  peft::inject_adapter_in_model(with_dropout, model_);
  const Tensor x = torch::randn({5, 4});
  model_.eval();
  EXPECT_TRUE(torch::equal(forward(x), forward(x)));
  model_.train();
  EXPECT_FALSE(torch::equal(forward(x), forward(x)));
}

TEST_F(Scripts, MoveWithTheirAdapters) {
  auto adapters = peft::inject_adapter_in_model(config(), model_);
  const Tensor x = torch::randn({5, 4});
  const Tensor y = forward(x);
  model_.to(torch::kDouble);
  EXPECT_EQ(adapters.parameters("default")[0].scalar_type(), torch::kDouble);
  EXPECT_TRUE(torch::allclose(
      forward(x.to(torch::kDouble)), y.to(torch::kDouble), 1e-4, 1e-5));
}

TEST_F(Scripts, CopiesOfSavedModulesMoveWithThem) {
  auto with_saved = config();
  with_saved.target_modules = {"up"};
  with_saved.modules_to_save = {"down"};
  auto adapters = peft::inject_adapter_in_model(with_saved, model_);
  {
    const torch::NoGradGuard no_grad;
    for (Tensor tensor : adapters.parameters("default")) {
      tensor.normal_();
    }
  }
  const Tensor x = torch::randn({5, 4});
  const Tensor y = forward(x);
  model_.to(torch::kDouble);
  EXPECT_TRUE(torch::allclose(
      forward(x.to(torch::kDouble)), y.to(torch::kDouble), 1e-4, 1e-5));
  adapters.enable_adapters(false);
  EXPECT_EQ(forward(x.to(torch::kDouble)).scalar_type(), torch::kDouble);
}

// One object in Python, for all that a trace tells, unless a state dict has
// tensors of its own for each.
TEST_F(Scripts, LayersThatShareTheirTensorsAreTwoForAStateDictOfTwo) {
  const Tensor weight = torch::randn({4, 4});
  const Tensor bias = torch::randn({4});
  torch::jit::Module model("__torch__.Model");
  for (const char* name : {"first", "second"}) {
    torch::jit::Module layer(
        "__torch__.torch.nn.modules.linear.Linear",
        model._ivalue()->compilation_unit(),
        /*shouldMangle=*/true);
    layer.register_parameter("weight", weight, false);
    layer.register_parameter("bias", bias, false);
    layer.define(
        "def forward(self, x):\n"
        "  return torch.linear(x, self.weight, self.bias)\n");
    model.register_module(name, layer);
  }
  model.define(
      "def forward(self, x):\n"
      "  return self.second.forward(self.first.forward(x))\n");
  EXPECT_EQ(
      peft::inject_adapter_in_model(config(), model)
          .parameters("default")
          .size(),
      2);
  peft::unload(model);
  peft::StateDict weights;
  const Tensor x = torch::randn({5, 4});
  Tensor expected = x;
  for (const std::string layer : {"first", "second"}) {
    const Tensor a = torch::randn({2, 4});
    const Tensor b = torch::randn({4, 2});
    weights.insert(layer + ".lora_A.weight", a);
    weights.insert(layer + ".lora_B.weight", b);
    expected = torch::linear(expected, weight + 1.5 * b.mm(a), bias);
  }
  peft::inject_adapter_in_model(
      config(), model, "default", {.state_dict = &weights});
  const auto report = peft::set_peft_model_state_dict(model, weights);
  EXPECT_TRUE(report.missing_keys.empty());
  EXPECT_TRUE(report.unexpected_keys.empty());
  EXPECT_TRUE(
      torch::allclose(model.forward({x}).toTensor(), expected, 1e-4, 1e-4));
}

// What a scripted LSTM reads is a list that it keeps beside its parameters.
TEST_F(Scripts, LayersThatReadAListOfTheirOwnAreRefused) {
  torch::jit::Module reader("__torch__.Reader");
  const Tensor weight = torch::randn({3, 4});
  reader.register_parameter("weight_ih_l0", weight, false);
  reader.register_attribute(
      "_flat_weights", c10::ListType::ofTensors(), c10::List<Tensor>({weight}));
  torch::jit::Module model("__torch__.Model");
  model.register_module("reader", reader);
  auto lora = config();
  lora.target_modules = {"reader"};
  EXPECT_THAT(
      error_of(
          peft::ErrorKind::target,
          [&] { peft::inject_adapter_in_model(lora, model); }),
      AllOf(HasSubstr("Reader"), Not(HasSubstr("register"))));
  lora.target_modules = {};
  lora.target_parameters = {"reader.weight_ih_l0"};
  EXPECT_THAT(
      error_of(
          peft::ErrorKind::target,
          [&] { peft::inject_adapter_in_model(lora, model); }),
      AllOf(HasSubstr("torch.export"), Not(HasSubstr("register"))));
  lora.target_parameters = {};
  lora.target_modules = "dummy-target-modules";
  lora.modules_to_save = {"reader"};
  EXPECT_THAT(
      error_of(
          peft::ErrorKind::unsupported,
          [&] { peft::inject_adapter_in_model(lora, model); }),
      AllOf(
          HasSubstr("weight_ih_l0"),
          HasSubstr("torch.export"),
          Not(HasSubstr("register"))));
}

TEST_F(Scripts, AdaptersGoThroughFilesAndTwoOfThemSwitch) {
  const TempFolder folder;
  peft::inject_adapter_in_model(config(), model_);
  const Tensor x = torch::randn({5, 4});
  const Tensor first = forward(x);
  peft::save_pretrained(model_, folder.path());
  peft::load_adapter(model_, folder.path(), "again");
  EXPECT_TRUE(torch::equal(forward(x), first));
  peft::inject_adapter_in_model(config(), model_, "other");
  EXPECT_FALSE(torch::allclose(forward(x), first));
  peft::set_adapter(model_, "again");
  EXPECT_TRUE(torch::equal(forward(x), first));
  peft::delete_adapter(model_, "other");
  EXPECT_EQ(peft::adapters_of(model_).names().size(), 2);
}

TEST_F(Scripts, AreSavedPlainOrMerged) {
  const TempFolder folder;
  const Tensor x = torch::randn({5, 4});
  const Tensor before = forward(x);
  peft::inject_adapter_in_model(config(), model_);
  const Tensor after = forward(x);
  EXPECT_ANY_THROW(model_.save((folder / "adapted.pt").string()));
  peft::save_script(model_, folder / "plain.pt");
  peft::save_merged(model_, folder / "merged.pt");
  EXPECT_TRUE(torch::equal(forward(x), after));
  auto plain = torch::jit::load((folder / "plain.pt").string());
  auto merged = torch::jit::load((folder / "merged.pt").string());
  EXPECT_TRUE(torch::equal(plain.forward({x}).toTensor(), before));
  EXPECT_TRUE(
      torch::allclose(merged.forward({x}).toTensor(), after, 1e-5, 1e-6));
  EXPECT_THAT(
      error_of(
          peft::ErrorKind::file,
          [&] { peft::save_merged(model_, folder / "no" / "such.pt"); }),
      HasSubstr("No such file"));
  EXPECT_TRUE(torch::equal(forward(x), after));
}

TEST_F(Scripts, FrozenOnesAreRefused) {
  model_.eval();
  auto frozen = torch::jit::freeze(model_);
  EXPECT_THAT(
      error_of(
          peft::ErrorKind::unsupported,
          [&] { peft::inject_adapter_in_model(config(), frozen); }),
      HasSubstr("freeze"));
}

TEST_F(Scripts, GoWithTheirAdapters) {
  std::weak_ptr<peft::detail::ModelState> state;
  {
    auto adapters = peft::inject_adapter_in_model(config(), model_);
    state = adapters.state();
    forward(torch::randn({5, 4})).sum().backward();
  }
  EXPECT_FALSE(state.expired());  // its layers hold it
  model_ = torch::jit::Module("Empty");
  EXPECT_TRUE(state.expired());
}

TEST_F(Scripts, HandlesMayOutliveThem) {
  auto adapters = peft::inject_adapter_in_model(config(), model_);
  const auto factors = adapters.parameters("default");
  std::weak_ptr<peft::detail::ModelState> state = adapters.state();
  model_ = torch::jit::Module("Empty");
  // The handle goes on speaking of the adapter: of alpha / r = 1.5, scaled.
  adapters.set_scale("default", 2);
  for (const auto& [layer, scaling] : adapters.scaling("default")) {
    EXPECT_DOUBLE_EQ(scaling, 3) << layer;
  }
  EXPECT_EQ(adapters.names(), std::vector<std::string>{"default"});
  const auto kept = adapters.parameters("default");
  ASSERT_EQ(kept.size(), factors.size());
  for (std::size_t i = 0; i < kept.size(); ++i) {
    EXPECT_TRUE(kept[i].is_same(factors[i]));
  }
  adapters.unload();
  EXPECT_TRUE(adapters.names().empty());
  error_of(peft::ErrorKind::state, [&] { adapters.set_scale("default", 1); });
  EXPECT_EQ(state.use_count(), 1);  // nothing else holds it
}

}  // namespace
}  // namespace peft_test
