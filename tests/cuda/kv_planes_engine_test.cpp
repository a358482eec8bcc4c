// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Models with every kind of KV under the loader, their KV in pages on the device. Built twice, as
// kv_transfer_test.cpp.
#include <mutex>

#include "cake/cuda/kv_transfer.hpp"
#include "cake/cuda/pinned_staging.hpp"
#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "cake/testing/check_engine.hpp"
#include "tests/catch.hpp"
#include "tests/cuda/gpu.hpp"
#include "tests/models/engine.hpp"

using namespace cake;

namespace {

constexpr std::uint32_t kChunk = 16;
constexpr std::uint32_t kPageTokens = 8;
constexpr std::uint32_t kTokens = 167;  // ten chunks and a rest

/// KV of one sequence in any layout.
class DevicePages {
 public:
  // [planes]
  /// A pool for each plane of each layer, and a table for each kind of layer: pages that a window has
  /// left can go, and a state has pages of its own.
  DevicePages(const KvLayout& layout, std::uint32_t max_tokens) : layout_(layout) {
    for (const KvLayerKind& kind : layout_.kinds) {
      const std::uint32_t tokens = kind.state ? kChunk : kPageTokens;  // of an entry
      entries_.push_back(fresh_pages((max_tokens + tokens - 1) / tokens));
    }
    for (std::size_t k = 0; k < entries_.size(); ++k) {
      const auto n = static_cast<std::uint32_t>(entries_[k].size());
      tables_.push_back({layout_.kinds[k].state ? kChunk : kPageTokens, n, entries_[k]});
    }
    for (std::uint32_t l = 0; l < layout_.n_layers; ++l) {
      const std::uint32_t table = layout_.kind_of[l];
      const std::uint32_t in_page = layout_.kind(l).state ? 1 : kPageTokens;  // one state a page
      for (const KvPlane& plane : layout_.kind(l).planes) {
        memory_.emplace_back(plane.token_bytes() * in_page * tables_[table].n_pages);
        pools_.push_back(cuda::PlanePool::packed(memory_.back().data(), plane, in_page, table));
      }
    }
  }
  cuda::PagedPlanes paged() const { return {layout_, pools_, tables_}; }
  // [/planes]

  /// Pages of a window from its first token on, and none before.
  void keep_from(std::uint32_t kind, std::uint32_t token) {
    for (std::size_t i = 0; i < entries_[kind].size(); ++i) {
      if ((i + 1) * kPageTokens <= token) entries_[kind][i] = cuda::PageTable::kNoPage;
    }
  }
  void give(std::uint32_t kind, TokenRange tokens) {
    const auto fresh = fresh_pages(entries_[kind].size());
    for (std::size_t i = tokens.begin / kPageTokens; i * kPageTokens < tokens.end; ++i) {
      entries_[kind][i] = fresh[i];
    }
  }

 private:
  static std::vector<std::int32_t> fresh_pages(std::size_t n) {  // of a pool that was in use
    std::vector<std::int32_t> pages(n);
    for (std::size_t i = 0; i < n; ++i) pages[i] = static_cast<std::int32_t>(n - 1 - i);
    return pages;
  }
  KvLayout layout_;
  std::vector<std::vector<std::int32_t>> entries_;  // [kinds]
  std::vector<cuda::PageTable> tables_;             // [kinds]
  std::vector<cuda::PlanePool> pools_;
  std::vector<cuda::DeviceBuffer> memory_;
};

/// Computes on the host; what is inserted and saved goes through the pages.
class Engine {
 public:
  Engine(const models::Model& model, const std::string& name, bool evicts)
      : host_(model, name, kTokens + 1, {.chunk_tokens = kChunk, .evicts = evicts}),
        evicts_(evicts),
        layout_(host_.layout()),
        pages_(layout_, kTokens + 1) {
    host_.clear();
  }
  KvLayout layout() const { return layout_; }
  ModelFingerprint fingerprint() const { return host_.fingerprint(); }
  static constexpr EngineAbilities abilities{.staging_memory = true};
  StagingMemory* staging_memory() { return &staging_; }
  const models::Vector& logits() const { return host_.logits(); }

  cuda::Transfer insert(const Slice& slice, const KvView& from) {
    const std::lock_guard lock(mutex_);
    inserted_.push_back(slice);
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      if (layout_.kind(l).window != 0) pages_.give(layout_.kind_of[l], slice.tokens);
    }
    return transfer_.insert(pages_.paged(), slice, from);
  }
  cuda::Transfer extract(const Slice& slice, const MutableKvView& to) {
    const std::lock_guard lock(mutex_);
    if (Status status = fetch(); !status) return cuda::Transfer(status.error());
    cake::detail::kit::Runs there(layout_, slice);
    if (Status status = host_.extract(slice, there.view()); !status) {
      return cuda::Transfer(status.error());
    }
    return transfer_.extract(pages_.paged(), slice, to);
  }
  Status prefill(Tokens prompt, TokenRange range) {
    const std::lock_guard lock(mutex_);
    if (Status status = fetch(); !status) return status;
    if (Status status = host_.prefill(prompt, range); !status) return status;
    for (std::uint32_t t = range.begin; t < range.end; ++t) {
      if (Status status = store(t); !status) return status;
    }
    if (evicts_) free_pages(range.end);
    return {};
  }

