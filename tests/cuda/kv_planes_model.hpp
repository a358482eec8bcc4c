// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// KV of any layout in pages in host memory, and what inserts and extracts do to it, row by row:
// written without a look at how the library does it, so that the two can be compared.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "cake/cuda/paged_kv.hpp"
#include "cake/engine.hpp"
#include "cake/staging.hpp"

namespace kv_planes {

using namespace cake;
using namespace cake::cuda;

/// One seed, one case: layers of every kind, pages of every size, strides, alignments, tokens.
class Planes {
 public:
  explicit Planes(unsigned seed) : random_(seed), seed_(seed) {
    tokens_.begin = pick(0, 150);
    tokens_.end = tokens_.begin + pick(1, 150);
    if (seed % 4 == 0) tokens_ = {tokens_.begin / 16 * 16, tokens_.begin / 16 * 16 + 64};
    make_layout();
    layers_.begin = pick(0, layout_.n_layers - 1);
    layers_.end = pick(layers_.begin + 1, layout_.n_layers);
    if (seed % 2 == 0) layers_ = {0, layout_.n_layers};
    make_tables();
    make_pools();
    fill(seed);
    const std::uint32_t alignments[] = {1, 16, 64, 4096};
    runs_ = std::make_shared<const KvRuns>(layout_, tokens_.size(), alignments[pick(0, 3)]);
  }

  const KvLayout& layout() const { return layout_; }
  Slice slice() const { return {0, tokens_, layers_}; }
  /// Some layer of the slice has a window, of which some tokens have no page.
  bool lacks_pages() const { return lacks_pages_; }
  AlignedBuffer& memory() { return *memory_; }

  /// All pools lie in one piece of memory: this one, or one of the same size at `base`. Valid until
  /// asked for again.
  PagedPlanes paged(void* base = nullptr) {
    if (base == nullptr) base = memory_->data();
    pools_ = places_;
    for (std::size_t i = 0; i < pools_.size(); ++i) {
      pools_[i].base = static_cast<std::byte*>(base) + offsets_[i];
    }
    return {layout_, pools_, tables_};
  }

  std::size_t view_bytes() const { return runs_->begin_at(runs_->n_layers()); }
  KvView view_of(const std::byte* base) const { return {base, runs_->layer_at(0), runs_}; }
  MutableKvView mutable_view_of(std::byte* base) const { return {base, runs_->layer_at(0), runs_}; }

  void fill(std::uint32_t seed) {
    std::uint32_t x = seed * 2654435761u + 1;
    for (std::byte& b : memory_->bytes())
      b = static_cast<std::byte>((x = x * 1664525u + 1013) >> 24);
  }

  /// What an insert of `view` does to this memory, or an extract to the view.
  template <class Byte>
  void model(const BasicKvView<Byte>& view) {
    std::size_t pool = 0;
    for (std::uint32_t l = 0; l < layout_.n_layers; ++l) {
      const KvLayerKind& kind = layout_.kind(l);
      for (std::uint32_t i = 0; i < kind.planes.size(); ++i, ++pool) {
        if (l < layers_.begin || l >= layers_.end) continue;
        const PageTable& table = tables_[places_[pool].table];
        const std::uint32_t n = kind.state ? 1 : tokens_.size();
        for (std::uint32_t t = 0; t < n; ++t) {
          const std::uint32_t position = tokens_.begin + t;
          const std::int32_t page = kind.state ? table.pages[tokens_.end / table.page_tokens - 1]
                                               : table.pages[position / table.page_tokens];
          if (page < 0) continue;
          const std::uint32_t slot = kind.state ? 0 : position % table.page_tokens;
          for (std::uint32_t r = 0; r < kind.planes[i].rows; ++r) {
            copy(view.plane(l, i), kind.planes[i], n, t, r,
                 memory_->data() + offsets_[pool] + page * places_[pool].page +
                     slot * places_[pool].token + r * places_[pool].row);
          }
        }
      }
    }
  }

