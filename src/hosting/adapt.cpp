// SPDX-License-Identifier: Apache-2.0
#include "peft/adapt.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/nn/modules/dropout.h>

#include "base/text.h"
#include "hosting/adapted_tensor.h"
#include "hosting/adapter_modules.h"
#include "hosting/layer_kinds.h"
#include "methods/factor_limits.h"
#include "methods/method_table.h"

namespace peft {
namespace {

using namespace detail;

// A lone tensor has only the one.
struct SingleAdapter final : Owner {
  std::vector<std::shared_ptr<const Attachment>> attachments_on(
      WeightId) const override {
    return {attachment};
  }

  std::shared_ptr<const Attachment> attachment;
};

void check_weight(const at::Tensor& weight, Mistakes& mistakes) {
  if (!weight.defined()) {
    mistakes.add(ErrorKind::shape, "the weight is an undefined tensor");
  } else if (as_adapted(weight)) {
    mistakes.add(ErrorKind::state, "the tensor is adapted already");
  } else if (!is_adaptable_dtype(weight.scalar_type())) {
    mistakes.add(
        ErrorKind::unsupported,
        concat(
            "adapters need a float32, float64, bfloat16 or float16 weight, "
            "this "
            "one is ",
            weight.dtype()));
  }
}

}  // namespace

at::Tensor adapt(
    const at::Tensor& weight,
    const AdapterConfig& config,
    WeightUse use,
    bool autocast_adapter_dtype) {
  Mistakes mistakes(ErrorKind::config, "[adapt] cannot adapt the tensor");
  config.check(mistakes);
  check_weight(weight, mistakes);
  mistakes.raise_if_any();
  const MethodEntry& entry = method_entry(config);
  if (const char* pass = entry.data_pass ? entry.data_pass(config) : nullptr) {
    mistakes.add(
        ErrorKind::unsupported,
        concat(
            "init_lora_weights starts from data that peft::",
            pass,
            " finds in a model; a tensor alone has none"));
  }
  if (!config.target_rules().trainable_token_indices.is_none()) {
    mistakes.add(
        ErrorKind::unsupported,
        "trainable_token_indices chooses layers of a model; a tensor alone has "
        "none");
  }
  mistakes.raise_if_any();
  const WeightLayout layout = layout_of(weight, use, /*groups=*/1);
  const std::shared_ptr<const Method> method = entry.make(config, {});
  method->check(layout, "the tensor", mistakes);
  check_strength(
      method->strength(), weight.scalar_type(), "the tensor", mistakes);
  mistakes.raise_if_any();

  const auto specs = method->parameters(layout);
  auto attachment = std::make_shared<Attachment>();
  attachment->method = method;
  try {
    const at::NoGradGuard no_grad;
    const auto dtype = weight.scalar_type();
    const auto options = weight.options().requires_grad(false).dtype(
        autocast_adapter_dtype ? exact_dtype(dtype) : dtype);
    for (const ParameterSpec& spec : specs) {
      attachment->parameters.push_back(at::empty(spec.shape, options));
    }
    method->initialise(
        {weight, layout, attachment->parameters, SquaredNorms()});
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    throw Error(
        ErrorKind::config,
        concat(
            "[adapt] cannot make the adapter's tensors: ",
            text.substr(0, text.find('\n')),
            "; is there memory for its rank, and is its initialisation one for "
            "this weight?"));
  }
  for (std::size_t i = 0; i < specs.size(); ++i) {
    attachment->parameters[i].set_requires_grad(
        !config.inference_mode && !specs[i].is_buffer);
  }
  attachment->dropout = make_dropout(method->dropout().p);
  auto adapted =
      std::make_shared<AdaptedWeight>(0, weight, layout, always(attachment));
  auto owner = std::make_shared<SingleAdapter>();
  owner->attachment = attachment;
  return make_adapted_tensor(std::move(adapted), std::move(owner));
}

bool is_adapted(const at::Tensor& tensor) {
  return as_adapted(tensor) != nullptr;
}

at::Tensor base_weight(const at::Tensor& tensor) {
  const AdaptedTensor* adapted = as_adapted(tensor);
  return adapted ? adapted->replay(adapted->weight()->base()) : tensor;
}

at::Tensor effective_weight(const at::Tensor& tensor) {
  return plain(tensor);
}

std::vector<at::Tensor> adapter_parameters(const at::Tensor& tensor) {
  const AdaptedTensor* adapted = as_adapted(tensor);
  const auto* single = adapted
      ? dynamic_cast<const SingleAdapter*>(adapted->owner().get())
      : nullptr;
  if (!single) {
    throw Error(
        ErrorKind::state,
        concat(
            "[adapter_parameters] the tensor was not made by peft::adapt",
            adapted ? "; for a module's adapters use adapters_of(model)" : ""));
  }
  return single->attachment->parameters;
}

}  // namespace peft
