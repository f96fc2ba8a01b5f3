// SPDX-License-Identifier: Apache-2.0
// A tool that is given lines "FROM TO" on standard input and prints "ok" or the
// error for each, in one line.
#pragma once

#include <algorithm>
#include <exception>
#include <iostream>
#include <string>

namespace peft_test {

/// Runs `work` for each line; 0.
template <class Work>
int for_each_line(const Work& work) {
  std::string from;
  std::string to;
  while (std::cin >> from >> to) {
    std::string text = "ok";
    try {
      work(from, to);
    } catch (const std::exception& error) {
      text = error.what();
      std::replace(text.begin(), text.end(), '\n', ' ');
    }
    std::cout << text << std::endl;
  }
  return 0;
}

}  // namespace peft_test
