// SPDX-License-Identifier: Apache-2.0
// The tensor that stands in a module's `weight` member: it has the base's
// sizes, dtype and device and the adapter dispatch key, and no storage of its
// own. A view of it (t(), slice, detach ...) is again an adapted tensor that
// replays the view when it is read or written, so views see later changes and
// in-place writes through them reach the base.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "hosting/adapted_weight.h"
#include "hosting/owner.h"

namespace peft::detail {

/// One view operator with its arguments, replayed on a plain tensor.
struct ViewStep {
  c10::OperatorHandle op;
  std::vector<c10::IValue> arguments;  // the first is replaced by the tensor
  std::optional<std::size_t> output;   // which one, of an operator with many
};

/// What has been done to the weight since its module's member.
struct WeightView {
  std::vector<ViewStep> steps;
  /// Still a whole matrix, consecutive rows of one, or a stack of matrices:
  /// kernels may use factors.
  bool is_matrix = true;
  bool transposed = false;
  /// Set: this one of a stack.
  std::optional<std::int64_t> matrix_of_stack = {};
  std::optional<std::pair<std::int64_t, std::int64_t>> rows;  // begin, end
};

class AdaptedTensor final : public c10::TensorImpl {
 public:
  /// `shape` has the view's sizes, strides and dtype. `owner` is kept alive as
  /// long as a module or view holds the tensor.
  AdaptedTensor(
      std::shared_ptr<AdaptedWeight> weight,
      std::shared_ptr<Owner> owner,
      WeightView view,
      const at::Tensor& shape);

  const std::shared_ptr<AdaptedWeight>& weight() const { return weight_; }
  const std::shared_ptr<Owner>& owner() const { return owner_; }
  const WeightView& view() const { return view_; }

  /// The effective weight under this view, differentiable.
  at::Tensor read() const;
  /// The plain tensor under this view that an in-place write changes.
  at::Tensor written() const;
  /// `tensor` under this view.
  at::Tensor replay(at::Tensor tensor) const;

  /// Module::to changes the base's dtype behind this tensor's back, and
  /// TensorImpl::dtype() cannot be overridden.
  void set_dtype(caffe2::TypeMeta dtype) { data_type_ = dtype; }

  c10::Device device_custom() const override;
  /// Never: contiguous() must ask for a tensor with memory, not return this.
  c10::SymBool sym_is_contiguous_custom(at::MemoryFormat) const override {
    return false;
  }
  /// The last reference is gone. The weight points weakly at this tensor, which
  /// puts its destruction off until the weight is gone: let go of it here.
  void release_resources() override;
  const char* tensorimpl_type_name() const override { return "AdaptedTensor"; }
  /// set_data: gives the base new data.
  void shallow_copy_from(
      const c10::intrusive_ptr<c10::TensorImpl>& impl) override;
  /// variable_data(): a detached view.
  c10::intrusive_ptr<c10::TensorImpl> shallow_copy_and_detach(
      const c10::VariableVersion& version,
      bool allow_tensor_metadata_change) const override;
  c10::intrusive_ptr<c10::TensorImpl> shallow_copy_and_detach(
      c10::VariableVersion&& version,
      bool allow_tensor_metadata_change) const override;

 private:
  bool is_moved_reading(const at::Tensor& data) const;

  // Changed by release_resources() alone.
  std::shared_ptr<AdaptedWeight> weight_;
  std::shared_ptr<Owner> owner_;
  const WeightView view_;
};

/// The tensor for a module's member.
at::Tensor make_adapted_tensor(
    std::shared_ptr<AdaptedWeight> weight,
    std::shared_ptr<Owner> owner);

/// nullptr for a plain or undefined tensor.
AdaptedTensor* as_adapted(const at::Tensor& tensor);

/// The effective weight of an adapted tensor, any other tensor as it is.
at::Tensor plain(const at::Tensor& tensor);
std::optional<at::Tensor> plain(const std::optional<at::Tensor>& tensor);

}  // namespace peft::detail
