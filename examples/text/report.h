// SPDX-License-Identifier: Apache-2.0
// Words for people: sizes with units and the way into Python.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace finetune_text {

/// "311.2 kB"
std::string file_size_text(const std::filesystem::path& path);

/// A Python program that rebuilds the model and loads the adapter.
std::string python_snippet(
    const std::filesystem::path& model,
    const std::filesystem::path& adapter,
    std::int64_t labels);

}  // namespace finetune_text
