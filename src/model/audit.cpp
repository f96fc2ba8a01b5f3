// SPDX-License-Identifier: Apache-2.0
#include "peft/audit.h"

#include <algorithm>

#include "base/text.h"
#include "model/model_state.h"
#include "peft/adapters.h"

namespace peft {
namespace {

using namespace detail;

constexpr std::size_t most_lines = 20;

// Why an adapter as a whole does not run, or "".
std::string why_idle(const ModelState& state, const AdapterRecord& record) {
  const auto choice = state.activation->load();
  if (!choice->enabled) {
    return "adapters are disabled; call enable_adapters(true)";
  }
  if (choice->merged) {
    return state.is_merged(record)
        ? "the adapter is merged into the weights; call unmerge_adapter to "
          "train it"
        : "other adapters are merged into the weights, and those alone run; "
          "call unmerge_adapter";
  }
  const auto& active = choice->adapters;
  if (std::find(active.begin(), active.end(), record.attached) ==
      active.end()) {
    return concat(
        "the adapter is not active; set_adapter makes it so (active: ",
        list_names(state.names(active)),
        ")");
  }
  return "";
}

std::string why_not_called(const Target& target, const std::string& idle) {
  if (!idle.empty()) {
    return idle;
  }
  return target.layer.expired()
      ? "the layer is no longer part of the model"
      : "no forward has read its weight: the model did not run, or its forward "
        "does not use this layer (or uses another copy of its weight)";
}

std::string
why_no_gradient(const Target& target, const std::string& idle, bool is_anew) {
  if (is_anew) {
    return "its layer's weight was set anew";
  }
  if (!idle.empty()) {
    return idle;
  }
  if (!target.attachment->was_read.load()) {
    return "no forward has read its layer's weight";
  }
  return "its layer ran, but no backward reached it: none was run since "
         "gradients were set to none, it ran without grad mode, the loss does "
         "not depend on its output, or the output was detached";
}

constexpr const char* why_frozen =
    "it was not frozen through set_requires_grad: what freezes a module's "
    "parameters, as a train() of your own may, freezes the adapters below it "
    "too; leave them out there, or call set_requires_grad(name, true) after it";

void look_at(
    const AdapterRecord& record,
    const std::string& layer,
    const std::string& key,
    const at::Tensor& tensor,
    const std::string& no_gradient,
    AuditReport& report) {
  if (tensor.requires_grad() && !tensor.grad().defined()) {
    report.without_gradient.push_back({record.name, layer, key, no_gradient});
  } else if (!tensor.requires_grad() && record.trains) {
    report.frozen.push_back({record.name, layer, key, why_frozen});
  }
}

void print(
    std::string& text,
    const char* heading,
    const std::vector<AuditEntry>& entries) {
  if (entries.empty()) {
    return;
  }
  text += concat(entries.size(), " ", heading, ":\n");
  for (std::size_t i = 0; i < std::min(entries.size(), most_lines); ++i) {
    const AuditEntry& entry = entries[i];
    text += concat(
        "  '",
        entry.adapter,
        "' ",
        entry.key.empty() ? entry.layer : entry.key,
        ": ",
        entry.reason,
        "\n");
  }
  if (entries.size() > most_lines) {
    text += concat("  and ", entries.size() - most_lines, " more\n");
  }
}

}  // namespace

std::string AuditReport::to_string() const {
  if (empty()) {
    return "every adapted layer ran, and all that is trained has a gradient\n";
  }
  std::string text;
  print(text, "layers whose weight was set anew", set_anew);
  print(text, "layers never called", never_called);
  print(text, "parameters without a gradient", without_gradient);
  print(text, "frozen parameters of adapters that train", frozen);
  return text;
}

AuditReport Adapters::audit() const {
  const auto turn = state_->lock();
  AuditReport report;
  for (const auto& record : state_->adapters) {
    const std::string idle = why_idle(*state_, *record);
    for (const Target& target : record->targets) {
      const bool is_anew = is_set_anew(*state_, target);
      if (is_anew) {
        report.set_anew.push_back(
            {record->name,
             target.layer_path,
             "",
             set_anew_text(join_path(target.layer_path, target.tensor_name))});
      } else if (!target.attachment->was_read.load()) {
        report.never_called.push_back(
            {record->name,
             target.layer_path,
             "",
             why_not_called(target, idle)});
      }
      for (std::size_t i = 0; i < target.specs.size(); ++i) {
        const at::Tensor& tensor = target.attachment->parameters[i];
        if (!target.specs[i].is_buffer && tensor.is_floating_point()) {
          look_at(
              *record,
              target.layer_path,
              join_path(target.file_prefix, target.specs[i].file_name),
              tensor,
              why_no_gradient(target, idle, is_anew),
              report);
        }
      }
    }
  }
  return report;
}

}  // namespace peft
