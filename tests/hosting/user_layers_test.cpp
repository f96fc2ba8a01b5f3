// SPDX-License-Identifier: Apache-2.0
// Classes of the user's own, and target_parameters: which weights can be
// chosen, how they are read, and what their adapters are called. The oracle is
// autograd's forward on W + s B A with PEFT's factors (s = alpha / r = 1.5).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <sstream>

#include "peft/peft.h"
#include "support/collect_warnings.h"
#include "support/message_of.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
using testing::AllOf;
using testing::HasSubstr;
using torch::Tensor;

peft::LoraConfig lora() {
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  return config;
}

peft::LoraConfig on_modules(peft::ModuleChoice targets) {
  peft::LoraConfig config = lora();
  config.target_modules = std::move(targets);
  return config;
}

peft::LoraConfig on_parameters(std::vector<std::string> names) {
  peft::LoraConfig config = lora();
  config.target_parameters = std::move(names);
  return config;
}

template <class Layer>
struct Around : nn::Module {
  Around() : self(register_module("self", std::make_shared<Layer>())) {}
  std::shared_ptr<Layer> self;
};

void expect_close(const Tensor& a, const Tensor& b) {
  EXPECT_TRUE(torch::allclose(a, b, 1e-4, 1e-5)) << (a - b).abs().max();
}

// Three projections, one of them with its inputs first.
struct ProjectionsImpl : nn::Module {
  ProjectionsImpl() {
    q = register_parameter("q", torch::randn({4, 5}) * 0.3);
    k = register_parameter("k", torch::randn({4, 5}) * 0.3);
    v = register_parameter("v", torch::randn({5, 3}) * 0.3);
  }
  Tensor forward(const Tensor& x) {
    return torch::linear(x, q).mm(torch::linear(x, k).t()).mm(x.matmul(v));
  }
  Tensor q, k, v;
};

class SeveralWeights : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    using enum peft::WeightUse;
    peft::register_layer<ProjectionsImpl>(
        {{"q", &ProjectionsImpl::q, linear},
         {"k", &ProjectionsImpl::k, linear},
         {"v", &ProjectionsImpl::v, linear_transposed}});
  }
  void SetUp() override { torch::manual_seed(0); }
};

TEST_F(SeveralWeights, HaveKeysByTheirNames) {
  Around<ProjectionsImpl> model;
  peft::inject_adapter_in_model(on_modules({"self"}), model);
  const auto state = peft::get_peft_model_state_dict(model);
  EXPECT_THAT(
      state.keys(),
      testing::ElementsAre(
          "self.q.lora_A.weight",
          "self.q.lora_B.weight",
          "self.k.lora_A.weight",
          "self.k.lora_B.weight",
          "self.v.lora_A.weight",
          "self.v.lora_B.weight"));
  EXPECT_EQ(state["self.v.lora_A.weight"].sizes(), (at::IntArrayRef{2, 5}));
  EXPECT_EQ(state["self.v.lora_B.weight"].sizes(), (at::IntArrayRef{3, 2}));
}

TEST_F(SeveralWeights, GoThroughArchivesAndAway) {
  Around<ProjectionsImpl> model;
  auto adapters = peft::inject_adapter_in_model(on_modules({"self"}), model);
  peft::inject_adapter_in_model(on_modules({"self"}), model, "other");
  randomise(adapters.parameters("default"));
  randomise(adapters.parameters("other"));
  std::stringstream archive;
  torch::serialize::OutputArchive out;
  model.save(out);
  out.save_to(archive);

  Around<ProjectionsImpl> copy;
  auto copied = peft::inject_adapter_in_model(on_modules({"self"}), copy);
  peft::inject_adapter_in_model(on_modules({"self"}), copy, "other");
  torch::serialize::InputArchive in;
  in.load_from(archive);
  copy.load(in);
  const Tensor x = torch::randn({6, 5});
  for (const char* name : {"default", "other"}) {
    adapters.set_adapter(name);
    copied.set_adapter(name);
    EXPECT_TRUE(torch::equal(copy.self->forward(x), model.self->forward(x)));
  }
  adapters.delete_adapter("other");
  adapters.unload();
  EXPECT_TRUE(model.self->children().empty());
}

