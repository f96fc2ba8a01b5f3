// SPDX-License-Identifier: Apache-2.0
#include "hosting/adapted_tensor.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>

#include "hosting/dispatch_key.h"
#include "hosting/in_place_write.h"

namespace peft::detail {
namespace {

// Our key, and the base's backend as a dense tensor, which set_data asks for.
c10::DispatchKeySet key_set_like(const at::Tensor& shape) {
  return c10::DispatchKeySet(adapter_key) |
      c10::DispatchKeySet(c10::DispatchKey::Dense) |
      c10::DispatchKeySet(shape.key_set().highestBackendKey());
}

constexpr const char* no_storage =
    "an adapted weight has no storage of its own; take "
    "peft::base_weight(weight) for the base weight's memory or "
    "peft::effective_weight(weight) for a tensor with the adapters applied";

}  // namespace

AdaptedTensor::AdaptedTensor(
    std::shared_ptr<AdaptedWeight> weight,
    std::shared_ptr<Owner> owner,
    WeightView view,
    const at::Tensor& shape)
    : TensorImpl(key_set_like(shape), shape.dtype(), shape.device()),
      weight_(std::move(weight)),
      owner_(std::move(owner)),
      view_(std::move(view)) {
  set_sizes_and_strides(shape.sizes(), shape.strides());
  set_custom_sizes_strides(SizesStridesPolicy::CustomStrides);
  set_custom_device(true);
  release_storage_and_set_meta_custom_data_ptr_error_msg_(no_storage);
}

at::Tensor AdaptedTensor::replay(at::Tensor tensor) const {
  for (const ViewStep& step : view_.steps) {
    torch::jit::Stack stack = step.arguments;
    stack[0] = std::move(tensor);
    step.op.callBoxed(stack);
    tensor = step.output ? stack.back().toTensorVector()[*step.output]
                         : stack.back().toTensor();
  }
  return tensor;
}

at::Tensor AdaptedTensor::read() const {
  return replay(weight_->effective());
}

at::Tensor AdaptedTensor::written() const {
  return replay(weight_->written());
}

void AdaptedTensor::release_resources() {
  TensorImpl::release_resources();
  const auto weight = std::exchange(weight_, nullptr);
  const auto owner = std::exchange(owner_, nullptr);
  if (owner && view_.steps.empty()) {
    owner->stand_in_gone(weight->id());
  }
}

c10::Device AdaptedTensor::device_custom() const {
  return weight_->base().device();
}

// weight.set_data(weight.to(...)) is how TorchScript moves a module; what it
// computes from an adapted weight is the effective one, but the base is meant.
bool AdaptedTensor::is_moved_reading(const at::Tensor& data) const {
  const at::NoGradGuard no_grad;
  const auto reading = reading_of(*this);
  return reading && reading->sizes() == data.sizes() &&
      at::allclose(
             reading->to(data.device(), data.scalar_type()),
             data,
             /*rtol=*/0,
             /*atol=*/0,
             /*equal_nan=*/true);
}

void AdaptedTensor::shallow_copy_from(
    const c10::intrusive_ptr<c10::TensorImpl>& impl) {
  const at::Tensor data = plain(at::Tensor(impl));
  at::Tensor base = weight_->base();
  if (data.is_same(base)) {
    // The base was given its data already; what stands here follows.
  } else if (is_moved_reading(data) || write_masked_reading(*this, data)) {
    base.set_data(base.detach().to(data.device(), data.scalar_type()));
  } else {
    written().set_data(data);
    weight_->mask().written_anew(WeightMask::Fresh::given);
  }
  for (const auto& attachment : owner_->attachments_on(weight_->id())) {
    weight_->move(*attachment);
  }
  if (view_.steps.empty()) {
    set_allow_tensor_metadata_change(true);
    set_sizes_and_strides(data.sizes(), data.strides());
    set_dtype(data.dtype());
  }
}

c10::intrusive_ptr<c10::TensorImpl> AdaptedTensor::shallow_copy_and_detach(
    const c10::VariableVersion& /*version*/,
    bool /*allow_tensor_metadata_change*/) const {
  static const auto detach =
      c10::Dispatcher::singleton().findSchemaOrThrow("aten::detach", "");
  WeightView view = view_;
  view.steps.push_back({detach, {c10::IValue()}, std::nullopt});
  const at::NoGradGuard no_grad;
  return c10::make_intrusive<AdaptedTensor>(
      weight_, owner_, std::move(view), replay(weight_->base()));
}

c10::intrusive_ptr<c10::TensorImpl> AdaptedTensor::shallow_copy_and_detach(
    c10::VariableVersion&& version,
    bool allow_tensor_metadata_change) const {
  return shallow_copy_and_detach(
      static_cast<const c10::VariableVersion&>(version),
      allow_tensor_metadata_change);
}

at::Tensor make_adapted_tensor(
    std::shared_ptr<AdaptedWeight> weight,
    std::shared_ptr<Owner> owner) {
  register_kernels();
  const at::Tensor tensor(c10::make_intrusive<AdaptedTensor>(
      weight, std::move(owner), WeightView{}, weight->base()));
  weight->stands_in(tensor);
  return tensor;
}

void AdaptedWeight::announce_dtype(at::ScalarType dtype) const {
  if (auto* adapted = as_adapted(tensor())) {
    adapted->set_dtype(c10::scalarTypeToTypeMeta(dtype));
  }
}

void AdaptedWeight::move(const Attachment& attachment) const {
  // Where the base was only moved, an adapter keeps a dtype of its own.
  const auto* standing = as_adapted(tensor());
  const bool was_cast = !standing || standing->dtype() != base_.dtype();
  for (at::Tensor tensor : attachment.parameters) {
    const bool cast =
        was_cast && tensor.is_floating_point() && base_.is_floating_point();
    tensor.set_data(tensor.detach().to(
        base_.device(), cast ? base_.scalar_type() : tensor.scalar_type()));
  }
}

AdaptedTensor* as_adapted(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.key_set().has(adapter_key)) {
    return nullptr;
  }
  // The key alone proves nothing: other code may use it for its own tensors.
  return dynamic_cast<AdaptedTensor*>(tensor.unsafeGetTensorImpl());
}

at::Tensor plain(const at::Tensor& tensor) {
  const AdaptedTensor* adapted = as_adapted(tensor);
  return adapted ? adapted->read() : tensor;
}

std::optional<at::Tensor> plain(const std::optional<at::Tensor>& tensor) {
  return tensor ? std::optional(plain(*tensor)) : std::nullopt;
}

}  // namespace peft::detail
