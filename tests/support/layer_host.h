// SPDX-License-Identifier: Apache-2.0
// A model with one child, "layer", of any kind of host: a torch::nn::Module, or
// an exported program with the same layer. What must hold for adapters must
// hold on each.
#pragma once

#include <memory>

#include <torch/nn/module.h>

#include "graph/program_layer.h"
#include "peft/exported_program.h"
#include "support/program_builder.h"
#include "support/temp_folder.h"

namespace peft_test {

class LayerHost {
 public:
  virtual ~LayerHost() = default;
  virtual torch::nn::Module& model() = 0;
  /// The handle of one of the layer's weights that forward reads.
  virtual at::Tensor& weight(std::size_t place) = 0;
  virtual at::Tensor forward(const at::Tensor& input) = 0;
  virtual void to(at::ScalarType dtype) = 0;
};

/// A torch::nn::Module. `run` and `members` know the layer's class.
class ModuleLayerHost final : public LayerHost {
 public:
  using Run = std::function<at::Tensor(torch::nn::Module&, const at::Tensor&)>;
  using Member = std::function<at::Tensor&(torch::nn::Module&)>;

  ModuleLayerHost(
      std::shared_ptr<torch::nn::Module> layer,
      Run run,
      std::vector<Member> members)
      : parent_(std::make_shared<Parent>()),
        layer_(parent_->register_module("layer", std::move(layer))),
        run_(std::move(run)),
        members_(std::move(members)) {}

  torch::nn::Module& model() override { return *parent_; }
  at::Tensor& weight(std::size_t place) override {
    return members_.at(place)(*layer_);
  }
  at::Tensor forward(const at::Tensor& input) override {
    return run_(*layer_, input);
  }
  void to(at::ScalarType dtype) override { parent_->to(dtype); }

 private:
  struct Parent : torch::nn::Module {};
  std::shared_ptr<Parent> parent_;
  std::shared_ptr<torch::nn::Module> layer_;
  Run run_;
  std::vector<Member> members_;
};

/// An exported program: `add_node` writes the node that computes "y" from "x"
/// and the layer's parameters.
class ProgramLayerHost final : public LayerHost {
 public:
  using AddNode =
      std::function<void(GraphBuilder& graph, torch::nn::Module& layer)>;

  ProgramLayerHost(
      torch::nn::Module& layer,
      const at::Tensor& input,
      const AddNode& add_node)
      : program_(load(layer, input, add_node)) {}

  torch::nn::Module& model() override { return program_; }
  at::Tensor& weight(std::size_t place) override {
    const auto layer = program_.module().named_children()["layer"];
    const auto& members =
        dynamic_cast<peft::graph::ProgramLayer&>(*layer).members();
    return *members.at(place).read_from;
  }
  at::Tensor forward(const at::Tensor& input) override {
    return program_.forward({input}).at(0);
  }
  void to(at::ScalarType dtype) override { program_.to(dtype); }

 private:
  static peft::ExportedProgram load(
      torch::nn::Module& layer,
      const at::Tensor& input,
      const AddNode& add_node) {
    ProgramBuilder builder;
    for (const auto& p : layer.named_parameters()) {
      builder.parameter("layer." + p.key(), p.value());
    }
    std::vector<Dim> sizes(input.sizes().begin(), input.sizes().end());
    builder.module("layer").input("x", input.scalar_type(), sizes);
    add_node(builder.graph, layer);
    builder.output("y");
    const TempFolder folder;  // the file stays mapped
    builder.write(folder / "layer.pt2");
    return peft::ExportedProgram::load(folder / "layer.pt2");
  }

  peft::ExportedProgram program_;
};

}  // namespace peft_test
