// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Which bytes of a slice lie where in pages; needs no device.
#include "src/cuda/kv_transfer/kv_transfer_plan.hpp"

#include <random>

#include "kv_transfer_model.hpp"
#include "tests/catch.hpp"

using namespace kv_model;
using namespace cake::cuda::transfer;

namespace {

constexpr std::uint32_t kPageSizes[] = {1, 2, 7, 8, 16, 32, 64, 128, 256};

/// Bytes of a view, with what lies between its runs.
AlignedBuffer random_view(const Case& c, std::size_t run_bytes) {
  AlignedBuffer buffer(view_bytes(c, run_bytes));
  std::uint32_t x = c.seed + 5;
  for (std::byte& b : buffer.bytes()) b = static_cast<std::byte>((x = x * 1664525u + 1013) >> 24);
  return buffer;
}

std::vector<std::byte*> pools_of(const PagedKv& kv, const Slice& slice) {
  std::vector<std::byte*> pools;
  for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
    pools.push_back(static_cast<std::byte*>(kv.k[l]));
    pools.push_back(static_cast<std::byte*>(kv.v[l]));
  }
  return pools;
}

/// Moves all rows as the kernel does, one after the other.
void move_all(const RunShape& shape, std::span<std::byte* const> pools, std::byte* view,
              std::int64_t stride, std::size_t most, bool into_pages) {
  for (const Piece& piece : pieces_of(shape, static_cast<std::uint32_t>(pools.size()), most)) {
    MoveArgs args = args_of(shape, piece, pools);
    const std::uint64_t run = piece.begin / shape.rows();
    args.near = view + static_cast<std::int64_t>(run) * stride +
                static_cast<std::int64_t>(args.first_row) * args.row_bytes;
    args.near_stride = stride;
    for (std::uint32_t x = 0; x < args.n_rows; ++x) {
      const Place place = place_of(args, x);
      std::byte* const near = args.near + place.near;
      std::byte* const page = args.pools[place.run] + place.pool;
      std::memcpy(into_pages ? page : near, into_pages ? near : page, args.row_bytes);
    }
  }
}

Case simple(KvOrder order, std::uint32_t page_tokens, TokenRange tokens, Table table) {
  Case c;
  c.order = order;
  c.page_tokens = page_tokens;
  c.tokens = tokens;
  c.table = table;
  return c;
}

std::vector<Segment> segments_for(const Case& c) {
  Pools pools(c);
  const PagedKv kv = pools.paged();
  return segments_of(shape_of(kv, pools.slice()).value());
}

}  // namespace

TEST_CASE("segments put every byte where the layout says, and touch nothing else") {
  std::size_t checked = 0;
  for (const std::uint32_t page : kPageSizes) {
    for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
      for (const Case& c : cases(page, order)) {
        INFO(c);
        Pools expected(c);
        Pools pools(c);
        const AlignedBuffer bytes = random_view(c, pools.run_bytes());
        const KvView view = view_of(bytes.data(), c, pools.run_bytes());
        expected.model(view);
        const PagedKv kv = pools.paged();
        const auto shape = shape_of(kv, pools.slice());
        REQUIRE(shape.has_value());
        const std::vector<Segment> segments = segments_of(*shape);
        const auto pool = pools_of(kv, pools.slice());
        std::size_t covered = 0;
        for (const Segment& s : segments) {
          REQUIRE(s.run == covered);
          covered += s.bytes;
        }
        REQUIRE(covered == shape->run_bytes());
        for (std::size_t i = 0; i < pool.size(); ++i) {
          const std::uint32_t l = c.layers.begin + static_cast<std::uint32_t>(i / 2);
          const std::byte* const run = i % 2 == 0 ? view.k(l).data() : view.v(l).data();
          for (const Segment& s : segments) {
            std::memcpy(pool[i] + s.pool, run + s.run, s.bytes);
          }
        }
        REQUIRE(expected.difference(pools.memory()) == "");
        ++checked;
      }
    }
  }
  CHECK(checked == std::size(kPageSizes) * 2 * 7 * 4);
}

