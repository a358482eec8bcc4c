// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The CUDA backend on the real model, fed with the CPU backend's own answers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "cake/reference/cpu_backend.hpp"
#include "cake/reference/cuda_backend.hpp"
#include "tests/cuda/gpu.hpp"

namespace {

using namespace cake;
using namespace cake::reference;

/// Token ids of a reference prompt.
std::vector<TokenId> prompt_of(const std::string& name) {
  std::ifstream file(std::string(CAKE_REFERENCE_DATA) + "/" + name + ".expected");
  std::vector<TokenId> prompt;
  for (std::string line; std::getline(file, line);) {
    std::stringstream words(line);
    std::string kind;
    words >> kind;
    if (kind != "prompt") continue;
    for (TokenId token; words >> token;) prompt.push_back(token);
  }
  if (prompt.empty()) FAIL("no prompt in the reference data: " << name);
  return prompt;
}

struct Answer {
  std::vector<float> logits;
  TokenId top = 0;
  float margin = 0;  // between the two largest
};

Answer answer_of(std::span<const float> logits) {
  Answer answer{{logits.begin(), logits.end()}, 0, 0};
  const auto best = std::max_element(logits.begin(), logits.end());
  answer.top = static_cast<TokenId>(best - logits.begin());
  float second = -HUGE_VALF;
  for (auto it = logits.begin(); it != logits.end(); ++it) {
    if (it != best) second = std::max(second, *it);
  }
  answer.margin = *best - second;
  return answer;
}

}  // namespace

TEST_CASE(
    "reference model on the GPU: the real model gives the CPU's top tokens wherever those are "
    "clear") {
  CAKE_NEEDS_GPU();
  const char* const path = std::getenv("CAKE_TEST_MODEL");
  if (path == nullptr || !std::ifstream(path)) {
    std::printf("[no model] skipped: CAKE_TEST_MODEL is not set, or names no file\n");
    return;
  }
  const auto weights = Weights::load(path).value();
  const auto on_gpu = CudaWeights::upload(*weights).value();
  for (const DType residual : {DType::bf16, DType::f32}) {
    float worst = 0;
    int clear = 0;
    int other = 0;  // top tokens that differ where the margin is small
    for (const char* const name : {"short", "code", "mixed", "license"}) {
      CAPTURE(name, to_string(residual));
      const auto prompt = prompt_of(name);
      const auto size = static_cast<std::uint32_t>(prompt.size());
      CpuBackend cpu(weights);
      CudaBackend gpu(on_gpu, {.residual = residual});
      REQUIRE(cpu.prefill(prompt, {0, size}).has_value());
      const std::uint32_t middle = size / 3;
      auto first = gpu.prefill(prompt, {0, middle});
      auto second = gpu.prefill(prompt, {middle, size});
      REQUIRE(first.wait().has_value());
      REQUIRE(second.wait().has_value());
      for (int i = 0; i < 32; ++i) {
        const Answer expected = answer_of(cpu.logits());
        const Answer got = answer_of(gpu.logits());
        for (std::size_t t = 0; t < expected.logits.size(); ++t) {
          const float error = std::abs(got.logits[t] - expected.logits[t]);
          worst = std::isnan(error) ? HUGE_VALF : std::max(worst, error);
        }
        CAPTURE(i, expected.margin, expected.top, got.top);
        if (expected.margin > 0.25f) {
          ++clear;
          CHECK(got.top == expected.top);
        } else {
          other += got.top != expected.top;
        }
        REQUIRE(cpu.decode(expected.top).has_value());
        REQUIRE(gpu.decode(expected.top).has_value());
      }
    }
    std::printf(
        "real model, residual %s: largest difference of a logit %.4f; %d of 128 tokens are clear, "
        "%d of the others differ\n",
        std::string(to_string(residual)).c_str(), static_cast<double>(worst), clear, other);
    CHECK(clear >= 64);
    CHECK(worst < 2.0f);
  }
}
