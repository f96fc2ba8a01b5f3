// SPDX-License-Identifier: Apache-2.0
#include "peft/exported_program.h"

#include <set>

#include "base/mistakes.h"
#include "base/text.h"
#include "graph/program.h"
#include "peft/error.h"

namespace peft {

using c10::IValue;
using detail::concat;
using detail::Mistakes;
using graph::Argument;
using graph::Input;
using graph::Program;

namespace {

// What forward was given for one argument of the Python model.
using Given = std::map<std::string, IValue>;

Given by_name(
    const std::vector<Argument>& arguments,
    const std::vector<IValue>& positional,
    const std::map<std::string, IValue>& named,
    Mistakes& mistakes) {
  std::vector<std::string> names;
  for (const Argument& argument : arguments) {
    names.push_back(argument.name);
  }
  Given given;
  if (positional.size() > names.size()) {
    mistakes.add(concat(
        positional.size(),
        " arguments are given, the program takes ",
        names.size(),
        ": ",
        detail::list_names(names, 20)));
  }
  for (std::size_t i = 0; i < std::min(positional.size(), names.size()); ++i) {
    given[names[i]] = positional[i];
  }
  for (const auto& [name, value] : named) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      mistakes.add(concat(
          "there is no argument '",
          name,
          "'",
          detail::did_you_mean(name, names),
          "; there are ",
          detail::list_names(names, 20)));
    } else if (!given.emplace(name, value).second) {
      mistakes.add(
          concat("argument '", name, "' is given by position and by name"));
    }
  }
  return given;
}

bool same_constant(const IValue& given, const IValue& fixed) {
  if (given.isNone() || fixed.isNone()) {
    return given.isNone() && fixed.isNone();
  }
  if (given.isScalar() && fixed.isScalar()) {
    return given.toScalar().toDouble() == fixed.toScalar().toDouble();
  }
  return given.isString() && fixed.isString() &&
      given.toStringRef() == fixed.toStringRef();
}

// The leaves of one argument that are the user's, appended to `inputs`.
void add_leaves(
    const graph::Signature& signature,
    const std::vector<std::size_t>& leaves,
    const Argument& argument,
    const Given& given,
    std::vector<IValue>& inputs,
    Mistakes& mistakes) {
  const std::size_t count = argument.spec.leaf_count();
  std::vector<IValue> values;
  const auto found = given.find(argument.name);
  if (found != given.end()) {
    try {
      argument.spec.flatten(found->second, argument.name, values);
    } catch (const Error& error) {
      mistakes.add(error.what());
      return;
    }
  }
  for (std::size_t i = 0; i < count; ++i) {
    const Input& input = signature.inputs[leaves[argument.first_leaf + i]];
    const bool fixed = input.kind == Input::Kind::constant;
    if (values.empty() && !fixed) {
      mistakes.add(concat("argument '", argument.name, "' is missing"));
      return;
    }
    if (!fixed) {
      inputs.push_back(values[i]);
    } else if (!values.empty() && !same_constant(values[i], input.constant)) {
      mistakes.add(concat(
          "argument '",
          argument.name,
          "' was fixed by export to ",
          input.constant,
          " and cannot be ",
          values[i]));
    }
  }
}

std::string kind_name(const IValue& value) {
  return value.isNone()  ? "none"
      : value.isInt()    ? "int"
      : value.isDouble() ? "float"
      : value.isBool()   ? "bool"
                         : "string";
}

using NamedTensors = torch::OrderedDict<std::string, at::Tensor>;

NamedTensors each_once(const NamedTensors& all) {
  NamedTensors once;
  std::set<const void*> seen;
  for (const auto& item : all) {
    if (seen.insert(item.value().unsafeGetTensorImpl()).second) {
      once.insert(item.key(), item.value());
    }
  }
  return once;
}

}  // namespace

ExportedProgram::ExportedProgram(std::shared_ptr<Program> program)
    : program_(std::move(program)) {}

