// SPDX-License-Identifier: Apache-2.0
// Exported PyTorch programs (.pt2, written by torch.export.save), run and
// trained from C++ with no Python and no compiler:
//
//   auto program = peft::ExportedProgram::load("model.pt2");
//   auto outputs = program.forward({input_ids, attention_mask});
//
//   peft::LoraConfig config;                       // as for any module
//   config.target_modules = {"query", "value"};
//   auto adapters = peft::inject_adapter_in_model(config, program);
//
// Every function of the library that takes a torch::nn::Module& takes a
// program: it converts to the tree of its weights, whose module paths and
// parameter names are those of the Python model.
//
// Source: torch/_export/serde/schema.py, schema version 8.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <torch/nn/module.h>

#include "peft/export.h"

namespace peft {

namespace graph {
class Program;
}

/// One input of a program.
struct PEFT_API ProgramValue {
  std::string name;   // "input_ids"; in a nested argument: "cache.0.1"
  std::string kind;   // "tensor", "number"; of a fixed one: "none", "int", ...
  std::string shape;  // of a tensor: "[s0, 128]", a name for what may vary
  std::optional<at::ScalarType> dtype;
  bool fixed = false;  // export fixed it: it is not given to forward
};

/// A program and its weights. Copies are handles on the same program. forward
/// may run in any number of threads at once; train, eval, to and everything
/// that changes adapters' number belong to one thread at a time.
class PEFT_API ExportedProgram {
 public:
  /// Reads a .pt2. Weights are mapped from the file, not copied: replacing the
  /// file is harmless, truncating it in place is not. `model` names one of
  /// several programs in an archive. Throws Error (file) for anything that is
  /// not a sound archive, and Error (program) that names every operator or
  /// argument that this build cannot run, with node and source line.
  static ExportedProgram load(
      const std::filesystem::path& path,
      const std::string& model = "model");

  /// Runs the program on its tensor inputs in order, and returns its tensor
  /// outputs in order; nested ones flattened as Python's pytree does, in the
  /// order of output_names(). Inputs that export fixed (None, numbers) are not
  /// given. Throws Error (input) for a wrong number, rank, size or dtype,
  /// naming the input; Error (program) for a failure inside, naming the node.
  std::vector<at::Tensor> forward(const std::vector<at::Tensor>& inputs) const;

  /// Runs it with arguments by position or by name, tensors or numbers, nested
  /// tuples, lists and dicts among them, and returns what Python's forward
  /// returns: dataclass outputs as a dict by field name. An argument that
  /// export fixed may be left out or must equal what it was fixed to.
  c10::IValue call(
      const std::vector<c10::IValue>& arguments,
      const std::map<std::string, c10::IValue>& named_arguments = {}) const;

  /// What forward takes, and what it returns by place: "logits", "past.0.1".
  std::vector<ProgramValue> inputs() const;
  std::vector<std::string> output_names() const;

  /// Dropout, attention dropout and batch norms as exported in training mode
  /// (on), or switched off. A program exported in eval mode has nothing to
  /// switch on: train(true) warns, and only adapters' own dropout follows.
  void train(bool on = true);
  void eval();
  bool is_training() const;

  /// Moves weights, buffers and constants. A dtype replaces the floating dtype
  /// of most weights, wherever it stands in the graph too.
  void to(at::Device device);
  void to(at::ScalarType dtype);
  void to(at::Device device, at::ScalarType dtype);

  /// By their names in the Python model. A tensor that several modules share
  /// stands under each of its names, as in Python's ExportedProgram; with
  /// `remove_duplicate`, under its first alone, as in torch.nn.Module.
  torch::OrderedDict<std::string, at::Tensor> named_parameters(
      bool remove_duplicate = false) const;
  torch::OrderedDict<std::string, at::Tensor> named_buffers(
      bool remove_duplicate = false) const;
  /// Each tensor once, for optimisers: one that is listed twice would be
  /// updated twice in a step. (module().parameters() lists it twice.)
  std::vector<at::Tensor> parameters() const;
  void zero_grad(bool set_to_none = true);

  /// The tree of weights: torch::nn::Modules under the Python model's paths.
  /// Its parameters are the program's; it has no forward of its own.
  torch::nn::Module& module() const;
  operator torch::nn::Module&() const { return module(); }

  /// Writes the program with its present weights, adapters left out, as a .pt2
  /// that load and Python's torch.export.load open. A crash leaves the old
  /// file or the new one. Throws Error (file), Error (state) when the weights
  /// are of another dtype than the program's.
  void save(const std::filesystem::path& path) const;
  /// The same with the active adapters merged into the weights, for use: of a
  /// program in eval mode the file's dropouts and batch norms are in eval mode,
  /// which Python and AOTInductor cannot switch themselves.
  void save_merged(const std::filesystem::path& path) const;

  // For the library's own rooms.
  explicit ExportedProgram(std::shared_ptr<graph::Program> program);

 private:
  std::shared_ptr<graph::Program> program_;
};

}  // namespace peft
