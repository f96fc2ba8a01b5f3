// SPDX-License-Identifier: Apache-2.0
// Parts of a graph that run on the graph's own values under a setting:
// torch.no_grad and torch.autocast blocks.
#pragma once

#include <optional>

#include "graph/instruction.h"

namespace peft::graph {

/// What wrap_with_autocast was given.
struct AutocastSetting {
  at::DeviceType device;
  std::optional<at::ScalarType> dtype;
  bool enabled;
  std::optional<bool> cache;
};

/// torch.autocast on this thread as long as it lives.
class AutocastGuard {
 public:
  explicit AutocastGuard(const AutocastSetting& setting);
  ~AutocastGuard();
  AutocastGuard(const AutocastGuard&) = delete;
  AutocastGuard& operator=(const AutocastGuard&) = delete;

 private:
  at::DeviceType device_;
  bool enabled_before_;
  bool cache_before_;
  at::ScalarType dtype_before_;
};

class Block : public Instruction {
 public:
  Block(Origin origin, Instructions body)
      : Instruction(std::move(origin)), body_(std::move(body)) {}

  void run(Frame& frame) const override { run_all(body_, frame); }
  std::vector<Operand*> operands() override { return {}; }
  std::vector<Result*> results() override { return {}; }
  Instructions* body() override { return &body_; }

 private:
  Instructions body_;
};

class GradModeBlock final : public Block {
 public:
  GradModeBlock(Origin origin, Instructions body, bool enabled)
      : Block(std::move(origin), std::move(body)), enabled_(enabled) {}
  void run(Frame& frame) const override;

 private:
  bool enabled_;
};

class AutocastBlock final : public Block {
 public:
  AutocastBlock(Origin origin, Instructions body, AutocastSetting setting)
      : Block(std::move(origin), std::move(body)), setting_(setting) {}
  void run(Frame& frame) const override;

 private:
  AutocastSetting setting_;
};

}  // namespace peft::graph
