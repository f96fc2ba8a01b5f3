// SPDX-License-Identifier: Apache-2.0
// One frozen model, 64 customers with an adapter each, a pool of threads that
// answers their requests, and a thread that brings new versions of adapters
// meanwhile. Every answer is compared with what its adapter gives alone.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <peft/peft.h>
#include <torch/torch.h>

using torch::Tensor;
using Clock = std::chrono::steady_clock;

constexpr int customers = 64;
constexpr int layers = 4;
constexpr int width = 256;
constexpr int length = 16;
constexpr int batch = 16;

struct ReaderImpl : torch::nn::Module {
  torch::nn::Embedding tokens{500, width};
  torch::nn::TransformerEncoder encoder{nullptr};
  torch::nn::Linear head{width, 8};

  ReaderImpl() {
    const auto layer =
        torch::nn::TransformerEncoderLayerOptions(width, 4).dim_feedforward(
            2 * width);
    encoder = torch::nn::TransformerEncoder(
        torch::nn::TransformerEncoderOptions(layer, layers));
    register_module("tokens", tokens);
    register_module("encoder", encoder);
    register_module("head", head);
  }

  Tensor forward(const Tensor& ids) {  // [batch, length] -> [batch, 8]
    const Tensor x = tokens(ids).transpose(0, 1);  // positions first
    return head(encoder(x).mean(0));
  }
};
TORCH_MODULE(Reader);

struct Service {
  Reader model;
  peft::LoraConfig config;
  std::vector<std::string> names;
  std::vector<peft::StateDict> versions[2];  // of each customer's adapter
  std::vector<Tensor> questions;             // [1, length]
  // By version, customer and question; the base model's by question.
  std::vector<std::vector<Tensor>> answers[2];
  std::vector<Tensor> base_answers;

  peft::Adapters adapters() { return peft::adapters_of(*model); }
};

Service make_service() {
  Service service;
  service.model->eval();
  for (int i = 0; i < 8; ++i) {
    service.questions.push_back(torch::randint(500, {1, length}));
    service.base_answers.push_back(service.model(service.questions[i]));
  }
  service.config.target_modules = "all-linear";
  service.config.inference_mode = true;
  for (int i = 0; i < customers; ++i) {
    const std::string name = "customer-" + std::to_string(i);
    service.names.push_back(name);
    service.config.r = i % 2 ? 4 : 8;
    auto adapters =
        peft::inject_adapter_in_model(service.config, *service.model, name);
    for (const int version : {0, 1}) {
      peft::StateDict copy;
      std::vector<Tensor> answers;
      for (Tensor tensor : adapters.parameters(name)) {
        tensor.normal_(0, 0.05);
      }
      for (const auto& item :
           peft::get_peft_model_state_dict(*service.model, name)) {
        copy.insert(item.key(), item->clone());
      }
      for (const Tensor& question : service.questions) {
        answers.push_back(service.model(question));
      }
      service.versions[version].push_back(std::move(copy));
      service.answers[version].push_back(std::move(answers));
    }
  }
  return service;
}

bool agree(const Tensor& a, const Tensor& b) {
  return torch::allclose(a, b, 1e-3, 1e-4);
}

// Whether this is what one of the two versions answers.
bool is_right(
    const Service& service,
    int customer,
    int question,
    const Tensor& answer) {
  return agree(answer, service.answers[0][customer][question]) ||
      agree(answer, service.answers[1][customer][question]);
}

struct Result {
  double per_second = 0;
  std::vector<double> milliseconds;  // of each call, sorted
  int wrong = 0;

  double at(double share) const {
    const auto last = static_cast<double>(milliseconds.size() - 1);
    return milliseconds[static_cast<std::size_t>(share * last)];
  }
};

/// `serve(random)` answers `requests` requests and returns how many were wrong.
using Serve = std::function<int(std::mt19937& random)>;

Result run(int threads, double seconds, int requests, const Serve& serve) {
  std::vector<std::vector<double>> times(threads);
  std::atomic<int> wrong = 0;
  const auto start = Clock::now();
  const auto until = start + std::chrono::duration<double>(seconds);
  std::vector<std::thread> pool;
  for (int i = 0; i < threads; ++i) {
    pool.emplace_back([&, i] {
      const torch::InferenceMode guard;
      std::mt19937 random(i);
      while (Clock::now() < until) {
        const auto before = Clock::now();
        wrong += serve(random);
        const std::chrono::duration<double, std::milli> took =
            Clock::now() - before;
        times[i].push_back(took.count());
      }
    });
  }
  for (auto& thread : pool) {
    thread.join();
  }
  Result result{.wrong = wrong};
  for (const auto& some : times) {
    result.milliseconds.insert(
        result.milliseconds.end(), some.begin(), some.end());
  }
  std::sort(result.milliseconds.begin(), result.milliseconds.end());
  const std::chrono::duration<double> all = Clock::now() - start;
  result.per_second =
      requests * static_cast<double>(result.milliseconds.size()) / all.count();
  return result;
}

