// SPDX-License-Identifier: Apache-2.0
// The first steps: a LoRA adapter goes into a model of your own, which stays
// as it is, is trained and saved. The model is the one of PEFT's documentation
// on low-level injection. The README shows the part between the marks.
#include <iostream>

// [readme]
#include <peft/peft.h>
#include <torch/torch.h>

struct DummyModelImpl : torch::nn::Module {  // your own class, untouched
  torch::nn::Embedding embedding{10, 20};
  torch::nn::Linear linear{20, 20};
  torch::nn::Linear lm_head{20, 10};

  DummyModelImpl() {
    register_module("embedding", embedding);
    register_module("linear", linear);
    register_module("lm_head", lm_head);
  }

  torch::Tensor forward(const torch::Tensor& input_ids) {
    return lm_head(linear(embedding(input_ids)));
  }
};
TORCH_MODULE(DummyModel);

void first_adapter() {
  peft::LoraConfig config;  // PEFT's names and defaults
  config.r = 64;
  config.lora_alpha = 16;
  config.lora_dropout = 0.1;
  config.target_modules = {"linear"};

  DummyModel model;
  auto adapters = peft::inject_adapter_in_model(config, *model);
  std::cout << *model << '\n';  // shows lora_A and lora_B under (linear)

  const auto input_ids = torch::tensor({{0, 1, 2, 3, 4, 5, 6, 7}});
  torch::optim::AdamW optimizer(adapters.trainable_parameters(), 1e-3);
  const auto logits = model(input_ids);  // same type, same call, now adapted
  const auto loss = logits.square().mean();
  loss.backward();
  optimizer.step();

  for (const auto& entry : peft::get_peft_model_state_dict(*model)) {
    std::cout << entry.key() << ' ' << entry->sizes() << '\n';
  }
  peft::save_pretrained(*model, "first_adapter");  // PEFT's two files
}
// [/readme]

// Embeddings take adapters too, here beside the linear layer.
void embedding_adapter() {
  peft::LoraConfig config;
  config.target_modules = {"embedding", "linear"};

  DummyModel model;
  auto adapters = peft::inject_adapter_in_model(config, *model);
  std::cout << '\n' << *model << '\n' << adapters.status().to_string() << '\n';
  for (const auto& entry : peft::get_peft_model_state_dict(*model)) {
    std::cout << entry.key() << ' ' << entry->sizes() << '\n';
  }
}

int main() {
  torch::manual_seed(0);
  try {
    first_adapter();
    embedding_adapter();
  } catch (const peft::Error& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}
