// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Where the bytes of a slice lie in pages: host-side arithmetic alone, so that it can be tested
// without a device. A slice has runs (one plane of one layer); a run has rows, each of one token and
// head, and rows follow each other in the run as the plane's order says. kv_transfer_runs.hpp makes
// such runs of planes of any kind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "cake/cuda/paged_kv.hpp"
#include "cake/result.hpp"
#include "cake/types.hpp"

#ifdef __CUDACC__
#define CAKE_HOST_DEVICE __host__ __device__
#else
#define CAKE_HOST_DEVICE
#endif

namespace cake::inline CAKE_ABI::cuda::transfer {

/// Errors of this folder: invalid_argument.
Error refuse(std::string what);

/// One plane of one layer: what it keeps, and where that lies.
struct PlaneAt {
  std::uint32_t layer = 0;
  std::uint32_t index = 0;  // of the plane in its layer
  std::uint32_t rows = 0;
  std::uint32_t row_bytes = 0;
  KvOrder order = KvOrder::nhd;
  bool state = false;
  bool window = false;
  PlanePool pool;
  PageTable table;

  std::size_t token_bytes() const { return std::size_t{rows} * row_bytes; }
  std::string name() const;  // "plane 1 of layer 7"
};

/// Checks that there is a pool for each plane and a table for each pool.
///
/// Errors:  invalid_argument
Status check_shape(const PagedPlanes& kv);
/// Plane `index` of a layer; `first`: planes of all layers before it.
///
/// Needs:   check_shape()
PlaneAt plane_at(const PagedPlanes& kv, std::uint32_t layer, std::uint32_t index,
                 std::size_t first);
/// Plane `index` (K or V) of a layer.
///
/// Needs:   kv.check(), but for the table
PlaneAt plane_at(const PagedKv& kv, std::uint32_t layer, std::uint32_t index);
/// Checks the pool and its strides.
///
/// Errors:  invalid_argument, naming the numbers
Status check_plane(const PlaneAt& plane);
/// Checks the slice's layers.
Status check_layers(const Slice& slice, std::uint32_t n_layers);

/// Tokens of a slice whose pages follow each other in a table without a gap.
struct Stretch {
  std::uint32_t first = 0;  // counted from the slice's begin
  std::uint32_t tokens = 0;
  std::uint32_t page_offset = 0;        // of the first one in its page
  std::span<const std::int32_t> table;  // [0] is the page of the first one
};
/// Where a plane's tokens are: one stretch, unless a window lacks pages; of a state one token.
///
/// Errors:  invalid_argument, naming the numbers; not_found for what an extract asks of a window or
///          a state that has no page
Result<std::vector<Stretch>> stretches_of(const PlaneAt& plane, TokenRange tokens, bool insert);

/// What all runs of a group have in common.
///
/// Units:   strides in bytes
struct RunShape {
  KvOrder order = KvOrder::nhd;
  std::uint32_t heads = 0;
  std::uint32_t row_bytes = 0;
  std::uint32_t tokens = 0;
  std::uint32_t page_tokens = 0;
  std::uint32_t page_offset = 0;  // of the first token in its page
  std::int64_t page_stride = 0;
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 0;
  std::span<const std::int32_t> table;  // of this slice: [0] is the page of its first token

