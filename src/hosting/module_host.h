// SPDX-License-Identifier: Apache-2.0
// torch::nn::Module as a host: names by walking children, weights swapped by
// assigning the layer's public member.
#pragma once

#include <set>
#include <string>

#include "hosting/host.h"

namespace peft::detail {

class ModuleHost final : public Host {
 public:
  /// Programs and scripts have lost which modules were one object in Python;
  /// those at the paths `apart` were not, whatever tensors they share.
  explicit ModuleHost(
      const torch::nn::Module& root,
      std::set<std::string> apart = {})
      : root_(root), apart_(std::move(apart)) {}

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

  const torch::nn::Module& root() const { return root_; }

 private:
  const torch::nn::Module& root_;
  const std::set<std::string> apart_;
};

/// The model's own parameters and buffers by path, adapters left out.
std::vector<std::pair<std::string, at::Tensor>> own_tensors(
    const torch::nn::Module& root);

}  // namespace peft::detail