// Its own tensors are called as adapters' modules are.
struct NamesakesImpl : nn::Module {
  NamesakesImpl() {
    w = register_parameter("w", torch::randn({4, 5}) * 0.3);
    lora_A = register_parameter("lora_A", torch::randn({3}));
    base_layer = register_parameter("base_layer", torch::randn({3, 4}) * 0.3);
    register_buffer("lora_B", torch::randn({2}));
  }
  Tensor forward(const Tensor& x) {
    return torch::linear(torch::linear(x, w), base_layer) * lora_A;
  }
  Tensor w, lora_A, base_layer;
};

TEST(Namesakes, OfAdaptersModulesGoThroughArchives) {
  torch::manual_seed(0);
  peft::register_layer<NamesakesImpl>(
      {{"w", &NamesakesImpl::w}, {"base_layer", &NamesakesImpl::base_layer}});
  Around<NamesakesImpl> model;
  auto adapters = peft::inject_adapter_in_model(
      on_parameters({"self.w", "base_layer"}), model);
  randomise(adapters.parameters("default"));
  std::stringstream archive;
  torch::serialize::OutputArchive out;
  model.save(out);
  out.save_to(archive);
  Around<NamesakesImpl> copy;
  peft::inject_adapter_in_model(on_parameters({"self.w", "base_layer"}), copy);
  torch::serialize::InputArchive in;
  in.load_from(archive);
  copy.load(in);
  const Tensor x = torch::randn({6, 5});
  EXPECT_TRUE(torch::equal(copy.self->forward(x), model.self->forward(x)));
  EXPECT_THAT(
      peft::get_peft_model_state_dict(model).keys(),
      testing::ElementsAre(
          "self.base_layer.lora_A.weight",
          "self.base_layer.lora_B.weight",
          "self.lora_A.weight",
          "self.lora_B.weight"));
  adapters.unload();
  EXPECT_TRUE(model.self->children().empty());
}

// Layers of libtorch whose weights have 2 or 3 dimensions.
struct ParametersImpl : nn::Cloneable<ParametersImpl> {
  ParametersImpl() { reset(); }
  void reset() override {
    linear = register_module("linear", nn::Linear(7, 5));
    conv = register_module(
        "conv", nn::Conv1d(nn::Conv1dOptions(5, 4, 3).padding(1)));
    up = register_module(
        "up", nn::ConvTranspose1d(nn::ConvTranspose1dOptions(4, 6, 2)));
    both = register_module("both", nn::Bilinear(6, 6, 2));
    bag =
        register_module("bag", nn::EmbeddingBag(nn::EmbeddingBagOptions(8, 6)));
    image = register_module("image", nn::Conv2d(1, 2, 3));
  }
  Tensor forward(const Tensor& x) {
    const Tensor y = up(conv(torch::tanh(linear(x)).transpose(1, 2)));
    const Tensor z = y.transpose(1, 2).contiguous();
    const auto ids = torch::arange(2 * z.size(0), torch::kLong).view({-1, 2});
    const Tensor bags = bag(ids.remainder(8)).unsqueeze(1).expand_as(z);
    return both(z, bags.contiguous());
  }
  nn::Linear linear{nullptr};
  nn::Conv1d conv{nullptr};
  nn::ConvTranspose1d up{nullptr};
  nn::Bilinear both{nullptr};
  nn::EmbeddingBag bag{nullptr};
  nn::Conv2d image{nullptr};
};
TORCH_MODULE(Parameters);

const std::vector<std::string> all_parameters =
    {"linear.weight", "conv.weight", "up.weight", "both.weight", "bag.weight"};

// s B A in the weight's own shape, by PEFT's ParamWrapper: a matrix is [out,
// in]; of three dimensions the first counts matrices, of which each is so.
Tensor delta(const Tensor& w, const Tensor& A, const Tensor& B) {
  if (w.dim() == 2) {
    return 1.5 * B.mm(A);
  }
  const auto count = w.size(0);
  return 1.5 *
      torch::einsum(
             "ore,eri->eoi",
             {B.view({w.size(1), -1, count}), A.view({count, -1, w.size(2)})});
}

