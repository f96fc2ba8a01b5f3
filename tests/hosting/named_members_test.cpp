// SPDX-License-Identifier: Apache-2.0
// Layer classes registered by the names of their parameters.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/error_of.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
using testing::HasSubstr;
using torch::Tensor;

// A base class of another size, so that members stand behind two parts.
struct Counter {
  virtual ~Counter() = default;
  char count = 3;
};

class PrivateImpl : public Counter, public nn::Cloneable<PrivateImpl> {
 public:
  explicit PrivateImpl(bool with_gate = true) : with_gate_(with_gate) {
    PrivateImpl::reset();
  }
  void reset() override {
    inner_.w2 = register_parameter("w2", torch::randn({3, 5}));
    w1_ = register_parameter("w1", torch::randn({5, 4}));
    if (with_gate_) {
      gate_ = register_parameter("gate", torch::randn({3, 4}));
    }
  }
  Tensor forward(const Tensor& x) {
    const Tensor y = torch::linear(x.mm(w1_.t()), inner_.w2);
    return with_gate_ ? y * torch::linear(x, gate_) : y;
  }

 private:
  struct Inner {
    bool flag = true;
    Tensor w2;
  };
  char padding_ = 1;
  Tensor w1_;
  Tensor gate_;
  Inner inner_;
  bool with_gate_;
};
TORCH_MODULE(Private);

struct Outer : nn::Cloneable<Outer> {
  explicit Outer(bool gate = true) : with_gate(gate) { Outer::reset(); }
  void reset() override {
    layer = register_module("layer", Private(with_gate));
  }
  Tensor forward(const Tensor& x) { return layer(x); }
  bool with_gate;
  Private layer{nullptr};
};

peft::LoraConfig lora(std::vector<std::string> parameters) {
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  config.target_modules = std::vector<std::string>{};
  config.target_parameters = std::move(parameters);
  return config;
}

class NamedMembers : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    peft::register_layer<PrivateImpl>(
        {"w1", {"w2", peft::WeightUse::linear}, "gate", "never_registered"});
  }
  void SetUp() override { torch::manual_seed(8); }
};

TEST_F(NamedMembers, ReachWhatForwardReads) {
  Outer model;
  const Tensor x = torch::randn({3, 4});
  const Tensor before = model.forward(x);
  const auto own = model.layer->named_parameters();
  auto adapters =
      peft::inject_adapter_in_model(lora({"layer.w1", "layer.gate"}), model);
  EXPECT_TRUE(torch::allclose(model.forward(x), before, 1e-5, 1e-6));
  randomise(adapters.trainable_parameters());
  const auto state = peft::get_peft_model_state_dict(model);
  const auto f = adapters.trainable_parameters();
  ASSERT_EQ(f.size(), 4);
  // The factors of w1 [5, 4] and gate [3, 4], in whichever order.
  const std::size_t w1 = f[1].size(0) == 5 ? 0 : 2;
  const auto changed = [&](const char* name, std::size_t i) {
    return own[name] + 1.5 * f[i + 1].mm(f[i]);
  };
  const Tensor expected =
      torch::linear(x.mm(changed("w1", w1).t()), own["w2"]) *
      torch::linear(x, changed("gate", 2 - w1));
  EXPECT_TRUE(torch::allclose(model.forward(x), expected, 1e-4, 1e-5));
  model.forward(x).sum().backward();
  for (const Tensor& factor : f) {
    EXPECT_GT(factor.grad().abs().sum().item<float>(), 0);
  }
  const auto copy = std::dynamic_pointer_cast<Outer>(peft::clone_module(model));
  EXPECT_TRUE(torch::equal(copy->forward(x), model.forward(x)));
  adapters.unload();
  EXPECT_TRUE(torch::equal(model.forward(x), before));
}

TEST_F(NamedMembers, MayBeMissingInSomeObjects) {
  Outer model(/*with_gate=*/false);
  auto adapters = peft::inject_adapter_in_model(lora({"layer.w2"}), model);
  EXPECT_EQ(adapters.trainable_parameters().size(), 2);
  const Tensor x = torch::randn({3, 4});
  const Tensor before = model.forward(x);
  randomise(adapters.trainable_parameters());
  EXPECT_FALSE(torch::allclose(model.forward(x), before));
}

struct TwiceImpl : nn::Module {
  TwiceImpl() { again = w = register_parameter("w", torch::randn({3, 4})); }
  Tensor w, again;
};
struct ListedImpl : nn::Module {
  ListedImpl() { all.push_back(register_parameter("w", torch::randn({3, 4}))); }
  std::vector<Tensor> all;
};

template <class Impl>
std::string mistake() {
  peft::register_layer<Impl>({"w"});
  nn::Sequential model;
  model->register_module("layer", std::make_shared<Impl>());
  return error_of(peft::ErrorKind::config, [&] {
    peft::inject_adapter_in_model(lora({"layer.w"}), *model);
  });
}

TEST_F(NamedMembers, AreRefusedWhereTheyAreNotOne) {
  EXPECT_THAT(mistake<TwiceImpl>(), HasSubstr("in several of its members"));
  EXPECT_THAT(mistake<ListedImpl>(), HasSubstr("in no member of it"));
}

}  // namespace
}  // namespace peft_test
