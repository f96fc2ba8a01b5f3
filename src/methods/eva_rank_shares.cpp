// SPDX-License-Identifier: Apache-2.0
#include "methods/eva_rank_shares.h"

#include <algorithm>
#include <utility>

#include <ATen/ops/argsort.h>
#include <ATen/ops/cat.h>

namespace peft::detail {
namespace {

// PEFT's own: those that lead, then those that share with each.
std::vector<std::size_t> candidates(const std::vector<std::size_t>& leaders) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < leaders.size(); ++i) {
    if (leaders[i] == i) {
      order.push_back(i);
    }
  }
  const auto leading = order;
  for (const std::size_t leader : leading) {
    for (std::size_t i = leader + 1; i < leaders.size(); ++i) {
      if (leaders[i] == leader) {
        order.push_back(i);
      }
    }
  }
  return order;
}

}  // namespace

std::vector<std::int64_t> share_ranks(
    const std::vector<at::Tensor>& shares,
    const std::vector<std::size_t>& leaders,
    std::int64_t budget) {
  const auto layers = candidates(leaders);
  std::vector<at::Tensor> all;
  std::vector<std::size_t> owners;
  for (const std::size_t i : layers) {
    all.push_back(shares[i].cpu());
    owners.insert(
        owners.end(), static_cast<std::size_t>(all.back().numel()), i);
  }
  // Not a stable sort, as PEFT's is not: it decides between equal shares. NaN,
  // of rows that never vary, would be first.
  const at::Tensor order = at::cat(all).nan_to_num(0).argsort(
      /*dim=*/0, /*descending=*/true);
  std::vector<std::int64_t> ranks(leaders.size());
  const auto winners = std::min(budget, order.size(0));
  for (std::int64_t i = 0; i < winners; ++i) {
    const auto place = order.const_data_ptr<std::int64_t>()[i];
    ++ranks[owners[static_cast<std::size_t>(place)]];
  }
  for (const std::size_t i : layers) {
    auto& most = ranks[leaders[i]];
    if (ranks[i] > most) {
      std::swap(ranks[i], most);
    }
  }
  return ranks;
}

}  // namespace peft::detail
