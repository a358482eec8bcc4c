// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What the benchmarks of inserts insert, and where: chunks of Llama-3.1-8B's KV in pinned host
// memory, and paged pools with a shuffled table.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "cake/cuda/kv_transfer.hpp"

namespace cake::benchmarks {

constexpr std::uint32_t kChunkTokens = 256;
constexpr std::uint32_t kChunks = 16;  // that a target has room for
constexpr std::uint32_t kSources = 4;  // different ones in host memory

/// Pools of Llama-3.1-8B's shape for kChunks chunks, with a shuffled table.
struct InsertTarget {
  InsertTarget(KvOrder order, std::uint32_t page_tokens)
      : layout{32, 8, 128, DType::bf16, order},
        page(page_tokens),
        n_pages(kChunks * kChunkTokens / page_tokens),
        side(std::size_t{n_pages} * page_tokens * layout.row_bytes()),
        pools(2 * layout.n_layers * side),
        table(n_pages) {
    for (std::uint32_t l = 0; l < layout.n_layers; ++l) {
      k.push_back(pools.as<std::byte>() + 2 * l * side);
      v.push_back(pools.as<std::byte>() + (2 * l + 1) * side);
    }
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(1));
  }
  cuda::PagedKv paged() const {
    return {layout, page, n_pages, cuda::PageStrides::packed(layout, page), k, v, table};
  }
  Slice slice(std::uint32_t chunk) const {
    return {chunk, {chunk * kChunkTokens, (chunk + 1) * kChunkTokens}, {0, layout.n_layers}};
  }
  std::size_t run_bytes() const { return layout.run_bytes(kChunkTokens); }
  std::size_t chunk_bytes() const { return 2 * layout.n_layers * run_bytes(); }
  KvView view(const cuda::PinnedBuffer& source, std::uint32_t chunk) const {
    return {source.data() + (chunk % kSources) * chunk_bytes(), 0, run_bytes(), run_bytes()};
  }

  UniformKvLayout layout;
  std::uint32_t page;
  std::uint32_t n_pages;
  std::size_t side;
  cuda::DeviceBuffer pools;
  std::vector<std::int32_t> table;
  std::vector<void*> k;
  std::vector<void*> v;
};

/// Pools for kChunks chunks of KV of any layout, with a shuffled table, and states at the ends of
/// chunks.
struct PlanesTarget {
  PlanesTarget(const KvLayout& shape, std::uint32_t page_tokens)
      : layout(shape),
        runs(std::make_shared<const KvRuns>(layout, kChunkTokens, 4096)),
        pages(kChunks * kChunkTokens / page_tokens),
        states(kChunks),
        tables{{page_tokens, kChunks * kChunkTokens / page_tokens, {}},
               {kChunkTokens, kChunks, {}}} {
    for (auto* const table : {&pages, &states}) {
      std::iota(table->begin(), table->end(), 0);
      std::shuffle(table->begin(), table->end(), std::mt19937(1));
    }
    tables[0].pages = pages;
    tables[1].pages = states;
    for (std::uint32_t l = 0; l < layout.n_layers; ++l) {
      const bool state = layout.kind(l).state;
      for (const KvPlane& plane : layout.kind(l).planes) {
        memory.emplace_back(plane.token_bytes() * kChunks * (state ? 1 : kChunkTokens));
        pools.push_back(cuda::PlanePool::packed(memory.back().data(), plane,
                                                state ? 1 : page_tokens, state ? 1 : 0));
      }
    }
  }
  cuda::PagedPlanes paged() const { return {layout, pools, tables}; }
  Slice slice(std::uint32_t chunk) const {
    return {chunk, {chunk * kChunkTokens, (chunk + 1) * kChunkTokens}, {0, layout.n_layers}};
  }
  std::size_t chunk_bytes() const { return runs->begin_at(layout.n_layers); }
  KvView view(const cuda::PinnedBuffer& source, std::uint32_t chunk) const {
    const std::size_t different = source.size() / chunk_bytes();
    return {source.data() + chunk % different * chunk_bytes(), runs->layer_at(0), runs};
  }

  KvLayout layout;
  std::shared_ptr<const KvRuns> runs;
  std::vector<std::int32_t> pages;
  std::vector<std::int32_t> states;
  cuda::PageTable tables[2];
  std::vector<cuda::DeviceBuffer> memory;
  std::vector<cuda::PlanePool> pools;
};

/// Inserts chunk after chunk as so many of the loader's lanes do: each of them the next one when
/// its last one is done. `more(n)` is asked before the nth, by all of them at once. Returns how
/// many were inserted.
template <class Target, class More>
std::uint32_t insert_by_lanes(cuda::KvTransfer& transfer, const Target& target,
                              const cuda::PinnedBuffer& source, unsigned lanes, More more) {
  std::atomic<std::uint32_t> next{0};
  std::atomic<std::uint32_t> done{0};
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < lanes; ++i) {
    threads.emplace_back([&] {
      for (std::uint32_t n; more(n = next++); ++done) {
        const std::uint32_t chunk = n % kChunks;
        transfer.insert(target.paged(), target.slice(chunk), target.view(source, chunk))
            .wait()
            .value();
      }
    });
  }
  threads.clear();
  return done;
}

/// Memory for the sources.
inline cuda::PinnedBuffer make_sources() {
  cuda::PinnedBuffer source(kSources * (std::size_t{32} << 20));
  std::memset(source.data(), 0x3c, source.size());
  return source;
}

}  // namespace cake::benchmarks
