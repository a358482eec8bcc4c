// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "kv_transfer_plan.hpp"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::cuda::transfer {
namespace {

Error refuse(std::string what) {
  return Error{Errc::invalid_argument, 0, "KV transfer: " + std::move(what)};
}

std::string text(std::uint32_t begin, std::uint32_t end) {
  std::string range = "[";
  range += std::to_string(begin) + ", " + std::to_string(end) + ")";
  return range;
}

Status check_strides(const PagedKv& kv) {
  const auto closer = [&](const char* name, std::int64_t stride, std::uint32_t neighbours) {
    return neighbours > 1 && stride < static_cast<std::int64_t>(kv.layout.head_dim)
               ? Status(refuse(std::string("stride of one ") + name + " is " +
                               std::to_string(stride) + " elements; rows of head_dim " +
                               std::to_string(kv.layout.head_dim) + " would overlap"))
               : Status();
  };
  CAKE_TRY(closer("page", kv.strides.page, kv.n_pages));
  CAKE_TRY(closer("token", kv.strides.token, kv.page_tokens));
  return closer("head", kv.strides.head, kv.layout.n_kv_heads);
}

}  // namespace

Result<RunShape> shape_of(const PagedKv& kv, const Slice& slice) {
  PagedKv pools = kv;
  pools.page_table = {};  // the entries that matter are checked below
  CAKE_TRY(pools.check());
  CAKE_TRY(check_strides(kv));
  const auto [begin, end] = slice.tokens;
  if (slice.layers.begin > slice.layers.end || slice.layers.end > kv.layout.n_layers) {
    return refuse("layers " + text(slice.layers.begin, slice.layers.end) + " of " +
                  std::to_string(kv.layout.n_layers));
  }
  const std::uint64_t room = std::uint64_t{kv.page_table.size()} * kv.page_tokens;
  if (begin > end || end > room) {
    return refuse("tokens " + text(begin, end) + ", but the block table's " +
                  std::to_string(kv.page_table.size()) + " pages of " +
                  std::to_string(kv.page_tokens) + " hold " + std::to_string(room));
  }
  for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
    if (reinterpret_cast<std::uintptr_t>(kv.k[l]) % 16 != 0 ||
        reinterpret_cast<std::uintptr_t>(kv.v[l]) % 16 != 0) {
      return refuse("a pool of layer " + std::to_string(l) + " is not 16-byte aligned");
    }
  }
  RunShape shape;
  shape.order = kv.layout.order;
  shape.heads = kv.layout.n_kv_heads;
  const std::size_t element = size_of(kv.layout.dtype);
  const std::size_t row_bytes = kv.layout.head_dim * element;
  shape.tokens = end - begin;
  if (row_bytes > std::numeric_limits<std::uint16_t>::max() ||
      std::uint64_t{shape.tokens} * shape.heads > (std::uint64_t{1} << 30)) {
    return refuse(std::to_string(shape.tokens) + " tokens of " + std::to_string(shape.heads) +
                  " heads of " + std::to_string(kv.layout.head_dim) + " in one slice");
  }
  shape.row_bytes = static_cast<std::uint32_t>(row_bytes);
  shape.page_tokens = kv.page_tokens;
  const auto bytes = static_cast<std::int64_t>(element);
  shape.page_stride = kv.strides.page * bytes;
  shape.token_stride = kv.strides.token * bytes;
  shape.head_stride = kv.strides.head * bytes;
  if (shape.tokens == 0) return shape;
  shape.page_offset = begin % kv.page_tokens;
  const std::size_t first = begin / kv.page_tokens;
  const std::size_t last = (end - 1) / kv.page_tokens;
  for (std::size_t i = first; i <= last; ++i) {
    if (kv.page_table[i] < 0 || static_cast<std::uint32_t>(kv.page_table[i]) >= kv.n_pages) {
      return refuse("block_table[" + std::to_string(i) + "] is " +
                    std::to_string(kv.page_table[i]) + " of " + std::to_string(kv.n_pages) +
                    " pages");
    }
  }
  shape.table = kv.page_table.subspan(first, last - first + 1);
  return shape;
}

