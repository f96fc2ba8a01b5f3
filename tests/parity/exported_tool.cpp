// SPDX-License-Identifier: Apache-2.0
// The C++ side of exported_parity.py: `exported_tool JOBS.json` runs a list of
// jobs, each of which has a
//
//   do       "run", "load" (an adapter that PEFT saved) or "inject" (by its
//            config)
//   program  the .pt2
//   inputs   for each size a file of the tensors passed: "0", "1", ...
//   calls    for each size everything passed: {"args": [...], "kwargs": {...}}
//   result   where to write: result.json and result.safetensors
//
// and paths for what it saves. A job that fails writes {"error": ...} as its
// result.json. Everything random starts from seed 0.
#include <filesystem>
#include <fstream>
#include <iostream>

#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include "parity/exported_values.h"
#include "peft/exported_program.h"
#include "peft/peft.h"

namespace {

using nlohmann::json;
using peft::ExportedProgram;
using peft_parity::IValue;
using torch::Tensor;

struct Job {
  json spec;
  json results = json::object();
  peft::StateDict tensors;  // results too

  std::string text(const char* field) const {
    return spec.at(field).get<std::string>();
  }
  std::size_t sizes() const { return spec.at("inputs").size(); }
  peft::StateDict inputs(std::size_t size) const {
    return peft::load_safetensors(
        spec.at("inputs").at(size).get<std::string>());
  }
  void keep(const std::string& prefix, const std::vector<Tensor>& values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      tensors.insert(prefix + std::to_string(i), values[i].detach().clone());
    }
  }
  void keep(const std::string& prefix, const peft::StateDict& values) {
    for (const auto& item : values) {
      tensors.insert(prefix + item.key(), item->detach().clone());
    }
  }
};

/// The tensor outputs of a call with everything as Python passes it.
std::vector<Tensor> call(
    Job& job,
    const ExportedProgram& program,
    std::size_t size,
    const peft::StateDict& inputs) {
  const auto& spec = job.spec.at("calls").at(size);
  std::vector<IValue> arguments;
  for (const auto& argument : spec.at("args")) {
    arguments.push_back(peft_parity::to_value(argument, inputs));
  }
  std::map<std::string, IValue> named;
  for (const auto& [name, argument] : spec.at("kwargs").items()) {
    named[name] = peft_parity::to_value(argument, inputs);
  }
  torch::manual_seed(0);
  const auto value = program.call(arguments, named);
  std::vector<Tensor> outputs;
  job.results["structure"] = peft_parity::to_json(value, outputs);
  return outputs;
}

/// The same through forward, where tensors say everything.
std::vector<Tensor> forward(
    Job& job,
    const ExportedProgram& program,
    std::size_t size,
    const peft::StateDict& inputs) {
  if (!job.spec.at("only_tensors").get<bool>()) {
    return call(job, program, size, inputs);
  }
  std::vector<Tensor> tensors;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    tensors.push_back(inputs[std::to_string(i)]);
  }
  torch::manual_seed(0);
  return program.forward(tensors);
}

json shapes_of(const peft::StateDict& tensors) {
  auto shapes = json::object();
  for (const auto& item : tensors) {
    shapes[item.key()] = item->sizes().vec();
  }
  return shapes;
}

/// Both sizes in the mode of the export, by forward, and in eval mode, by call.
void run(Job& job) {
  const auto program = ExportedProgram::load(job.text("program"));
  program.save(job.text("saved"));
  job.results["parameters"] = shapes_of(program.named_parameters());
  job.results["buffers"] = shapes_of(program.named_buffers());
  peft::LoraConfig all_linear;
  all_linear.target_modules = "all-linear";
  job.results["all_linear"] = peft::match_report(all_linear, program).adapted();
  for (std::size_t i = 0; i < job.sizes(); ++i) {
    const auto size = std::to_string(i);
    const auto inputs = job.inputs(i);
    job.keep("train.output." + size + ".", forward(job, program, i, inputs));
    job.keep("train.input." + size + ".", inputs);  // some models change them
  }
  job.keep("train.buffer.", program.named_buffers());

  auto fresh = ExportedProgram::load(job.text("program"));
  fresh.eval();
  for (std::size_t i = 0; i < job.sizes(); ++i) {
    const auto prefix = "eval.output." + std::to_string(i) + ".";
    job.keep(prefix, call(job, fresh, i, job.inputs(i)));
  }
  job.keep("eval.buffer.", fresh.named_buffers());
}

