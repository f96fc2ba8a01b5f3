// SPDX-License-Identifier: Apache-2.0
// Writes a program's archive anew: every record as it was, but for its own
// tensors, which are written as they are now.
#include <unordered_set>

#include <ATen/core/grad_mode.h>
#include <caffe2/serialize/inline_container.h>

#include "base/callback_file.h"
#include "base/mistakes.h"
#include "base/text.h"
#include "graph/json_fields.h"
#include "graph/mode_arguments.h"
#include "graph/node_text.h"
#include "graph/program.h"
#include "graph/scope.h"
#include "peft/error.h"

namespace peft::graph {
namespace {

using caffe2::serialize::PyTorchStreamWriter;
using detail::concat;

constexpr int zip_version = 6;  // what torch.export.save says

// The zip file.
class ArchiveFile {
 public:
  explicit ArchiveFile(const std::filesystem::path& path)
      : file_(path), writer_([this](const void* data, std::size_t size) {
          return file_.write(data, size);
        }) {
    writer_.setMinVersion(zip_version);
  }

  void record(const std::string& name, const void* data, std::size_t size) {
    file_.guard([&] { writer_.writeRecord(name, data, size); });
  }

  void publish() {
    file_.guard([&] { writer_.writeEndOfFile(); });
    file_.publish();
  }

 private:
  detail::CallbackFile file_;
  PyTorchStreamWriter writer_;
};

// Tied weights have one name in the graph wherever they are read. When one of
// them is merged and the others are not, each reader must name its own.
class ReaderNames {
 public:
  ReaderNames(const Program& program, bool merged)
      : table_(program.parts().table) {
    for (const Input& input : program.parts().signature.inputs) {
      if (input.kind == Input::Kind::weight) {
        numbers_[input.name] = input.weight;
        names_[input.weight] = input.name;
        const bool changed = merged &&
            !program.weights()[input.weight].is_same(
                table_.entries()[input.weight].tensor);
        changed_ |= changed;
      }
    }
  }

  /// The program's text, with the names changed where they must be.
  std::string apply(std::string text) {
    if (!changed_) {
      return text;
    }
    Json model = Json::parse(text);
    Json& module = model["graph_module"];
    bool renamed = false;
    for (Json& node : module["graph"]["nodes"]) {
      const std::string path = calling_module(node).first;
      for (Json& input : node["inputs"]) {
        Json& argument = input["arg"];
        if (argument.contains("as_tensor")) {
          renamed |= rename(argument["as_tensor"], path, module);
        } else if (argument.contains("as_tensors")) {
          for (Json& item : argument["as_tensors"]) {
            renamed |= rename(item, path, module);
          }
        }
      }
    }
    return renamed ? model.dump() : text;
  }

 private:
  bool rename(Json& tensor, const std::string& path, Json& module) {
    const std::string name = as_text(field(tensor, "name"));
    const auto found = numbers_.find(name);
    if (found == numbers_.end()) {
      return false;
    }
    const std::uint32_t own = table_.choose(found->second, path);
    if (own == found->second) {
      return false;
    }
    if (!names_.contains(own)) {
      names_[own] = add_input(own, name, module);
    }
    tensor["name"] = names_[own];
    return true;
  }

  // Strict export gives tied weights one input; here is the missing one, placed
  // after that of `twin`.
  std::string
  add_input(std::uint32_t number, const std::string& twin, Json& module) {
    const std::string& weight = table_.entries()[number].name;
    std::string name = twin;
    do {
      name += "_tied";
    } while (module["graph"]["tensor_values"].contains(name));
    module["graph"]["tensor_values"][name] =
        module["graph"]["tensor_values"][twin];
    Json& inputs = module["graph"]["inputs"];
    Json& specs = module["signature"]["input_specs"];
    std::ptrdiff_t place = 0;
    while (defined_name(inputs.at(static_cast<std::size_t>(place))) != twin) {
      ++place;
    }
    const Json argument = {{"name", name}};
    inputs.insert(inputs.begin() + place + 1, Json{{"as_tensor", argument}});
    specs.insert(
        specs.begin() + place + 1,
        Json{{"parameter", {{"arg", argument}, {"parameter_name", weight}}}});
    return name;
  }

  const WeightTable& table_;
  std::map<std::string, std::uint32_t> numbers_;
  std::map<std::uint32_t, std::string> names_;
  bool changed_ = false;
};

// Writes the tensors that one config record lists, each storage once.
class TensorWriter {
 public:
  TensorWriter(const Program& program, bool merged, ArchiveFile& output)
      : program_(program), merged_(merged), output_(output) {}

