// SPDX-License-Identifier: Apache-2.0
#include "graph/signature.h"

#include "base/text.h"

namespace peft::graph {
namespace {

using detail::concat;
using Role = WeightEntry::Role;

const std::string& argument_name(const Json& spec) {
  return as_text(field(field(spec, "arg"), "name"));
}

class SignatureReader {
 public:
  SignatureReader(WeightTable& weights, const Payloads& constants)
      : weights_(weights), constants_(constants) {}

  Signature read(const Json& json) {
    Signature signature;
    for (const Json& spec : as_list(field(json, "input_specs"))) {
      signature.inputs.push_back(read_input(spec));
    }
    for (const Json& spec : as_list(field(json, "output_specs"))) {
      signature.outputs.push_back(read_output(spec, signature));
    }
    return signature;
  }

 private:
  Input weight(const Json& spec, const char* name, Role role) {
    const auto number = weights_.number(as_text(field(spec, name)));
    weights_.entry(number).role = role;
    return {
        .kind = Input::Kind::weight,
        .name = argument_name(spec),
        .weight = number};
  }

  Input read_input(const Json& json) {
    const auto [tag, found] = as_union(json);
    const Json& spec = *found;
    if (tag == "user_input") {
      const Json& argument = field(spec, "arg");
      const std::string name = defined_name(argument);
      if (name.empty()) {  // a number that export fixed
        return {
            .kind = Input::Kind::constant,
            .constant = read_argument(argument, nullptr, {}).constant,
            .is_argument = true};
      }
      return {
          .kind = Input::Kind::user,
          .name = name,
          .is_tensor = argument.contains("as_tensor")};
    }
    if (tag == "parameter") {
      return weight(spec, "parameter_name", Role::parameter);
    }
    if (tag == "buffer") {
      return weight(spec, "buffer_name", Role::buffer);
    }
    if (tag == "tensor_constant") {
      return weight(spec, "tensor_constant_name", Role::constant);
    }
    if (tag == "constant_input") {
      return {
          .kind = Input::Kind::constant,
          .name = as_text(field(spec, "name")),
          .constant = read_argument(field(spec, "value"), nullptr, {}).constant,
          .is_argument = true};
    }
    if (tag == "custom_obj") {
      const std::string& name = as_text(field(spec, "custom_obj_name"));
      const auto object = constants_.find(name);
      if (object == constants_.end()) {
        throw BrokenJson(concat("the archive has no object '", name, "'"));
      }
      return {
          .kind = Input::Kind::constant,
          .name = argument_name(spec),
          .constant = object->second.object};
    }
    if (tag == "token") {
      return {.kind = Input::Kind::constant, .name = argument_name(spec)};
    }
    throw BrokenJson(concat("an input of kind '", tag, "' is not known here"));
  }

  Output read_output(const Json& json, const Signature& signature) {
    const auto [tag, found] = as_union(json);
    const Json& spec = *found;
    using Kind = Output::Kind;
    if (tag == "user_output" || tag == "loss_output") {
      return {.kind = Kind::user};
    }
    if (tag == "buffer_mutation") {
      return written(spec, "buffer_name", Kind::weight);
    }
    if (tag == "parameter_mutation") {
      return written(spec, "parameter_name", Kind::weight);
    }
    if (tag == "gradient_to_parameter") {
      return written(spec, "parameter_name", Kind::weight_gradient);
    }
    if (tag == "user_input_mutation") {
      return {.kind = Kind::user_input, .input = input_number(spec, signature)};
    }
    if (tag == "gradient_to_user_input") {
      return {
          .kind = Kind::input_gradient, .input = input_number(spec, signature)};
    }
    throw BrokenJson(concat("an output of kind '", tag, "' is not known here"));
  }

  Output written(const Json& spec, const char* name, Output::Kind kind) {
    return {
        .kind = kind, .weight = weights_.number(as_text(field(spec, name)))};
  }

  static std::size_t input_number(
      const Json& spec,
      const Signature& signature) {
    const std::string& name = as_text(field(spec, "user_input_name"));
    for (std::size_t i = 0; i < signature.inputs.size(); ++i) {
      if (signature.inputs[i].name == name) {
        return i;
      }
    }
    throw BrokenJson(concat("the program has no input '", name, "'"));
  }

  WeightTable& weights_;
  const Payloads& constants_;
};

}  // namespace

std::vector<std::size_t> Signature::arguments() const {
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].kind == Input::Kind::user || inputs[i].is_argument) {
      found.push_back(i);
    }
  }
  return found;
}

Signature read_signature(
    const Json& signature,
    WeightTable& weights,
    const Payloads& constants) {
  return SignatureReader(weights, constants).read(signature);
}

std::vector<Value> input_values(const Signature& signature) {
  std::vector<Value> values;
  for (const Input& input : signature.inputs) {
    switch (input.kind) {
      case Input::Kind::weight:
        values.push_back(
            {Operand::of_weight(input.weight), WeightOrigin{input.weight}});
        break;
      case Input::Kind::constant:
        values.push_back({Operand::of_constant(input.constant), {}});
        break;
      case Input::Kind::user:
        values.push_back({Operand::of_slot(0), {}});
        break;
    }
  }
  return values;
}

}  // namespace peft::graph
