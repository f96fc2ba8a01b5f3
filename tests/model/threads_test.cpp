// SPDX-License-Identifier: Apache-2.0
// Many threads on one model, while another changes its adapters. Run under
// ThreadSanitizer too (make test-tsan).
#include <atomic>
#include <cstdlib>
#include <optional>
#include <thread>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

using torch::Tensor;
using Names = std::vector<std::string>;

peft::LoraConfig lora(int64_t r) {
  peft::LoraConfig config;
  config.r = r;
  config.lora_alpha = 5;
  config.target_modules = {"up", "down", "head"};
  config.inference_mode = true;
  return config;
}

peft::StateDict copy_of(const peft::StateDict& state) {
  peft::StateDict copy;
  for (const auto& item : state) {
    copy.insert(item.key(), item.value().detach().clone());
  }
  return copy;
}

// PEFT_STRESS_SWAPS=100000 for minutes of them.
int swaps() {
  const char* asked = std::getenv("PEFT_STRESS_SWAPS");
  return asked ? std::atoi(asked) : 400;
}

class ManyThreads : public testing::Test {
 protected:
  static constexpr int readers = 8;

  void SetUp() override {
    torch::manual_seed(4);
    model_->eval();
    for (const auto& [name, rank] :
         std::vector<std::pair<std::string, int64_t>>{{"a", 2}, {"b", 3}}) {
      auto adapters = peft::inject_adapter_in_model(lora(rank), *model_, name);
      randomise(adapters.parameters(name));
      outputs_.push_back(forward());
      states_.push_back(
          copy_of(peft::get_peft_model_state_dict(*model_, name)));
    }
  }

  Tensor forward() const {
    const torch::NoGradGuard no_grad;
    return TextModel(model_)->forward(text_ids());
  }

  peft::Adapters adapters() { return peft::adapters_of(*model_); }

  // Which of the known outputs this is; -1: none.
  int find(const Tensor& y) const {
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      if (torch::allclose(y, outputs_[i], 1e-4, 1e-5)) {
        return static_cast<int>(i);
      }
    }
    return -1;
  }

  // Runs `read` in many threads until `write` has returned; how many readings
  // were wrong.
  template <class Read, class Write>
  int run(const Read& read, const Write& write) {
    std::atomic<bool> done = false;
    std::atomic<int> wrong = 0;
    std::atomic<int> read_by_all = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < readers; ++i) {
      threads.emplace_back([&, i] {
        bool counted = false;
        do {
          wrong += read(i) ? 0 : 1;
          read_by_all += counted ? 0 : 1;
          counted = true;
        } while (!done);
      });
    }
    write();
    while (read_by_all < readers) {
      std::this_thread::yield();
    }
    done = true;
    for (auto& thread : threads) {
      thread.join();
    }
    return wrong;
  }

  TextModel model_;
  std::vector<Tensor> outputs_;
  std::vector<peft::StateDict> states_;
};

TEST_F(ManyThreads, EachRunsItsOwnAdapter) {
  EXPECT_EQ(
      run(
          [&](int i) {
            const peft::UseAdapter scope(adapters(), i % 2 ? "a" : "b");
            return find(forward()) == (i % 2 ? 0 : 1);
          },
          [&] {
            for (int i = 0; i < 2000; ++i) {
              adapters().set_adapter(i % 2 ? "a" : "b");
              adapters().enable_adapters(i % 3 != 0);
            }
          }),
      0);
}

TEST_F(ManyThreads, SeeAWholeChoiceThroughAHundredThousandSwitches) {
  EXPECT_EQ(
      run(
          [&](int) {
            const peft::PinAdapters scope(adapters());
            return find(forward()) >= 0;
          },
          [&] {
            for (int i = 0; i < 100'000; ++i) {
              adapters().set_adapter(i % 2 ? "a" : "b");
            }
          }),
      0);
}

TEST_F(ManyThreads, SeeWholeAdaptersWhileTheyAreSwapped) {
  EXPECT_EQ(
      run(
          [&](int) {
            const peft::UseAdapter scope(adapters(), "a");
            return find(forward()) >= 0;
          },
          [&] {
            for (int i = 0; i < swaps(); ++i) {
              const std::size_t next = i % 2;
              peft::hotswap_adapter(
                  *model_, states_[next], lora(next ? 3 : 2), "a");
            }
          }),
      0);
}

TEST_F(ManyThreads, GoOnWhileAdaptersComeGoAndAreMerged) {
  // A batch cannot be mixed on merged weights, and says so.
  const auto is_right_in_a_batch = [&] {
    std::optional<peft::BatchAdapters> scope;
    try {
      scope.emplace(adapters(), Names{"b", "b"});
    } catch (const peft::Error& error) {
      return error.kind() == peft::ErrorKind::state &&
          std::string(error.what()).find("are merged") != std::string::npos;
    }
    return find(forward()) == 1;
  };
  EXPECT_EQ(
      run(
          [&](int i) {
            if (i == 0) {
              const peft::PinAdapters scope(adapters());
              return find(forward()) >= 0;
            }
            if (i % 2) {
              const peft::UseAdapter scope(adapters(), "b");
              return find(forward()) == 1;
            }
            return is_right_in_a_batch();
          },
          [&] {
            adapters().set_adapter("a");
            for (int i = 0; i < 100; ++i) {
              // Not active before it has its weights: it does what "a" does.
              const auto name = "c" + std::to_string(i);
              peft::inject_adapter_in_model(
                  lora(2), *model_, name, {.activate = false});
              peft::set_peft_model_state_dict(*model_, states_[0], name);
              adapters().merge_adapter({name});
              adapters().unmerge_adapter();
              adapters().set_adapter("b");
              adapters().delete_adapter(name);
            }
          }),
      0);
}

TEST_F(ManyThreads, SeeMergedOrUnmergedWeights) {
  EXPECT_EQ(
      run(
          [&](int i) {
            if (i % 2) {
              const peft::UseAdapter scope(adapters(), "a");
              return find(forward()) == 0;
            }
            const peft::PinAdapters scope(adapters());
            return find(forward()) == 1;
          },
          [&] {
            adapters().set_adapter("b");
            for (int i = 0; i < 300; ++i) {
              adapters().merge_adapter();
              adapters().unmerge_adapter();
            }
          }),
      0);
}

TEST_F(ManyThreads, LetGoOfWhatIsGone) {
  std::weak_ptr<c10::StorageImpl> unused;
  const Tensor weight =
      peft::get_peft_model_state_dict(*model_, "a")["head.lora_A.weight"];
  {
    const peft::UseAdapter scope(adapters(), "a");
    adapters().delete_adapter("a");
    EXPECT_EQ(find(forward()), 0);
  }
  EXPECT_EQ(weight.use_count(), 1);
}

}  // namespace
}  // namespace peft_test
