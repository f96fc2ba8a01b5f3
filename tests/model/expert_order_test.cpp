// SPDX-License-Identifier: Apache-2.0
// Adapters of stacks that PEFT before 0.19.1 wrote. What such factors mean is
// PEFT's own formula of that time, for a parameter [E, a, b]:
//
//   A [E r, a], B [b, r E]:  delta[e, i, j] = s sum_k A[e, k, i] B[j, k, e]
//
// (0.19.0: where the module says is_transposed, A [E r, b], B [a, r E] and
// delta[e, i, j] = s sum_k B[i, k, e] A[e, k, j]; today the other way round.)
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <fstream>

#include "peft/peft.h"
#include "support/collect_warnings.h"
#include "support/error_of.h"
#include "support/temp_folder.h"

namespace peft_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using torch::Tensor;
namespace nn = torch::nn;

constexpr std::int64_t rank = 2;
constexpr double strength = 1.5;  // 3 / 2

template <bool transposed>
struct ExpertsImpl : nn::Module {
  ExpertsImpl(std::int64_t count, std::int64_t a, std::int64_t b) {
    w = register_parameter("w", torch::randn({count, a, b}) * 0.3);
  }
  Tensor w;
};

struct Factors {
  Tensor A;
  Tensor B;
};

// delta by the formula of PEFT before 0.19, [E, a, b].
Tensor first_meaning(const Factors& f, std::int64_t count) {
  const Tensor A = f.A.view({count, rank, -1});
  const Tensor B = f.B.view({f.B.size(0), rank, count});
  return strength * torch::einsum("eki,jke->eij", {A, B});
}

Tensor second_meaning(const Factors& f, std::int64_t count) {
  const Tensor A = f.A.view({count, rank, -1});
  const Tensor B = f.B.view({f.B.size(0), rank, count});
  return strength * torch::einsum("ike,ekj->eij", {B, A});
}

template <bool transposed>
class Model {
 public:
  Model(std::int64_t count, std::int64_t a, std::int64_t b) {
    using Experts = ExpertsImpl<transposed>;
    torch::manual_seed(0);
    peft::register_layer<Experts>(
        {{"w",
          &Experts::w,
          transposed ? peft::WeightUse::linear_transposed
                     : peft::WeightUse::linear}});
    auto made = std::make_shared<Experts>(count, a, b);
    experts_ = made.get();
    model_->register_module("experts", made);
  }

  nn::Module& get() { return *model_; }
  Tensor weight() const { return peft::effective_weight(experts().w); }
  Tensor base() const { return peft::base_weight(experts().w); }

 private:
  const ExpertsImpl<transposed>& experts() const {
    return *static_cast<const ExpertsImpl<transposed>*>(experts_);
  }

  nn::Sequential model_;
  const nn::Module* experts_ = nullptr;
};

// An adapter folder, of the given PEFT ("": of one that did not say).
class ExpertOrder : public testing::Test {
 protected:
  void write(const Factors& factors, const std::string& version) {
    const std::string line =
        version.empty() ? "" : R"("peft_version": ")" + version + "\", ";
    write_bytes(
        path() / "adapter_config.json",
        R"({"peft_type": "LORA", )" + line +
            R"("r": 2, "lora_alpha": 3, "target_modules": [],
                "target_parameters": ["experts.w"], "inference_mode": true})");
    peft::StateDict weights;
    const std::string key = "base_model.model.experts.";
    weights.insert(key + "lora_A.weight", factors.A);
    weights.insert(key + "lora_B.weight", factors.B);
    peft::save_safetensors(weights, path() / "adapter_model.safetensors");
  }

  static Factors random(std::int64_t count, std::int64_t a, std::int64_t b) {
    torch::manual_seed(7);
    return {torch::randn({count * rank, a}), torch::randn({b, rank * count})};
  }

  static void expect_equal(const Tensor& a, const Tensor& b) {
    ASSERT_EQ(a.sizes(), b.sizes());
    EXPECT_TRUE(torch::allclose(a, b, 1e-5, 1e-5));
  }

  const std::filesystem::path& path() const { return folder_.path(); }

  TempFolder folder_;
};

TEST_F(ExpertOrder, OfOlderFilesIsConverted) {
  for (const std::int64_t b : {5, 4}) {  // oblong and square
    for (const char* version : {"", "0.17.1", "0.18.0", "0.19.0"}) {
      const Factors factors = random(3, 4, b);
      write(factors, version);
      Model<false> model(3, 4, b);
      CollectWarnings warnings;
      peft::load_adapter(model.get(), path());
      EXPECT_EQ(warnings.size(), 1) << warnings.all();
      EXPECT_THAT(
          warnings.all(),
          AllOf(HasSubstr("'experts'"), HasSubstr("before 0.19.1")));
      expect_equal(model.weight() - model.base(), first_meaning(factors, 3));
    }
  }
}

