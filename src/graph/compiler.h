// SPDX-License-Identifier: Apache-2.0
// Turns a graph's JSON into instructions: every name becomes a slot, every
// operator a handle, every argument a value of the type the operator takes.
// All that cannot be run is collected, not only the first of it.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/mistakes.h"
#include "graph/computed_weight.h"
#include "graph/instruction.h"
#include "graph/scope.h"
#include "graph/vmap.h"

namespace peft::graph {

/// What compiling finds out besides the instructions.
struct Findings {
  std::vector<WeightRead> reads;
  /// What might be the weight of a layer, by its module's path.
  std::map<std::string, ComputedWeight> computed;
  /// Path of each module that was called -> its Python class.
  std::map<std::string, std::string> module_types;
  bool has_training_mode = false;  // dropout or batch statistics switched on
  bool has_eval_mode = false;      // and switched off
};

/// Chooses which name of a weight is meant when the module at `path` reads the
/// weight `number`: tied weights have several.
using ChooseWeight = std::function<
    std::uint32_t(std::uint32_t number, const std::string& module_path)>;

/// Whether nothing that `node` reads is changed by an input of the run.
bool is_from_weights(const Json& node, const Scope& scope);

/// How many graphs in graphs are followed.
constexpr std::size_t deepest_graph = 32;

class Compiler {
 public:
  /// `weights`: how many the program has.
  Compiler(
      std::size_t weights,
      std::set<std::uint32_t> batch_counters,
      ChooseWeight choose,
      Findings& findings,
      detail::Mistakes& mistakes)
      : weights_(weights),
        batch_counters_(std::move(batch_counters)),
        choose_(std::move(choose)),
        findings_(findings),
        mistakes_(mistakes) {}

  /// `inputs` says what each input of the graph is; a slot operand's index is
  /// the input's own slot.
  Graph compile(const Json& graph, const std::vector<Value>& inputs);

 private:
  // A torch.vmap whose end is still to come.
  struct OpenVmap {
    Origin origin;
    Operand size = {};
    Randomness randomness = Randomness::error;
    Instructions body = {};
  };

  // A graph under construction.
  struct Builder {
    Graph& graph;
    Scope& scope;
    Instructions& instructions;
    std::size_t depth;
    std::size_t outer_vmaps;  // that the graph stands in
    const Json* tensor_values = nullptr;
    std::vector<OpenVmap> vmaps = {};

    void add(std::unique_ptr<Instruction> instruction) {
      (vmaps.empty() ? instructions : vmaps.back().body)
          .push_back(std::move(instruction));
    }
    std::size_t open_vmaps() const { return outer_vmaps + vmaps.size(); }
    /// Its instructions are the program's own, one after the other.
    bool is_program() const { return depth == 0 && vmaps.empty(); }
  };

  void compile_node(const Json& node, Origin origin, Builder& builder);
  void compile_nodes(const Json& nodes, Builder& builder);
  std::unique_ptr<Instruction>
  call_operator(const Json& node, Origin origin, Builder& builder);
  std::unique_ptr<Instruction>
  call_number_operator(const Json& node, Origin origin, Builder& builder);
  std::unique_ptr<Instruction>
  call_python_operator(const Json& node, Origin origin, Builder& builder);
  std::unique_ptr<Instruction>
  call_higher_order(const Json& node, Origin origin, Builder& builder);
  std::unique_ptr<Instruction>
  compile_block(const Json& node, Origin origin, Builder& builder);
  std::unique_ptr<Instruction>
  call_functorch(const Json& node, Origin origin, Builder& builder);
  void open_vmap(const Json& node, Origin origin, Builder& builder);
  static std::unique_ptr<Instruction> close_vmap(Builder& builder);
  void check_vmaps_closed(const Builder& builder);
  std::vector<Graph> compile_called(
      const std::vector<const Json*>& graphs,
      const std::vector<Value>& inputs,
      const Builder& builder);
  std::vector<Result> define_flat_results(
      const Json& outputs,
      Builder& builder);
  Graph compile_at(
      const Json& graph,
      const std::vector<Value>& inputs,
      std::size_t depth,
      std::size_t outer_vmaps);

  std::vector<Operand> read_operands(
      const Json& node,
      const c10::FunctionSchema& schema,
      const Origin& origin,
      const Scope& scope);
  void follow_weight(
      const c10::FunctionSchema& schema,
      const Json& node,
      const std::vector<Operand>& operands,
      Builder& builder);
  void stand_in_for_computed(
      const c10::FunctionSchema& schema,
      const Json& node,
      const Origin& origin,
      std::vector<Operand>& operands,
      Builder& builder);
  std::uint32_t note_computed(const std::string& path, ComputedWeight computed);
  static WeightRead read_of(
      const c10::FunctionSchema& schema,
      std::size_t argument,
      const WeightOrigin& origin,
      const std::vector<Operand>& operands);
  void note_read(
      const c10::FunctionSchema& schema,
      std::size_t argument,
      const Value& value,
      const std::vector<Operand>& operands);
  Slot define_slot(const std::string& name, Builder& builder);
  std::vector<Result> define_results(const Json& outputs, Builder& builder);

  std::size_t weights_;
  std::set<std::uint32_t> batch_counters_;
  ChooseWeight choose_;
  Findings& findings_;
  detail::Mistakes& mistakes_;
};

}  // namespace peft::graph
