// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// How fast the reference model is: prefill in one pass and in steps, decoding, and how near its
// matrix products come to what the BLAS does at best on the same cores, measured beside them.
//
//     reference_bench [--model F] [--threads N] [--kv f32|f16|bf16] [Google Benchmark's options]
//
// Without --model it takes CAKE_TEST_MODEL, or the model that tests/run.sh fetched.
// peers/transformers_prefill.py runs it by turns with transformers.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "cake/reference/cpu_backend.hpp"
#include "src/reference/cpu/blas.hpp"
#include "src/reference/cpu/thread_pool.hpp"

namespace {

using namespace cake;
using namespace cake::reference;
using Clock = std::chrono::steady_clock;

struct Setup {
  std::string model;
  CpuOptions options;
  std::shared_ptr<const Weights> weights;
};
Setup& setup() {
  static Setup one;
  return one;
}

double seconds(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Best of some rounds of a large product on each thread at once. Units: flop/s
double blas_peak(unsigned threads) {
  constexpr std::size_t kSize = 1024;
  struct Square {
    std::vector<float> a = std::vector<float>(kSize * kSize, 0.5f), b = a, c = a;
  };
  std::vector<Square> squares(threads);
  ThreadPool pool(threads);
  double best = 0;
  for (int round = 0; round < 6; ++round) {
    const auto start = Clock::now();
    pool.run(threads, [&](unsigned task, unsigned) {
      Square& s = squares[task];
      for (int i = 0; i < 3; ++i) {
        blas::product(kSize, kSize, kSize, s.a.data(), kSize, s.b.data(), kSize, 0.0f, s.c.data(),
                      kSize);
      }
    });
    best = std::max(best, 3 * 2.0 * kSize * kSize * kSize * threads / seconds(start));
  }
  return best;
}

std::vector<TokenId> prompt_of(std::size_t size, std::uint32_t n_vocab) {
  std::vector<TokenId> prompt(size);
  for (std::size_t i = 0; i < size; ++i) prompt[i] = static_cast<TokenId>(i * 7919 % n_vocab);
  return prompt;
}

/// Arguments: tokens, tokens a step.
void prefill(benchmark::State& state) {
  CpuBackend engine(setup().weights, setup().options);
  const auto prompt = prompt_of(static_cast<std::size_t>(state.range(0)), engine.config().n_vocab);
  const auto size = static_cast<std::uint32_t>(state.range(0));
  const auto step = static_cast<std::uint32_t>(state.range(1));
  engine.prefill(prompt, {0, std::min(step, size)}).value();  // pages and scratch are there
  engine.reset_profile();
  double peak = 0;
  std::int64_t passes = 0;
  for (auto _ : state) {
    for (std::uint32_t at = 0; at < size; at += step) {
      engine.prefill(prompt, {at, std::min(at + step, size)}).value();
    }
    state.PauseTiming();
    peak = std::max(peak, blas_peak(setup().options.threads));
    ++passes;
    state.ResumeTiming();
  }
  const CpuProfile p = engine.profile();
  state.counters["tokens/s"] = static_cast<double>(passes * state.range(0)) / p.total_seconds;
  state.counters["gemm_share"] = p.gemm_seconds / p.total_seconds;
  state.counters["attention_share"] = p.attention_seconds / p.total_seconds;
  state.counters["gemm_gflops"] = p.gemm_flops / p.gemm_seconds * 1e-9;
  state.counters["blas_peak_gflops"] = peak * 1e-9;
  state.counters["gemm_of_peak"] = p.gemm_flops / p.gemm_seconds / peak;
}

/// Argument: tokens that are there already.
void decode(benchmark::State& state) {
  CpuBackend engine(setup().weights, setup().options);
  const auto size = static_cast<std::uint32_t>(state.range(0));
  const auto prompt = prompt_of(size, engine.config().n_vocab);
  engine.prefill(prompt, {0, size}).value();
  for (auto _ : state) {
    if (!engine.decode(1)) {
      state.PauseTiming();
      engine.prefill(prompt, {size - 1, size}).value();  // the context is full: back to its start
      state.ResumeTiming();
    }
  }
}

void load(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(Weights::load(setup().model).value());
}

std::string default_model() {
  if (const char* given = std::getenv("CAKE_TEST_MODEL")) return given;
  const char* home = std::getenv("HOME");
  return std::string(home != nullptr ? home : "") + "/.cache/cake/SmolLM2-135M-Instruct.Q4_1.gguf";
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  Setup& s = setup();
  s.model = default_model();
  s.options.threads = std::max(1u, std::thread::hardware_concurrency());
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view option = argv[i];
    const std::string value = argv[i + 1];
    if (option == "--model") {
      s.model = value;
    } else if (option == "--threads") {
      s.options.threads = static_cast<unsigned>(std::max(1, std::atoi(value.c_str())));
    } else if (option == "--kv") {
      s.options.kv_dtype = value == "bf16" ? DType::bf16 : value == "f16" ? DType::f16 : DType::f32;
    } else {
      std::fprintf(stderr, "reference_bench: unknown option %s\n", argv[i]);
      return 2;
    }
  }
  auto weights = Weights::load(s.model);
  if (!weights) {
    std::fprintf(stderr, "reference_bench: %s\n", weights.error().message().c_str());
    return 2;
  }
  s.weights = *std::move(weights);
  benchmark::AddCustomContext("model", s.model);
  benchmark::AddCustomContext("threads", std::to_string(s.options.threads));
  benchmark::AddCustomContext("blas", blas_description());

  for (const auto& [tokens, step] : {std::pair{2048, 2048}, {2048, 512}, {2048, 128}, {256, 256}}) {
    benchmark::RegisterBenchmark("prefill", prefill)
        ->Args({tokens, step})
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime()
        ->MinTime(2.0);
  }
  benchmark::RegisterBenchmark("decode", decode)
      ->Arg(64)
      ->Arg(2048)
      ->Unit(benchmark::kMillisecond)
      ->UseRealTime();
  benchmark::RegisterBenchmark("load", load)->Unit(benchmark::kMillisecond)->UseRealTime();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