std::vector<Segment> segments_of(const RunShape& s) {
  std::vector<Segment> segments;
  std::size_t run = 0;
  const auto add = [&](std::int64_t pool, std::size_t bytes) {
    const auto at = static_cast<std::size_t>(pool);
    if (!segments.empty() && segments.back().pool + segments.back().bytes == at) {
      segments.back().bytes += bytes;
    } else {
      segments.push_back({run, at, bytes});
    }
    run += bytes;
  };
  // Calls take(offset of the page's part, its tokens) for each page, in order.
  const auto for_pages = [&](auto&& take) {
    std::uint32_t token = 0;
    for (std::size_t i = 0; i < s.table.size(); ++i) {
      const std::uint32_t slot = i == 0 ? s.page_offset : 0;
      const std::uint32_t n = std::min(s.page_tokens - slot, s.tokens - token);
      take(s.table[i] * s.page_stride + slot * s.token_stride, n);
      token += n;
    }
  };
  const std::int64_t row = s.row_bytes;
  if (s.order == KvOrder::nhd) {
    const bool whole = s.heads == 1 || s.head_stride == row;  // heads of a token side by side
    const std::size_t token_bytes = std::size_t{s.row_bytes} * s.heads;
    for_pages([&](std::int64_t at, std::uint32_t n) {
      for (std::uint32_t t = 0; t < n; ++t, at += s.token_stride) {
        if (whole) {
          add(at, token_bytes);
        } else {
          for (std::uint32_t h = 0; h < s.heads; ++h) add(at + h * s.head_stride, s.row_bytes);
        }
      }
    });
  } else {
    for (std::uint32_t h = 0; h < s.heads; ++h) {
      for_pages([&](std::int64_t at, std::uint32_t n) {
        at += h * s.head_stride;
        if (n == 1 || s.token_stride == row) {
          add(at, std::size_t{s.row_bytes} * n);
        } else {
          for (std::uint32_t t = 0; t < n; ++t) add(at + t * s.token_stride, s.row_bytes);
        }
      });
    }
  }
  return segments;
}

std::vector<Piece> pieces_of(const RunShape& s, std::uint32_t runs, std::size_t most) {
  std::vector<Piece> pieces;
  const std::uint64_t rows = s.rows();
  const std::uint64_t total = rows * runs;
  const std::uint64_t most_rows = std::max<std::uint64_t>(1, most / s.row_bytes);
  for (std::uint64_t begin = 0; begin < total;) {
    const std::uint64_t run = begin / rows;
    std::uint64_t end = std::min({total, begin + most_rows, (run + kMaxRuns) * rows});
    if (s.table.size() > kMaxPages) {  // then the piece stays inside one run, in hnd in one head
      const std::uint64_t r = begin - run * rows;
      const std::uint64_t token = s.order == KvOrder::nhd ? r / s.heads : r % s.tokens;
      const std::uint64_t entry = (s.page_offset + token) / s.page_tokens;
      const std::uint64_t behind =
          std::min<std::uint64_t>(s.tokens, (entry + kMaxPages) * s.page_tokens - s.page_offset);
      const std::uint64_t last = s.order == KvOrder::nhd ? behind * s.heads : r - token + behind;
      end = std::min(end, run * rows + last);
    }
    pieces.push_back({begin, end});
    begin = end;
  }
  return pieces;
}

MoveArgs args_of(const RunShape& s, const Piece& piece, std::span<std::byte* const> pools) {
  MoveArgs a;
  const std::uint64_t run = piece.begin / s.rows();
  const std::uint64_t last_run = (piece.end - 1) / s.rows();
  a.near_stride = static_cast<std::int64_t>(s.run_bytes());
  a.n_rows = static_cast<std::uint32_t>(piece.end - piece.begin);
  a.first_row = static_cast<std::uint32_t>(piece.begin - run * s.rows());
  a.rows = s.rows();
  a.row_bytes = s.row_bytes;
  a.heads = s.heads;
  a.tokens = s.tokens;
  a.page_tokens = s.page_tokens;
  a.page_offset = s.page_offset;
  a.hnd = s.order == KvOrder::hnd;
  a.page_stride = s.page_stride;
  a.token_stride = s.token_stride;
  a.head_stride = s.head_stride;
  for (std::uint64_t i = run; i <= last_run; ++i) a.pools[i - run] = pools[i];
  std::size_t entries = s.table.size();
  if (entries > kMaxPages) {  // inside one run, as pieces_of() cuts
    const std::uint32_t token = a.hnd ? a.first_row % s.tokens : a.first_row / s.heads;
    a.first_page = (s.page_offset + token) / s.page_tokens;
    entries = std::min<std::size_t>(kMaxPages, entries - a.first_page);
  }
  for (std::size_t i = 0; i < entries; ++i) a.table[i] = s.table[a.first_page + i];
  return a;
}

}  // namespace cake::inline CAKE_ABI::cuda::transfer
