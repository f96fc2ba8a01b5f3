// SPDX-License-Identifier: Apache-2.0
// EVA (arXiv 2410.07170): A starts as the principal components of what a layer
// reads, and the ranks go to the layers where they explain most.
//
// Each layer keeps round(r rho) components of its input rows, batch by batch,
// until those it has a rank for stand still: |cos| with the batch before >=
// tau. After each batch the components of all layers are sorted by the share of
// variance they explain; the first sum(r) get a rank. A layer may so end with
// rank 0, or be woken by a larger rank that it has not converged for.
//
// Layers that read the same in the first batch (q, k and v of an attention)
// share one decomposition, the first one's, with the most components among
// them. PEFT runs the first batch once to find them and once more to fit; here
// its rows are kept until it ends, each distinct input once.
//
//   while (!eva.done()) { run a batch: see() for each layer that wants();
//                         eva.end_batch(); }
//
// Batches start over when they run out. Two departures from PEFT, whose loop
// does not end or ends in NaN for these: NaN in the rows is an Error, and rows
// that never vary explain nothing. One more: layers that share are each
// whitened once, where PEFT divides the shared tensor again for each.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "methods/incremental_pca.h"

namespace peft::detail {

struct EvaLayer {
  std::string path;
  std::int64_t rank;
  std::int64_t inputs;
};

struct EvaSettings {
  double rho;
  double tau;
  bool whiten;  ///< divide each component by sqrt(its singular value)
};

class EvaRanks {
 public:
  /// In the order of the model's modules. Throws Error (config), naming all
  /// layers that would need more components than they have inputs.
  EvaRanks(const std::vector<EvaLayer>& layers, const EvaSettings& settings);

  /// Whether to see this layer in the batch to come.
  bool wants(std::size_t layer) const;

  /// `rows` [n, inputs] is what the layer read; not kept as it is, so it may
  /// be overwritten. Several calls in a batch, for a layer that runs several
  /// times, are as many fits. Passed over when the layer does not want it or n
  /// is less than its components. Throws Error: shape for other sizes, input
  /// for NaN and infinity.
  void see(std::size_t layer, const at::Tensor& rows);

  /// Throws Error (target) when the first batch did not reach all layers.
  void end_batch();
  bool done() const;

  /// For people: how many layers have converged, and which still lacks rows.
  std::string progress() const;

  /// By layer, as of the last batch.
  std::vector<std::int64_t> ranks() const;
  /// By layer, [rank, inputs], float32 or float64. Throws Error (state) before
  /// done(), input when whitening divides by 0.
  std::vector<at::Tensor> components() const;

 private:
  struct Layer {
    EvaLayer given;
    std::int64_t components;  // at most its rank
    std::int64_t rank;
    std::size_t leader;  // whose decomposition it shares, or itself

    std::vector<at::Tensor> first_rows;  // a tensor shared where rows are equal
    std::int64_t most_rows = 0;          // in one call

    // Of leaders, from the end of the first batch.
    std::optional<IncrementalPca> pca;
    at::Tensor converged;  // [components] bool, undefined for none
    bool rests = false;
  };

  bool is_leader(std::size_t layer) const;
  bool has_converged(const Layer& layer) const;
  at::Tensor keep(const at::Tensor& rows) const;
  void fit(Layer& layer, const at::Tensor& rows);
  void check_all_seen() const;
  void share_equal_inputs();
  void share_out();

  std::vector<Layer> layers_;
  EvaSettings settings_;
  std::int64_t budget_ = 0;
  bool is_first_batch_ = true;
};

}  // namespace peft::detail