 private:
  /// What was inserted, from the pages.
  Status fetch() {
    for (const Slice& slice : std::exchange(inserted_, {})) {
      cake::detail::kit::Runs runs(layout_, slice);
      if (Status status = transfer_.extract(pages_.paged(), slice, runs.view()).wait(); !status) {
        return status;
      }
      if (Status status = host_.insert(slice, runs.const_view()); !status) return status;
    }
    return {};
  }
  /// What was computed of one token, into the pages.
  Status store(std::uint32_t token) {
    for (std::uint32_t l = 0; l < layout_.n_layers; ++l) {
      const Slice one{0, {token, token + 1}, {l, l + 1}};
      cake::detail::kit::Runs runs(layout_, one);
      if (!host_.extract(one, runs.view())) continue;  // no state there, or outside the window
      if (layout_.kind(l).window != 0) pages_.give(layout_.kind_of[l], one.tokens);
      if (Status status = transfer_.insert(pages_.paged(), one, runs.const_view()).wait();
          !status) {
        return status;
      }
    }
    return {};
  }
  void free_pages(std::uint32_t end) {
    for (std::uint32_t k = 0; k < layout_.kinds.size(); ++k) {
      const std::uint32_t last = end / kChunk * kChunk;
      const std::uint32_t window = layout_.kinds[k].window;
      if (window != 0 && last >= window) pages_.keep_from(k, (last - window) / kChunk * kChunk);
    }
  }

  std::mutex mutex_;
  models::Engine host_;
  bool evicts_;
  KvLayout layout_;
  std::vector<Slice> inserted_;
  DevicePages pages_;
  cuda::PinnedStaging staging_;
  cuda::KvTransfer transfer_;
};
static_assert(ComputeBackend<Engine>);

std::vector<TokenId> prompt() {
  std::vector<TokenId> tokens;
  for (std::uint32_t t = 0; t < kTokens; ++t) {
    tokens.push_back(static_cast<TokenId>((t * 2654435761u) >> 9 & 63));
  }
  return tokens;
}

std::string text(const Status& status) { return status ? "" : status.error().message(); }

}  // namespace

TEST_CASE(
    "KV of every kind in pages on the device is saved and loaded, and the logits stay the same to "
    "the bit") {
  CAKE_NEEDS_GPU();
  const LoaderOptions options{.chunks = {.chunk_tokens = kChunk},
                              .session = {.idle_timeout = std::chrono::minutes(1)}};
  std::uint32_t partial = 0;
  for (const models::NamedModel& named : models::all_models()) {
    for (const bool evicts : {false, true}) {
      INFO(named.name << (evicts ? ", whose windows lose their pages" : ""));
      models::Engine plain(named.model, named.name, kTokens + 1);
      plain.clear();
      REQUIRE(text(plain.prefill(prompt(), {0, kTokens})) == "");
      MemoryStorage storage;
      {
        Engine engine(named.model, named.name, evicts);
        Loader loader(engine, storage, options);
        REQUIRE(text(loader.prefill(prompt()).status) == "");
        const SaveReport saved = loader.save(prompt());
        const KvLayout layout = engine.layout();
        const bool all_windows = layout.kind(layout.stored_order()[0]).window != 0;
        if (!evicts || !all_windows) CHECK(text(saved.status) == "");  // else first chunks are gone
        CHECK(saved.written > 0);
        partial += saved.partial;
        CHECK(engine.logits() == plain.logits());
      }
      Engine engine(named.model, named.name, evicts);
      Loader loader(engine, storage, options, LoadOnlyScheduler());
      const PrefillReport report = loader.prefill(prompt());
      REQUIRE(text(report.status) == "");
      CHECK(report.tokens_loaded > 0);
      CHECK(engine.logits() == plain.logits());
    }
  }
  CHECK(partial > 0);  // some were stored without windows
}

TEST_CASE("an engine with any KV in pages on the device keeps the rules of the contract") {
  CAKE_NEEDS_GPU();
  for (const models::NamedModel& named : models::all_models()) {
    INFO(named.name);
    Engine engine(named.model, named.name, false);
    const auto tokens = prompt();
    const auto failures = cake::detail::kit::is_limited(engine.layout())
                              ? testing::check_windows_and_states(engine, Tokens(tokens), kChunk)
                              : testing::check(engine, Tokens(tokens).first(90));
    for (const std::string& failure : failures) FAIL_CHECK(failure);
  }
}
