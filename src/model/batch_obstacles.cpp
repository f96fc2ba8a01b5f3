// SPDX-License-Identifier: Apache-2.0
// What BatchAdapters could not run, by what is known of layers and adapters.
#include <algorithm>
#include <set>

#include "base/text.h"
#include "model/model_state.h"
#include "peft/scopes.h"

namespace peft {
namespace {

using namespace detail;
using Form = WeightLayout::Form;

bool is_recurrent(const std::string& type) {
  static const std::set<std::string> types = {
      "RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"};
  return types.contains(type);
}

// Read by an operator that a mixed batch runs for each adapter.
bool has_operator(const Target& target) {
  const WeightLayout& layout = target.weight->layout();
  return !layout.without_operator &&
      (layout.form == Form::matrix || layout.form == Form::table ||
       layout.form == Form::kernel);
}

// A copy of the bias that such an operator adds.
bool is_bias_of_operator(const AdapterRecord& record, const Target& target) {
  const bool is_bias =
      target.tensor_name == "bias" || target.tensor_name == "in_proj_bias";
  return is_bias &&
      std::any_of(
             record.targets.begin(),
             record.targets.end(),
             [&](const Target& other) {
               return other.layer_path == target.layer_path &&
                   has_operator(other);
             });
}

// "" when nothing is known to be in the way.
std::string obstacle(
    const AdapterRecord& record,
    const Target& target,
    bool& depends_on_forward) {
  if (is_recurrent(target.layer_type)) {
    return "a recurrent layer reads its weights in one operator, which takes "
           "one of each for the whole batch";
  }
  if (has_operator(target) || is_bias_of_operator(record, target)) {
    return "";
  }
  const Form form = target.weight->layout().form;
  if (form == Form::stack) {
    depends_on_forward = true;
    return "a stack of matrices: one matrix of it takes part where its input "
           "holds the whole batch; rows that a router picks do not, nor do "
           "operators that read the stack as a whole";
  }
  if (form == Form::matrix && target.layer_type == "Linear") {
    return "";  // chosen as a parameter, and read as ever
  }
  if (form != Form::whole) {
    depends_on_forward = true;
    return "no operator is known that reads this parameter: it takes part "
           "where that is linear, matmul, mm or addmm";
  }
  return concat(
      "a copy of the ",
      target.tensor_name,
      " of a ",
      target.layer_type,
      ", whose operator takes one for the whole batch");
}

std::vector<const AdapterRecord*> chosen(
    const ModelState& state,
    const std::vector<std::string>& names) {
  std::vector<const AdapterRecord*> records;
  for (const auto& name : names.empty() ? state.names() : names) {
    records.push_back(&state.get(name, "batch_obstacles"));
  }
  return records;
}

}  // namespace

std::vector<BatchObstacle> batch_obstacles(
    const Adapters& adapters,
    const std::vector<std::string>& adapter_names) {
  const ModelState& state = *adapters.state();
  const auto turn = state.lock();
  std::vector<BatchObstacle> found;
  for (const AdapterRecord* record : chosen(state, adapter_names)) {
    for (const Target& target : record->targets) {
      BatchObstacle entry;
      entry.adapter = record->name;
      entry.weight = join_path(target.layer_path, target.tensor_name);
      entry.reason = obstacle(*record, target, entry.depends_on_forward);
      if (!entry.reason.empty()) {
        found.push_back(std::move(entry));
      }
    }
  }
  return found;
}

}  // namespace peft
