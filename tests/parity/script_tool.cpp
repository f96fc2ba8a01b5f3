// SPDX-License-Identifier: Apache-2.0
// The C++ side of script_parity.py: `script_tool FOLDER` runs FOLDER/model.pt,
// loads FOLDER/adapter onto it and writes result.safetensors: y, and for biases
// "frozen" and "trained" the gradient of each adapter tensor by its key. The
// merged module goes to merged.pt.
#include <filesystem>
#include <iostream>

#include <torch/script.h>
#include <torch/torch.h>

#include "peft/peft.h"

namespace {

namespace fs = std::filesystem;
using torch::Tensor;

void run(const fs::path& folder) {
  const auto input = peft::load_safetensors(folder / "input.safetensors");
  const Tensor x = input["x"];
  auto script = torch::jit::load((folder / "model.pt").string());
  script.eval();
  for (int i = 0; i < 3; ++i) {
    script.forward({x});  // optimised before adapters come
  }
  auto adapters = peft::load_adapter(
      script, folder / "adapter", "default", {.is_trainable = true});
  peft::StateDict results;
  for (const bool trained : {false, true}) {
    for (const auto& parameter :
         peft::ScriptModule(script).module().named_parameters()) {
      if (trained && parameter.key().ends_with(".bias")) {
        parameter->set_requires_grad(true);
      }
    }
    const auto state = peft::get_peft_model_state_dict(script);
    for (int i = 0; i < 2; ++i) {
      for (const auto& item : state) {
        Tensor tensor = item.value();
        tensor.mutable_grad() = Tensor();
      }
      const Tensor y = script.forward({x}).toTensor();
      (y * input["direction"]).sum().backward();
      if (!results.contains("y")) {
        results.insert("y", y.detach().clone());
      }
    }
    for (const auto& item : state) {
      if (item->grad().defined()) {
        results.insert(
            (trained ? "trained." : "frozen.") + item.key(),
            item->grad().clone());
      }
    }
  }
  peft::save_safetensors(results, folder / "result.safetensors");
  try {
    peft::save_merged(script, folder / "merged.pt");
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: script_tool FOLDER\n";
    return 2;
  }
  try {
    run(argv[1]);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}
