// SPDX-License-Identifier: Apache-2.0
// word_piece_tool VOCAB MAX_LENGTH: reads texts from standard input, each
// ended by a zero byte, and prints one line of token numbers for each. The C++
// half of word_piece_parity.py.
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>

#include "word_piece.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: word_piece_tool VOCAB MAX_LENGTH < texts\n";
    return 1;
  }
  try {
    std::ios::sync_with_stdio(false);
    const finetune_text::WordPiece tokenizer(argv[1]);
    const auto max_length = static_cast<std::size_t>(std::atoi(argv[2]));
    for (std::string text; std::getline(std::cin, text, '\0');) {
      const char* space = "";
      for (const auto id : tokenizer.encode(text, max_length)) {
        std::cout << space << id;
        space = " ";
      }
      std::cout << '\n';
    }
  } catch (const std::exception& error) {
    std::cerr << "word_piece_tool: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
