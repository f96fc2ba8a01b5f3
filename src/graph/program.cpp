// SPDX-License-Identifier: Apache-2.0
#include "graph/program.h"

#include <ATen/core/grad_mode.h>

#include "base/text.h"
#include "base/warning.h"
#include "peft/error.h"

namespace peft::graph {
namespace {

using c10::IValue;
using detail::concat;
using detail::Mistakes;
using Role = WeightEntry::Role;

at::ScalarType most_common_dtype(const WeightTable& table) {
  std::map<at::ScalarType, std::int64_t> elements;
  for (const WeightEntry& entry : table.entries()) {
    if (entry.role == Role::parameter && entry.tensor.is_floating_point()) {
      elements[entry.tensor.scalar_type()] += entry.tensor.numel();
    }
  }
  const auto most = std::max_element(
      elements.begin(), elements.end(), [](const auto& a, const auto& b) {
        return a.second < b.second;
      });
  return most == elements.end() ? at::kFloat : most->first;
}

std::vector<std::uint32_t> numbers_in_order(const ProgramParts& parts) {
  std::vector<std::uint32_t> numbers;
  std::set<std::uint32_t> seen;
  for (const Input& input : parts.signature.inputs) {
    if (input.kind == Input::Kind::weight && seen.insert(input.weight).second) {
      numbers.push_back(input.weight);
    }
  }
  // Tensors that forward never reads are part of the model all the same.
  for (std::uint32_t i = 0; i < parts.table.entries().size(); ++i) {
    if (parts.table.entries()[i].role != Role::constant &&
        seen.insert(i).second) {
      numbers.push_back(i);
    }
  }
  return numbers;
}

void accumulate_gradient(at::Tensor tensor, const at::Tensor& gradient) {
  at::Tensor& grad = tensor.mutable_grad();
  grad = grad.defined() ? grad + gradient : gradient;
}

std::string kind_of(const IValue& value) {
  return value.isTensor() ? "tensor" : value.tagKind();
}

}  // namespace

Program::Program(ProgramParts parts)
    : parts_(std::move(parts)), weights_(std::make_shared<Weights>()) {
  for (const WeightEntry& entry : parts_.table.entries()) {
    weights_->push_back(entry.tensor);
  }
  weights_->resize(weights_->size() + parts_.findings.computed.size());
  layers_ = make_layers(
      parts_.module_paths,
      parts_.table,
      numbers_in_order(parts_),
      parts_.findings,
      weights_);
  add_computed_weights();
  for (std::size_t i = 0; i < parts_.signature.inputs.size(); ++i) {
    if (parts_.signature.inputs[i].kind == Input::Kind::user) {
      user_inputs_.push_back(i);
    }
  }
  batch_counters_ = parts_.table.batch_counters();
  dtype_ = exported_dtype_ = most_common_dtype(parts_.table);
  for (const WeightEntry& entry : parts_.table.entries()) {
    if (entry.tensor.scalar_type() != dtype_) {
      apart_.insert(entry.tensor.unsafeGetTensorImpl());
    }
  }
  // A dtype that the model asks for by name stays what it is in to().
  parts_.graph.for_each_constant([&](Operand& operand) {
    operand.is_dtype = operand.is_dtype &&
        operand.constant.toInt() == static_cast<std::int64_t>(dtype_);
  });
  // A graph without dropout or batch norm does not say: then nothing random.
  layers_->train(parts_.findings.has_training_mode);
}

// Where a module computes its weight from its own tensors alone, an adapter may
// stand on what it computes.
void Program::add_computed_weights() {
  if (parts_.findings.computed.empty()) {
    return;
  }
  const Makers makers(parts_.graph);
  for (const auto& [path, computed] : parts_.findings.computed) {
    const auto recipe =
        std::make_shared<const Recipe>(makers, computed.before, computed.slot);
    bool has_own = false;
    bool has_others = false;
    for (const std::uint32_t number : recipe->weights()) {
      const WeightEntry& entry = parts_.table.entries()[number];
      const bool is_own = split_name(entry.name).first == path ||
          entry.name.starts_with(path + ".");
      has_own |= is_own && entry.role == Role::parameter;
      has_others |= !is_own && entry.role != Role::constant;
    }
    if (!has_own || has_others || computed.is_ambiguous) {
      continue;
    }
    at::Tensor& place = (*weights_)[computed.number];
    place = shape_only(computed.sizes, at::TensorOptions(computed.dtype));
    computed_.push_back({path, computed.number, place});
    const auto value =
        [this, recipe, lives = std::weak_ptr(lives_)]() -> at::Tensor {
      if (lives.expired()) {
        throw Error(
            ErrorKind::state,
            "the program that computes this layer's weight is gone; keep the "
            "ExportedProgram as long as its layers");
      }
      return recipe->run(*weights_, is_training());
    };
    layers_->add_computed(path, computed.reads, &place, value);
  }
}

void Program::move_computed_weights(
    std::optional<at::Device> device,
    std::optional<at::ScalarType> dtype) {
  for (ComputedLayer& layer : computed_) {
    at::TensorOptions options = layer.shape.options();
    options = options.device(device.value_or(layer.shape.device()));
    if (dtype && layer.shape.scalar_type() == dtype_) {
      options = options.dtype(*dtype);
    }
    const bool is_filled =
        layer.shape.storage().nbytes() > layer.shape.itemsize();
    layer.shape.set_data(
        is_filled ? layer.shape.to(options)
                  : shape_only(layer.shape.sizes().vec(), options));
    at::Tensor& read = (*weights_)[layer.number];
    if (!read.is_same(layer.shape)) {
      read.set_data(layer.shape);  // what stands in its place moves with it
    }
  }
}

void Program::check(const std::vector<IValue>& inputs) const {
  Mistakes mistakes(ErrorKind::input, "cannot run the program");
  if (inputs.size() != user_inputs_.size()) {
    std::vector<std::string> names;
    for (const std::size_t i : user_inputs_) {
      names.push_back(parts_.signature.inputs[i].name);
    }
    mistakes.add(concat(
        inputs.size(),
        " inputs are given, the program takes ",
        names.size(),
        ": ",
        detail::list_names(names, 20)));
    mistakes.raise_if_any();
  }
  Symbols symbols;
  std::vector<std::pair<const InputCheck*, at::Tensor>> tensors;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto check = parts_.checks.find(user_inputs_[i]);
    const std::string& name = parts_.signature.inputs[user_inputs_[i]].name;
    const bool tensor = inputs[i].isTensor() && inputs[i].toTensor().defined();
    if (check == parts_.checks.end()) {
      if (!inputs[i].isScalar()) {
        mistakes.add(concat(
            "input '",
            name,
            "' is a number in the program, a ",
            kind_of(inputs[i]),
            " is given"));
      }
    } else if (!tensor) {
      mistakes.add(concat(
          "input '",
          name,
          "' is a tensor in the program, a ",
          kind_of(inputs[i]),
          " is given"));
    } else {
      check->second.bind(inputs[i].toTensor(), symbols);
      tensors.emplace_back(&check->second, inputs[i].toTensor());
    }
  }
  for (const auto& [check, tensor] : tensors) {
    check->check(tensor, symbols, parts_.ranges, mistakes);
  }
  mistakes.raise_if_any();
}

