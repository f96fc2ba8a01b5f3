// SPDX-License-Identifier: Apache-2.0
// Reads a program from an archive, collecting all that stands in the way.
#include <algorithm>

#include "base/open_file.h"
#include "base/text.h"
#include "base/warning.h"
#include "graph/program.h"

namespace peft::graph {
namespace {

using detail::concat;
using detail::Mistakes;

constexpr std::int64_t schema_major = 8;

// "models/model.json" -> "model"
std::vector<std::string> model_names(const Archive& archive) {
  constexpr std::string_view before = "models/";
  constexpr std::string_view after = ".json";
  std::vector<std::string> names;
  for (const std::string& record : archive.records()) {
    if (record.starts_with(before) && record.ends_with(after)) {
      names.push_back(record.substr(
          before.size(), record.size() - before.size() - after.size()));
    }
  }
  return names;
}

[[noreturn]] void cannot_load(const Archive& archive, const std::string& what) {
  throw Error(
      ErrorKind::file, concat(detail::cannot_read(archive.path()), ": ", what));
}

Json parse(const Archive& archive, const std::string& record) {
  try {
    return Json::parse(archive.text(record));
  } catch (const Json::exception& error) {
    cannot_load(archive, concat("record '", record, "': ", error.what()));
  }
}

class Loader {
 public:
  Loader(std::shared_ptr<const Archive> archive, std::string model)
      : archive_(std::move(archive)),
        model_(std::move(model)),
        json_(parse(*archive_, concat("models/", model_, ".json"))),
        broken_(ErrorKind::file, detail::cannot_read(archive_->path())),
        foreign_(
            ErrorKind::program,
            concat(
                "cannot run the program in '",
                archive_->path().string(),
                "' here")) {}

  std::shared_ptr<Program> load() {
    check_version();
    const Payloads weights = payloads("weights");
    const Payloads constants = payloads("constants");
    broken_.raise_if_any();

    ProgramParts parts{
        .archive = archive_,
        .model = model_,
        .table = WeightTable(weights, constants)};
    const Json& module = field(json_, "graph_module");
    parts.signature =
        read_signature(field(module, "signature"), parts.table, constants);
    compile(field(module, "graph"), parts);
    read_calling(field(module, "module_call_graph"), parts);
    read_checks(field(module, "graph"), parts);
    warn_of_unread_inputs(field(module, "graph"), parts.signature);
    return std::make_shared<Program>(std::move(parts));
  }

 private:
  void check_version() const {
    const auto major =
        as_integer(field(field(json_, "schema_version"), "major"));
    if (major != schema_major) {
      cannot_load(
          *archive_,
          concat(
              "it is of schema version ",
              major,
              ", and ",
              schema_major,
              " can be read; export it anew with torch 2.9 or later"));
    }
  }

  // data/weights or data/constants.
  Payloads payloads(const char* which) {
    const std::string folder = concat("data/", which, "/");
    if (archive_->has(concat(folder, model_, ".pt"))) {
      cannot_load(
          *archive_,
          "its tensors are pickled, as torch before 2.9 wrote them; load and "
          "save it once in Python with a newer torch");
    }
    return read_payloads(
        *archive_,
        concat(folder, model_, "_", which, "_config.json"),
        folder,
        broken_);
  }

  void compile(const Json& graph, ProgramParts& parts) {
    const WeightTable& table = parts.table;
    Compiler compiler(
        table.entries().size(),
        table.batch_counters(),
        [&table](std::uint32_t number, const std::string& path) {
          return table.choose(number, path);
        },
        parts.findings,
        foreign_);
    try {
      parts.graph = compiler.compile(graph, input_values(parts.signature));
    } catch (const BrokenJson&) {
      foreign_.raise_if_any();  // what came first is to blame
      throw;
    }
    foreign_.raise_if_any();
    if (parts.graph.outputs.size() != parts.signature.outputs.size()) {
      throw BrokenJson(
          "its graph has another number of outputs than its "
          "signature");
    }
  }

