// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "kv_transfer_plan.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <string>
#include <utility>

#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::cuda::transfer {
namespace {

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

Error no_such_page(const PlaneAt& plane, std::size_t entry) {
  return refuse("block_table[" + std::to_string(entry) + "] is " +
                std::to_string(plane.table.pages[entry]) + " of " +
                std::to_string(plane.table.n_pages) + " pages (layer " +
                std::to_string(plane.layer) + ")");
}

bool is_page(const PageTable& table, std::size_t entry) {
  return table.pages[entry] >= 0 && static_cast<std::uint32_t>(table.pages[entry]) < table.n_pages;
}

/// Checks that no two rows of a pool lie on each other: pages, tokens and rows are nested, in
/// whatever order.
Status check_overlap(const PlaneAt& plane) {
  struct Step {
    const char* name;
    std::int64_t stride;
    std::int64_t count;
  };
  Step steps[] = {{"row", plane.pool.row, plane.rows},
                  {"token", plane.pool.token, plane.state ? 1 : plane.table.page_tokens},
                  {"page", plane.pool.page, plane.table.n_pages}};
  std::stable_sort(std::begin(steps), std::end(steps),
                   [](const Step& a, const Step& b) { return a.stride < b.stride; });
  std::int64_t inside = plane.row_bytes;  // bytes from the first one to the end of the last
  for (const Step& step : steps) {
    if (step.count < 2) continue;
    if (step.stride < inside) {
      return refuse("stride of one " + std::string(step.name) + " of " + plane.name() + " is " +
                    std::to_string(step.stride) + " bytes, but one has " + std::to_string(inside) +
                    "; they would overlap");
    }
    constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max() / 2;
    inside = step.stride > kMost / step.count ? kMost : inside + step.stride * (step.count - 1);
  }
  return {};
}

/// The state behind token `end`.
Result<std::vector<Stretch>> state_at(const PlaneAt& plane, std::uint32_t end, bool insert) {
  const PageTable& table = plane.table;
  const auto absent = [&](const std::string& why) {
    Error error = refuse("the state of layer " + std::to_string(plane.layer) + " behind token " +
                         std::to_string(end) + " has no page: " + why);
    if (!insert) error.code = Errc::not_found;
    return error;
  };
  const std::size_t entry = end / table.page_tokens - std::size_t{1};
  if (end % table.page_tokens != 0) {
    return absent("its block table has those behind every " + std::to_string(table.page_tokens) +
                  " tokens");
  }
  if (entry >= table.pages.size()) {
    return absent("its block table has " + std::to_string(table.pages.size()) +
                  " entries, each behind " + std::to_string(table.page_tokens) + " more tokens");
  }
  if (table.pages[entry] == PageTable::kNoPage) {
    return absent("block_table[" + std::to_string(entry) + "] is -1");
  }
  if (!is_page(table, entry)) return no_such_page(plane, entry);
  return std::vector<Stretch>{{0, 1, 0, table.pages.subspan(entry, 1)}};
}

/// What of a window has pages.
Result<std::vector<Stretch>> window_in(const PlaneAt& plane, TokenRange tokens, bool insert) {
  const PageTable& table = plane.table;
  std::vector<Stretch> stretches;
  std::vector<std::int32_t> used;
  bool open = false;
  for (std::uint32_t t = tokens.begin; t < tokens.end;) {
    const std::size_t entry = t / table.page_tokens;
    const std::uint32_t offset = t % table.page_tokens;
    const std::uint32_t n = std::min(table.page_tokens - offset, tokens.end - t);
    const bool there = table.pages[entry] != PageTable::kNoPage;
    if (there && !is_page(table, entry)) return no_such_page(plane, entry);
    if (!there && !insert) {
      Error error = refuse("tokens " + text(t, t + n) + " have left the window of layer " +
                           std::to_string(plane.layer) + ": block_table[" + std::to_string(entry) +
                           "] is -1");
      error.code = Errc::not_found;
      return error;
    }
    if (there && !open) stretches.push_back({t - tokens.begin, 0, offset, {}});
    if (there) {
      Stretch& last = stretches.back();
      last.tokens += n;
      last.table = table.pages.subspan(entry - last.table.size(), last.table.size() + 1);
      used.push_back(table.pages[entry]);
    }
    open = there;
    t += n;
  }
  std::sort(used.begin(), used.end());
  const auto twice = std::adjacent_find(used.begin(), used.end());
  if (twice != used.end()) {
    return refuse("page " + std::to_string(*twice) + " of layer " + std::to_string(plane.layer) +
                  " is there twice for tokens " + text(tokens.begin, tokens.end) +
                  "; give entries of tokens that have left the window -1");
  }
  return stretches;
}

}  // namespace

Error refuse(std::string what) {
  return Error{Errc::invalid_argument, 0, "KV transfer: " + std::move(what)};
}

std::string PlaneAt::name() const {
  return "plane " + std::to_string(index) + " of layer " + std::to_string(layer);
}

Status check_shape(const PagedPlanes& kv) {
  if (!kv.layout.valid()) {
    return refuse("the layout is not valid: some layer has no kind, or a plane is empty");
  }
  std::size_t planes = 0;
  for (std::uint32_t l = 0; l < kv.layout.n_layers; ++l) planes += kv.layout.kind(l).planes.size();
  if (kv.pools.size() != planes) {
    return refuse("there are " + std::to_string(kv.pools.size()) + " pools for the " +
                  std::to_string(planes) + " planes of all layers");
  }
  for (const PlanePool& pool : kv.pools) {
    if (pool.table >= kv.tables.size()) {
      return refuse("a pool has table " + std::to_string(pool.table) + " of " +
                    std::to_string(kv.tables.size()));
    }
  }
  return {};
}