TEST(TargetParameters, AreWeightsOfTwoAndThreeDimensionsOfAnyLayer) {
  torch::manual_seed(0);
  Parameters model;
  Parameters merged = std::dynamic_pointer_cast<ParametersImpl>(model->clone());
  auto adapters =
      peft::inject_adapter_in_model(on_parameters(all_parameters), *model);
  randomise(adapters.parameters("default"));
  const auto state = peft::get_peft_model_state_dict(*model);
  EXPECT_EQ(state.size(), 10);
  // [out, in / groups, window]: out matrices of [in / groups, window].
  EXPECT_EQ(state["conv.lora_A.weight"].sizes(), (at::IntArrayRef{8, 3}));
  EXPECT_EQ(state["conv.lora_B.weight"].sizes(), (at::IntArrayRef{5, 8}));
  EXPECT_EQ(state["both.lora_A.weight"].sizes(), (at::IntArrayRef{4, 6}));
  {
    const torch::NoGradGuard no_grad;
    for (const auto& child : merged->named_children()) {
      if (const auto* A = state.find(child.key() + ".lora_A.weight")) {
        Tensor w = child.value()->named_parameters()["weight"];
        w.add_(delta(w, *A, state[child.key() + ".lora_B.weight"]));
      }
    }
  }
  const Tensor x = torch::randn({3, 4, 7});
  const Tensor y = model->forward(x);
  expect_close(y, merged->forward(x));

  Parameters copy = peft::clone(model);
  expect_close(copy->forward(x), y);
  const TempFolder folder;
  peft::save_pretrained(*model, folder.path());
  adapters.merge_and_unload();
  expect_close(model->forward(x), y);
  auto copied = peft::adapters_of(*copy);
  copied.unload();
  peft::load_adapter(*copy, folder.path());
  EXPECT_TRUE(torch::allclose(copy->forward(x), y, 1e-4, 1e-5));
}

TEST(TargetParameters, AreRefusedWithTheReason) {
  Parameters model;
  EXPECT_THAT(
      message_of([&] {
        peft::inject_adapter_in_model(
            on_parameters({"image.weight", "linear.bias"}), *model);
      }),
      AllOf(
          HasSubstr("'image.weight' has 4 dimensions"),
          HasSubstr("'linear.bias' has 1 dimensions")));
  struct Unknown : nn::Module {
    Unknown() { register_parameter("w", torch::randn({4, 5})); }
  };
  Around<Unknown> around;
  EXPECT_THAT(
      message_of([&] {
        peft::inject_adapter_in_model(on_parameters({"self.w"}), around);
      }),
      AllOf(
          HasSubstr("'self.w' is one of a Unknown"),
          HasSubstr("register it with peft::register_layer")));
}

TEST(Root, IsRefusedWithTheReason) {
  nn::Linear model(3, 2);
  EXPECT_THAT(
      message_of([&] {
        peft::inject_adapter_in_model(on_modules("all-linear"), *model);
      }),
      HasSubstr("put it inside another module"));
  EXPECT_THAT(
      message_of([&] {
        peft::inject_adapter_in_model(on_parameters({"weight"}), *model);
      }),
      AllOf(
          HasSubstr("'weight' is the model's own"),
          HasSubstr("put it inside another module")));
}

// One matrix, used as x W.
struct MixImpl : nn::Module {
  MixImpl() { w = register_parameter("w", torch::randn({5, 3}) * 0.3); }
  Tensor forward(const Tensor& x) { return x.matmul(w); }
  Tensor w;
};

