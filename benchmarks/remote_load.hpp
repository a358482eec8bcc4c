// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What benchmarks of stores behind a network have in common: a prompt of 512 MiB that is stored, loaded
// and verified, and thrown away, by turns with a peer that brings the same bytes.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <vector>

#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage_backend.hpp"

namespace cake_bench {

using namespace cake;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kChunk = 256;
constexpr std::uint32_t kChunks = 16;  // of 32 MiB

/// Has the KV shape of Llama-3.1-8B, computes nothing and keeps nothing.
struct Sink {
  UniformKvLayout layout() const { return {32, 8, 128, DType::bf16, KvOrder::nhd}; }
  ModelFingerprint fingerprint() const {
    return FingerprintBuilder().add("weights", "remote_load").finish();
  }
  Status prefill(Tokens, TokenRange) { return {}; }
  Status insert(const Slice&, const KvView&) { return {}; }
  Status extract(const Slice& slice, const MutableKvView& to) {
    std::uint32_t x = slice.chunk + 1;
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      for (auto& b : to.k(l)) b = static_cast<std::byte>((x = x * 1664525 + 1013904223) >> 24);
      for (auto& b : to.v(l)) b = static_cast<std::byte>((x = x * 1664525 + 1013904223) >> 24);
    }
    return {};
  }
};
static_assert(ComputeBackend<Sink>);

inline double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// The prompt is erased at the end.
template <StorageBackend Store>
class RemoteLoad {
 public:
  explicit RemoteLoad(Store& store)
      : store_(store), lanes_(store, {}), prompt_(kChunk * kChunks + 1) {
    for (std::size_t i = 0; i < prompt_.size(); ++i) prompt_[i] = static_cast<TokenId>(i % 1000);
    store_.check_access().value();
    const auto begin = Clock::now();
    const SaveReport saved = save(engine_, store_, prompt_, {.chunk_tokens = kChunk});
    saved.status.value();
    std::printf("saved %.0f MB, %.2f GB/s\n", static_cast<double>(saved.bytes) / 1e6,
                static_cast<double>(saved.bytes) / 1e9 / seconds_since(begin));
    keys_ = prefix_chain(root_key(engine_.fingerprint(), engine_.layout(), kChunk, {}), prompt_,
                         kChunk);
    const auto stored = store_.lookup(keys_).value();
    for (const StoredChunk& chunk : stored) bytes_ += chunk.size;
  }
  RemoteLoad(const RemoteLoad&) = delete;
  RemoteLoad& operator=(const RemoteLoad&) = delete;
  ~RemoteLoad() {
    for (const ChunkKey& key : keys_) (void)store_.erase(key);
  }

  const std::vector<ChunkKey>& keys() const { return keys_; }
  std::uint64_t bytes() const { return bytes_; }
  /// GB/s of the prompt, loaded whole.
  double load() {
    PrefillSession<Sink, Store, LoadOnlyScheduler> session(
        engine_, lanes_, {.chunk_tokens = kChunk}, {},
        {.lookup_timeout = std::chrono::seconds(10)});
    const auto begin = Clock::now();
    const PrefillReport report = prefill(session, prompt_);
    const double seconds = seconds_since(begin);
    report.status.value();
    if (report.tokens_loaded != kChunk * kChunks) {
      throw Exception(report.load_error ? Error{Errc::io, 0, "not all was loaded"}
                                        : report.load_error.error());
    }
    return static_cast<double>(bytes_) / 1e9 / seconds;
  }

 private:
  Sink engine_;
  Store& store_;
  IoLanes<Store> lanes_;
  std::vector<TokenId> prompt_;
  std::vector<ChunkKey> keys_;
  std::uint64_t bytes_ = 0;
};

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Both by turns, after one round that does not count; all in GB/s.
inline void compare(const char* peer, int rounds, const std::function<double()>& load,
                    const std::function<double()>& theirs) {
  load();
  theirs();
  std::vector<double> loads, plain, ratios;
  std::printf("GB/s\n  load %6s  ratio\n", peer);
  for (int i = 0; i < rounds; ++i) {
    loads.push_back(load());
    plain.push_back(theirs());
    ratios.push_back(loads.back() / plain.back());
    std::printf("%6.2f %6.2f %6.2f\n", loads.back(), plain.back(), ratios.back());
  }
  std::printf("%6.2f %6.2f %6.2f  medians\n", median(loads), median(plain), median(ratios));
}

}  // namespace cake_bench
