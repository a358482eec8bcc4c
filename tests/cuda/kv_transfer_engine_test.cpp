// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// An engine whose KV lies in pages on the device, under the loader. Built twice, as
// kv_transfer_test.cpp.
#include "cake/cuda/pinned_staging.hpp"
#include "cake/kv_presence.hpp"
#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "cake/testing/check_engine.hpp"
#include "kv_transfer_device.hpp"
#include "tests/cuda/gpu.hpp"

using namespace kv_model;

namespace {

/// An engine over pages in device memory, with a model that is computed on the host: the KV of a
/// token depends on all KV before it.
class PagedEngine {
 public:
  explicit PagedEngine(const Case& c)
      : case_(c), pools_(c), device_(pools_), there_(c.tokens.end, c.n_layers) {
    kv_ = pools_.paged(device_.bases());
  }
  UniformKvLayout layout() const { return kv_.layout; }
  ModelFingerprint fingerprint() const {
    return FingerprintBuilder().add("weights", "paged test").finish();
  }
  static constexpr EngineAbilities abilities{.staging_memory = true};
  StagingMemory* staging_memory() { return &staging_; }
  Transfer insert(const Slice& slice, const KvView& view) {
    there_.add(slice.tokens, slice.layers);
    return transfer_.insert(kv_, slice, view);
  }
  Transfer extract(const Slice& slice, const MutableKvView& view) {
    if (auto missing = there_.missing(slice.tokens, slice.layers)) return Transfer(no_kv(*missing));
    return transfer_.extract(kv_, slice, view);
  }
  Status prefill(Tokens tokens, TokenRange range) {
    const LayerRange layers{0, case_.n_layers};
    std::uint32_t sum = 1;
    if (range.begin != 0) {
      const Slice before{0, {0, range.begin}, layers};
      cake::detail::kit::Runs runs(layout(), before);
      if (auto status = extract(before, runs.view()).wait(); !status) return status;
      for (const std::byte b : runs.bytes()) sum += static_cast<std::uint32_t>(b) * 2654435761u;
    }
    for (std::uint32_t t = range.begin; t < range.end; ++t) {
      const Slice one{0, {t, t + 1}, layers};
      cake::detail::kit::Runs runs(layout(), one);
      cake::detail::kit::fill(runs.bytes(), sum + static_cast<std::uint32_t>(tokens[t]));
      if (auto status = insert(one, runs.const_view()).wait(); !status) return status;
      for (const std::byte b : runs.bytes()) sum += static_cast<std::uint32_t>(b) * 2654435761u;
    }
    return {};
  }
  const PinnedStaging& staging() const { return staging_; }

 private:
  Case case_;
  Pools pools_;
  DevicePools device_;
  PagedKv kv_;
  KvPresence there_;
  PinnedStaging staging_;
  KvTransfer transfer_;
};
static_assert(ComputeBackend<PagedEngine>);

std::vector<TokenId> prompt_of(std::uint32_t n) {
  std::vector<TokenId> prompt(n);
  for (std::uint32_t i = 0; i < n; ++i) prompt[i] = static_cast<TokenId>(i * i % 101);
  return prompt;
}

}  // namespace

TEST_CASE("an engine over pages keeps the rules of the contract") {
  CAKE_NEEDS_GPU();
  for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
    Case c;
    c.order = order;
    c.tokens = {0, 90};
    PagedEngine engine(c);
    for (const std::string& failure : testing::check(engine, prompt_of(90))) FAIL_CHECK(failure);
  }
}

TEST_CASE("KV that the loader brings back through pinned staging is bit-equal to KV computed") {
  CAKE_NEEDS_GPU();
  Case c;
  c.tokens = {0, 250};
  const auto prompt = prompt_of(250);
  MemoryStorage storage;
  const LoaderOptions options{.chunks = {.chunk_tokens = 32}, .session = {.max_step_tokens = 32}};
  const KvLayout layout = KvLayout::uniform(2, 2, 16, DType::bf16);
  cake::detail::kit::Runs computed(layout, {0, {0, 250}, {0, 2}});
  cake::detail::kit::Runs loaded(layout, {0, {0, 250}, {0, 2}});
  {
    PagedEngine engine(c);
    Loader loader(engine, storage, options);
    const PrefillReport report = loader.prefill(prompt);
    REQUIRE(message(report.status) == "");
    CHECK(report.tokens_computed == 250);
    const SaveReport saved = loader.save(prompt);
    REQUIRE(message(saved.status) == "");
    CHECK(saved.written == 7);
    REQUIRE(message(engine.extract({0, {0, 250}, {0, 2}}, computed.view()).wait()) == "");
  }
  Case other = c;
  other.seed = 77;  // other pages
  PagedEngine engine(other);
  {
    Loader loader(engine, storage, options, LoadOnlyScheduler());
    const PrefillReport report = loader.prefill(prompt);
    REQUIRE(message(report.status) == "");
    CHECK(report.tokens_loaded == 7 * 32);
    CHECK(engine.staging().kept() + engine.staging().in_use() > 0);
  }
  CHECK(engine.staging().in_use() == 0);
  REQUIRE(message(engine.extract({0, {0, 250}, {0, 2}}, loaded.view()).wait()) == "");
  CHECK(std::memcmp(computed.bytes().data(), loaded.bytes().data(), computed.bytes().size()) == 0);
}
