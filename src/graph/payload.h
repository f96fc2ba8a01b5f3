// SPDX-License-Identifier: Apache-2.0
// The tensors and objects of an archive: data/weights and data/constants with
// the JSON that says which bytes are whose.
//
// Source: PayloadConfig in torch/_export/serde/schema.py.
#pragma once

#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include "base/mistakes.h"
#include "graph/archive.h"

namespace peft::graph {

struct Payload {
  at::Tensor tensor;   // in the mapped file; undefined for an object
  c10::IValue object;  // a torchbind object
  bool is_parameter = false;
  /// The record and place of its bytes: tied tensors share it.
  std::string alias_of;
};

using Payloads = std::unordered_map<std::string, Payload>;

/// Everything that the config record `config` lists, of records below `folder`
/// ("data/weights/"). Adds to `mistakes` what cannot be used, by name.
Payloads read_payloads(
    const Archive& archive,
    const std::string& config,
    const std::string& folder,
    detail::Mistakes& mistakes);

}  // namespace peft::graph
