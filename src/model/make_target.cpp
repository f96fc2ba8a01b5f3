// SPDX-License-Identifier: Apache-2.0
#include "model/make_target.h"

#include <algorithm>
#include <new>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <torch/nn/modules/dropout.h>

#include "base/text.h"
#include "hosting/replace_data.h"
#include "methods/factor_limits.h"
#include "peft/error.h"

namespace peft::detail {
namespace {

// The tensors that `target` stores, on the base's device or, when `empty`, on
// the meta device.
Tensors make_tensors(const Target& target, bool autocast, bool empty) {
  Tensors values;
  for (const ParameterSpec& spec : target.specs) {
    const at::TensorOptions options =
        target.base.options().requires_grad(false).dtype(
            made_dtype(target, spec, autocast));
    values.push_back(
        at::empty(spec.shape, empty ? options.device(at::kMeta) : options));
  }
  return values;
}

}  // namespace

at::ScalarType
made_dtype(const Target& target, const ParameterSpec& spec, bool autocast) {
  const at::ScalarType weight = target.base.scalar_type();
  const bool widens = autocast && !target.is_copy();
  return spec.dtype.value_or(widens ? exact_dtype(weight) : weight);
}

MadeTarget make_tied(PlannedTarget planned, const MadeTarget& owner) {
  const Attachment& shared = *owner.planned.target.attachment;
  Target& target = planned.target;
  target.attachment = std::make_shared<Attachment>(shared);
  target.attachment->is_training = planned.hosted.is_training;
  target.layout = planned.hosted.layout.value_or(WeightLayout{});
  const auto& layout = owner.planned.own_layout ? owner.planned.own_layout
                                                : owner.planned.hosted.layout;
  if (shared.own_norms) {  // are those of one layout
    target.attachment->own_norms = std::make_shared<SquaredNorms>();
  }
  if (layout && planned.hosted.layout &&
      layout->form != planned.hosted.layout->form) {
    target.attachment->layout = layout;
  }
  target.specs.clear();
  MadeTarget made;
  made.seated.dropout_dict = owner.seated.dropout_dict;
  made.seated.dropout = make_dropout(shared.method->dropout().p);
  target.attachment->dropout = made.seated.dropout;
  made.planned = std::move(planned);
  return made;
}

namespace {

MadeTarget made_target(
    PlannedTarget planned,
    bool trainable,
    const InjectionOptions& options) {
  // Tensors made in inference mode could never be trained. The guard turns
  // grad mode on, so it comes first.
  const c10::InferenceMode trainable_later(false);
  const at::NoGradGuard no_grad;
  Mistakes mistakes(ErrorKind::config, "cannot make the adapter's tensors");
  check_strength(
      planned.method->strength(),
      planned.hosted.base.scalar_type(),
      planned.target.layer_path,
      mistakes);
  mistakes.raise_if_any();
  const WeightLayout layout = planned.own_layout
      ? *planned.own_layout
      : planned.hosted.layout.value_or(WeightLayout{});
  Target& target = planned.target;
  target.layout = layout;
  target.specs = planned.method->parameters(layout);
  // Copies and rows start as the model's own, as in PEFT.
  const bool empty = options.empty && !options.init_data &&
      (target.of_method() || target.role == Role::own_base);
  const Tensors values =
      make_tensors(target, options.autocast_adapter_dtype, empty);
  if (!empty) {
    Application on{target.ground(), layout, values, SquaredNorms()};
    if (const at::Tensor* data = options.init_data
            ? options.init_data->find(target.file_prefix)
            : nullptr) {
      on.init_data = *data;
    }
    planned.method->initialise(on);
  }

  MadeTarget made;
  target.attachment = std::make_shared<Attachment>();
  target.attachment->method = planned.method;
  target.attachment->is_training = planned.hosted.is_training;
  target.attachment->layout = planned.own_layout;
  if (target.role == Role::trained_bias || target.role == Role::own_base) {
    target.attachment->own_norms = std::make_shared<SquaredNorms>();
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i].set_requires_grad(
        trainable && !target.specs[i].is_buffer &&
        at::isFloatingType(values[i].scalar_type()));
    made.seated.tensors.push_back(make_seated(target.specs[i], values[i]));
    target.attachment->parameters.push_back(made.seated.tensors.back().tensor);
  }
  const DropoutSpec dropout = planned.method->dropout();
  made.seated.dropout_dict = dropout.dict;
  made.seated.dropout = make_dropout(dropout.p);
  target.attachment->dropout = made.seated.dropout;
  if (planned.bias) {
    target.bias_attachment = std::make_shared<Attachment>(*target.attachment);
    target.bias_attachment->bias_rows = planned.bias->rows;
  }
  made.planned = std::move(planned);
  return made;
}

[[noreturn]] void cannot_make(const std::string& where, std::string reason) {
  reason = reason.substr(0, reason.find('\n'));
  throw Error(
      ErrorKind::config,
      concat(
          "cannot make the adapter's tensors for '",
          where,
          "': ",
          reason,
          "; is there memory for its rank, and is its initialisation one for "
          "this weight?"));
}

}  // namespace

MadeTarget make_target(
    PlannedTarget planned,
    bool trainable,
    const InjectionOptions& options) {
  const std::string where =
      join_path(planned.target.layer_path, planned.target.tensor_name);
  try {
    return made_target(std::move(planned), trainable, options);
  } catch (const c10::Error& error) {
    cannot_make(where, error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    cannot_make(where, "out of memory");
  }
}

void fill_rest(const Target& target) {
  const Attachment& attachment = *target.attachment;
  bool rest = false;
  for (std::size_t i = 0; i < target.specs.size(); ++i) {
    const bool is_empty = attachment.parameters[i].is_meta();
    if (is_empty && !target.specs[i].file_name.empty()) {
      return;  // more is to come
    }
    rest |= is_empty;
  }
  if (!rest) {
    return;
  }
  const at::NoGradGuard no_grad;
  Tensors values;
  for (const at::Tensor& parameter : attachment.parameters) {
    values.push_back(at::empty(
        parameter.sizes(),
        target.base.options().requires_grad(false).dtype(parameter.dtype())));
  }
  attachment.method->initialise(
      {target.ground(), target.layout, values, SquaredNorms()});
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (attachment.parameters[i].is_meta()) {
      replace_data(attachment.parameters[i], values[i]);
    }
  }
}

}  // namespace peft::detail
