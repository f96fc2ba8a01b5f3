// SPDX-License-Identifier: Apache-2.0
// Which libtorch dtype holds which safetensors dtype. F4 packs two values into
// one byte: the format counts values, libtorch (Float4_e2m1fn_x2) counts bytes,
// so that the last size of an F4 tensor is twice as large in the file.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <c10/core/ScalarType.h>

#include "files/safetensors_dtypes.h"

namespace peft::detail {

/// nullopt for the dtypes that libtorch does not have (F6_E2M3, F6_E3M2).
std::optional<c10::ScalarType> to_scalar_type(std::string_view dtype);

/// nullptr for the dtypes that the format does not have (complex128, ...).
const SafetensorsDtype* to_safetensors_dtype(c10::ScalarType type);

/// The dtypes that can be read and written, for messages.
std::string supported_dtype_names();

}  // namespace peft::detail