  // How forward is called, and the paths of all modules.
  static void read_calling(const Json& calls, ProgramParts& parts) {
    const Json* root = nullptr;
    for (const Json& call : as_list(calls)) {
      const std::string& path = as_text(field(call, "fqn"));
      if (path.empty()) {
        root = optional_field(call, "signature");
      } else if (path.find('@') == std::string::npos) {  // "x@1": called again
        parts.module_paths.push_back(path);
      }
    }
    if (!root) {
      throw BrokenJson("it does not say how its forward is called");
    }
    const auto inputs = TreeSpec::parse(as_text(field(*root, "in_spec")));
    parts.outputs = TreeSpec::parse(as_text(field(*root, "out_spec")));
    if (inputs.children.size() != 2) {
      throw BrokenJson("its inputs are not arguments and named arguments");
    }
    const Json* names = optional_field(*root, "forward_arg_names");
    std::size_t leaf = 0;
    const auto add = [&](const TreeSpec& spec, std::string name) {
      const std::size_t leaves = spec.leaf_count();
      parts.arguments.push_back({std::move(name), spec, leaf});
      leaf += leaves;
    };
    const TreeSpec& positional = inputs.children[0];
    for (std::size_t i = 0; i < positional.children.size(); ++i) {
      add(positional.children[i],
          names && i < names->size() ? as_text(names->at(i))
                                     : std::to_string(i));
    }
    const TreeSpec& named = inputs.children[1];
    for (std::size_t i = 0; i < named.children.size(); ++i) {
      add(named.children[i], i < named.keys.size() ? named.keys[i] : "");
    }
    const std::size_t given = parts.signature.arguments().size();
    std::size_t user_outputs = 0;
    for (const Output& output : parts.signature.outputs) {
      user_outputs += output.kind == Output::Kind::user ? 1 : 0;
    }
    if (leaf != given || parts.outputs.leaf_count() != user_outputs) {
      throw BrokenJson(concat(
          "its forward has ",
          leaf,
          " inputs and ",
          parts.outputs.leaf_count(),
          " outputs, its graph ",
          given,
          " and ",
          user_outputs));
    }
  }

  void read_checks(const Json& graph, ProgramParts& parts) const {
    const Json& metas = field(graph, "tensor_values");
    for (std::size_t i = 0; i < parts.signature.inputs.size(); ++i) {
      const Input& input = parts.signature.inputs[i];
      if (input.kind != Input::Kind::user) {
        continue;
      }
      if (const Json* meta = optional_field(metas, input.name.c_str())) {
        parts.checks.emplace(i, InputCheck(input.name, *meta));
      }
    }
    const Json& ranges = field(json_, "range_constraints");
    for (const auto& [symbol, range] : as_object(ranges).items()) {
      Range& read = parts.ranges[symbol];
      if (const Json* least = optional_field(range, "min_val")) {
        read.least = as_integer(*least);
      }
      if (const Json* most = optional_field(range, "max_val")) {
        read.most = as_integer(*most);
      }
    }
  }

  // Given one tensor object for two inputs, torch.export takes one of them for
  // both, and nothing but wrong results tells.
  void warn_of_unread_inputs(const Json& graph, const Signature& signature)
      const {
    std::set<std::string> read;
    const auto see = [&](const Json& argument) {
      const auto [tag, value] = as_union(argument);
      if (tag == "as_tensor") {
        read.insert(as_text(field(*value, "name")));
      } else if (tag == "as_tensors") {
        for (const Json& item : *value) {
          read.insert(as_text(field(item, "name")));
        }
      } else if (tag == "as_optional_tensors") {
        for (const Json& item : *value) {
          read.insert(defined_name(item));
        }
      }
    };
    for (const Json& node : field(graph, "nodes")) {
      const std::string& target = as_text(field(node, "target"));
      if (target.find(".sym_") == std::string::npos) {
        for (const Json& input : field(node, "inputs")) {
          see(field(input, "arg"));
        }
      }
    }
    for (const Json& output : field(graph, "outputs")) {
      see(output);
    }
    for (const Input& input : signature.inputs) {
      if (input.kind == Input::Kind::user && input.is_tensor &&
          !read.contains(input.name)) {
        detail::warn(concat(
            "'",
            archive_->path().string(),
            "': no operator reads the values of input '",
            input.name,
            "'. If the model does, torch.export.export was given one tensor "
            "for two inputs; give it a tensor for each"));
      }
    }
  }

  std::shared_ptr<const Archive> archive_;
  std::string model_;
  Json json_;
  Mistakes broken_;
  Mistakes foreign_;
};

}  // namespace

std::shared_ptr<Program> load_program(
    const std::filesystem::path& path,
    const std::string& model) {
  const auto archive = std::make_shared<const Archive>(path);
  const auto names = model_names(*archive);
  if (std::find(names.begin(), names.end(), model) == names.end()) {
    cannot_load(
        *archive,
        concat(
            "it has no program '",
            model,
            "'; it has ",
            detail::list_names(names),
            detail::did_you_mean(model, names)));
  }
  try {
    return Loader(archive, model).load();
  } catch (const Error&) {
    throw;
  } catch (const BrokenJson& error) {
    cannot_load(*archive, error.what());
  } catch (const std::exception& error) {
    cannot_load(*archive, first_line(error));
  }
}

}  // namespace peft::graph
