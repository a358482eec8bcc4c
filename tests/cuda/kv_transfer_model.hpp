// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Pages in host memory, and what inserts and extracts do to them, element by element: written
// without a look at how the library does it, so that the two can be compared.
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>
#include <ostream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "cake/cuda/paged_kv.hpp"
#include "cake/engine.hpp"
#include "cake/staging.hpp"

namespace kv_model {

using namespace cake;
using namespace cake::cuda;

enum class Strides {
  packed,       // as PageStrides::packed()
  interleaved,  // K and V of a page behind each other: [page][2][...]
  padded,       // 8 elements behind each token's heads and each page
  swapped,      // pages in the other order than the stored runs
};
enum class Table { shuffled, ascending, mixed };

struct Case {
  KvOrder order = KvOrder::nhd;
  DType dtype = DType::bf16;
  std::uint32_t page_tokens = 16;
  TokenRange tokens{0, 64};
  LayerRange layers{0, 2};
  std::uint32_t n_layers = 2;
  std::uint32_t heads = 2;
  std::uint32_t head_dim = 16;
  Strides strides = Strides::packed;
  Table table = Table::shuffled;
  unsigned seed = 1;
  std::size_t gap = 0;  // bytes between the runs of the view

  std::string text() const {
    static constexpr const char* kStrides[] = {"packed", "interleaved", "padded", "swapped"};
    static constexpr const char* kTables[] = {"shuffled", "ascending", "mixed"};
    std::ostringstream s;
    s << to_string(order) << " " << to_string(dtype) << ", pages of " << page_tokens << ", tokens "
      << tokens.begin << ".." << tokens.end << ", layers " << layers.begin << ".." << layers.end
      << " of " << n_layers << ", " << heads << " heads of " << head_dim << ", "
      << kStrides[static_cast<int>(strides)] << ", table " << kTables[static_cast<int>(table)]
      << ", gap " << gap << ", seed " << seed;
    return s.str();
  }
};
inline std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.text(); }

/// Pools of a case in host memory, with the description of them, or of the same pools elsewhere.
class Pools {
 public:
  explicit Pools(const Case& c)
      : case_(c), layout_{c.n_layers, c.heads, c.head_dim, c.dtype, c.order} {
    const std::uint32_t used = (c.tokens.end + c.page_tokens - 1) / c.page_tokens + 1;
    n_pages_ = used + 3;
    const std::int64_t d = c.head_dim, heads = c.heads, tokens = c.page_tokens;
    strides_ = PageStrides::packed(layout_, c.page_tokens);
    if (c.strides == Strides::interleaved) strides_.page *= 2;
    if (c.strides == Strides::padded) {
      strides_ = c.order == KvOrder::nhd
                     ? PageStrides{tokens * (heads * d + 8) + 8, heads * d + 8, d}
                     : PageStrides{heads * (tokens * d + 8) + 8, d, tokens * d + 8};
    }
    if (c.strides == Strides::swapped) {
      strides_ = c.order == KvOrder::nhd ? PageStrides{heads * tokens * d, d, tokens * d}
                                         : PageStrides{heads * tokens * d, heads * d, d};
    }
    pool_bytes_ = static_cast<std::size_t>(strides_.page) * n_pages_ * 2;
    const bool both = c.strides == Strides::interleaved;
    for (std::uint32_t i = 0; i < (both ? 1u : 2u) * c.n_layers; ++i) {
      memory_.emplace_back(pool_bytes_);
    }
    std::vector<std::int32_t> pages(n_pages_);
    std::iota(pages.begin(), pages.end(), 0);
    std::mt19937 random(c.seed);
    if (c.table == Table::shuffled) std::shuffle(pages.begin(), pages.end(), random);
    if (c.table == Table::mixed) {  // runs of neighbours, in another order
      std::rotate(pages.begin(), pages.begin() + static_cast<long>(n_pages_ / 2), pages.end());
    }
    table_.assign(pages.begin(), pages.begin() + used);
    fill(99 + c.seed);
  }

  void fill(std::uint32_t seed) {
    for (AlignedBuffer& pool : memory_) {
      std::uint32_t x = seed++ * 2654435761u + 1;
      for (std::byte& b : pool.bytes()) b = static_cast<std::byte>((x = x * 1664525u + 1013) >> 24);
    }
  }

  /// Pools of memory: K and V of a layer behind each other, or both in one.
  std::vector<AlignedBuffer>& memory() { return memory_; }
  const std::vector<AlignedBuffer>& memory() const { return memory_; }
  const UniformKvLayout& layout() const { return layout_; }
  std::vector<std::int32_t>& table() { return table_; }
  Slice slice() const { return {0, case_.tokens, case_.layers}; }
  std::size_t run_bytes() const { return layout_.run_bytes(case_.tokens.size()); }

