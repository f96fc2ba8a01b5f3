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

struct NoAdapters final : Owner {
  std::vector<std::shared_ptr<const Attachment>> attachments_on(
      WeightId) const override {
    return {};
  }
};

}  // namespace

InputObserver::InputObserver(const HostedTensor& hosted, See see)
    : place_(hosted.place), before_(hosted.place->get()) {
  auto attachment = std::make_shared<Attachment>();
  attachment->method = std::make_shared<Observing>(std::move(see));
  const auto weight = std::make_shared<AdaptedWeight>(
      0,
      hosted.base,
      hosted.layout.value_or(WeightLayout{}),
      always(std::move(attachment)));
  place_->put(make_adapted_tensor(weight, std::make_shared<NoAdapters>()));
}

InputObserver::~InputObserver() {
  place_->put(before_);
}

}  // namespace peft::detail
