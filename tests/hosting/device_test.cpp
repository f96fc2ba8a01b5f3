// SPDX-License-Identifier: Apache-2.0
// Adapted models on a GPU, where there is one: what they compute on the CPU.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
using torch::Tensor;

struct VisionTextImpl : nn::Module {
  VisionTextImpl() {
    table = register_module("table", nn::Embedding(11, 8));
    conv = register_module(
        "conv", nn::Conv1d(nn::Conv1dOptions(8, 8, 3).padding(1)));
    attention = register_module("attention", nn::MultiheadAttention(8, 2));
    up = register_module("up", nn::Linear(8, 12));
    head = register_module("head", nn::Linear(12, 3));
  }
  Tensor forward(const Tensor& ids) {
    const Tensor x = conv(table(ids).transpose(1, 2)).permute({2, 0, 1});
    const Tensor seen = std::get<0>(attention(x, x, x));
    return head(torch::gelu(up((x + seen).transpose(0, 1))));
  }
  nn::Embedding table{nullptr};
  nn::Conv1d conv{nullptr};
  nn::MultiheadAttention attention{nullptr};
  nn::Linear up{nullptr}, head{nullptr};
};
TORCH_MODULE(VisionText);

class OnDevice : public testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) {
      GTEST_SKIP() << "there is no CUDA device";
    }
    torch::manual_seed(9);
    peft::LoraConfig lora;
    lora.r = 3;
    lora.lora_alpha = 5;
    lora.target_modules = {"table", "conv", "attention", "up", "head"};
    peft::inject_adapter_in_model(lora, *model_, "a");
    peft::LoraConfig dora = lora;
    dora.target_modules = {"conv", "up", "head"};
    dora.use_dora = true;
    dora.trainable_token_indices = {1, 7};
    peft::inject_adapter_in_model(dora, *model_, "b");
    peft::IA3Config ia3;
    ia3.target_modules = {"conv", "up", "head"};
    ia3.feedforward_modules = {"head"};
    ia3.modules_to_save = {"table"};
    peft::inject_adapter_in_model(ia3, *model_, "c");
    for (const auto& name : adapters().names()) {
      randomise_floats(name);
    }
  }

  void randomise_floats(const std::string& name) {
    std::vector<Tensor> floats;
    for (const Tensor& tensor : adapters().parameters(name)) {
      if (tensor.is_floating_point()) {
        floats.push_back(tensor);
      }
    }
    randomise(floats);
  }

  peft::Adapters adapters() { return peft::adapters_of(*model_); }
  Tensor forward() {
    const Tensor ids = torch::tensor({{1, 2, 7}, {9, 0, 1}, {3, 3, 10}});
    return model_->forward(ids.to(model_->up->bias.device()));
  }
  static void expect_close(const Tensor& found, const Tensor& expected) {
    EXPECT_TRUE(torch::allclose(found.cpu(), expected.cpu(), 1e-3, 1e-4));
  }

  VisionText model_;
};

TEST_F(OnDevice, EveryOperationGivesWhatTheCpuGives) {
  std::vector<Tensor> expected;
  const auto run = [&] {
    std::vector<Tensor> outputs;
    for (const auto& name : {"a", "b", "c"}) {
      const peft::UseAdapter scope(adapters(), name);
      outputs.push_back(forward());
    }
    {
      const peft::BatchAdapters scope(adapters(), {"c", "a", "b"});
      outputs.push_back(forward());
    }
    adapters().merge_adapter({"a", "c"});
    outputs.push_back(forward());
    adapters().unmerge_adapter();
    peft::add_weighted_adapter(*model_, {"a"}, {0.5}, "half");
    {
      const peft::UseAdapter scope(adapters(), "half");
      outputs.push_back(forward());
    }
    adapters().delete_adapter("half");
    return outputs;
  };
  const auto on_cpu = run();
  model_->to(torch::kCUDA);
  const auto on_cuda = run();
  ASSERT_EQ(on_cpu.size(), on_cuda.size());
  for (std::size_t i = 0; i < on_cpu.size(); ++i) {
    EXPECT_TRUE(on_cuda[i].is_cuda());
    expect_close(on_cuda[i], on_cpu[i]);
  }
}

TEST_F(OnDevice, TrainsAndSavesAsOnTheCpu) {
  const auto losses = [&] {
    torch::optim::SGD optimizer(adapters().trainable_parameters(), 0.05);
    std::vector<double> found;
    for (int step = 0; step < 5; ++step) {
      optimizer.zero_grad();
      const peft::BatchAdapters scope(adapters(), {"c", "a", "b"});
      const Tensor loss = forward().pow(2).mean();
      loss.backward();
      optimizer.step();
      found.push_back(loss.item<double>());
    }
    return found;
  };
  VisionText fresh;
  peft::copy_into(*model_, *fresh);
  const auto on_cpu = losses();
  std::swap(model_, fresh);
  model_->to(torch::kCUDA);
  const auto on_cuda = losses();
  for (std::size_t i = 0; i < on_cpu.size(); ++i) {
    EXPECT_NEAR(on_cuda[i], on_cpu[i], 1e-3 * std::abs(on_cpu[i]) + 1e-4);
  }
}

TEST_F(OnDevice, AdaptersAreMadeAndSwappedOnTheDevice) {
  model_->to(torch::kCUDA);
  peft::LoraConfig lora;
  lora.r = 2;
  lora.target_modules = {"up", "head", "table"};
  lora.init_lora_weights = "pissa";
  peft::inject_adapter_in_model(lora, *model_, "d");
  for (const Tensor& tensor : adapters().parameters("d")) {
    EXPECT_TRUE(tensor.is_cuda());
  }
  randomise_floats("d");
  const Tensor before = forward();
  peft::StateDict copy;
  for (const auto& item : peft::get_peft_model_state_dict(*model_, "d")) {
    copy.insert(item.key(), item.value().detach().cpu());
  }
  peft::hotswap_adapter(*model_, copy, lora, "d");
  expect_close(forward(), before);
}

}  // namespace
}  // namespace peft_test