TEST_CASE("rows are moved into pages and out again as the layout says, in pieces of any size") {
  for (const std::uint32_t page : kPageSizes) {
    for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
      for (const Case& c : cases(page, order)) {
        INFO(c);
        Pools expected(c);
        Pools pools(c);
        AlignedBuffer bytes = random_view(c, pools.run_bytes());
        expected.model(view_of(bytes.data(), c, pools.run_bytes()));
        const PagedKv kv = pools.paged();
        const auto shape = shape_of(kv, pools.slice());
        REQUIRE(shape.has_value());
        const auto pool = pools_of(kv, pools.slice());
        const auto stride = static_cast<std::int64_t>(pools.run_bytes() + c.gap);
        for (const std::size_t most : {std::size_t{1}, std::size_t{1000}, std::size_t{1} << 22}) {
          pools.fill(99 + c.seed);
          move_all(*shape, pool, bytes.data(), stride, most, true);
          REQUIRE(expected.difference(pools.memory()) == "");
          AlignedBuffer back(bytes.size());
          std::memset(back.data(), 0x5a, back.size());
          AlignedBuffer wanted(bytes.size());
          std::memset(wanted.data(), 0x5a, wanted.size());
          expected.model(mutable_view_of(wanted.data(), c, pools.run_bytes()));
          move_all(*shape, pool, back.data(), stride, most, false);
          REQUIRE(std::memcmp(back.data(), wanted.data(), back.size()) == 0);
        }
      }
    }
  }
}

TEST_CASE("tables longer than a kernel's arguments are cut into windows") {
  for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
    for (const std::uint32_t page : {1u, 2u, 3u}) {
      Case c =
          simple(order, page, {page - 1, 3 * kMaxPages * page + page / 2 + 1}, Table::shuffled);
      c.head_dim = 8;
      c.heads = 3;
      INFO(c);
      Pools expected(c);
      Pools pools(c);
      AlignedBuffer bytes = random_view(c, pools.run_bytes());
      expected.model(view_of(bytes.data(), c, pools.run_bytes()));
      const PagedKv kv = pools.paged();
      const RunShape shape = shape_of(kv, pools.slice()).value();
      REQUIRE(shape.table.size() > kMaxPages);
      for (const std::size_t most : {std::size_t{777}, std::size_t{1} << 24}) {
        pools.fill(99 + c.seed);
        std::uint64_t at = 0;
        for (const Piece& piece : pieces_of(shape, 4, most)) {
          REQUIRE(piece.begin == at);
          REQUIRE(piece.end > piece.begin);
          at = piece.end;
          const MoveArgs args = args_of(shape, piece, pools_of(kv, pools.slice()));
          for (std::uint32_t x = 0; x < args.n_rows; ++x) {  // every entry is inside the window
            const std::uint32_t r = (args.first_row + x) % shape.rows();
            const std::uint32_t t = order == KvOrder::nhd ? r / c.heads : r % shape.tokens;
            const std::uint32_t entry = (t + shape.page_offset) / page;
            REQUIRE(entry >= args.first_page);
            REQUIRE(entry - args.first_page < kMaxPages);
          }
        }
        REQUIRE(at == std::uint64_t{4} * shape.rows());
        move_all(shape, pools_of(kv, pools.slice()), bytes.data(),
                 static_cast<std::int64_t>(pools.run_bytes()), most, true);
        REQUIRE(expected.difference(pools.memory()) == "");
      }
    }
  }
}

TEST_CASE("more runs than a kernel's arguments hold are cut into pieces") {
  Case c = simple(KvOrder::nhd, 16, {0, 8}, Table::shuffled);
  c.n_layers = 80;
  c.layers = {3, 80};
  Pools expected(c);
  Pools pools(c);
  AlignedBuffer bytes = random_view(c, pools.run_bytes());
  expected.model(view_of(bytes.data(), c, pools.run_bytes()));
  const PagedKv kv = pools.paged();
  const RunShape shape = shape_of(kv, pools.slice()).value();
  const auto pieces = pieces_of(shape, 154, std::size_t{1} << 24);
  CHECK(pieces.size() == 3);
  for (const Piece& piece : pieces) CHECK(piece.end - piece.begin <= kMaxRuns * shape.rows());
  move_all(shape, pools_of(kv, pools.slice()), bytes.data(),
           static_cast<std::int64_t>(pools.run_bytes()), std::size_t{1} << 24, true);
  CHECK(expected.difference(pools.memory()) == "");
}

TEST_CASE("pages that are neighbours are copied as one") {
  const std::size_t row = 2 * 16 * 2;  // of one token
  // nhd: tokens of a page lie side by side, and so do pages in ascending order.
  CHECK(segments_for(simple(KvOrder::nhd, 16, {0, 64}, Table::ascending)) ==
        std::vector<Segment>{{0, 0, 64 * row}});
  CHECK(segments_for(simple(KvOrder::nhd, 16, {5, 60}, Table::ascending)) ==
        std::vector<Segment>{{0, 5 * row, 55 * row}});
  Case c = simple(KvOrder::nhd, 16, {0, 64}, Table::ascending);
  Pools pools(c);
  pools.table() = {2, 3, 1, 0};
  const PagedKv kv = pools.paged();
  CHECK(segments_of(shape_of(kv, pools.slice()).value()) ==
        std::vector<Segment>{
            {0, 32 * row, 32 * row}, {32 * row, 16 * row, 16 * row}, {48 * row, 0, 16 * row}});
  // Another page's V lies between.
  c.strides = Strides::interleaved;
  CHECK(segments_for(c).size() == 4);
}