  /// Over this memory, or over `bases`, one for each of memory(); valid until asked for again.
  PagedKv paged(const std::vector<void*>& bases = {}) {
    std::vector<void*>& k = bases.empty() ? host_k_ : k_;
    std::vector<void*>& v = bases.empty() ? host_v_ : v_;
    k.clear();
    v.clear();
    const bool both = case_.strides == Strides::interleaved;
    for (std::uint32_t l = 0; l < case_.n_layers; ++l) {
      const auto base = [&](std::size_t i) -> void* {
        return bases.empty() ? memory_[i].data() : bases[i];
      };
      if (both) {
        k.push_back(base(l));
        v.push_back(static_cast<std::byte*>(base(l)) + strides_.page);  // half of it, of 2 bytes
      } else {
        k.push_back(base(2 * l));
        v.push_back(base(2 * l + 1));
      }
    }
    return {layout_, case_.page_tokens, n_pages_, strides_, k, v, table_};
  }

  /// What an insert of `view` does to this memory (or, reversed, an extract to the view).
  template <class Byte>
  void model(const BasicKvView<Byte>& view) {
    const PagedKv kv = paged();
    const std::size_t n = case_.tokens.size();
    for (std::uint32_t l = case_.layers.begin; l < case_.layers.end; ++l) {
      for (int side = 0; side < 2; ++side) {
        Byte* const run = side == 0 ? view.k(l).data() : view.v(l).data();
        auto* const pool = static_cast<std::byte*>(side == 0 ? kv.k[l] : kv.v[l]);
        for (std::size_t t = 0; t < n; ++t) {
          const std::size_t position = case_.tokens.begin + t;
          const std::int64_t page = table_[position / case_.page_tokens];
          const auto slot = static_cast<std::int64_t>(position % case_.page_tokens);
          for (std::uint32_t h = 0; h < case_.heads; ++h) {
            for (std::uint32_t e = 0; e < case_.head_dim; ++e) {
              const std::size_t in_run = case_.order == KvOrder::nhd
                                             ? (t * case_.heads + h) * case_.head_dim + e
                                             : (h * n + t) * case_.head_dim + e;
              const std::int64_t in_pool =
                  page * strides_.page + slot * strides_.token + h * strides_.head + e;
              if constexpr (std::is_const_v<Byte>) {
                std::memcpy(pool + 2 * in_pool, run + 2 * in_run, 2);
              } else {
                std::memcpy(run + 2 * in_run, pool + 2 * in_pool, 2);
              }
            }
          }
        }
      }
    }
  }

  /// Empty, or where the first byte differs from `other`.
  std::string difference(const std::vector<AlignedBuffer>& other) const {
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      const auto a = memory_[i].bytes();
      const auto b = other[i].bytes();
      if (std::memcmp(a.data(), b.data(), a.size()) == 0) continue;
      const auto at =
          static_cast<std::size_t>(std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin());
      const std::int64_t element = static_cast<std::int64_t>(at / 2);
      std::ostringstream text;
      text << "pool " << i << ", byte " << at << " (page " << element / strides_.page
           << ", element " << element % strides_.page << " of it) is " << static_cast<int>(b[at])
           << ", not " << static_cast<int>(a[at]);
      return text.str();
    }
    return {};
  }

 private:
  Case case_;
  UniformKvLayout layout_;
  PageStrides strides_;
  std::uint32_t n_pages_ = 0;
  std::size_t pool_bytes_ = 0;
  std::vector<AlignedBuffer> memory_;
  std::vector<std::int32_t> table_;
  std::vector<void*> k_;
  std::vector<void*> v_;
  std::vector<void*> host_k_;
  std::vector<void*> host_v_;
};

inline std::size_t view_bytes(const Case& c, std::size_t run_bytes) {
  return 2 * c.layers.size() * (run_bytes + c.gap);
}
inline KvView view_of(const std::byte* base, const Case& c, std::size_t run_bytes) {
  return {base, c.layers.begin, run_bytes, run_bytes + c.gap};
}
inline MutableKvView mutable_view_of(std::byte* base, const Case& c, std::size_t run_bytes) {
  return {base, c.layers.begin, run_bytes, run_bytes + c.gap};
}

/// Ranges and layers that meet every edge of pages, for a page size and seed.
inline std::vector<Case> cases(std::uint32_t page_tokens, KvOrder order) {
  std::vector<Case> all;
  const std::uint32_t p = page_tokens;
  const TokenRange ranges[] = {{0, 4 * p},         {p, 2 * p},     {0, 1},
                               {p / 2, p / 2 + 1}, {1, 3 * p + 1}, {p - 1, 2 * p + p / 3 + 1},
                               {2 * p, 2 * p + 97}};
  unsigned seed = p;
  for (const TokenRange& range : ranges) {
    for (const Strides strides :
         {Strides::packed, Strides::interleaved, Strides::padded, Strides::swapped}) {
      Case c;
      c.order = order;
      c.page_tokens = p;
      c.tokens = range;
      c.strides = strides;
      c.seed = ++seed;
      c.dtype = seed % 2 == 0 ? DType::bf16 : DType::f16;
      c.table = static_cast<Table>(seed % 3);
      c.n_layers = 1 + seed % 4;
      c.layers = {seed % 5 == 0 ? c.n_layers - 1 : 0, c.n_layers};
      if (seed % 7 == 0) c.layers = {0, 1};
      c.heads = 1 + seed % 3;
      c.head_dim = seed % 3 == 0 ? 8 : 64;
      c.gap = seed % 4 == 0 ? 4096 - 16 : 0;
      all.push_back(c);
    }
  }
  return all;
}

}  // namespace kv_model
