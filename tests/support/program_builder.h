// SPDX-License-Identifier: Apache-2.0
// Writes small .pt2 archives without Python: a graph node by node, as
// torch.export.save would write it. Broken ones too: everything can be changed
// before it is written.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

namespace peft_test {

using Json = nlohmann::json;

/// Arguments of nodes.
Json value(const std::string& name);  // a tensor, by name
Json values(const std::vector<std::string>& names);
Json size_value(const std::string& name);  // a symbolic int, by name
Json integer(std::int64_t number);
Json integers(const std::vector<std::int64_t>& numbers);
Json number(double value);
Json flag(bool value);
Json text(const std::string& value);
Json none();
Json dtype_value(at::ScalarType type);
Json graph_value(const std::string& name, Json graph);

/// A size that may vary.
struct Dim {
  Dim(std::int64_t fixed) : size(fixed) {}
  Dim(int fixed) : size(fixed) {}
  Dim(const char* name) : symbol(name) {}
  std::int64_t size = 0;
  std::string symbol;
};

/// The text of one graph.
class GraphBuilder {
 public:
  GraphBuilder& input(const std::string& name);
  /// `arguments` in order; `results` are tensors. `module` is "path,Class".
  GraphBuilder& node(
      const std::string& target,
      const std::vector<std::pair<std::string, Json>>& arguments,
      const std::vector<std::string>& results,
      const std::string& module = "");
  /// A node whose result is a symbolic int.
  GraphBuilder& size_node(
      const std::string& target,
      const std::vector<std::pair<std::string, Json>>& arguments,
      const std::string& result);
  GraphBuilder& output(Json argument);
  Json& json() { return json_; }

 private:
  Json json_ = {
      {"inputs", Json::array()},
      {"outputs", Json::array()},
      {"nodes", Json::array()},
      {"tensor_values", Json::object()},
      {"sym_int_values", Json::object()},
      {"sym_bool_values", Json::object()},
      {"is_single_tensor_return", false}};
};

class ProgramBuilder {
 public:
  GraphBuilder graph;

  /// Each is an input of the graph: "p_" + name with '_' for dots, or the name.
  ProgramBuilder& parameter(const std::string& name, const at::Tensor& tensor);
  ProgramBuilder& buffer(const std::string& name, const at::Tensor& tensor);
  ProgramBuilder& input(
      const std::string& name,
      at::ScalarType type,
      const std::vector<Dim>& sizes);
  /// An argument that export fixed.
  ProgramBuilder& fixed_input(const std::string& name, Json constant);
  ProgramBuilder& output(const std::string& name);
  ProgramBuilder& written_buffer(
      const std::string& value,
      const std::string& buffer);
  ProgramBuilder& range(const std::string& symbol, Json least, Json most);
  ProgramBuilder& module(const std::string& path);

  /// The whole of models/model.json; change() below may still alter it.
  Json json() const;
  /// Called with model.json and with data/weights' config before writing.
  std::function<void(Json& model, Json& weights)> change;
  /// More records, or others in the place of those.
  std::map<std::string, std::string> records;

  void write(const std::filesystem::path& path) const;

 private:
  struct Weight {
    std::string name;
    at::Tensor tensor;
    bool is_parameter;
  };
  std::vector<Weight> weights_;
  Json input_specs_ = Json::array();
  Json output_specs_ = Json::array();
  Json ranges_ = Json::object();
  std::vector<std::string> argument_names_;
  std::vector<std::string> modules_;
};

/// The name of a parameter's or buffer's input: "p_layer_weight".
std::string weight_value(const std::string& name);

}  // namespace peft_test