TEST_F(ExpertOrder, OfNewerFilesStays) {
  for (const char* version : {"0.19.1", "0.19.1.dev0", "0.21.2", "1.0"}) {
    const Factors factors = random(3, 4, 4);
    write(factors, version);
    Model<false> model(3, 4, 4);
    CollectWarnings warnings;
    peft::load_adapter(model.get(), path());
    EXPECT_EQ(warnings.all(), "");
    expect_equal(model.weight() - model.base(), second_meaning(factors, 3));
  }
}

TEST_F(ExpertOrder, ShapesThatSayOtherwiseAreBelieved) {
  // A newer PEFT trained on with an older config: A reads b.
  const Factors factors = random(3, 5, 4);
  write(factors, "0.18.0");
  Model<false> model(3, 4, 5);
  CollectWarnings warnings;
  peft::load_adapter(model.get(), path());
  EXPECT_EQ(warnings.all(), "");
  expect_equal(model.weight() - model.base(), second_meaning(factors, 3));
}

TEST_F(ExpertOrder, OfTransposedModulesDifferedInOneRelease) {
  const Factors factors = random(3, 4, 4);
  for (const char* version : {"0.18.0", "0.19.0", "0.21.2"}) {
    write(factors, version);
    Model<true> model(3, 4, 4);
    CollectWarnings warnings;
    peft::load_adapter(model.get(), path());
    const bool other = version == std::string("0.19.0");
    EXPECT_EQ(warnings.size(), other ? 1 : 0) << warnings.all();
    expect_equal(
        model.weight() - model.base(),
        other ? second_meaning(factors, 3) : first_meaning(factors, 3));
  }
}

TEST_F(ExpertOrder, OfOneMatrixNeverWasAnother) {
  const Factors factors = random(1, 4, 4);
  write(factors, "0.18.0");
  Model<false> model(1, 4, 4);
  CollectWarnings warnings;
  peft::load_adapter(model.get(), path());
  EXPECT_EQ(warnings.all(), "");
  expect_equal(
      model.weight() - model.base(),
      strength * factors.B.mm(factors.A).unsqueeze(0));
}

TEST_F(ExpertOrder, IsTodaysWhenSavedAgain) {
  const Factors factors = random(3, 4, 4);
  write(factors, "0.18.0");
  Model<false> model(3, 4, 4);
  peft::load_adapter(model.get(), path());
  // What comes from the model is in today's order.
  const auto own = peft::get_peft_model_state_dict(model.get());
  peft::StateDict copy;
  for (const auto& item : own) {
    copy.insert(item.key(), item.value().detach().clone());
  }
  peft::set_peft_model_state_dict(model.get(), copy);
  expect_equal(model.weight() - model.base(), first_meaning(factors, 3));
  const TempFolder again;
  peft::save_pretrained(model.get(), again.path());
  Model<false> other(3, 4, 4);
  CollectWarnings warnings;
  peft::load_adapter(other.get(), again.path());
  EXPECT_EQ(warnings.all(), "");
  expect_equal(other.weight() - other.base(), first_meaning(factors, 3));
}

TEST_F(ExpertOrder, IsConvertedHoweverAFolderIsLoaded) {
  const Factors factors = random(3, 4, 4);
  const Tensor delta = first_meaning(factors, 3);
  write(factors, "0.18.0");
  {
    Model<false> model(3, 4, 4);
    CollectWarnings warnings;
    auto adapters = peft::attach_adapter(model.get(), path(), "a");
    adapters.set_adapter("a");
    expect_equal(model.weight() - model.base(), delta);
    EXPECT_EQ(warnings.size(), 1) << warnings.all();
    peft::attach_adapter(model.get(), path(), "b");
    EXPECT_EQ(warnings.size(), 2) << warnings.all();
    adapters.set_adapter("b");
    peft::evict(adapters, "a");
    adapters.set_adapter("a");  // read again
    expect_equal(model.weight() - model.base(), delta);
    EXPECT_EQ(warnings.size(), 2) << warnings.all();
  }
  {
    Model<false> model(3, 4, 4);
    peft::LoraConfig config;
    config.target_parameters = {"experts.w"};
    peft::inject_adapter_in_model(config, model.get());
    peft::hotswap_adapter(model.get(), path());
    expect_equal(model.weight() - model.base(), delta);
  }
  {
    Model<false> model(3, 4, 4);
    const auto config = peft::load_adapter_config(path());
    peft::inject_adapter_in_model(
        *config, model.get(), "default", {.low_cpu_mem_usage = true});
    peft::set_peft_model_state_dict(
        model.get(), peft::load_peft_weights(path()));
    expect_equal(model.weight() - model.base(), delta);
  }
}

TEST_F(ExpertOrder, OfNoKindIsStillAnError) {
  write(random(3, 6, 7), "0.18.0");
  Model<false> model(3, 4, 5);
  EXPECT_THAT(
      error_of(
          peft::ErrorKind::shape,
          [&] { peft::load_adapter(model.get(), path()); }),
      HasSubstr("[6, 6]"));
}

}  // namespace
}  // namespace peft_test