  std::string text() const {
    std::ostringstream s;
    s << "seed " << seed_ << ": tokens " << tokens_.begin << ".." << tokens_.end << ", layers "
      << layers_.begin << ".." << layers_.end;
    for (std::uint32_t l = layers_.begin; l < layers_.end; ++l) {
      const KvLayerKind& kind = layout_.kind(l);
      s << "\n  layer " << l << (kind.state ? ": state" : kind.window != 0 ? ": window" : ":");
      for (const KvPlane& p : kind.planes) {
        s << " " << p.rows << " x " << p.row_bytes << " " << to_string(p.order);
      }
    }
    return s.str();
  }

 private:
  std::uint32_t pick(std::uint32_t from, std::uint32_t to) {
    return std::uniform_int_distribution<std::uint32_t>(from, to)(random_);
  }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[pick(0, static_cast<std::uint32_t>(values.size()) - 1)];
  }

  template <class Byte>
  static void copy(std::span<Byte> run, const KvPlane& plane, std::uint32_t n, std::uint32_t t,
                   std::uint32_t r, std::byte* row) {
    const std::size_t at =
        plane.order == KvOrder::nhd ? std::size_t{t} * plane.rows + r : std::size_t{r} * n + t;
    if constexpr (std::is_const_v<Byte>) {
      std::memcpy(row, run.data() + at * plane.row_bytes, plane.row_bytes);
    } else {
      std::memcpy(run.data() + at * plane.row_bytes, row, plane.row_bytes);
    }
  }

  KvPlane plane(bool state) {
    KvPlane p{one_of({1u, 1u, 2u, 3u, 8u}),
              one_of({1u, 2u, 2u, 3u, 4u, 6u, 8u, 12u, 16u, 32u, 40u, 64u, 132u, 256u}),
              one_of({KvOrder::nhd, KvOrder::hnd}), DType::opaque};
    if (state && p.rows < 3 && pick(0, 1) == 0)
      p.row_bytes = one_of({9'000u, 70'000u, 66'049u, 131'072u});
    if (!state && pick(0, 30) == 0) p.row_bytes = 9'216;
    return p;
  }
  void make_layout() {
    const std::uint32_t kinds = pick(1, 4);
    for (std::uint32_t k = 0; k < kinds; ++k) {
      KvLayerKind kind;
      kind.state = pick(0, 3) == 0;
      if (!kind.state && pick(0, 2) == 0) kind.window = pick(1, tokens_.end);
      std::uint32_t planes = k == 0 ? pick(1, 4) : pick(0, 4);
      if (pick(0, 2) == 0) planes = 2;
      for (std::uint32_t i = 0; i < planes; ++i) kind.planes.push_back(plane(kind.state));
      if (planes > 1 && pick(0, 1) == 0) kind.planes.back() = kind.planes.front();
      layout_.kinds.push_back(kind);
    }
    layout_.n_layers = pick(1, 7);
    for (std::uint32_t l = 0; l < layout_.n_layers; ++l) {
      layout_.kind_of.push_back(static_cast<std::uint16_t>(l == 0 ? 0 : pick(0, kinds - 1)));
    }
  }