  std::uint32_t rows() const { return tokens * heads; }
  std::size_t run_bytes() const { return std::size_t{rows()} * row_bytes; }
  friend bool operator==(const RunShape& a, const RunShape& b) {
    const auto numbers = [](const RunShape& s) {
      return std::tuple(s.order, s.heads, s.row_bytes, s.tokens, s.page_tokens, s.page_offset,
                        s.page_stride, s.token_stride, s.head_stride, s.table.data(),
                        s.table.size());
    };
    return numbers(a) == numbers(b);
  }
};
/// The shape of a plane's run in one stretch.
RunShape shape_of(const PlaneAt& plane, const Stretch& stretch);

/// Of K and V alike: checks that the slice lies inside the layers and the block table; an empty slice has no tokens.
///
/// Errors:  invalid_argument, naming the numbers
Result<RunShape> shape_of(const PagedKv& kv, const Slice& slice);

/// Bytes that lie side by side in a run and in its pool alike; offsets from the two.
struct Segment {
  std::size_t run = 0;
  std::size_t pool = 0;
  std::size_t bytes = 0;
  friend bool operator==(const Segment&, const Segment&) = default;
};
/// As few as possible, in the order of the run, which they cover. They are the same for each run.
std::vector<Segment> segments_of(const RunShape& shape);

/// Calls take(run offset, pool offset, bytes) for what segments have in [begin, end) of a run, in
/// parts of at most `most` bytes.
template <class Take>
void for_segments(std::span<const Segment> segments, std::size_t begin, std::size_t end,
                  std::size_t most, Take&& take) {
  std::size_t low = 0;
  std::size_t high = segments.size();
  while (low < high) {  // the first one that ends behind `begin`
    const std::size_t middle = (low + high) / 2;
    if (segments[middle].run + segments[middle].bytes <= begin) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  for (; low < segments.size() && segments[low].run < end; ++low) {
    const Segment& s = segments[low];
    const std::size_t stop = s.run + s.bytes < end ? s.run + s.bytes : end;
    for (std::size_t at = s.run > begin ? s.run : begin; at < stop;) {
      const std::size_t bytes = stop - at < most ? stop - at : most;
      take(at, s.pool + (at - s.run), bytes);
      at += bytes;
    }
  }
}

/// Most runs and pages that one kernel is told of; together they fit into its arguments.
inline constexpr std::uint32_t kMaxRuns = 64;
inline constexpr std::uint32_t kMaxPages = 512;

/// Rows [begin, end), counted through all runs of a slice.
struct Piece {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  friend bool operator==(const Piece&, const Piece&) = default;
};
/// Cuts `runs` runs into pieces of at most `most` bytes (a row at least), each of which touches at
/// most kMaxRuns runs and kMaxPages entries of the table.
std::vector<Piece> pieces_of(const RunShape& shape, std::uint32_t runs, std::size_t most);

/// Calls take(run, first byte, last byte + 1, offset in the piece) for each run that a piece
/// touches.
template <class Take>
void for_parts(const RunShape& shape, const Piece& piece, Take&& take) {
  std::size_t offset = 0;
  for (std::uint64_t at = piece.begin; at < piece.end;) {
    const std::uint64_t run = at / shape.rows();
    const std::uint64_t next = (run + 1) * shape.rows();
    const std::uint64_t end = next < piece.end ? next : piece.end;
    const std::size_t first = static_cast<std::size_t>(at - run * shape.rows()) * shape.row_bytes;
    const std::size_t bytes = static_cast<std::size_t>(end - at) * shape.row_bytes;
    take(static_cast<std::uint32_t>(run), first, first + bytes, offset);
    offset += bytes;
    at = end;
  }
}

/// What the kernel that moves the rows of one piece is told.
struct MoveArgs {
  std::byte* near = nullptr;     // row 0 of the piece, outside the pages
  std::int64_t near_stride = 0;  // bytes from one run to the next there
  std::uint32_t n_rows = 0;
  std::uint32_t first_row = 0;  // of the first run
  std::uint32_t rows = 0;       // of a run
  std::uint32_t row_bytes = 0;
  std::uint32_t heads = 0;
  std::uint32_t tokens = 0;
  std::uint32_t page_tokens = 0;
  std::uint32_t page_offset = 0;
  std::uint32_t first_page = 0;  // entry of the slice's table that table[0] is
  bool hnd = false;
  std::int64_t page_stride = 0;
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 0;
  std::byte* pools[kMaxRuns] = {};
  std::int32_t table[kMaxPages] = {};
};
static_assert(sizeof(MoveArgs) < 4096);

/// Everything of MoveArgs but `near`: pools[i] is the pool of run i of the slice, near_stride that
/// of densely packed runs.
MoveArgs args_of(const RunShape& shape, const Piece& piece, std::span<std::byte* const> pools);

/// Where row `x` of a piece lies.
struct Place {
  std::uint32_t run = 0;  // of the piece: index into pools
  std::int64_t near = 0;  // offset from MoveArgs::near
  std::int64_t pool = 0;  // offset from the pool
};
CAKE_HOST_DEVICE inline Place place_of(const MoveArgs& a, std::uint32_t x) {
  const std::uint32_t y = a.first_row + x;
  const std::uint32_t run = y / a.rows;
  const std::uint32_t r = y - run * a.rows;
  const std::uint32_t outer = r / (a.hnd ? a.tokens : a.heads);
  const std::uint32_t inner = r - outer * (a.hnd ? a.tokens : a.heads);
  const std::uint32_t token = (a.hnd ? inner : outer) + a.page_offset;
  const std::uint32_t head = a.hnd ? outer : inner;
  const std::uint32_t entry = token / a.page_tokens;
  const std::uint32_t slot = token - entry * a.page_tokens;
  Place place;
  place.run = run;
  place.near =
      run * a.near_stride +
      (static_cast<std::int64_t>(r) - static_cast<std::int64_t>(a.first_row)) * a.row_bytes;
  place.pool =
      a.table[entry - a.first_page] * a.page_stride + slot * a.token_stride + head * a.head_stride;
  return place;
}

}  // namespace cake::inline CAKE_ABI::cuda::transfer
