// SPDX-License-Identifier: Apache-2.0
// An adapter's tensors by their file keys, and copying a state dict into them.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "methods/method_table.h"
#include "model/model_state.h"
#include "peft/state_dict.h"

namespace peft::detail {

/// A file's key without the "base_model.model." that PEFT puts before it.
std::string without_prefix(const std::string& key);

/// The live tensors of `record` by PEFT's keys, in the model's order.
StateDict adapter_tensors(const AdapterRecord& record);

/// Throws Error (state) when the adapter was injected empty and has not been
/// given weights.
void check_filled(const AdapterRecord& record, const char* asking);

/// A file's key without the name of an adapter, which keys of a whole model's
/// state dict carry: "fc.lora_A.default.weight". `key_prefix`: "lora_".
std::string without_adapter_name(
    const std::string& key,
    const std::string& key_prefix);

/// Those that stand in files twice, by their second keys: of weights that are
/// tied to another's.
StateDict second_tensors(const AdapterRecord& record);

/// As files hold them: only the ranks that AdaLoRA has left, for example.
/// `as_plain_lora`: by MethodEntry::plain, which must be there.
StateDict written_tensors(
    const AdapterRecord& record,
    bool as_plain_lora = false);

/// Shapes in `weights` of what stands under `file_prefix`, by file name.
StoredShapes stored_shapes(
    const StateDict& weights,
    const std::string& file_prefix);

/// Copies `weights` into the tensors of `record`, all or nothing. Throws Error
/// (shape) for entries that do not fit; see set_peft_model_state_dict.
LoadReport load_tensors(
    const AdapterRecord& record,
    const StateDict& weights,
    bool ignore_mismatched_sizes);

/// As above; missing and unexpected keys are an Error as well unless `partial`,
/// when they are warned of.
void load_all(
    const AdapterRecord& record,
    const StateDict& weights,
    bool partial);

/// Throws Error (shape) unless load_all could load them.
void check_given(
    const AdapterRecord& record,
    const StateDict& weights,
    const char* asking);

/// As load_tensors, with an Error (shape) for unexpected keys, and for missing
/// ones that are not in `may_miss`, which keep what they have.
void load_where_given(
    const AdapterRecord& record,
    const StateDict& weights,
    const std::set<std::string>& may_miss,
    const char* asking);

}  // namespace peft::detail
