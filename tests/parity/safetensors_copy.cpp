// SPDX-License-Identifier: Apache-2.0
// safetensors_copy: reads lines "FROM TO" from standard input, loads the file
// FROM, saves it as TO and prints "ok" or the error, in one line each. The C++
// half of safetensors_parity.py.
#include <algorithm>
#include <exception>
#include <iostream>
#include <map>
#include <string>

#include <peft/safetensors.h>

namespace {

std::string copy(const std::string& from, const std::string& to) {
  try {
    std::map<std::string, std::string> metadata;
    const auto tensors = peft::load_safetensors(from, &metadata);
    peft::save_safetensors(tensors, to, metadata);
    return "ok";
  } catch (const std::exception& error) {
    std::string text = error.what();
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
  }
}

}  // namespace

int main() {
  std::string from;
  std::string to;
  while (std::cin >> from >> to) {
    std::cout << copy(from, to) << std::endl;
  }
}
