// SPDX-License-Identifier: Apache-2.0
#include "model/told_apart.h"

#include <algorithm>
#include <map>

#include <ATen/ops/equal.h>

#include "base/mistakes.h"
#include "base/text.h"
#include "hosting/adapted_tensor.h"
#include "model/adapter_tensors.h"
#include "model/layer_names.h"

namespace peft::detail {
namespace {

bool has_adapters(const HostedLayer& layer) {
  return std::any_of(
      layer.tensors.begin(), layer.tensors.end(), [](const auto& tensor) {
        return as_adapted(tensor.place->get()) != nullptr;
      });
}

bool is_stored(const StateDict& weights, const std::string& path) {
  return !stored_shapes(weights, path).empty();
}

// Layers that an earlier file told apart; the walk joins them no more.
bool share_all(const HostedLayer& a, const HostedLayer& b) {
  if (b.tensors.empty()) {
    return false;
  }
  return a.tensors.size() > 1 && a.type == b.type &&
      a.tensors.front().base.is_same(b.tensors.front().base) && is_foreign(b) &&
      std::equal(
             a.tensors.begin(),
             a.tensors.end(),
             b.tensors.begin(),
             b.tensors.end(),
             [](const HostedTensor& x, const HostedTensor& y) {
               return x.name == y.name && x.base.is_same(y.base);
             });
}

std::map<std::string, at::Tensor> stored(
    const StateDict& weights,
    const std::string& prefix) {
  std::map<std::string, at::Tensor> found;
  for (const auto& item : weights) {
    const std::string key = without_prefix(item.key());
    if (key.starts_with(prefix + ".")) {
      found.emplace(key.substr(prefix.size() + 1), item.value());
    }
  }
  return found;
}

}  // namespace

std::set<std::string> told_apart(
    const Host& host,
    const StateDict& weights,
    const std::string& adapter) {
  Mistakes mistakes(
      ErrorKind::state, concat("cannot inject adapter '", adapter, "'"));
  std::set<std::string> apart;
  const auto layers = host.layers();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const HostedLayer& layer = layers[i];
    if (!is_foreign(layer)) {
      continue;
    }
    for (std::size_t j = i + 1; j < layers.size(); ++j) {
      if (share_all(layer, layers[j]) && is_stored(weights, layer.path) &&
          is_stored(weights, layers[j].path)) {
        apart.insert(layers[j].path);
      }
    }
    for (const std::string& other : layer.others) {
      if (!is_stored(weights, layer.path) || !is_stored(weights, other)) {
        continue;
      }
      apart.insert(other);
      if (has_adapters(layer)) {
        mistakes.add(concat(
            "it has tensors for '",
            layer.path,
            "' and for '",
            other,
            "', which share all of their weights and are one layer to the "
            "adapters that the model has; load this adapter before those, or "
            "unload() first"));
      }
    }
  }
  mistakes.raise_if_any();
  return apart;
}

bool are_stored_alike(
    const StateDict& weights,
    const std::string& prefix,
    const std::string& other) {
  const auto a = stored(weights, prefix);
  const auto b = stored(weights, other);
  return std::equal(
      a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
        return x.first == y.first &&
            x.second.scalar_type() == y.second.scalar_type() &&
            !x.second.is_meta() && !y.second.is_meta() &&
            at::equal(x.second, y.second);
      });
}

}  // namespace peft::detail
