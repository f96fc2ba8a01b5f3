// SPDX-License-Identifier: Apache-2.0
// One training loop with each method. The pages in docs/methods show the parts
// between the marks.
#include <iostream>

#include <peft/peft.h>
#include <torch/torch.h>

struct ClassifierImpl : torch::nn::Module {
  torch::nn::Embedding tokens{50, 16};
  torch::nn::LSTM reader{16, 16};
  torch::nn::Linear up{16, 32}, down{32, 16}, head{16, 3};

  ClassifierImpl() {
    register_module("tokens", tokens);
    register_module("reader", reader);
    register_module("up", up);
    register_module("down", down);
    register_module("head", head);
  }

  torch::Tensor forward(const torch::Tensor& ids) {
    const auto [states, last] = reader(tokens(ids).transpose(0, 1));
    const auto x = states[-1];
    return head(x + down(torch::relu(up(x))));
  }
};
TORCH_MODULE(Classifier);

struct Batch {
  torch::Tensor ids, labels;
};

Batch next_batch() {
  const auto ids = torch::randint(50, {32, 8}, torch::kLong);
  return {ids, ids.select(1, 0) % 3};
}

double train_step(
    Classifier& model,
    torch::optim::Optimizer& optimizer,
    const torch::Tensor& extra_loss = torch::zeros({})) {
  const auto [ids, labels] = next_batch();
  const auto loss = torch::nn::functional::cross_entropy(model(ids), labels);
  optimizer.zero_grad();
  (loss + extra_loss).backward();
  optimizer.step();
  return loss.item<double>();
}

void lora(Classifier& model) {
  // [lora]
  peft::LoraConfig config;
  config.r = 8;
  config.lora_alpha = 16;  // s = alpha / r = 2
  config.target_modules = {"up", "down"};
  config.init_lora_weights = "pissa";  // start on W's largest directions
  auto adapters = peft::inject_adapter_in_model(config, *model);

  torch::optim::AdamW optimizer(adapters.trainable_parameters(), 1e-2);
  for (int step = 0; step < 20; ++step) {
    train_step(model, optimizer);
  }
  // PiSSA's factors are not zero at the start: this form loads on the plain
  // model, with nothing to take apart.
  peft::save_pretrained(*model, "lora_adapter", {.as_plain_lora = true});
  // [/lora]
}

void recurrent_lora(Classifier& model) {
  // [recurrent]
  peft::LoraConfig config;
  config.target_modules = {"reader"};  // every weight of the LSTM
  auto adapters = peft::inject_adapter_in_model(config, *model);
  // [/recurrent]
  torch::optim::AdamW optimizer(adapters.trainable_parameters(), 1e-2);
  train_step(model, optimizer);
}

void lora_from_data(Classifier& model) {
  // [from_data]
  peft::LoraConfig config;
  config.r = 8;
  config.target_modules = {"up", "down"};
  config.init_lora_weights = "eva";
  const auto found = peft::preprocess_eva(
      config, *model, [&](std::int64_t) { model(next_batch().ids); });
  auto adapters = peft::inject_adapter_in_model(
      config, *model, "default", {.init_data = &found});
  // [/from_data]
  torch::optim::AdamW optimizer(adapters.trainable_parameters(), 1e-2);
  train_step(model, optimizer);
}

void new_tokens(Classifier& model) {
  // [tokens]
  peft::LoraConfig config;
  config.target_modules = {"up", "down"};
  config.trainable_token_indices = {{"tokens", {48, 49}}};  // two new words
  auto adapters = peft::inject_adapter_in_model(config, *model);
  // [/tokens]
  torch::optim::AdamW optimizer(adapters.trainable_parameters(), 1e-2);
  train_step(model, optimizer);
}

void activated_lora(Classifier& model) {
  const auto ids = next_batch().ids;
  // [alora]
  peft::LoraConfig config;
  config.target_modules = {"up", "down"};
  config.alora_invocation_tokens = {7, 3};
  auto adapters = peft::inject_adapter_in_model(config, *model);
  {
    const peft::AloraScope scope(peft::calculate_alora_offsets(config, ids));
    model(ids);  // the adapter acts from the last "7 3" of each row on
  }
  model(ids);  // not at all
  // [/alora]
}

void lora_from_tensors(Classifier& model) {
  peft::LoraConfig trained;
  trained.r = 3;
  trained.target_modules = {"up", "head"};
  const auto state = [&] {
    peft::inject_adapter_in_model(trained, *model);
    auto tensors = peft::get_peft_model_state_dict(*model);
    peft::unload(*model);
    return tensors;
  }();
  // [state_dict]
  peft::LoraConfig config;  // which layers, which ranks: the tensors tell
  config.lora_alpha = 6;    // nobody but you knows this one
  auto adapters = peft::inject_adapter_in_model(
      config,
      *model,
      "default",
      {.state_dict = &state, .low_cpu_mem_usage = true});
  peft::set_peft_model_state_dict(*model, state);
  // [/state_dict]
  model(next_batch().ids);
}

void dora(Classifier& model) {
  // [dora]
  peft::LoraConfig config;
  config.r = 8;
  config.use_dora = true;
  config.target_modules = {"up", "down"};
  auto adapters = peft::inject_adapter_in_model(config, *model);

  torch::optim::AdamW optimizer(adapters.trainable_parameters(), 1e-2);
  for (int step = 0; step < 20; ++step) {
    train_step(model, optimizer);
  }
  peft::save_pretrained(*model, "dora_adapter");
  // [/dora]
}

void adalora(Classifier& model) {
  // [adalora]
  constexpr int steps = 100;
  peft::AdaLoraConfig config;
  config.init_r = 8;    // every weight starts with 8 ranks
  config.target_r = 3;  // and ends with 3 on average
  config.tinit = 10;    // steps before the first rank goes
  config.tfinal = 30;   // steps at the end with the ranks fixed
  config.total_step = steps;
  config.target_modules = {"up", "down", "head"};
  auto adapters = peft::inject_adapter_in_model(config, *model);

  torch::optim::AdamW optimizer(adapters.trainable_parameters(), 1e-2);
  for (int step = 0; step < steps; ++step) {
    const auto [ids, labels] = next_batch();
    const auto loss = torch::nn::functional::cross_entropy(model(ids), labels) +
        adapters.orthogonal_regularization();  // nothing adds it by itself
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    adapters.update_and_allocate(step);  // after step(), before zero_grad()
  }
  for (const auto& entry : peft::get_peft_model_state_dict(*model)) {
    std::cout << entry.key() << ' ' << entry->sizes() << '\n';  // ranks left
  }
  peft::save_pretrained(*model, "adalora_adapter");
  // [/adalora]
}

void ia3(Classifier& model) {
  // [ia3]
  peft::IA3Config config;
  config.target_modules = {"up", "down"};
  config.feedforward_modules = {"down"};  // there the input is scaled
  auto adapters = peft::inject_adapter_in_model(config, *model);
  std::cout << adapters.status().to_string() << '\n';

  torch::optim::AdamW optimizer(adapters.trainable_parameters(), 1e-2);
  for (int step = 0; step < 20; ++step) {
    train_step(model, optimizer);
  }
  peft::save_pretrained(*model, "ia3_adapter");
  // [/ia3]
}

int main() {
  torch::manual_seed(0);
  try {
    for (const auto method :
         {lora,
          recurrent_lora,
          lora_from_data,
          new_tokens,
          activated_lora,
          lora_from_tensors,
          dora,
          adalora,
          ia3}) {
      Classifier model;
      method(model);
    }
  } catch (const peft::Error& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}
