// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Time of whole prompts on the GPU: the shape of Llama-3.1-8B with random weights, in steps as an
// engine runs them, two in flight, until the last token's logits are on the host.
//
//     prefill_bench [--profile] [--residual bf16|f32] [--page-tokens N] [--seconds S]
//
// TFLOP/s count every product of the model but the LM head, and the exact causal area of attention,
// whatever of it was left out as not needed. --profile adds where the time goes, from time stamps
// between launches without graphs. peers/prefill.py measures transformers on the same shape.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "cake/reference/cuda_backend.hpp"

namespace {

using namespace cake;
using namespace cake::reference;
using Clock = std::chrono::steady_clock;

struct Case {
  std::uint32_t tokens;
  std::uint32_t step;
};
constexpr Case kCases[] = {{2048, 2048}, {8192, 2048}, {32768, 2048}, {2048, 512},
                           {8192, 512},  {32768, 512}, {8192, 8192}};
constexpr std::uint32_t kMostTokens = 32768;

struct Settings {
  bool profile = false;
  double seconds = 35;  // for all cases together
  CudaOptions engine = {.max_tokens = kMostTokens, .max_step_tokens = 8192, .shuffle_pages = 1};
};

double flops(const Config& c, double tokens) {
  const double linear =
      2.0 * c.n_layers *
      (double{2} * c.n_embd * c.n_heads * c.head_dim +
       double{2} * c.n_embd * c.n_kv_heads * c.head_dim + double{3} * c.n_embd * c.n_ff);
  const double attention = 4.0 * c.n_layers * c.n_heads * c.head_dim * tokens * (tokens + 1) / 2;
  return linear * tokens + attention;
}

std::vector<TokenId> prompt_of(std::uint32_t size, std::uint32_t n_vocab) {
  std::vector<TokenId> prompt(size);
  for (std::uint32_t i = 0; i < size; ++i) {
    prompt[i] = static_cast<TokenId>(std::uint64_t{i} * 7919 % n_vocab);
  }
  return prompt;
}

/// Seconds from the first call to logits on the host.
double run(CudaBackend& engine, const std::vector<TokenId>& prompt, std::uint32_t step) {
  const auto size = static_cast<std::uint32_t>(prompt.size());
  const auto start = Clock::now();
  std::deque<CudaPass> running;
  for (std::uint32_t at = 0; at < size; at += step) {
    running.push_back(engine.prefill(prompt, {at, std::min(at + step, size)}));
    if (running.size() == 2) {
      running.front().wait().value();
      running.pop_front();
    }
  }
  for (CudaPass& pass : running) pass.wait().value();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void measure(CudaBackend& engine, const Case& c, double seconds) {
  const auto prompt = prompt_of(c.tokens, engine.config().n_vocab);
  const double first = run(engine, prompt, c.step);
  if (!std::isfinite(engine.logits()[0]) || engine.argmax() < 0) {
    std::printf("logits are not finite\n");
    std::exit(1);
  }
  std::vector<double> times;
  const auto count =
      static_cast<std::size_t>(std::clamp(std::floor(seconds / first), 3.0, 21.0)) | 1;
  while (times.size() < count) times.push_back(run(engine, prompt, c.step));
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  std::printf(
      "prefill %6u tokens in steps of %4u: median %8.2f ms (%.2f to %.2f, %zu runs)  %6.1f "
      "TFLOP/s\n",
      c.tokens, c.step, median * 1e3, times.front() * 1e3, times.back() * 1e3, times.size(),
      flops(engine.config(), c.tokens) / median * 1e-12);
  std::fflush(stdout);
}

void profile(CudaBackend& engine, const Case& c) {
  const auto prompt = prompt_of(c.tokens, engine.config().n_vocab);
  CudaProfile sum;
  for (int round = 0; round < 2; ++round) {  // the second one counts
    sum = {};
    for (std::uint32_t at = 0; at < c.tokens; at += c.step) {
      const CudaProfile p = engine.profile(prompt, {at, std::min(at + c.step, c.tokens)}).value();
      sum.total_seconds += p.total_seconds;
      sum.gemm_seconds += p.gemm_seconds;
      sum.attention_seconds += p.attention_seconds;
      sum.elementwise_seconds += p.elementwise_seconds;
    }
  }
  const Config& config = engine.config();
  const double n = c.tokens;
  const double attention =
      4.0 * config.n_layers * config.n_heads * config.head_dim * n * (n + 1) / 2;
  std::printf(
      "profile %6u tokens in steps of %4u: gemm %8.2f ms (%.0f TFLOP/s), attention %8.2f ms "
      "(%.0f TFLOP/s), elementwise %7.2f ms, together %8.2f ms\n",
      c.tokens, c.step, sum.gemm_seconds * 1e3,
      (flops(config, n) - attention) / sum.gemm_seconds * 1e-12, sum.attention_seconds * 1e3,
      attention / sum.attention_seconds * 1e-12, sum.elementwise_seconds * 1e3,
      sum.total_seconds * 1e3);
}

/// False when the command line is wrong.
bool parse(int argc, char** argv, Settings& settings) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (option == "--profile") {
      settings.profile = true;
      continue;
    }
    ++i;
    if (option == "--residual" && (value == "bf16" || value == "f32")) {
      settings.engine.residual = value == "f32" ? DType::f32 : DType::bf16;
    } else if (option == "--page-tokens" && std::atoi(value.c_str()) > 0) {
      settings.engine.page_tokens = static_cast<std::uint32_t>(std::atoi(value.c_str()));
    } else if (option == "--seconds" && std::atof(value.c_str()) > 0) {
      settings.seconds = std::atof(value.c_str());
    } else {
      return false;
    }
  }
  return true;
}

int benchmark(const Settings& settings) {
  const auto start = Clock::now();
  const cuda::DeviceInfo device = cuda::device_info().value();
  CudaBackend engine(CudaWeights::random(llama_3_1_8b(), 1).value(), settings.engine);
  const std::uint32_t sizes[] = {512, 2048, 8192};
  engine.prepare(sizes).value();
  std::printf(
      "%s; %s shape, random weights, bf16, residual %s, pages of %u tokens, %s; made ready "
      "in %.1f s\n",
      device.name.c_str(), engine.config().name.c_str(),
      std::string(to_string(settings.engine.residual)).c_str(), settings.engine.page_tokens,
      std::string(to_string(engine.layout().order)).c_str(),
      std::chrono::duration<double>(Clock::now() - start).count());
  for (const Case& c : kCases) {
    engine.clear();
    measure(engine, c, settings.seconds / std::size(kCases));
  }
  if (settings.profile) {
    for (const Case& c : kCases) {
      engine.clear();
      profile(engine, c);
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  if (!parse(argc, argv, settings)) {
    std::fprintf(stderr,
                 "usage: prefill_bench [--profile] [--residual bf16|f32] [--page-tokens N] "
                 "[--seconds S]\n");
    return 2;
  }
  try {
    return benchmark(settings);
  } catch (const Exception& e) {
    std::fprintf(stderr, "prefill_bench: %s\n", e.what());
    return e.error().code == Errc::unsupported ? 2 : 1;
  }
}
