// SPDX-License-Identifier: Apache-2.0
// How strongly adapters act: PEFT's set_scale, scale_layer, unscale_layer.
#include <cmath>

#include "base/text.h"
#include "model/model_state.h"
#include "peft/adapters.h"

namespace peft {
namespace {

using detail::concat;
using detail::ModelState;
using detail::Target;

template <class Visit>
void for_each_active(ModelState& state, const Visit& visit) {
  for (const auto& active : state.activation->load()->adapters) {
    for (const Target& target : state.find(active->id())->targets) {
      visit(*target.attachment);
    }
  }
}

void check_scale(const char* asking, double scale) {
  if (!std::isfinite(scale)) {
    throw Error(
        ErrorKind::config,
        concat("[", asking, "] scale = ", scale, "; give a finite number"));
  }
}

}  // namespace

void Adapters::set_scale(const std::string& name, double scale) {
  const auto turn = state_->lock();
  check_scale("set_scale", scale);
  for (const Target& target : state_->get(name, "set_scale").targets) {
    target.attachment->scale->store(scale);
  }
}

void Adapters::scale_layer(double scale) {
  const auto turn = state_->lock();
  check_scale("scale_layer", scale);
  for_each_active(*state_, [&](detail::Attachment& attachment) {
    attachment.scale->store(attachment.scale->load() * scale);
  });
}

void Adapters::unscale_layer(std::optional<double> scale) {
  const auto turn = state_->lock();
  if (scale && (*scale == 0 || !std::isfinite(*scale))) {
    throw Error(
        ErrorKind::config,
        concat(
            "[unscale_layer] scale = ",
            *scale,
            "; give a finite number that "
            "is not zero, or none to go back to the config's"));
  }
  for_each_active(*state_, [&](detail::Attachment& attachment) {
    attachment.scale->store(scale ? attachment.scale->load() / *scale : 1.0);
  });
}

std::map<std::string, double> Adapters::scaling(const std::string& name) const {
  const auto turn = state_->lock();
  std::map<std::string, double> found;
  for (const Target& target : state_->get(name, "scaling").targets) {
    if (target.of_method()) {
      found[target.file_prefix] = target.attachment->scale->load() *
          target.attachment->method->strength();
    }
  }
  return found;
}

}  // namespace peft