Tensor product(const Tensor& y, const Tensor& direction) {
  return (y * direction).sum();
}

Tensor error(const Tensor& y, const Tensor& target) {
  return (y - target).square().mean();
}

/// Over the outputs that Python gives a direction for.
Tensor loss_of(
    const Job& job,
    const std::vector<Tensor>& outputs,
    Tensor (*part)(const Tensor&, const Tensor&)) {
  auto loss = torch::zeros({});
  for (const auto& item : peft::load_safetensors(job.text("directions"))) {
    const auto& y = outputs.at(std::stoul(item.key()));
    loss = loss + part(y.to(torch::kFloat32), item.value());
  }
  return loss;
}

/// Outputs, values and gradients with PEFT's adapter, then some steps.
void load(Job& job) {
  const auto program = ExportedProgram::load(job.text("program"));
  const auto adapters = peft::load_adapter(
      program, job.text("adapter"), "default", {.is_trainable = true});
  if (job.spec.contains("merged")) {
    program.save_merged(job.text("merged"));
  }
  const auto outputs = forward(job, program, 0, job.inputs(0));
  job.keep("output.", outputs);
  loss_of(job, outputs, product).backward();
  for (const auto& item : peft::get_peft_model_state_dict(program)) {
    job.tensors.insert("value." + item.key(), item->detach().clone());
    if (item->grad().defined()) {
      job.tensors.insert("grad." + item.key(), item->grad().clone());
    }
  }
  // With this eps, gradients that are rounding noise move nothing.
  torch::optim::AdamW optimizer(
      adapters.trainable_parameters(),
      torch::optim::AdamWOptions(1e-2).eps(1e-4));
  for (int step = 0; step < job.spec.at("steps").get<int>(); ++step) {
    optimizer.zero_grad();
    const auto y = forward(job, program, 0, job.inputs(0));
    const auto loss = loss_of(job, y, error);
    loss.backward();
    optimizer.step();
    job.results["losses"].push_back(loss.item<double>());
  }
}

/// An adapter by PEFT's config, for PEFT to load.
void inject(Job& job) {
  const auto program = ExportedProgram::load(job.text("program"));
  auto config = peft::load_adapter_config(job.text("adapter"));
  config->inference_mode = false;
  torch::manual_seed(7);
  const auto adapters = peft::inject_adapter_in_model(*config, program);
  {
    const torch::NoGradGuard no_grad;
    for (auto tensor : adapters.parameters("default")) {
      if (tensor.is_floating_point()) {
        tensor.add_(torch::rand_like(tensor), 0.2);
      }
    }
  }
  peft::save_pretrained(program, job.text("saved"));
  job.keep("output.", forward(job, program, 0, job.inputs(0)));
}

void run_job(const json& spec) {
  Job job;
  job.spec = spec;
  try {
    const auto what = job.text("do");
    (what == "run" ? run : what == "load" ? load : inject)(job);
  } catch (const std::exception& failure) {
    job.results["error"] = failure.what();
  }
  const auto path = job.text("result");
  peft::save_safetensors(job.tensors, path + ".safetensors");
  std::ofstream(path + ".json") << job.results;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: exported_tool JOBS.json\n";
    return 2;
  }
  for (const auto& spec : json::parse(std::ifstream(argv[1]))) {
    run_job(spec);
  }
  return 0;
}
