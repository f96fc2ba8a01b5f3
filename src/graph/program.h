// SPDX-License-Identifier: Apache-2.0
// A program loaded from a .pt2: its graph, its tensors, what goes in and out.
#pragma once

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "graph/archive.h"
#include "graph/input_checks.h"
#include "graph/instruction.h"
#include "graph/program_layer.h"
#include "graph/signature.h"
#include "graph/tree_spec.h"
#include "graph/weight_table.h"

namespace peft::graph {

/// One argument of the Python model's forward.
struct Argument {
  std::string name;
  TreeSpec spec;
  std::size_t first_leaf;  // among all leaves
};

/// Everything that loading finds out.
struct ProgramParts {
  std::shared_ptr<const Archive> archive;
  std::string model;  // its name in the archive
  WeightTable table;
  Signature signature;
  Graph graph;
  Findings findings;
  std::vector<Argument> arguments;  // of forward, positional ones first
  TreeSpec outputs;
  /// By number of a graph input: of those that are tensors of the user's.
  std::map<std::size_t, InputCheck> checks;
  std::map<std::string, Range> ranges;
  std::vector<std::string> module_paths;
};

class Program {
 public:
  explicit Program(ProgramParts parts);

  const ProgramParts& parts() const { return parts_; }
  const std::shared_ptr<ProgramLayer>& layers() const { return layers_; }
  /// What the graph reads, by number.
  const Weights& weights() const { return *weights_; }
  /// The floating dtype that most parameters have, now and in the archive.
  at::ScalarType dtype() const { return dtype_; }
  at::ScalarType exported_dtype() const { return exported_dtype_; }

  /// Runs on the user's inputs in order and returns the user's outputs.
  /// Throws Error (input, program).
  std::vector<c10::IValue> run(std::vector<c10::IValue> inputs) const;

  /// A layer whose weight the graph computes, and the tensor of its shape that
  /// is its base: another one among weights() stands for it.
  struct ComputedLayer {
    std::string path;
    std::uint32_t number;
    at::Tensor shape;
  };
  const std::vector<ComputedLayer>& computed_layers() const {
    return computed_;
  }

  void train(bool on);
  /// What the root of the weights' tree says.
  bool is_training() const { return layers_->is_training(); }
  void to(
      std::optional<at::Device> device,
      std::optional<at::ScalarType> dtype);

 private:
  void add_computed_weights();
  void move_computed_weights(
      std::optional<at::Device> device,
      std::optional<at::ScalarType> dtype);
  void check(const std::vector<c10::IValue>& inputs) const;
  void write_back(
      std::vector<c10::IValue> outputs,
      const std::vector<c10::IValue>& inputs,
      bool training,
      std::vector<c10::IValue>& results) const;

  ProgramParts parts_;
  std::shared_ptr<Weights> weights_;
  std::shared_ptr<ProgramLayer> layers_;
  std::vector<std::size_t> user_inputs_;  // among the graph's, in order
  std::set<std::uint32_t> batch_counters_;
  /// Tensors of another dtype than most weights: it stays in to().
  std::set<const void*> apart_;
  std::vector<ComputedLayer> computed_;
  /// Layers may outlive the program, whose graph makes such weights.
  std::shared_ptr<const bool> lives_ = std::make_shared<const bool>(true);
  at::ScalarType exported_dtype_;
  at::ScalarType dtype_;
};

/// Throws Error (file) for an archive that is not sound, Error (program) for a
/// program that cannot be run here, naming all that stands in the way.
std::shared_ptr<Program> load_program(
    const std::filesystem::path& path,
    const std::string& model);

/// Writes the archive with the tensors that the program has now: its own, or,
/// `merged`, what its graph reads. Throws Error (file, state).
void save_program(
    const Program& program,
    const std::filesystem::path& path,
    bool merged);

}  // namespace peft::graph
