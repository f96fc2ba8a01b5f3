// SPDX-License-Identifier: Apache-2.0
// Archives that somebody broke, by accident or to do harm: refused with a
// reason, never followed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/exported_program.h"
#include "support/error_of.h"
#include "support/file_size_limit.h"
#include "support/program_builder.h"
#include "support/temp_folder.h"

namespace peft_test {
namespace {

using peft::ErrorKind;
using testing::AllOf;
using testing::HasSubstr;

class BrokenArchive : public testing::Test {
 protected:
  BrokenArchive() {
    builder_.parameter("weight", torch::randn({3, 4}))
        .input("x", at::kFloat, {2, 4});
    builder_.graph.node(
        "torch.ops.aten.linear.default",
        {{"input", value("x")}, {"weight", value("p_weight")}},
        {"y"});
    builder_.output("y");
  }

  std::string load_error(ErrorKind kind = ErrorKind::file) {
    return error_of(kind, [&] { peft::ExportedProgram::load(path_); });
  }

  std::string error_after(
      std::function<void(Json& model, Json& weights)> change,
      ErrorKind kind = ErrorKind::file) {
    builder_.change = std::move(change);
    builder_.write(path_);
    return load_error(kind);
  }

  TempFolder folder_;
  std::filesystem::path path_ = folder_ / "model.pt2";
  ProgramBuilder builder_;
};

Json& graph_of(Json& model) {
  return model["graph_module"]["graph"];
}
Json& weight_of(Json& weights) {
  return weights["config"]["weight"]["tensor_meta"];
}

TEST_F(BrokenArchive, AnyTruncationIsRefused) {
  builder_.write(path_);
  const std::string bytes = read_bytes(path_);
  peft::ExportedProgram::load(path_);
  for (std::size_t size = 0; size < bytes.size(); size += 97) {
    write_bytes(path_, bytes.substr(0, size));
    EXPECT_NE(load_error(), "");
  }
}

TEST_F(BrokenArchive, AnyChangedByteIsRefusedOrHarmless) {
  builder_.write(path_);
  const std::string bytes = read_bytes(path_);
  for (std::size_t at = 0; at < bytes.size(); at += 13) {
    std::string changed = bytes;
    changed[at] = static_cast<char>(changed[at] ^ 0x55);
    write_bytes(path_, changed);
    try {
      peft::ExportedProgram::load(path_).forward({torch::ones({2, 4})});
    } catch (const peft::Error&) {
    }
  }
}

TEST_F(BrokenArchive, OtherFilesAreNamed) {
  write_bytes(path_, "hello");
  EXPECT_THAT(load_error(), HasSubstr("not a sound and complete zip archive"));
  torch::save(torch::ones(3), path_.string());
  EXPECT_THAT(load_error(), HasSubstr("TorchScript or torch.save"));
  EXPECT_THAT(
      error_of(
          ErrorKind::file,
          [&] { peft::ExportedProgram::load(folder_ / "none.pt2"); }),
      HasSubstr("No such file"));
  builder_.write(path_);
  EXPECT_THAT(
      error_of(
          ErrorKind::file, [&] { peft::ExportedProgram::load(path_, "modl"); }),
      AllOf(HasSubstr("'modl'"), HasSubstr("did you mean 'model'")));
}

// By keyword twice; and, where arguments have no names, at its position and by
// keyword.
TEST_F(BrokenArchive, AnArgumentIsGivenOnce) {
  const auto again = [](Json& model) {
    Json& inputs = graph_of(model)["nodes"][0]["inputs"];
    inputs.push_back(inputs[1]);
  };
  EXPECT_THAT(
      error_after(
          [&](Json& model, Json&) { again(model); }, ErrorKind::program),
      AllOf(HasSubstr("node 'y'"), HasSubstr("'weight' is given twice")));
  const auto vmapped = [&](Json& model, Json&) {
    Json& node = graph_of(model)["nodes"][0];
    node["target"] = "torch._functorch.predispatch._add_batch_dim";
    node["inputs"][0]["name"] = "";
    node["inputs"][1]["name"] = "self";
  };
  EXPECT_THAT(
      error_after(vmapped, ErrorKind::program),
      AllOf(HasSubstr("node 'y'"), HasSubstr("'self' is given twice")));
  const auto number = [&](Json& model, Json&) {
    Json& node = graph_of(model)["nodes"][0];
    node["target"] = "_operator.mul";
    node["inputs"] = Json::array(
        {{{"name", "a"}, {"arg", integer(2)}, {"kind", 1}},
         {{"name", "a"}, {"arg", integer(3)}, {"kind", 1}}});
  };
  EXPECT_THAT(
      error_after(number, ErrorKind::program),
      AllOf(HasSubstr("node 'y'"), HasSubstr("'a' is given twice")));
}

TEST_F(BrokenArchive, WeightsMustLieInTheirRecords) {
  const auto error = [&](std::function<void(Json&)> change) {
    return error_after(
        [change](Json&, Json& weights) { change(weight_of(weights)); });
  };
  EXPECT_THAT(
      error([](Json& m) { m["storage_offset"] = integer(1); }),
      AllOf(HasSubstr("'weight'"), HasSubstr("52 bytes"), HasSubstr("has 48")));
  EXPECT_THAT(
      error([](Json& m) { m["sizes"] = {integer(1LL << 62), integer(4)}; }),
      HasSubstr("overflow"));
  EXPECT_THAT(
      error([](Json& m) { m["sizes"] = {integer(-3), integer(4)}; }),
      HasSubstr("size -3"));
  EXPECT_THAT(
      error([](Json& m) { m["strides"] = {integer(1LL << 61), integer(1)}; }),
      HasSubstr("overflow"));
  EXPECT_THAT(
      error([](Json& m) { m["strides"] = {integer(1)}; }),
      HasSubstr("2 sizes and 1 strides"));
  EXPECT_THAT(error([](Json& m) { m["dtype"] = 99; }), HasSubstr("dtype 99"));
  EXPECT_THAT(error([](Json& m) { m["layout"] = 2; }), HasSubstr("layout"));
  EXPECT_THAT(
      error([](Json& m) { m["device"]["type"] = "toaster"; }),
      HasSubstr("toaster"));
  EXPECT_THAT(
      error([](Json& m) { m["sizes"] = "big"; }),
      HasSubstr("\"big\" stands where a list is expected"));
}

TEST_F(BrokenArchive, RecordsMustExistAndPathsLeadNowhereElse) {
  const auto error = [&](const std::string& name) {
    return error_after([name](Json&, Json& weights) {
      weights["config"]["weight"]["path_name"] = name;
    });
  };
  EXPECT_THAT(error("weight_7"), HasSubstr("no record"));
  EXPECT_THAT(error("../../../../etc/passwd"), HasSubstr("no record"));
  EXPECT_THAT(error("/etc/passwd"), HasSubstr("no record"));
  EXPECT_THAT(
      error_after([](Json&, Json& weights) {
        weights["config"]["weight"]["use_pickle"] = true;
      }),
      HasSubstr("Python object"));
}

TEST_F(BrokenArchive, ARecordStandsInItOnce) {
  builder_.parameter("other", torch::randn({3, 4}));
  builder_.write(path_);
  std::string bytes = read_bytes(path_);
  // In the zip's own headers; the config has names without their folder.
  const std::string name = "data/weights/weight_1";
  std::size_t renamed = 0;
  for (auto at = bytes.find(name); at != std::string::npos;
       at = bytes.find(name, at)) {
    bytes[at + name.size() - 1] = '0';
    ++renamed;
  }
  ASSERT_GE(renamed, 2);
  write_bytes(path_, bytes);
  EXPECT_THAT(load_error(), HasSubstr("several records of one name"));
}

TEST_F(BrokenArchive, TwoWeightsMayNotNameOneMissingRecord) {
  builder_.parameter("tied", torch::randn({3, 4}));
  const auto error = error_after([](Json&, Json& weights) {
    for (auto& [name, weight] : weights["config"].items()) {
      weight["path_name"] = "missing";
    }
  });
  EXPECT_THAT(error, AllOf(HasSubstr("'weight'"), HasSubstr("'tied'")));
}

TEST_F(BrokenArchive, ValuesMustBeDefinedOnceBeforeTheyAreRead) {
  EXPECT_THAT(
      error_after(
          [](Json& model, Json&) {  // reads its own result
            graph_of(model)["nodes"][0]["inputs"][0]["arg"] = value("y");
          },
          ErrorKind::program),
      AllOf(HasSubstr("node 'y'"), HasSubstr("read before it is defined")));
  EXPECT_THAT(
      error_after([](Json& model, Json&) {
        graph_of(model)["outputs"][0] = value("nothing");
      }),
      HasSubstr("'nothing' is read before"));
  EXPECT_THAT(
      error_after(
          [](Json& model, Json&) {
            graph_of(model)["nodes"][0]["outputs"][0] = value("x");
          },
          ErrorKind::program),
      HasSubstr("defined twice"));
}

TEST_F(BrokenArchive, NodesMustFitTheirOperators) {
  const auto error = [&](std::function<void(Json & node)> change) {
    return error_after(
        [change](Json& model, Json&) { change(graph_of(model)["nodes"][0]); },
        ErrorKind::program);
  };
  EXPECT_THAT(
      error([](Json& node) { node["inputs"].erase(1); }),
      HasSubstr("argument 'weight' is missing"));
  EXPECT_THAT(
      error([](Json& node) { node["inputs"][1]["name"] = "wait"; }),
      HasSubstr("'weight' is missing"));
  EXPECT_THAT(
      error([](Json& node) { node["outputs"].push_back(value("second")); }),
      HasSubstr("2 results"));
  EXPECT_THAT(
      error([](Json& node) { node["target"] = "torch.ops"; }),
      HasSubstr("nothing here stands for"));
  EXPECT_THAT(
      error([](Json& node) {
        node["inputs"][0]["arg"] = {{"as_tensor", 3}, {"as_int", 4}};
      }),
      HasSubstr("one member"));
}

TEST_F(BrokenArchive, GraphsMustFitTheirSignature) {
  const auto error = [&](std::function<void(Json & module)> change) {
    return error_after(
        [change](Json& model, Json&) { change(model["graph_module"]); });
  };
  EXPECT_THAT(
      error([](Json& m) { m["signature"]["input_specs"].erase(1); }),
      HasSubstr("2 inputs and is given 1"));
  EXPECT_THAT(
      error([](Json& m) { m["signature"]["output_specs"] = Json::array(); }),
      HasSubstr("another number of outputs"));
  EXPECT_THAT(
      error([](Json& m) {
        m["signature"]["input_specs"][0]["parameter"]["parameter_name"] = "w";
      }),
      HasSubstr("no tensor 'w'"));
  EXPECT_THAT(
      error([](Json& m) { m["module_call_graph"] = Json::array(); }),
      HasSubstr("how its forward is called"));
  EXPECT_THAT(
      error([](Json& m) {
        m["module_call_graph"][0]["signature"]["in_spec"] = "[1, {";
      }),
      HasSubstr("malformed"));
  EXPECT_THAT(error([](Json& m) { m.erase("graph"); }), HasSubstr("'graph'"));
}

TEST_F(BrokenArchive, DeepNestingIsRefused) {
  Json inner = GraphBuilder().json();
  for (int i = 0; i < 60; ++i) {
    GraphBuilder outer;
    outer.node(
        "torch.ops.higher_order.wrap_with_set_grad_enabled",
        {{"", flag(true)}, {"", graph_value("g", inner)}},
        {});
    inner = outer.json();
  }
  EXPECT_THAT(
      error_after(
          [&](Json& model, Json&) {
            for (auto& node : inner["nodes"]) {
              graph_of(model)["nodes"].push_back(node);
            }
          },
          ErrorKind::program),
      HasSubstr("nested too deeply"));

  std::string deep(200000, '[');
  builder_.change = nullptr;
  builder_.records["models/model.json"] = deep;
  builder_.write(path_);
  EXPECT_NE(load_error(), "");
}

TEST_F(BrokenArchive, OtherSchemasAreNamed) {
  EXPECT_THAT(
      error_after(
          [](Json& model, Json&) { model["schema_version"]["major"] = 7; }),
      AllOf(HasSubstr("schema version 7"), HasSubstr("export it anew")));
  builder_.change = nullptr;
  builder_.records["data/weights/model.pt"] = "old";
  builder_.write(path_);
  EXPECT_THAT(load_error(), HasSubstr("torch before 2.9"));
}

TEST_F(BrokenArchive, AFullDiskLeavesTheOldFile) {
  builder_.write(path_);
  auto program = peft::ExportedProgram::load(path_);
  const auto out = folder_ / "out.pt2";
  write_bytes(out, "old");
  {
    const FileSizeLimit limit(1000);
    error_of(ErrorKind::file, [&] { program.save(out); });
  }
  EXPECT_EQ(read_bytes(out), "old");
  EXPECT_THAT(
      folder_.names(), testing::UnorderedElementsAre("model.pt2", "out.pt2"));
}

}  // namespace
}  // namespace peft_test
