// SPDX-License-Identifier: Apache-2.0
// The PEFT that wrote a file, by what its config says: "0.21.2",
// "0.19.2.dev0@4c5c7b1", or "" where it says nothing, as before PEFT 0.18.
#pragma once

#include <compare>
#include <string>

namespace peft::detail {

/// The PEFT whose fields and files this library knows.
const std::string& known_peft_version();

/// How two versions stand; unordered when one of them is no version. "" is
/// older than all; a development version stands before its release.
std::partial_ordering compare_versions(
    const std::string& a,
    const std::string& b);

}  // namespace peft::detail
