// SPDX-License-Identifier: Apache-2.0
#include "graph/blocks.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>

namespace peft::graph {

namespace autocast = at::autocast;

AutocastGuard::AutocastGuard(const AutocastSetting& setting)
    : device_(setting.device),
      enabled_before_(autocast::is_autocast_enabled(device_)),
      cache_before_(autocast::is_autocast_cache_enabled()),
      dtype_before_(autocast::get_autocast_dtype(device_)) {
  autocast::set_autocast_enabled(device_, setting.enabled);
  autocast::set_autocast_dtype(device_, setting.dtype.value_or(dtype_before_));
  autocast::set_autocast_cache_enabled(setting.cache.value_or(cache_before_));
  autocast::increment_nesting();
}

AutocastGuard::~AutocastGuard() {
  if (autocast::decrement_nesting() == 0) {
    autocast::clear_cache();
  }
  autocast::set_autocast_cache_enabled(cache_before_);
  autocast::set_autocast_dtype(device_, dtype_before_);
  autocast::set_autocast_enabled(device_, enabled_before_);
}

void GradModeBlock::run(Frame& frame) const {
  const at::AutoGradMode mode(enabled_);
  Block::run(frame);
}

void AutocastBlock::run(Frame& frame) const {
  const AutocastGuard guard(setting_);
  Block::run(frame);
}

}  // namespace peft::graph
