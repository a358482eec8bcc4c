// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What the loader itself costs: whole prefills over backends that cost nothing, and planning of a
// long prompt.
#include <benchmark/benchmark.h>

#include <cstring>
#include <unordered_map>
#include <vector>

#include "cake/chunk/writer.hpp"
#include "cake/detail/lookup.hpp"
#include "cake/detail/session_core.hpp"
#include "cake/loader.hpp"

namespace {

using namespace cake;

/// Does nothing, instantly.
struct FreeEngine {
  UniformKvLayout layout() const { return {1, 1, 2, DType::f16, KvOrder::nhd}; }
  ModelFingerprint fingerprint() const { return {}; }
  Status prefill(Tokens, TokenRange, LayerGate gate) {
    return gate.wait(0) ? Status() : Status(Error{Errc::superseded, 0, "free engine"});
  }
  Status insert(const Slice&, const KvView&) { return {}; }
  Status extract(const Slice&, const MutableKvView&) { return {}; }
};
static_assert(ComputeBackend<FreeEngine>);

/// Holds one object per chunk of one prompt; reading copies it.
class FreeStorage {
 public:
  static constexpr cake::StorageAbilities abilities{.lookup_never_blocks = true};
  FreeStorage(const std::vector<TokenId>& prompt, std::uint32_t chunk_tokens) {
    FreeEngine engine;
    const ChunkKey root = root_key(engine.fingerprint(), engine.layout(), chunk_tokens, {});
    keys_ = prefix_chain(root, prompt, chunk_tokens);
    ChunkWriter writer(engine.layout(), chunk_tokens);
    for (std::uint32_t c = 0; c < keys_.size(); ++c) {
      const auto object = writer.finish(
          {keys_[c], c == 0 ? root : keys_[c - 1], engine.fingerprint(), tenant_tag({}),
           c * chunk_tokens, Tokens(prompt).subspan(std::size_t{c} * chunk_tokens, chunk_tokens),
           writer.geometry()});
      index_[keys_[c]] = objects_.size();
      objects_.emplace_back(object->begin(), object->end());
    }
  }
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return std::vector<StoredChunk>(keys.size(), {objects_.front().size(), 1});
  }
  Status read(std::uint32_t, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    std::memcpy(out.data(), objects_[index_.at(key)].data() + offset, out.size());
    return {};
  }
  Status write(const ChunkKey&, ConstBytes) { return {}; }
  Status erase(const ChunkKey&) { return {}; }

 private:
  std::vector<ChunkKey> keys_;
  std::unordered_map<ChunkKey, std::size_t> index_;
  std::vector<std::vector<std::byte>> objects_;
};
static_assert(StorageBackend<FreeStorage>);

std::vector<TokenId> prompt_of(std::size_t tokens) {
  std::vector<TokenId> prompt(tokens);
  for (std::size_t i = 0; i < tokens; ++i) prompt[i] = static_cast<TokenId>(i * 2654435761u >> 16);
  return prompt;
}

/// Whole prefills over backends that cost nothing, so this is the loader's own time: planning,
/// locks, threads, verification. `cost`: what the scheduler assumes compute to cost.
void prefill_over_free_backends(benchmark::State& state, const ComputeCost& cost) {
  const auto chunks = static_cast<std::size_t>(state.range(0));
  const auto prompt = prompt_of(chunks * 256 + 1);
  FreeEngine engine;
  FreeStorage storage(prompt, 256);
  Loader loader(engine, storage, {}, MeetInTheMiddleScheduler({.cost = cost, .learn = false}));
  std::uint64_t loaded = 0;
  for (auto _ : state) loaded += loader.prefill(prompt).tokens_loaded;
  state.counters["loaded_share"] = static_cast<double>(loaded) / 256 / static_cast<double>(chunks) /
                                   static_cast<double>(state.iterations());
}
void chunk_counts(benchmark::internal::Benchmark* b) {
  b->Arg(1)->Arg(10)->Arg(100)->Arg(1000)->Unit(benchmark::kMicrosecond)->UseRealTime();
}
// As free as it is here, so that nothing is worth loading; and so dear that everything is.
BENCHMARK_CAPTURE(prefill_over_free_backends, compute_free, ComputeCost{1e-9, 1e-12, 1e-18})
    ->Apply(chunk_counts);
BENCHMARK_CAPTURE(prefill_over_free_backends, compute_dear, ComputeCost{1e-3, 1e-3, 1e-9})
    ->Apply(chunk_counts);

/// Hashing, lookup and plan of a prompt of 1,000,000 tokens; the store answers at once.
void plan_a_million_tokens(benchmark::State& state) {
  const auto prompt = prompt_of(1'000'000);
  FreeEngine engine;
  FreeStorage storage(prompt_of(257), 256);
  const ChunkKey root = root_key(engine.fingerprint(), engine.layout(), 256, {});
  const LinkEstimate prior[] = {{}};
  for (auto _ : state) {
    detail::PrefillLookup found =
        detail::plan_request({.tokens = prompt}, root, ChunkGeometry(engine.layout(), 256), 1);
    found.take(storage.lookup(found.keys));
    detail::SessionCore core{detail::AnyScheduler(MeetInTheMiddleScheduler())};
    core.begin(found.spec, std::move(found.stored), prior);
    benchmark::DoNotOptimize(core.view().front());
  }
}
BENCHMARK(plan_a_million_tokens)->Unit(benchmark::kMillisecond);

/// SHA-256 of the same bytes alone: what planning cannot go below.
void hash_a_million_tokens(benchmark::State& state) {
  const auto prompt = prompt_of(1'000'000);
  FreeEngine engine;
  const ChunkKey root = root_key(engine.fingerprint(), engine.layout(), 256, {});
  for (auto _ : state) benchmark::DoNotOptimize(prefix_chain(root, prompt, 256).data());
}
BENCHMARK(hash_a_million_tokens)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
