// SPDX-License-Identifier: Apache-2.0
#include "methods/saved_copy.h"

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

  void initialise(const Application& on) const override {
    on.parameters[0].copy_(on.base);
  }

  at::Tensor effective(const at::Tensor&, const Application& on)
      const override {
    return on.parameters[0];
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

}  // namespace peft::detail
