// SPDX-License-Identifier: Apache-2.0
// The one exception type of the library, and where its warnings go.
//
// what() says what was asked, what was found and what to do. When peft::Error
// is thrown, the model and the files on disk are as they were before the call.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>

#include "peft/export.h"

namespace peft {

/// What kind of mistake an Error reports; programs map these to exit codes.
enum class ErrorKind {
  config,       ///< a value in an adapter's configuration
  target,       ///< a choice of modules that does not fit the model
  shape,        ///< tensors whose shapes or dtypes do not fit
  file,         ///< a file or folder that is missing, broken or not writable
  state,        ///< a call that does not fit the adapters the model has now
  unsupported,  ///< asked for by its right name, but not built
  input,        ///< an input that does not fit an exported program
  program,      ///< an exported program that cannot be run, or failed to
};

/// Every failure the library detects itself.
class PEFT_API Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& what)
      : std::runtime_error(what), kind_(kind) {}

  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

/// Receives each warning, one line of text without a newline at its end.
using WarningHandler = std::function<void(const std::string& text)>;

/// Sends warnings to `handler` from now on (nullptr: to stderr, as at the
/// start) and returns the handler that was in place. Safe from any thread.
PEFT_API WarningHandler set_warning_handler(WarningHandler handler);

}  // namespace peft
