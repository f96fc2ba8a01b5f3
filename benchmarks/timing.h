// SPDX-License-Identifier: Apache-2.0
// Wall-clock times, printed one a line: a name and milliseconds.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

template <class Run>
double milliseconds(const Run& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  const std::chrono::duration<double, std::milli> time =
      std::chrono::steady_clock::now() - start;
  return time.count();
}

inline double median(std::vector<double> times) {
  const auto middle = times.begin() + times.size() / 2;
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

/// Of `rounds` runs, after one that is not counted.
template <class Run>
double median_time(int rounds, const Run& run) {
  run();
  std::vector<double> times;
  for (int i = 0; i < rounds; ++i) {
    times.push_back(milliseconds(run));
  }
  return median(std::move(times));
}

inline void print(const std::string& name, double time) {
  std::printf("%s %.6f\n", name.c_str(), time);
}
