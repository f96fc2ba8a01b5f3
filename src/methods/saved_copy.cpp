// SPDX-License-Identifier: Apache-2.0
#include "methods/saved_copy.h"

#include <algorithm>

namespace peft::detail {
namespace {

class SavedCopy final : public Method {
 public:
  explicit SavedCopy(ParameterSpec spec) : spec_(std::move(spec)) {}

  void check(const WeightLayout&, const std::string&, Mistakes&)
      const override {}

  std::vector<ParameterSpec> parameters(const WeightLayout&) const override {
    return {spec_};
  }

  // The rows that both have; others come from a file.
  void initialise(const Application& on) const override {
    const at::Tensor& copy = on.parameters[0];
    if (copy.sizes() == on.base.sizes()) {
      copy.copy_(on.base);
      return;
    }
    const auto rows = std::min(copy.size(0), on.base.size(0));
    copy.zero_();
    copy.narrow(0, 0, rows).copy_(on.base.narrow(0, 0, rows));
  }

  at::Tensor effective(const at::Tensor& weight, const Application& on)
      const override {
    return on.parameters[0].to(weight.scalar_type());
  }

  bool replaces() const override { return true; }

  CheapForm cheap_form(const Application& on) const override {
    return Replaced{on.parameters[0]};
  }

 private:
  ParameterSpec spec_;
};

}  // namespace

std::unique_ptr<const Method> make_saved_copy(
    const std::string& name,
    const at::Tensor& like,
    bool is_buffer) {
  return std::make_unique<SavedCopy>(ParameterSpec{
      .dict = "modules_to_save",
      .leaf = name,
      .file_name = name,
      .shape = like.sizes().vec(),
      .carrier = ParameterSpec::Carrier::holder,
      .is_buffer = is_buffer});
}

std::unique_ptr<const Method> make_trained_bias(
    const std::string& file_name,
    const at::Tensor& like) {
  return std::make_unique<SavedCopy>(ParameterSpec{
      .dict = "trained_bias",
      .leaf = "",
      .file_name = file_name,
      .shape = like.sizes().vec(),
      .carrier = ParameterSpec::Carrier::bare_parameter});
}

std::unique_ptr<const Method> make_own_base(
    const std::string& name,
    const std::string& file_name,
    const at::Tensor& like) {
  return std::make_unique<SavedCopy>(ParameterSpec{
      .dict = "own_" + name,
      .leaf = "",
      .file_name = file_name,
      .shape = like.sizes().vec(),
      .carrier = ParameterSpec::Carrier::bare_parameter,
      .is_buffer = true});
}

}  // namespace peft::detail
