// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The real model against an independent implementation: transformers in fp32 on the same GGUF
// (tests/reference/make_reference.py made the data).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "cake/reference/cpu_backend.hpp"
#include "catch.hpp"
#include "examples/tokenizer.hpp"

namespace {

using namespace cake;
using namespace cake::reference;

std::filesystem::path model_path() {
  if (const char* given = std::getenv("CAKE_TEST_MODEL")) return given;
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home != nullptr ? home : "") /
         ".cache/cake/SmolLM2-135M-Instruct.Q4_1.gguf";
}

/// Ends the test case as skipped (ctest looks for the word in brackets) where nobody has fetched the
/// model. One that CAKE_TEST_MODEL names has to be there.
#define CAKE_NEEDS_MODEL()                                                                   \
  if (std::getenv("CAKE_TEST_MODEL") == nullptr && !std::filesystem::exists(model_path())) { \
    std::printf(                                                                             \
        "[no model] skipped: run tests/run.sh, which fetches the model, or name one in "     \
        "CAKE_TEST_MODEL\n");                                                                \
    return;                                                                                  \
  }                                                                                          \
  static_assert(true)

/// Opened once.
const GgufFile& model_file() {
  static const Result<GgufFile> file = GgufFile::open(model_path());
  if (!file) FAIL("the test model cannot be read: " << file.error().message());
  return *file;
}

const std::shared_ptr<const Weights>& model_weights() {
  static const auto weights = Weights::load(model_file()).value();
  return weights;
}

const examples::Tokenizer& model_tokenizer() {
  static const auto tokenizer = examples::Tokenizer::load(model_file()).value();
  return tokenizer;
}

std::string read(const std::string& name) {
  std::ifstream file(std::string(CAKE_REFERENCE_DATA) + "/" + name, std::ios::binary);
  if (!file) FAIL("no reference data: " << name);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

struct Expected {
  std::vector<TokenId> prompt, greedy;
  std::vector<std::pair<TokenId, float>> top;
};

Expected expected(const std::string& name) {
  Expected all;
  std::stringstream lines(read(name + ".expected"));
  for (std::string line; std::getline(lines, line);) {
    std::stringstream words(line);
    std::string kind;
    words >> kind;
    if (kind == "top") {
      std::pair<TokenId, float> entry;
      words >> entry.first >> entry.second;
      all.top.push_back(entry);
    }
    auto& list = kind == "prompt" ? all.prompt : all.greedy;
    if (kind == "prompt" || kind == "greedy") {
      for (TokenId token; words >> token;) list.push_back(token);
    }
  }
  REQUIRE(!all.prompt.empty());
  REQUIRE(all.greedy.size() == 32);
  REQUIRE(all.top.size() == 10);
  return all;
}

void compare(const std::string& name) {
  CAKE_NEEDS_MODEL();
  const Expected reference = expected(name);
  const auto tokens = model_tokenizer().encode(read(name + ".txt"));
  CHECK(tokens == reference.prompt);

  CpuBackend engine(model_weights());
  const auto size = static_cast<std::uint32_t>(tokens.size());
  // In two steps, so that attention over a prefix is compared as well.
  const std::uint32_t middle = size / 3;
  REQUIRE(engine.prefill(tokens, {0, middle}).has_value());
  REQUIRE(engine.prefill(tokens, {middle, size}).has_value());

  float worst = 0;
  for (const auto& [id, value] : reference.top) {
    worst = std::max(worst, std::abs(engine.logits()[static_cast<std::size_t>(id)] - value));
  }
  INFO("largest difference of a logit: " << worst);
  CHECK(worst < 1e-2f);

  std::vector<float> ordered(engine.logits().begin(), engine.logits().end());
  std::nth_element(ordered.begin(), ordered.begin() + 9, ordered.end(), std::greater<>());
  CHECK(ordered[9] == Approx(reference.top[9].second).margin(1e-2));  // nothing else came up

  std::vector<TokenId> greedy;
  while (greedy.size() < reference.greedy.size()) {
    greedy.push_back(engine.argmax());
    REQUIRE(engine.decode(greedy.back()).has_value());
  }
  CHECK(greedy == reference.greedy);
}

}  // namespace

