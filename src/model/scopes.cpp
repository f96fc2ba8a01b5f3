// SPDX-License-Identifier: Apache-2.0
#include "peft/scopes.h"

#include <cmath>
#include <unordered_map>
#include <utility>

#include "base/text.h"
#include "hosting/factor_features.h"
#include "hosting/mixed_batch.h"
#include "hosting/thread_choice.h"
#include "model/choose.h"

namespace peft {
namespace {

using namespace detail;

std::shared_ptr<const Choice> made(Choice choice) {
  return std::make_shared<const Choice>(std::move(choice));
}

double scale_now(const ModelState& state) {
  const auto* outer = ThreadChoice::innermost(*state.activation);
  return outer ? outer->scale : 1;
}

// What this thread runs now, held.
std::shared_ptr<const Choice> choice_now(const ModelState& state) {
  const auto* outer = ThreadChoice::innermost(*state.activation);
  return outer ? outer->choice : state.activation->load();
}

std::unique_ptr<ThreadChoice> run(
    const ModelState& state,
    AttachedAdapters adapters) {
  return std::make_unique<ThreadChoice>(
      state.activation,
      made({.adapters = std::move(adapters)}),
      scale_now(state));
}

std::unique_ptr<ThreadChoice> use(
    ModelState& state,
    const std::vector<std::string>& names) {
  if (names.size() == 1) {  // without waiting for an operation's turn
    if (auto adapter = state.roster.find(names.front())) {
      adapter->touch(state.clock);
      return run(state, {std::move(adapter)});
    }
  }
  const auto turn = state.lock();
  return run(state, in_order(find_adapters(state, names, "UseAdapter")));
}

std::unique_ptr<ThreadChoice> pin(const ModelState& state, double factor) {
  const auto* outer = ThreadChoice::innermost(*state.activation);
  return std::make_unique<ThreadChoice>(
      state.activation,
      choice_now(state),
      scale_now(state) * factor,
      outer ? outer->batch : nullptr);
}

// The adapter, read first if need be; nullptr when there is none.
std::shared_ptr<const AttachedAdapter> ready(
    ModelState& state,
    const std::string& name) {
  if (auto adapter = state.roster.find(name)) {
    return adapter;
  }
  const auto turn = state.lock();
  return state.find(name)
      ? find_adapters(state, {name}, "BatchAdapters").front()->attached
      : nullptr;
}

// The rows of each adapter, in the order in which they are first named.
std::vector<MixedBatch::Group> group_rows(
    ModelState& state,
    const std::vector<std::string>& names) {
  std::vector<MixedBatch::Group> groups;
  std::unordered_map<std::string, std::size_t> places;
  std::vector<std::string> unknown;
  for (std::size_t row = 0; row < names.size(); ++row) {
    const std::string& name = names[row];
    const auto [place, is_new] = places.try_emplace(name, groups.size());
    if (is_new) {
      MixedBatch::Group group{.name = name};
      if (name != no_adapter) {
        if (auto adapter = ready(state, name)) {
          adapter->touch(state.clock);
          group.choice.adapters.push_back(std::move(adapter));
        } else {
          unknown.push_back(name);
        }
      }
      groups.push_back(std::move(group));
    }
    groups[place->second].rows.push_back(static_cast<std::int64_t>(row));
  }
  if (!unknown.empty()) {
    const auto turn = state.lock();
    throw Error(
        ErrorKind::state,
        concat(
            "[BatchAdapters] the model has no adapters ",
            list_names(unknown),
            did_you_mean(unknown.front(), state.names()),
            "; it has ",
            list_names(state.names()),
            ", and '",
            no_adapter,
            "' stands for none"));
  }
  return groups;
}

}  // namespace

UseAdapter::UseAdapter(const Adapters& adapters, const std::string& name)
    : choice_(use(*adapters.state(), {name})) {}

UseAdapter::UseAdapter(
    const Adapters& adapters,
    const std::vector<std::string>& names)
    : choice_(use(*adapters.state(), names)) {}

UseAdapter::UseAdapter(
    const Adapters& adapters,
    std::initializer_list<std::string> names)
    : choice_(use(*adapters.state(), names)) {}

UseAdapter::~UseAdapter() = default;

DisableAdapters::DisableAdapters(const Adapters& adapters)
    : choice_(std::make_unique<ThreadChoice>(
          adapters.state()->activation,
          made({.enabled = false}),
          scale_now(*adapters.state()))) {}

DisableAdapters::~DisableAdapters() = default;

PinAdapters::PinAdapters(const Adapters& adapters)
    : choice_(pin(*adapters.state(), 1)) {}

PinAdapters::~PinAdapters() = default;

ScaleAdapters::ScaleAdapters(const Adapters& adapters, double factor) {
  if (!std::isfinite(factor)) {
    throw Error(
        ErrorKind::config,
        concat("[ScaleAdapters] factor = ", factor, "; give a finite number"));
  }
  if (choice_now(*adapters.state())->merged) {
    throw Error(
        ErrorKind::state,
        "[ScaleAdapters] adapters are merged into the weights, which no factor "
        "reaches; call unmerge_adapter first, or name one in a UseAdapter "
        "scope");
  }
  choice_ = pin(*adapters.state(), factor);
}

ScaleAdapters::~ScaleAdapters() = default;

BatchAdapters::BatchAdapters(
    const Adapters& adapters,
    const std::vector<std::string>& adapter_of_row,
    BatchOrder order) {
  ModelState& state = *adapters.state();
  const auto now = choice_now(state);
  if (now->merged) {
    const auto turn = state.lock();
    throw Error(
        ErrorKind::state,
        concat(
            "[BatchAdapters] ",
            list_names(state.names(now->merged->adapters())),
            " are merged into the weights of all rows; call unmerge_adapter "
            "first"));
  }
  if (adapter_of_row.empty()) {
    throw Error(
        ErrorKind::state,
        "[BatchAdapters] no rows were given; name one adapter for each row of "
        "the batch");
  }
  auto batch = std::make_shared<const MixedBatch>(
      group_rows(state, adapter_of_row), order);
  choice_ = std::make_unique<ThreadChoice>(
      state.activation, made({}), scale_now(state), std::move(batch));
}

BatchAdapters::~BatchAdapters() = default;

DisableInputDtypeCasting::DisableInputDtypeCasting()
    : before_(std::exchange(inputs_are_cast, false)) {}

DisableInputDtypeCasting::~DisableInputDtypeCasting() {
  inputs_are_cast = before_;
}

}  // namespace peft