  /// Returns the config with the new places.
  Json write(Json config, const std::string& folder, const char* prefix) {
    std::map<const void*, std::string> written;
    std::vector<at::Tensor> kept;  // so that no two share an address
    std::size_t count = 0;
    for (auto& [name, meta] : config.at("config").items()) {
      if (as_flag(field(meta, "use_pickle"))) {
        continue;
      }
      const at::Tensor tensor = current(name).cpu();
      const at::Storage& storage = tensor.storage();
      kept.push_back(tensor);
      auto& record = written[storage.unsafeGetStorageImpl()];
      if (record.empty()) {
        do {
          record = concat(prefix, count++);
        } while (program_.parts().archive->has(folder + record) &&
                 !replaced_.contains(folder + record));
        output_.record(folder + record, storage.data(), storage.nbytes());
      }
      meta["path_name"] = record;
      Json& place = meta["tensor_meta"];
      place["sizes"] = numbers(tensor.sizes());
      place["strides"] = numbers(tensor.strides());
      place["storage_offset"] = number(tensor.storage_offset());
    }
    return config;
  }

  /// The records of this program's own tensors, which are written anew.
  void replace(const Json& config, const std::string& folder) {
    for (const auto& [name, meta] : config.at("config").items()) {
      if (!as_flag(field(meta, "use_pickle"))) {
        replaced_.insert(folder + as_text(field(meta, "path_name")));
      }
    }
  }

  bool replaces(const std::string& record) const {
    return replaced_.contains(record);
  }

 private:
  at::Tensor current(const std::string& name) const {
    const WeightTable& table = program_.parts().table;
    const std::uint32_t number = table.number(name);
    const at::Tensor& own = table.entries()[number].tensor;
    const at::Tensor& read = program_.weights()[number];
    if (!merged_ || read.is_same(own)) {
      return own.detach();
    }
    try {
      return read.clone().detach().contiguous();
    } catch (const Error& error) {  // of what stands in the weight's place
      throw Error(
          error.kind(),
          concat("[save_merged] cannot save '", name, "': ", error.what()));
    }
  }

  static Json number(std::int64_t value) { return {{"as_int", value}}; }
  static Json numbers(at::IntArrayRef values) {
    Json list = Json::array();
    for (const std::int64_t value : values) {
      list.push_back(number(value));
    }
    return list;
  }

  const Program& program_;
  bool merged_;
  ArchiveFile& output_;
  std::unordered_set<std::string> replaced_;
};

// A computed weight is no tensor of the archive.
void check_no_computed(const Program& program) {
  detail::Mistakes mistakes(ErrorKind::state, "[save_merged] cannot save");
  for (const auto& layer : program.computed_layers()) {
    if (!program.weights()[layer.number].is_same(layer.shape)) {
      mistakes.add(concat(
          "'",
          layer.path,
          "' has adapters, and the program computes its weight from others in "
          "each run (a weight norm, a standardised convolution): no tensor of "
          "the file could hold the merged one. Use save() and keep the "
          "adapter in its folder"));
    }
  }
  mistakes.raise_if_any();
}

}  // namespace

void save_program(
    const Program& program,
    const std::filesystem::path& path,
    bool merged) {
  if (program.dtype() != program.exported_dtype()) {
    throw Error(
        ErrorKind::state,
        concat(
            "cannot save '",
            path.string(),
            "': the program was exported in ",
            c10::toString(program.exported_dtype()),
            " and is ",
            c10::toString(program.dtype()),
            " now, which its graph does not say; call to(",
            c10::toString(program.exported_dtype()),
            ") first"));
  }
  if (merged) {
    check_no_computed(program);
  }
  const at::NoGradGuard no_grad;
  const ProgramParts& parts = program.parts();
  const Archive& archive = *parts.archive;
  struct Part {
    std::string folder;
    const char* prefix;
    std::string config_record;
    Json config;
  };
  std::vector<Part> tensors;
  for (const auto& [which, prefix] :
       {std::pair("weights", "weight_"), std::pair("constants", "tensor_")}) {
    const std::string folder = concat("data/", which, "/");
    const std::string record =
        concat(folder, parts.model, "_", which, "_config.json");
    tensors.push_back(
        {folder, prefix, record, Json::parse(archive.text(record))});
  }

  const std::string model_record = concat("models/", parts.model, ".json");
  ReaderNames names(program, merged);
  ArchiveFile output(path);
  TensorWriter writer(program, merged, output);
  std::set<std::string> skipped = {".data/version", ".data/serialization_id"};
  for (const Part& part : tensors) {
    writer.replace(part.config, part.folder);
    skipped.insert(part.config_record);
  }
  for (const std::string& record : archive.records()) {
    if (record == model_record) {
      std::string text = names.apply(archive.text(record));
      if (merged && parts.findings.has_training_mode &&
          !program.is_training()) {
        Json model = Json::parse(text);
        write_eval_mode(model["graph_module"]["graph"]);
        text = model.dump();
      }
      output.record(record, text.data(), text.size());
    } else if (!skipped.contains(record) && !writer.replaces(record)) {
      const Bytes bytes = archive.bytes(record);
      output.record(record, bytes.data, bytes.size);
    }
  }
  for (Part& part : tensors) {
    const std::string text =
        writer.write(std::move(part.config), part.folder, part.prefix).dump();
    output.record(part.config_record, text.data(), text.size());
  }
  output.publish();
}

}  // namespace peft::graph