  /// A table for each kind; a window lacks pages in front, and may be a ring.
  void make_tables() {
    for (std::uint32_t k = 0; k < layout_.kinds.size(); ++k) {
      const KvLayerKind& kind = layout_.kinds[k];
      PageTable table;
      table.page_tokens = one_of({1u, 2u, 3u, 7u, 16u, 16u, 64u, 320u});
      if (kind.state) {
        std::uint32_t kept = pick(1, 6);  // states that have pages
        while (tokens_.end % kept != 0) --kept;
        table.page_tokens = tokens_.end / kept;
      }
      const std::uint32_t used =
          (tokens_.end + table.page_tokens - 1) / table.page_tokens + pick(0, 1);
      table.n_pages = used + pick(0, 3);
      std::vector<std::int32_t> pages(table.n_pages);
      std::iota(pages.begin(), pages.end(), 0);
      if (pick(0, 2) != 0) std::shuffle(pages.begin(), pages.end(), random_);
      pages.resize(used);
      if (kind.window != 0 && pick(0, 3) != 0) leave_out(pages, kind, table.page_tokens);
      entries_.push_back(std::move(pages));
      tables_.push_back(table);
    }
    for (std::size_t k = 0; k < entries_.size(); ++k) tables_[k].pages = entries_[k];
  }
  void leave_out(std::vector<std::int32_t>& pages, const KvLayerKind& kind, std::uint32_t size) {
    const std::uint32_t from = tokens_.end > kind.window ? tokens_.end - kind.window : 0;
    for (std::uint32_t i = 0; i < from / size; ++i) pages[i] = PageTable::kNoPage;
    if (pick(0, 3) == 0) pages[pick(0, static_cast<std::uint32_t>(pages.size()) - 1)] = -1;
    for (std::uint32_t l = layers_.begin; l < layers_.end; ++l) {
      if (&layout_.kind(l) != &kind || kind.planes.empty()) continue;
      for (std::uint32_t t = tokens_.begin; t < tokens_.end; ++t) {
        lacks_pages_ = lacks_pages_ || pages[t / size] < 0;
      }
    }
  }

  void make_pools() {
    std::size_t bytes = 256;  // in front of the first, and behind each
    for (std::uint32_t l = 0; l < layout_.n_layers; ++l) {
      const auto table = static_cast<std::uint32_t>(layout_.kind_of[l]);
      for (const KvPlane& p : layout_.kind(l).planes) {
        const std::uint32_t n = layout_.kind(l).state ? 1 : tables_[table].page_tokens;
        PlanePool pool = PlanePool::packed(nullptr, p, n, table);
        const auto token = static_cast<std::int64_t>(p.token_bytes());
        const std::int64_t row = p.row_bytes;
        const std::uint32_t how = pick(0, 4);
        const std::int64_t gap = one_of({1, 2, 4, 8, 16, 32});
        if (how == 1) pool.page += gap;
        if (how == 2) {  // the other order than the stored runs
          pool.token = p.order == KvOrder::nhd ? row : token;
          pool.row = p.order == KvOrder::nhd ? n * row : row;
        }
        if (how == 3) pool = {nullptr, n * (token + gap), token + gap, row, table};
        if (how == 4) pool = {nullptr, p.rows * (n * row + gap), row, n * row + gap, table};
        bytes = (bytes + 255) / 256 * 256;
        if (pick(0, 2) == 0) bytes += one_of({1u, 2u, 4u, 8u, 16u});
        offsets_.push_back(bytes);
        places_.push_back(pool);
        bytes += static_cast<std::size_t>(pool.page) * tables_[table].n_pages + 64;
      }
    }
    memory_ = std::make_unique<AlignedBuffer>(bytes);
  }

  std::mt19937 random_;
  unsigned seed_;
  KvLayout layout_;
  TokenRange tokens_;
  LayerRange layers_;
  std::vector<std::vector<std::int32_t>> entries_;  // of each table
  std::vector<PageTable> tables_;                   // one for each kind
  std::vector<PlanePool> places_;                   // without bases
  std::vector<std::size_t> offsets_;                // of each pool in the memory
  std::vector<PlanePool> pools_;
  std::unique_ptr<AlignedBuffer> memory_;
  std::shared_ptr<const KvRuns> runs_;
  bool lacks_pages_ = false;
};

/// Empty, or where the first byte differs.
inline std::string difference(ConstBytes expected, ConstBytes got) {
  const auto at = std::mismatch(expected.begin(), expected.end(), got.begin());
  if (at.first == expected.end()) return {};
  std::ostringstream text;
  text << "byte " << at.first - expected.begin() << " is " << static_cast<int>(*at.second)
       << ", not " << static_cast<int>(*at.first);
  return text.str();
}

}  // namespace kv_planes
