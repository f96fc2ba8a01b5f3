// SPDX-License-Identifier: Apache-2.0
// The tree of a program's weights: a torch::nn::Module for each module of the
// Python model, with its parameters and buffers under their names. It has no
// forward; what it adds to a Module is the place that the program reads each
// tensor from, and by which operators.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <torch/nn/module.h>

#include "graph/compiler.h"
#include "graph/weight_table.h"

namespace peft::graph {

class ProgramLayer final : public torch::nn::Module {
 public:
  struct Member {
    std::string name;       // "weight"
    at::Tensor* read_from;  // where the program reads it
    bool is_buffer;
    std::vector<WeightRead> reads;
    /// Set: the program computes it in each run, and this does so now; what is
    /// read from has its shape.
    std::function<at::Tensor()> compute = nullptr;
  };

  /// `python_class`: "torch.nn.modules.linear.Linear"; "" of a module that was
  /// never called.
  ProgramLayer(std::string python_class, std::shared_ptr<Weights> weights);

  /// The class in Python: "Linear"; "Module" of one that was never called.
  const std::string& type() const { return name(); }
  /// One of torch.nn's own layers, parametrized or not.
  bool is_of_torch() const { return python_class_.starts_with("torch.nn."); }
  const std::vector<Member>& members() const { return members_; }

  /// Of the root: what it returns lives as long as the run of the program that
  /// asked for it. May be empty.
  std::function<std::shared_ptr<void>()> before_run;

  /// Registers the tensor of `entry`. Throws c10::Error for an impossible name.
  void add(
      const std::string& name,
      const WeightEntry& entry,
      std::uint32_t number,
      std::vector<WeightRead> reads);

  /// Of the root: says that the module at `path` computes its weight.
  void add_computed(
      const std::string& path,
      std::vector<WeightRead> reads,
      at::Tensor* read_from,
      std::function<at::Tensor()> compute);

 private:
  std::string python_class_;
  std::shared_ptr<Weights> weights_;
  std::vector<Member> members_;
};

/// The root of the tree. `paths` lists every module in the model's order;
/// `numbers` every weight in the order of the signature.
std::shared_ptr<ProgramLayer> make_layers(
    const std::vector<std::string>& paths,
    const WeightTable& table,
    const std::vector<std::uint32_t>& numbers,
    const Findings& findings,
    const std::shared_ptr<Weights>& weights);

}  // namespace peft::graph
