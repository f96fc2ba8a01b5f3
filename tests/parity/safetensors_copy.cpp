// SPDX-License-Identifier: Apache-2.0
// safetensors_copy: reads lines "FROM TO" from standard input, loads the file
// FROM, saves it as TO and prints "ok" or the error, in one line each. The C++
// half of safetensors_parity.py.
#include <map>
#include <string>

#include <peft/safetensors.h>

#include "parity/line_tool.h"

int main() {
  return peft_test::for_each_line([](const auto& from, const auto& to) {
    std::map<std::string, std::string> metadata;
    const auto tensors = peft::load_safetensors(from, &metadata);
    peft::save_safetensors(tensors, to, metadata);
  });
}
