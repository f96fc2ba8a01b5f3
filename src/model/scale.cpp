// SPDX-License-Identifier: Apache-2.0
// How strongly adapters act: PEFT's set_scale, scale_layer, unscale_layer.
#include <cmath>

#include "base/text.h"
#include "model/attach.h"
#include "peft/adapters.h"

namespace peft {
namespace {

using detail::AdapterRecord;
using detail::Attachment;
using detail::concat;
using detail::ModelState;
using detail::Target;

// Gives an adapter other factors, by one store: no forward sees some layers
// with the old and some with the new.
template <class Change>
void rescale(ModelState& state, AdapterRecord& record, const Change& change) {
  for (Target& target : record.targets) {
    target.attachment = std::make_shared<Attachment>(*target.attachment);
    target.attachment->scale = change(target.attachment->scale);
    if (target.bias_attachment) {
      target.bias_attachment =
          std::make_shared<Attachment>(*target.bias_attachment);
      target.bias_attachment->scale = target.attachment->scale;
    }
  }
  detail::attach(state, record, record.attached->id());
}

template <class Change>
void rescale_active(ModelState& state, const Change& change) {
  const auto active = state.activation->load();
  for (const auto& adapter : active->adapters) {
    rescale(state, *state.find(adapter->id()), change);
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
  AdapterRecord& record = state_->get(name, "set_scale");
  rescale(*state_, record, [&](double) { return scale; });
}

void Adapters::scale_layer(double scale) {
  const auto turn = state_->lock();
  check_scale("scale_layer", scale);
  rescale_active(*state_, [&](double before) { return before * scale; });
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
  rescale_active(
      *state_, [&](double before) { return scale ? before / *scale : 1.0; });
}

std::map<std::string, double> Adapters::scaling(const std::string& name) const {
  const auto turn = state_->lock();
  std::map<std::string, double> found;
  for (const Target& target : state_->get(name, "scaling").targets) {
    if (target.of_method()) {
      found[target.file_prefix] =
          target.attachment->scale * target.attachment->method->strength();
    }
  }
  return found;
}

}  // namespace peft