TEST_CASE("heads of a page are copied as one only where the run has them side by side too") {
  const std::size_t side = 64 * 16 * 2;  // of one head of a page
  CHECK(segments_for(simple(KvOrder::hnd, 64, {64, 128}, Table::ascending)) ==
        std::vector<Segment>{{0, 2 * side, 2 * side}});
  CHECK(segments_for(simple(KvOrder::hnd, 64, {0, 128}, Table::ascending)) ==
        std::vector<Segment>{{0, 0, side},
                             {side, 2 * side, side},
                             {2 * side, side, side},
                             {3 * side, 3 * side, side}});
  CHECK(segments_for(simple(KvOrder::hnd, 64, {0, 63}, Table::ascending)).size() == 2);
}

TEST_CASE("parts of segments are found from any byte on and cut to a size") {
  const Segment segments[] = {{0, 100, 10}, {10, 200, 20}, {30, 50, 5}};
  for (std::size_t begin = 0; begin < 35; ++begin) {
    for (std::size_t end = begin; end <= 35; ++end) {
      std::size_t at = begin;
      for_segments(
          segments, begin, end, 7, [&](std::size_t run, std::size_t pool, std::size_t bytes) {
            REQUIRE(run == at);
            REQUIRE((bytes > 0 && bytes <= 7));
            for (std::size_t i = run; i < run + bytes; ++i) {
              const std::size_t expected = i < 10 ? 100 + i : i < 30 ? 200 + i - 10 : 50 + i - 30;
              REQUIRE(pool + i - run == expected);
            }
            at += bytes;
          });
      REQUIRE(at == end);
    }
  }
}

TEST_CASE("a slice that does not fit is refused with the numbers") {
  const Case c = simple(KvOrder::nhd, 16, {0, 64}, Table::ascending);
  Pools pools(c);
  PagedKv kv = pools.paged();
  const auto refused = [&](const PagedKv& memory, const Slice& slice, const std::string& what) {
    const auto shape = shape_of(memory, slice);
    REQUIRE(!shape.has_value());
    INFO(shape.error().message());
    CHECK(shape.error().code == Errc::invalid_argument);
    CHECK(shape.error().context.find(what) != std::string::npos);
  };
  CHECK(shape_of(kv, {0, {0, 80}, {0, 2}}).has_value());
  refused(kv, {0, {0, 81}, {0, 2}}, "tokens [0, 81), but the block table's 5 pages of 16 hold 80");
  refused(kv, {0, {9, 8}, {0, 2}}, "tokens [9, 8)");
  refused(kv, {0, {0, 4294967295u}, {0, 2}}, "hold 80");
  refused(kv, {0, {0, 16}, {1, 3}}, "layers [1, 3) of 2");
  refused(kv, {0, {0, 16}, {2, 1}}, "layers [2, 1)");
  pools.table()[2] = 8;
  refused(kv, {0, {0, 64}, {0, 2}}, "block_table[2] is 8 of 8 pages");
  pools.table()[2] = -1;
  refused(kv, {0, {32, 33}, {0, 2}}, "block_table[2] is -1");
  CHECK(shape_of(kv, {0, {0, 32}, {0, 2}}).has_value());  // pages of other tokens do not matter
  CHECK(shape_of(kv, {0, {48, 80}, {0, 2}}).has_value());
  pools.table()[2] = 2;
  CHECK(shape_of(kv, {0, {7, 7}, {0, 2}}).value().tokens == 0);
  PagedKv bad = kv;
  bad.strides.token = 8;
  refused(bad, pools.slice(), "stride of one token is 8");
  bad = kv;
  bad.strides.head = -16;
  refused(bad, pools.slice(), "stride of one head is -16");
  bad = kv;
  bad.strides.page = 0;
  refused(bad, pools.slice(), "stride of one page is 0");
  bad = kv;
  bad.page_tokens = 257;
  refused(bad, pools.slice(), "page_tokens");
  bad = kv;
  bad.layout.dtype = DType::f32;
  refused(bad, pools.slice(), "f32");
  std::vector<void*> crooked(kv.k.begin(), kv.k.end());
  crooked[1] = static_cast<std::byte*>(crooked[1]) + 8;
  bad = kv;
  bad.k = crooked;
  refused(bad, pools.slice(), "layer 1 is not 16-byte aligned");
  CHECK(shape_of(bad, {0, {0, 16}, {0, 1}}).has_value());
}