TEST_CASE("a document of over 2,000 tokens and a question give the reference's answer") {
  REQUIRE(expected("license").prompt.size() > 2000);
  compare("license");
}
TEST_CASE("a short question gives the reference's answer") { compare("short"); }
TEST_CASE("digits, tabs, accents, CJK and emoji give the reference's tokens and answer") {
  compare("mixed");
}
TEST_CASE("source code gives the reference's tokens and answer") { compare("code"); }
TEST_CASE("a raw prompt gives the reference's continuation") { compare("raw"); }
TEST_CASE("special tokens in a raw prompt are recognised") { compare("raw_special"); }

TEST_CASE("the chat template gives the reference's prompt") {
  CAKE_NEEDS_MODEL();
  const auto& tokenizer = model_tokenizer();
  CHECK(tokenizer.chat_prompt("What is the capital of France?").value() == read("short.txt"));
}

TEST_CASE("an answer does not depend on step size, order, pages or threads") {
  CAKE_NEEDS_MODEL();
  const Expected reference = expected("mixed");
  const auto size = static_cast<std::uint32_t>(reference.prompt.size());
  const CpuOptions options[] = {
      {.threads = 1, .page_tokens = 1},
      {.threads = 3, .kv_order = KvOrder::hnd, .page_tokens = 64},
  };
  for (const CpuOptions& option : options) {
    CpuBackend engine(model_weights(), option);
    for (std::uint32_t at = 0; at < size; at += 77) {
      REQUIRE(engine.prefill(reference.prompt, {at, std::min(at + 77, size)}).has_value());
    }
    for (const auto& [id, value] : reference.top) {
      CHECK(engine.logits()[static_cast<std::size_t>(id)] == Approx(value).margin(1e-2));
    }
    CHECK(engine.argmax() == reference.greedy[0]);
  }
}

TEST_CASE("16-bit KV stays near fp32") {
  CAKE_NEEDS_MODEL();
  const Expected reference = expected("mixed");
  const auto size = static_cast<std::uint32_t>(reference.prompt.size());
  const std::pair<DType, double> margins[] = {{DType::f16, 0.05}, {DType::bf16, 0.5}};
  for (const auto& [dtype, margin] : margins) {
    CpuBackend engine(model_weights(), {.kv_dtype = dtype});
    REQUIRE(engine.prefill(reference.prompt, {0, size}).has_value());
    for (const auto& [id, value] : reference.top) {
      CHECK(engine.logits()[static_cast<std::size_t>(id)] == Approx(value).margin(margin));
    }
  }
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CAKE_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define CAKE_SANITIZED 1
#endif
#endif

#if defined(__linux__) && !defined(CAKE_SANITIZED)  // sanitizers keep memory of their own
TEST_CASE("memory stays within fp32 weights, KV and 300 MB") {
  CAKE_NEEDS_MODEL();
  const Expected reference = expected("license");
  const auto size = static_cast<std::uint32_t>(reference.prompt.size());
  CpuBackend engine(model_weights());
  REQUIRE(engine.prefill(reference.prompt, {0, size}).has_value());

  std::ifstream status("/proc/self/status");
  double peak = 0;
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) peak = std::stod(line.substr(6)) * 1024;
  }
  REQUIRE(peak > 0);
  const double weights = static_cast<double>(model_weights()->bytes());
  const double kv = static_cast<double>(engine.layout().bytes_per_token() * size);
  INFO("MB: peak " << peak / 1e6 << ", weights " << weights / 1e6 << ", KV " << kv / 1e6);
  CHECK(peak - weights - kv < 300e6);
}
#endif
