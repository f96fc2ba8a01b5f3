// SPDX-License-Identifier: Apache-2.0
// pickles_tool: reads lines "FOLDER TO" from standard input, loads the weights
// of the adapter folder, saves them as the safetensors file TO and prints "ok"
// or the error, in one line each. The C++ half of pickles_parity.py.
#include <peft/adapter_folder.h>
#include <peft/safetensors.h>

#include "parity/line_tool.h"

int main() {
  return peft_test::for_each_line([](const auto& folder, const auto& to) {
    peft::save_safetensors(peft::load_peft_weights(folder), to);
  });
}
