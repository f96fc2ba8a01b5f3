// SPDX-License-Identifier: Apache-2.0
// torch::nn::Module as a host: names by walking children, weights swapped by
// assigning the layer's public member.
#pragma once

#include "hosting/host.h"

namespace peft::detail {

class ModuleHost final : public Host {
 public:
  explicit ModuleHost(const torch::nn::Module& root) : root_(root) {}

  std::vector<HostedLayer> layers() const override;
  std::vector<std::pair<std::string, at::Tensor>> parameters() const override;
  std::shared_ptr<Owner> find_owner(
      const std::function<bool(const Owner&)>& wanted) const override;
  const void* identity() const override { return &root_; }
  std::string type() const override;
  std::shared_ptr<torch::nn::Module> tree() const override;
  void prepare() const override;
  void pin_runs(
      const std::shared_ptr<const Activation>& activation) const override;

 private:
  const torch::nn::Module& root_;
};

/// The model's own parameters and buffers by path, adapters left out.
std::vector<std::pair<std::string, at::Tensor>> own_tensors(
    const torch::nn::Module& root);

}  // namespace peft::detail