PlaneAt plane_at(const PagedPlanes& kv, std::uint32_t layer, std::uint32_t index,
                 std::size_t first) {
  const KvLayerKind& kind = kv.layout.kind(layer);
  const KvPlane& plane = kind.planes[index];
  const PlanePool& pool = kv.pools[first + index];
  return {layer,
          index,
          plane.rows,
          plane.row_bytes,
          plane.order,
          kind.state,
          kind.window != 0,
          pool,
          kv.tables[pool.table]};
}

PlaneAt plane_at(const PagedKv& kv, std::uint32_t layer, std::uint32_t index) {
  const auto element = static_cast<std::int64_t>(size_of(kv.layout.dtype));
  const std::uint64_t row = std::uint64_t{kv.layout.head_dim} * size_of(kv.layout.dtype);
  PlaneAt plane;
  plane.layer = layer;
  plane.index = index;
  plane.rows = kv.layout.n_kv_heads;
  plane.row_bytes = static_cast<std::uint32_t>(std::min<std::uint64_t>(row, ~0u));
  plane.order = kv.layout.order;
  plane.pool = {index == 0 ? kv.k[layer] : kv.v[layer], kv.strides.page * element,
                kv.strides.token * element, kv.strides.head * element};
  plane.table = {kv.page_tokens, kv.n_pages, kv.page_table};
  return plane;
}

Status check_plane(const PlaneAt& plane) {
  if (plane.pool.base == nullptr) return refuse(plane.name() + " has no pool: its base is null");
  constexpr std::uint32_t kMost = std::numeric_limits<std::int32_t>::max();
  if (plane.table.page_tokens < 1 || plane.table.page_tokens > kMost) {
    return refuse("page_tokens of " + plane.name() + " are " +
                  std::to_string(plane.table.page_tokens) + "; 1 to 2147483647 will do");
  }
  CAKE_TRY(check_overlap(plane));
  if (plane.token_bytes() > kMost) {
    return refuse(plane.name() + " has " + std::to_string(plane.token_bytes()) +
                  " bytes of one token; at most 2147483647 can be moved");
  }
  return {};
}

Status check_layers(const Slice& slice, std::uint32_t n_layers) {
  if (slice.layers.begin <= slice.layers.end && slice.layers.end <= n_layers) return {};
  return refuse("layers " + text(slice.layers.begin, slice.layers.end) + " of " +
                std::to_string(n_layers));
}

Result<std::vector<Stretch>> stretches_of(const PlaneAt& plane, TokenRange tokens, bool insert) {
  const PageTable& table = plane.table;
  const auto [begin, end] = tokens;
  if (begin > end) return refuse("tokens " + text(begin, end));
  if (begin == end) return std::vector<Stretch>{};
  if (plane.state) return state_at(plane, end, insert);
  const std::uint64_t room = std::uint64_t{table.pages.size()} * table.page_tokens;
  if (end > room) {
    return refuse("tokens " + text(begin, end) + ", but the block table's " +
                  std::to_string(table.pages.size()) + " pages of " +
                  std::to_string(table.page_tokens) + " hold " + std::to_string(room) + " (layer " +
                  std::to_string(plane.layer) + ")");
  }
  if (std::uint64_t{end - begin} * plane.rows > (std::uint64_t{1} << 30)) {
    return refuse(std::to_string(end - begin) + " tokens of " + std::to_string(plane.rows) +
                  " rows in one slice (" + plane.name() + ")");
  }
  if (plane.window) return window_in(plane, tokens, insert);
  const std::size_t first = begin / table.page_tokens;
  const std::size_t last = (end - 1) / table.page_tokens;
  for (std::size_t i = first; i <= last; ++i) {
    if (!is_page(table, i)) return no_such_page(plane, i);
  }
  return std::vector<Stretch>{
      {0, end - begin, begin % table.page_tokens, table.pages.subspan(first, last - first + 1)}};
}

RunShape shape_of(const PlaneAt& plane, const Stretch& stretch) {
  RunShape shape;
  shape.order = plane.order;
  shape.heads = plane.rows;
  shape.row_bytes = plane.row_bytes;
  shape.tokens = stretch.tokens;
  shape.page_tokens = plane.state ? 1 : plane.table.page_tokens;
  shape.page_offset = stretch.page_offset;
  shape.page_stride = plane.pool.page;
  shape.token_stride = plane.pool.token;
  shape.head_stride = plane.pool.row;
  shape.table = stretch.table;
  return shape;
}

Result<RunShape> shape_of(const PagedKv& kv, const Slice& slice) {
  PagedKv pools = kv;
  pools.page_table = {};  // the entries that matter are checked below
  CAKE_TRY(pools.check());
  CAKE_TRY(check_strides(kv));
  CAKE_TRY(check_layers(slice, kv.layout.n_layers));
  for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
    if (reinterpret_cast<std::uintptr_t>(kv.k[l]) % 16 != 0 ||
        reinterpret_cast<std::uintptr_t>(kv.v[l]) % 16 != 0) {
      return refuse("a pool of layer " + std::to_string(l) + " is not 16-byte aligned");
    }
  }
  const PlaneAt plane = plane_at(kv, 0, 0);
  const auto stretches = stretches_of(plane, slice.tokens, true);
  if (!stretches) return stretches.error();
  return shape_of(plane, stretches->empty() ? Stretch{} : stretches->front());
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