std::vector<IValue> Program::run(std::vector<IValue> inputs) const {
  const auto during_run = layers_->before_run ? layers_->before_run() : nullptr;
  check(inputs);
  const bool training = is_training();
  std::vector<IValue> given(parts_.signature.inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    given[user_inputs_[i]] = std::move(inputs[i]);
  }
  inputs.clear();
  bool writes = false;
  for (const Output& output : parts_.signature.outputs) {
    writes |= output.kind != Output::Kind::user;
  }
  if (!writes) {
    return run_graph(parts_.graph, std::move(given), *weights_, training);
  }
  std::vector<IValue> results;
  write_back(
      run_graph(parts_.graph, given, *weights_, training),
      given,
      training,
      results);
  return results;
}

void Program::write_back(
    std::vector<IValue> outputs,
    const std::vector<IValue>& inputs,
    bool training,
    std::vector<IValue>& results) const {
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const Output& output = parts_.signature.outputs[i];
    switch (output.kind) {
      case Output::Kind::user:
        results.push_back(std::move(outputs[i]));
        break;
      case Output::Kind::weight:
        if (training || !batch_counters_.contains(output.weight)) {
          const at::NoGradGuard no_grad;
          at::Tensor weight = (*weights_)[output.weight];
          weight.copy_(outputs[i].toTensor());
        }
        break;
      case Output::Kind::user_input:
        inputs[output.input].toTensor().copy_(outputs[i].toTensor());
        break;
      case Output::Kind::weight_gradient:
        accumulate_gradient(
            parts_.table.entries()[output.weight].tensor,
            outputs[i].toTensor());
        break;
      case Output::Kind::input_gradient:
        accumulate_gradient(
            inputs[output.input].toTensor(), outputs[i].toTensor());
        break;
    }
  }
}

void Program::train(bool on) {
  if (on && parts_.findings.has_eval_mode &&
      !parts_.findings.has_training_mode) {
    detail::warn(
        "train(true): this program was exported in eval mode, so its dropouts "
        "and batch norms stay as in eval mode; adapters train all the same. "
        "Call model.train() before torch.export.export for the others");
  }
  layers_->train(on);
}

void Program::to(
    std::optional<at::Device> device,
    std::optional<at::ScalarType> dtype) {
  if (dtype && !at::isFloatingType(*dtype)) {
    throw Error(
        ErrorKind::input,
        concat("to(): ", c10::toString(*dtype), " is not a floating dtype"));
  }
  const at::NoGradGuard no_grad;
  std::set<const void*> seen;
  const auto move = [&](at::Tensor tensor) {
    if (!tensor.defined() ||
        !seen.insert(tensor.unsafeGetTensorImpl()).second) {
      return;
    }
    const bool cast = dtype && tensor.is_floating_point() &&
        !apart_.contains(tensor.unsafeGetTensorImpl());
    tensor.set_data(tensor.to(
        device.value_or(tensor.device()),
        cast ? *dtype : tensor.scalar_type()));
  };
  for (const auto& tensor : layers_->parameters()) {
    move(tensor);
  }
  for (const auto& tensor : layers_->buffers()) {
    move(tensor);
  }
  for (std::uint32_t i = 0; i < parts_.table.entries().size(); ++i) {
    const at::Tensor& own = parts_.table.entries()[i].tensor;
    move(own);
    at::Tensor& read = (*weights_)[i];
    if (!read.is_same(own)) {
      read.set_data(own);  // what stands in its place moves with it
    }
  }
  move_computed_weights(device, dtype);
  const auto change = [&](Operand& operand) {
    if (device && operand.constant.isDevice()) {
      operand.constant = *device;
    }
    if (dtype && operand.is_dtype) {
      operand.constant = static_cast<std::int64_t>(*dtype);
    }
  };
  parts_.graph.for_each_constant(change);
  if (dtype) {
    for (auto& [input, check] : parts_.checks) {
      if (check.dtype() == dtype_) {
        check.set_dtype(*dtype);
      }
    }
    dtype_ = *dtype;
  }
}

}  // namespace peft::graph