ExportedProgram ExportedProgram::load(
    const std::filesystem::path& path,
    const std::string& model) {
  return ExportedProgram(graph::load_program(path, model));
}

std::vector<at::Tensor> ExportedProgram::forward(
    const std::vector<at::Tensor>& inputs) const {
  std::vector<at::Tensor> tensors;
  for (IValue& value : program_->run({inputs.begin(), inputs.end()})) {
    if (value.isTensor()) {
      tensors.push_back(std::move(value).toTensor());
    }
  }
  return tensors;
}

IValue ExportedProgram::call(
    const std::vector<IValue>& arguments,
    const std::map<std::string, IValue>& named_arguments) const {
  const auto& parts = program_->parts();
  Mistakes mistakes(ErrorKind::input, "cannot call the program");
  const Given given =
      by_name(parts.arguments, arguments, named_arguments, mistakes);
  const auto leaves = parts.signature.arguments();
  std::vector<IValue> inputs;
  for (const Argument& argument : parts.arguments) {
    add_leaves(parts.signature, leaves, argument, given, inputs, mistakes);
  }
  mistakes.raise_if_any();
  auto outputs = program_->run(std::move(inputs));
  auto next = outputs.begin();
  return parts.outputs.unflatten(next);
}

std::vector<ProgramValue> ExportedProgram::inputs() const {
  const auto& parts = program_->parts();
  std::vector<ProgramValue> values;
  std::vector<std::string> names;
  for (const Argument& argument : parts.arguments) {
    argument.spec.leaf_names(argument.name, names);
  }
  const auto leaves = parts.signature.arguments();
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const Input& input = parts.signature.inputs[leaves[i]];
    ProgramValue value{.name = names[i]};
    const auto check = parts.checks.find(leaves[i]);
    if (check != parts.checks.end()) {
      value.kind = "tensor";
      value.shape = check->second.shape();
      value.dtype = check->second.dtype();
    } else {
      value.kind = input.kind == Input::Kind::user ? "number"
                                                   : kind_name(input.constant);
    }
    value.fixed = input.kind == Input::Kind::constant;
    values.push_back(std::move(value));
  }
  return values;
}

std::vector<std::string> ExportedProgram::output_names() const {
  std::vector<std::string> names;
  program_->parts().outputs.leaf_names("", names);
  return names;
}

void ExportedProgram::train(bool on) {
  program_->train(on);
}

void ExportedProgram::eval() {
  program_->train(false);
}

bool ExportedProgram::is_training() const {
  return program_->is_training();
}

void ExportedProgram::to(at::Device device) {
  program_->to(device, std::nullopt);
}

void ExportedProgram::to(at::ScalarType dtype) {
  program_->to(std::nullopt, dtype);
}

void ExportedProgram::to(at::Device device, at::ScalarType dtype) {
  program_->to(device, dtype);
}

NamedTensors ExportedProgram::named_parameters(bool remove_duplicate) const {
  const auto all = program_->layers()->named_parameters();
  return remove_duplicate ? each_once(all) : all;
}

NamedTensors ExportedProgram::named_buffers(bool remove_duplicate) const {
  const auto all = program_->layers()->named_buffers();
  return remove_duplicate ? each_once(all) : all;
}

std::vector<at::Tensor> ExportedProgram::parameters() const {
  return named_parameters(/*remove_duplicate=*/true).values();
}

void ExportedProgram::zero_grad(bool set_to_none) {
  program_->layers()->zero_grad(set_to_none);
}

torch::nn::Module& ExportedProgram::module() const {
  return *program_->layers();
}

void ExportedProgram::save(const std::filesystem::path& path) const {
  graph::save_program(*program_, path, /*merged=*/false);
}

void ExportedProgram::save_merged(const std::filesystem::path& path) const {
  graph::save_program(*program_, path, /*merged=*/true);
}

}  // namespace peft