void print(const char* what, const Result& result) {
  std::printf(
      "%-34s %8.0f requests/s   p50 %6.2f  p95 %6.2f  p99 %6.2f ms   wrong "
      "answers: %d\n",
      what,
      result.per_second,
      result.at(0.5),
      result.at(0.95),
      result.at(0.99),
      result.wrong);
}

int pick(std::mt19937& random, int count) {
  return static_cast<int>(random() % static_cast<unsigned>(count));
}

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::stod(argv[1]) : 3;
  const int threads = argc > 2 ? std::stoi(argv[2]) : 8;
  torch::manual_seed(0);
  torch::set_num_threads(1);  // the pool's threads are the parallelism
  const torch::NoGradGuard no_grad;
  Service service = make_service();
  auto adapters = service.adapters();
  std::printf(
      "%d threads, %d adapters (%s)\n",
      threads,
      customers,
      adapters.status().to_string().c_str());

  const auto question_of = [&](std::mt19937& random) {
    return pick(random, static_cast<int>(service.questions.size()));
  };
  const auto base_alone = [&](std::mt19937& random) {
    const int question = question_of(random);
    const peft::DisableAdapters scope(adapters);
    const Tensor answer = service.model->forward(service.questions[question]);
    return agree(answer, service.base_answers[question]) ? 0 : 1;
  };
  const auto each_its_own = [&](std::mt19937& random) {
    const int customer = pick(random, customers);
    const int question = question_of(random);
    const peft::UseAdapter scope(adapters, service.names[customer]);
    const Tensor answer = service.model->forward(service.questions[question]);
    return is_right(service, customer, question, answer) ? 0 : 1;
  };
  const auto base_batches = [&](std::mt19937& random) {
    std::vector<Tensor> rows;
    std::vector<int> asked;
    for (int row = 0; row < batch; ++row) {
      asked.push_back(question_of(random));
      rows.push_back(service.questions[asked.back()]);
    }
    const peft::DisableAdapters scope(adapters);
    const Tensor answers = service.model->forward(torch::cat(rows));
    int wrong = 0;
    for (int row = 0; row < batch; ++row) {
      wrong += !agree(answers[row], service.base_answers[asked[row]][0]);
    }
    return wrong;
  };
  const auto mixed_batches = [&](std::mt19937& random) {
    std::vector<std::string> names;
    std::vector<Tensor> rows;
    std::vector<std::pair<int, int>> asked;
    for (int row = 0; row < batch; ++row) {
      asked.emplace_back(pick(random, customers), question_of(random));
      names.push_back(service.names[asked.back().first]);
      rows.push_back(service.questions[asked.back().second]);
    }
    const peft::BatchAdapters scope(
        adapters, names, peft::BatchOrder::positions_first);
    const Tensor answers = service.model->forward(torch::cat(rows));
    int wrong = 0;
    for (int row = 0; row < batch; ++row) {
      const auto [customer, question] = asked[row];
      wrong +=
          !is_right(service, customer, question, answers[row].unsqueeze(0));
    }
    return wrong;
  };

  int wrong = 0;
  const auto measure = [&](const char* what, int requests, const Serve& serve) {
    const Result result = run(threads, seconds, requests, serve);
    print(what, result);
    wrong += result.wrong;
  };
  measure("the base alone", 1, base_alone);
  measure("each request its adapter", 1, each_its_own);
  std::atomic<bool> done = false;
  int swaps = 0;
  std::thread writer([&] {  // a new version of some adapter, again and again
    std::mt19937 random(99);
    while (!done) {
      const int customer = pick(random, customers);
      service.config.r = customer % 2 ? 4 : 8;
      peft::hotswap_adapter(
          *service.model,
          service.versions[random() % 2][customer],
          service.config,
          service.names[customer]);
      ++swaps;
    }
  });
  measure("the same while adapters change", 1, each_its_own);
  done = true;
  writer.join();
  std::printf("  (%d adapters were swapped meanwhile)\n", swaps);
  measure("the base in batches of 16", batch, base_batches);
  measure("16 adapters in one batch", batch, mixed_batches);
  return wrong == 0 ? 0 : 1;
}
