// SPDX-License-Identifier: Apache-2.0
#include "hosting/input_observer.h"

#include "hosting/adapted_tensor.h"

namespace peft::detail {
namespace {

class Observing final : public Method {
 public:
  explicit Observing(InputObserver::See see)
      : see_([see = std::move(see)](const at::Tensor& x) { see(x.detach()); }) {
  }

  void check(const WeightLayout&, const std::string&, Mistakes&)
      const override {}
  std::vector<ParameterSpec> parameters(const WeightLayout&) const override {
    return {};
  }
  void initialise(const Application&) const override {}
  at::Tensor effective(const at::Tensor& weight, const Application&)
      const override {
    return weight;
  }
  CheapForm cheap_form(const Application&) const override {
    return Observed{&see_};
  }

 private:
  const std::function<void(const at::Tensor&)> see_;
};

}  // namespace

InputObserver::InputObserver(const HostedTensor& hosted, See see)
    : place_(hosted.place), before_(hosted.place->get()) {
  auto attachment = std::make_shared<Attachment>();
  attachment->method = std::make_shared<Observing>(std::move(see));
  auto weight = std::make_shared<AdaptedWeight>(
      hosted.base,
      hosted.layout.value_or(WeightLayout{}),
      std::make_shared<Activation>(ActiveSet{.ids = {attachment->adapter}}));
  weight->attach(std::move(attachment));
  place_->put(make_adapted_tensor(weight, std::make_shared<Owner>()));
}

InputObserver::~InputObserver() {
  place_->put(before_);
}

}  // namespace peft::detail