TEST(TargetParameters, ReadAMatrixAsPeftDoesWhateverItsUse) {
  torch::manual_seed(0);
  peft::register_layer<MixImpl>(
      {{"w", &MixImpl::w, peft::WeightUse::linear_transposed}});
  Around<MixImpl> model;
  auto adapters = peft::inject_adapter_in_model(on_parameters({"w"}), model);
  randomise(adapters.parameters("default"));
  const auto state = peft::get_peft_model_state_dict(model);
  const Tensor A = state["self.lora_A.weight"];
  const Tensor B = state["self.lora_B.weight"];
  EXPECT_EQ(A.sizes(), (at::IntArrayRef{2, 3}));
  const Tensor x = torch::randn({6, 5});
  expect_close(
      model.self->forward(x),
      x.matmul(peft::base_weight(model.self->w) + 1.5 * B.mm(A)));
  // As a layer's weight it has its inputs first, which is another adapter.
  EXPECT_THAT(
      message_of([&] {
        peft::inject_adapter_in_model(on_modules({"self"}), model, "other");
      }),
      HasSubstr("already adapted as a 5x3 matrix and cannot be read as a 3x5 "
                "matrix, inputs first, beside that"));
}

// Experts, used as x W[e]; `Tag` makes classes that are registered otherwise.
template <int Tag>
struct ExpertsImpl : nn::Module {
  ExpertsImpl() { w = register_parameter("w", torch::randn({3, 5, 4}) * 0.3); }
  Tensor forward(const Tensor& x) { return x.matmul(w); }
  Tensor w;
};

class FileShapes : public testing::Test {
 protected:
  // In PEFT the class says is_transposed.
  using Transposed = Around<ExpertsImpl<0>>;
  using Unsaid = Around<ExpertsImpl<1>>;

  static void SetUpTestSuite() {
    using enum peft::WeightUse;
    peft::register_layer<ExpertsImpl<0>>(
        {{"w", &ExpertsImpl<0>::w, linear_transposed}});
    peft::register_layer<ExpertsImpl<1>>({{"w", &ExpertsImpl<1>::w}});
    peft::register_layer<NamesakesImpl>(
        {{"w", &NamesakesImpl::w}, {"base_layer", &NamesakesImpl::base_layer}});
  }

  template <class To, class From>
  static void copy_base(To& to, const From& from) {
    const torch::NoGradGuard no_grad;
    to.named_parameters()["self.w"].copy_(from.named_parameters()["self.w"]);
  }

  template <class From, class To>
  static void check(const char* use) {
    torch::manual_seed(0);
    const TempFolder folder;
    From from;
    auto adapters = peft::inject_adapter_in_model(on_parameters({"w"}), from);
    randomise(adapters.parameters("default"));
    peft::save_pretrained(from, folder / "first");
    const auto first = peft::get_peft_model_state_dict(from);

    To to;
    copy_base(to, from);
    {
      const CollectWarnings warnings;
      peft::load_adapter(to, folder / "first", "first");
      EXPECT_THAT(
          warnings.all(),
          AllOf(HasSubstr("'self.w' is read as"), HasSubstr(use)));
    }
    const Tensor x = torch::randn({3, 2, 5});
    EXPECT_TRUE(torch::allclose(
        to.self->forward(x), from.self->forward(x), 1e-4, 1e-5));
    // What is injected beside it reads the weight in the same way.
    const CollectWarnings warnings;
    peft::load_adapter(to, folder / "first", "again");
    peft::inject_adapter_in_model(on_parameters({"w"}), to, "new");
    EXPECT_EQ(warnings.all(), "");
    const auto next = peft::get_peft_model_state_dict(to, "new");
    EXPECT_EQ(
        next["self.lora_A.weight"].sizes(),
        first["self.lora_A.weight"].sizes());
  }
};

TEST_F(FileShapes, SayThatInputsStandFirst) {
  check<Transposed, Unsaid>("WeightUse::linear_transposed");
}

TEST_F(FileShapes, SayThatOutputsStandFirst) {
  check<Unsaid, Transposed>("WeightUse::linear");
}

TEST_F(FileShapes, OfAnotherModelAreRefused) {
  const TempFolder folder;
  Transposed from;
  peft::inject_adapter_in_model(on_parameters({"w"}), from);
  peft::save_pretrained(from, folder.path());
  Around<NamesakesImpl> other;
  EXPECT_THAT(
      message_of([&] { peft::load_adapter(other, folder.path()); }),
      HasSubstr("given [6, 5]"));
}

}  // namespace
}  // namespace peft_test
