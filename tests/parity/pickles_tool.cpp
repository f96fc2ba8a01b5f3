// SPDX-License-Identifier: Apache-2.0
// pickles_tool: reads lines "FOLDER TO" from standard input, loads the weights
// of the adapter folder, saves them as the safetensors file TO and prints "ok"
// or the error, in one line each. The C++ half of pickles_parity.py.
#include <algorithm>
#include <exception>
#include <iostream>
#include <string>

#include <peft/adapter_folder.h>
#include <peft/safetensors.h>

namespace {

std::string copy(const std::string& folder, const std::string& to) {
  try {
    peft::save_safetensors(peft::load_peft_weights(folder), to);
    return "ok";
  } catch (const std::exception& error) {
    std::string text = error.what();
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
  }
}

}  // namespace

int main() {
  std::string folder;
  std::string to;
  while (std::cin >> folder >> to) {
    std::cout << copy(folder, to) << std::endl;
  }
}
