// SPDX-License-Identifier: Apache-2.0
#include "support/program_builder.h"

#include <algorithm>

#include <caffe2/serialize/inline_container.h>

namespace peft_test {
namespace {

// The numbers of torch/_export/serde/schema.py's ScalarType.
int dtype_number(at::ScalarType type) {
  static const std::map<at::ScalarType, int> numbers = {
      {at::kByte, 1},
      {at::kChar, 2},
      {at::kShort, 3},
      {at::kInt, 4},
      {at::kLong, 5},
      {at::kHalf, 6},
      {at::kFloat, 7},
      {at::kDouble, 8},
      {at::kComplexFloat, 10},
      {at::kBool, 12},
      {at::kBFloat16, 13}};
  return numbers.at(type);
}

Json tensor_meta(
    at::ScalarType type,
    const Json& sizes,
    const Json& strides,
    bool requires_grad) {
  return {
      {"dtype", dtype_number(type)},
      {"sizes", sizes},
      {"strides", strides},
      {"storage_offset", integer(0)},
      {"requires_grad", requires_grad},
      {"device", {{"type", "cpu"}, {"index", nullptr}}},
      {"layout", 7}};
}

Json size_list(at::IntArrayRef sizes) {
  Json list = Json::array();
  for (const auto size : sizes) {
    list.push_back(integer(size));
  }
  return list;
}

Json leaf() {
  return {
      {"type", nullptr},
      {"context", nullptr},
      {"children_spec", Json::array()}};
}

Json tuple_of(std::size_t leaves) {
  Json children = Json::array();
  for (std::size_t i = 0; i < leaves; ++i) {
    children.push_back(leaf());
  }
  return {
      {"type", "builtins.tuple"},
      {"context", "null"},
      {"children_spec", children}};
}

std::string spec_text(const Json& spec) {
  return Json::array({1, spec}).dump();
}

}  // namespace

Json value(const std::string& name) {
  return {{"as_tensor", {{"name", name}}}};
}
Json values(const std::vector<std::string>& names) {
  Json list = Json::array();
  for (const auto& name : names) {
    list.push_back({{"name", name}});
  }
  return {{"as_tensors", list}};
}
Json size_value(const std::string& name) {
  return {{"as_sym_int", {{"as_name", name}}}};
}
Json integer(std::int64_t number) {
  return {{"as_int", number}};
}
Json integers(const std::vector<std::int64_t>& numbers) {
  return {{"as_ints", numbers}};
}
Json number(double value) {
  return {{"as_float", value}};
}
Json flag(bool value) {
  return {{"as_bool", value}};
}
Json text(const std::string& value) {
  return {{"as_string", value}};
}
Json none() {
  return {{"as_none", true}};
}
Json dtype_value(at::ScalarType type) {
  return {{"as_scalar_type", dtype_number(type)}};
}
Json graph_value(const std::string& name, Json graph) {
  return {{"as_graph", {{"name", name}, {"graph", std::move(graph)}}}};
}

GraphBuilder& GraphBuilder::input(const std::string& name) {
  json_["inputs"].push_back(value(name));
  return *this;
}

GraphBuilder& GraphBuilder::node(
    const std::string& target,
    const std::vector<std::pair<std::string, Json>>& arguments,
    const std::vector<std::string>& results,
    const std::string& module) {
  Json inputs = Json::array();
  for (const auto& [name, argument] : arguments) {
    inputs.push_back({{"name", name}, {"arg", argument}, {"kind", 1}});
  }
  Json outputs = Json::array();
  for (const auto& result : results) {
    outputs.push_back(value(result));
  }
  Json metadata = {
      {"stack_trace", "File \"model.py\", line 7, in forward\n    x = f(x)"}};
  if (!module.empty()) {
    metadata["nn_module_stack"] = "L__self__,,M;L__self___x," + module;
  }
  json_["nodes"].push_back(
      {{"target", target},
       {"inputs", inputs},
       {"outputs", outputs},
       {"metadata", metadata},
       {"name", results.empty() ? target : results.front()}});
  return *this;
}

GraphBuilder& GraphBuilder::size_node(
    const std::string& target,
    const std::vector<std::pair<std::string, Json>>& arguments,
    const std::string& result) {
  node(target, arguments, {result});
  json_["nodes"].back()["outputs"] = Json::array({size_value(result)});
  return *this;
}

GraphBuilder& GraphBuilder::output(Json argument) {
  json_["outputs"].push_back(std::move(argument));
  return *this;
}

std::string weight_value(const std::string& name) {
  std::string made = "p_" + name;
  std::replace(made.begin(), made.end(), '.', '_');
  return made;
}

ProgramBuilder& ProgramBuilder::parameter(
    const std::string& name,
    const at::Tensor& tensor) {
  weights_.push_back({name, tensor, true});
  graph.input(weight_value(name));
  input_specs_.push_back(
      {{"parameter",
        {{"arg", {{"name", weight_value(name)}}}, {"parameter_name", name}}}});
  return *this;
}

ProgramBuilder& ProgramBuilder::buffer(
    const std::string& name,
    const at::Tensor& tensor) {
  weights_.push_back({name, tensor, false});
  graph.input(weight_value(name));
  input_specs_.push_back(
      {{"buffer",
        {{"arg", {{"name", weight_value(name)}}},
         {"buffer_name", name},
         {"persistent", true}}}});
  return *this;
}

ProgramBuilder& ProgramBuilder::input(
    const std::string& name,
    at::ScalarType type,
    const std::vector<Dim>& sizes) {
  Json list = Json::array();
  for (const Dim& size : sizes) {
    if (size.symbol.empty()) {
      list.push_back(integer(size.size));
    } else {
      // A plain name stands for a symbol; anything else is an expression.
      const bool plain = size.symbol.find('(') == std::string::npos;
      list.push_back(
          {{"as_expr",
            {{"expr_str",
              plain
                  ? "Symbol('" + size.symbol + "', positive=True, integer=True)"
                  : size.symbol}}}});
    }
  }
  graph.input(name);
  graph.json()["tensor_values"][name] = tensor_meta(type, list, list, false);
  input_specs_.push_back({{"user_input", {{"arg", value(name)}}}});
  argument_names_.push_back(name);
  return *this;
}

ProgramBuilder& ProgramBuilder::fixed_input(
    const std::string& name,
    Json constant) {
  graph.json()["inputs"].push_back(constant);
  input_specs_.push_back(
      {{"constant_input", {{"name", name}, {"value", std::move(constant)}}}});
  argument_names_.push_back(name);
  return *this;
}

ProgramBuilder& ProgramBuilder::output(const std::string& name) {
  graph.output(value(name));
  output_specs_.push_back({{"user_output", {{"arg", value(name)}}}});
  return *this;
}

ProgramBuilder& ProgramBuilder::written_buffer(
    const std::string& name,
    const std::string& buffer) {
  graph.output(value(name));
  output_specs_.push_back(
      {{"buffer_mutation",
        {{"arg", {{"name", name}}}, {"buffer_name", buffer}}}});
  return *this;
}

ProgramBuilder&
ProgramBuilder::range(const std::string& symbol, Json least, Json most) {
  ranges_[symbol] = {
      {"min_val", std::move(least)}, {"max_val", std::move(most)}};
  return *this;
}

ProgramBuilder& ProgramBuilder::module(const std::string& path) {
  modules_.push_back(path);
  return *this;
}

Json ProgramBuilder::json() const {
  std::size_t outputs = 0;
  for (const Json& spec : output_specs_) {
    outputs += spec.contains("user_output") ? 1 : 0;
  }
  const Json in_spec = {
      {"type", "builtins.tuple"},
      {"context", "null"},
      {"children_spec",
       Json::array(
           {tuple_of(argument_names_.size()),
            {{"type", "builtins.dict"},
             {"context", "[]"},
             {"children_spec", Json::array()}}})}};
  Json calls = Json::array(
      {{{"fqn", ""},
        {"signature",
         {{"inputs", Json::array()},
          {"outputs", Json::array()},
          {"in_spec", spec_text(in_spec)},
          {"out_spec", spec_text(outputs == 1 ? leaf() : tuple_of(outputs))},
          {"forward_arg_names", argument_names_}}}}});
  for (const auto& path : modules_) {
    calls.push_back({{"fqn", path}, {"signature", nullptr}});
  }
  Json whole_graph = GraphBuilder(graph).json();
  return {
      {"graph_module",
       {{"graph", whole_graph},
        {"signature",
         {{"input_specs", input_specs_}, {"output_specs", output_specs_}}},
        {"module_call_graph", calls}}},
      {"opset_version", {{"aten", 10}}},
      {"range_constraints", ranges_},
      {"schema_version", {{"major", 8}, {"minor", 20}}},
      {"torch_version", "2.13.0"}};
}

void ProgramBuilder::write(const std::filesystem::path& path) const {
  Json model = json();
  Json weights = {{"config", Json::object()}};
  std::map<std::string, std::string> all;
  std::size_t count = 0;
  for (const Weight& weight : weights_) {
    const at::Tensor tensor = weight.tensor.detach().contiguous();
    const std::string record = "weight_" + std::to_string(count++);
    all["data/weights/" + record] = std::string(
        static_cast<const char*>(tensor.data_ptr()), tensor.nbytes());
    weights["config"][weight.name] = {
        {"path_name", record},
        {"is_param", weight.is_parameter},
        {"use_pickle", false},
        {"tensor_meta",
         tensor_meta(
             tensor.scalar_type(),
             size_list(tensor.sizes()),
             size_list(tensor.strides()),
             weight.is_parameter && tensor.is_floating_point())}};
  }
  if (change) {
    change(model, weights);
  }
  all["archive_format"] = "pt2";
  all["archive_version"] = "0";
  all["byteorder"] = "little";
  all["data/constants/model_constants_config.json"] = R"({"config": {}})";
  all["data/sample_inputs/model.pt"] = "";
  all["data/weights/model_weights_config.json"] = weights.dump();
  all["models/model.json"] = model.dump();
  for (const auto& [name, bytes] : records) {
    all[name] = bytes;
  }
  caffe2::serialize::PyTorchStreamWriter writer(path.string());
  for (const auto& [name, bytes] : all) {
    writer.writeRecord(name, bytes.data(), bytes.size());
  }
  writer.writeEndOfFile();
}

}  // namespace peft_test
