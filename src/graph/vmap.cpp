// SPDX-License-Identifier: Apache-2.0
#include "graph/vmap.h"

#include <map>

#include <ATen/functorch/BatchedTensorImpl.h>
#include <ATen/functorch/DynamicLayer.h>
#include <ATen/ops/movedim.h>
#include <torch/csrc/jit/frontend/function_schema_parser.h>

#include "base/text.h"
#include "peft/error.h"

namespace peft::graph {
namespace {

namespace functorch = at::functorch;
using c10::IValue;
using detail::concat;
using Arguments = std::vector<IValue>;

thread_local int levels = 0;

functorch::RandomnessType as_functorch(Randomness randomness) {
  switch (randomness) {
    case Randomness::same:
      return functorch::RandomnessType::Same;
    case Randomness::different:
      return functorch::RandomnessType::Different;
    case Randomness::error:
      break;
  }
  return functorch::RandomnessType::Error;
}

// One level on the thread as long as it lives.
class Level {
 public:
  Level(std::int64_t size, Randomness randomness) {
    functorch::initAndPushDynamicLayer(
        functorch::TransformType::Vmap,
        c10::SymInt(size),
        as_functorch(randomness));
    ++levels;
  }
  ~Level() {
    --levels;
    functorch::popDynamicLayerAndDeleteMetadata();
  }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;
};

// Export wrote the levels that it had itself; on this thread others may be
// below.
std::int64_t level_of(const IValue& further_out) {
  return functorch::maybeCurrentDynamicLayer()->layerId() - further_out.toInt();
}

std::int64_t wrapped(std::int64_t dim, std::int64_t dims) {
  if (dim < -dims || dim >= dims) {
    throw Error(
        ErrorKind::program,
        concat("there is no dimension ", dim, " among ", dims));
  }
  return dim < 0 ? dim + dims : dim;
}

// (self, batch_dim, level)
IValue add_batch_dim(const Arguments& arguments) {
  const at::Tensor self = arguments[0].toTensor();
  return functorch::addBatchDim(
      self, wrapped(arguments[1].toInt(), self.dim()), level_of(arguments[2]));
}

// (self, level, batch_size, out_dim)
IValue remove_batch_dim(const Arguments& arguments) {
  const at::Tensor self = arguments[0].toTensor();
  const std::int64_t dim = wrapped(arguments[3].toInt(), self.dim() + 1);
  const auto* batched = functorch::maybeGetBatchedImpl(self);
  if (batched && batched->level() == level_of(arguments[1])) {
    return at::movedim(batched->value(), batched->bdim(), dim);
  }
  // Every row has the same.
  std::vector<std::int64_t> sizes = self.sizes().vec();
  sizes.insert(
      sizes.begin() + static_cast<std::ptrdiff_t>(dim), arguments[2].toInt());
  return self.unsqueeze(dim).expand(sizes);
}

std::map<std::string, BatchOperator> make_operators() {
  std::map<std::string, BatchOperator> operators;
  const auto add = [&](const char* name, const char* schema, auto run) {
    operators.emplace(
        name, BatchOperator{torch::jit::parseSchema(schema), run});
  };
  add("_add_batch_dim",
      "functorch::_add_batch_dim(Tensor self, int batch_dim, int level) -> "
      "Tensor",
      add_batch_dim);
  add("_remove_batch_dim",
      "functorch::_remove_batch_dim(Tensor self, int level, int batch_size, "
      "int out_dim) -> Tensor",
      remove_batch_dim);
  return operators;
}

}  // namespace

std::optional<Randomness> to_randomness(const std::string& word) {
  static const std::map<std::string, Randomness> words = {
      {"error", Randomness::error},
      {"same", Randomness::same},
      {"different", Randomness::different}};
  const auto found = words.find(word);
  return found == words.end() ? std::nullopt : std::optional(found->second);
}

bool runs_in_vmap() {
  return levels > 0;
}

void VmapBlock::run(Frame& frame) const {
  const Level level(size_.evaluate(frame).toInt(), randomness_);
  Block::run(frame);
}

const BatchOperator* find_batch_operator(const std::string& name) {
  static const auto operators = make_operators();
  const auto found = operators.find(name);
  return found == operators.end() ? nullptr : &found->second;
}

}  // namespace peft::graph
