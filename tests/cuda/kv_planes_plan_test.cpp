// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Runs that are made of planes of any kind, moved on the CPU as copies and the kernel move them;
// needs no device.
#include <random>
#include <set>

#include "kv_planes_model.hpp"
#include "kv_transfer_model.hpp"
#include "src/cuda/kv_transfer/kv_transfer_runs.hpp"
#include "tests/catch.hpp"

using namespace kv_planes;
using namespace cake::cuda::transfer;

namespace {

AlignedBuffer random_bytes(std::size_t n, std::uint32_t seed) {
  AlignedBuffer buffer(n);
  std::uint32_t x = seed * 747796405u + 1;
  for (std::byte& b : buffer.bytes()) b = static_cast<std::byte>((x = x * 1664525u + 1013) >> 24);
  return buffer;
}

/// As copies straight between view and pages do.
void copy_segments(const Group& group, bool into_pages) {
  const std::vector<Segment> segments = segments_of(group.shape);
  for (std::uint32_t i = 0; i < group.size(); ++i) {
    for (const Segment& s : segments) {
      std::byte* const near = group.near[i] + s.run;
      std::byte* const page = group.pools[i] + s.pool;
      std::memcpy(into_pages ? page : near, into_pages ? near : page, s.bytes);
    }
  }
}

/// As the kernel does in the view itself, `width` bytes at once.
void move_rows_of(const Group& group, std::size_t most, bool into_pages) {
  const RunShape& shape = group.shape;
  for (const Piece& piece : pieces_of(shape, group.size(), most)) {
    MoveArgs args = args_of(shape, piece, group.pools);
    args.near = group.near[piece.begin / shape.rows()] +
                static_cast<std::size_t>(args.first_row) * args.row_bytes;
    args.near_stride = group.stride();
    bool aligned = args.row_bytes % group.width == 0;
    for (std::uint32_t x = 0; x < args.n_rows; ++x) {
      const Place place = place_of(args, x);
      std::byte* const near = args.near + place.near;
      std::byte* const page = args.pools[place.run] + place.pool;
      aligned = aligned && reinterpret_cast<std::uintptr_t>(page) % group.width == 0;
      std::memcpy(into_pages ? page : near, into_pages ? near : page, args.row_bytes);
    }
    REQUIRE(aligned);
  }
}

/// What the cases of a test have reached.
struct Reached {
  std::set<std::uint32_t> widths;
  unsigned states = 0, windows = 0, long_rows = 0, no_planes = 0, groups = 0;

  void add(const Planes& planes, const std::vector<Group>& made) {
    for (std::uint32_t l = planes.slice().layers.begin; l < planes.slice().layers.end; ++l) {
      const KvLayerKind& kind = planes.layout().kind(l);
      states += kind.state;
      no_planes += kind.planes.empty();
    }
    windows += planes.lacks_pages();
    groups += made.size() > 1;
    for (const Group& group : made) {
      widths.insert(group.width);
      long_rows += group.shape.page_stride == 0 && group.shape.heads > 1;
    }
  }
};

template <class Move>
void check(unsigned seed, std::size_t most_row, Reached& reached, Move&& move) {
  Planes planes(seed);
  INFO(planes.text() << "\n  rows of at most " << most_row);
  const AlignedBuffer bytes = random_bytes(planes.view_bytes(), seed);
  const auto groups =
      groups_of(planes.paged(), planes.slice(), planes.view_of(bytes.data()), most_row);
  REQUIRE((groups ? "" : groups.error().message()) == "");
  reached.add(planes, *groups);
  for (const Group& group : *groups) {
    REQUIRE(group.size() > 0);
    REQUIRE(group.shape.row_bytes <= most_row);
    move(group, true);
  }
  Planes expected(seed);
  expected.model(planes.view_of(bytes.data()));
  REQUIRE(difference(expected.memory().bytes(), planes.memory().bytes()) == "");

  AlignedBuffer back(bytes.size());
  AlignedBuffer wanted(bytes.size());
  std::memset(back.data(), 0x5a, back.size());
  std::memset(wanted.data(), 0x5a, wanted.size());
  const auto out =
      groups_of(planes.paged(), planes.slice(), planes.mutable_view_of(back.data()), most_row);
  if (planes.lacks_pages()) {
    REQUIRE(!out);
    CHECK(out.error().code == Errc::not_found);
    CHECK(out.error().context.find("have left the window of layer") != std::string::npos);
    return;
  }
  REQUIRE(out.has_value());
  for (const Group& group : *out) move(group, false);
  expected.model(planes.mutable_view_of(wanted.data()));
  REQUIRE(difference(wanted.bytes(), back.bytes()) == "");
}

}  // namespace

TEST_CASE("copies of any planes, windows and states put every byte where the layout says") {
  Reached reached;
  for (unsigned seed = 0; seed < 700; ++seed) {
    check(seed, seed % 3 == 0 ? 4096 : kMostRowBytes, reached, copy_segments);
  }
  CHECK(reached.states > 100);
  CHECK(reached.windows > 50);
  CHECK(reached.long_rows > 100);
  CHECK(reached.no_planes > 100);
  CHECK(reached.groups > 100);
}

TEST_CASE("rows of any planes, windows and states are moved as the layout says, in any pieces") {
  Reached reached;
  for (unsigned seed = 5000; seed < 5500; ++seed) {
    const std::size_t most = seed % 4 == 0 ? 1 : seed % 4 == 1 ? 5000 : std::size_t{1} << 22;
    check(seed, seed % 3 == 0 ? 4096 : kMostRowBytes, reached,
          [&](const Group& group, bool into_pages) {
            std::uint32_t runs = 0;
            for (const Group& even : evenly_spaced(group)) {
              move_rows_of(even, most, into_pages);
              runs += even.size();
            }
            REQUIRE(runs == group.size());
          });
  }
  CHECK(reached.widths == std::set<std::uint32_t>{1, 2, 4, 8, 16});
  CHECK(reached.windows > 50);
  CHECK(reached.long_rows > 100);
}

TEST_CASE("K and V alike are one group, whichever of the two descriptions is used") {
  for (const std::uint32_t page : {1u, 16u, 256u}) {
    for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
      for (const kv_model::Case& c : kv_model::cases(page, order)) {
        INFO(c);
        kv_model::Pools pools(c);
        const PagedKv kv = pools.paged();
        AlignedBuffer bytes(kv_model::view_bytes(c, pools.run_bytes()));
        const KvView view = kv_model::view_of(bytes.data(), c, pools.run_bytes());
        const std::int64_t element = 2;
        std::vector<PlanePool> places;
        for (std::uint32_t l = 0; l < c.n_layers; ++l) {
          for (void* const base : {kv.k[l], kv.v[l]}) {
            places.push_back({base, kv.strides.page * element, kv.strides.token * element,
                              kv.strides.head * element});
          }
        }
        const PageTable table{kv.page_tokens, kv.n_pages, kv.page_table};
        const auto two = groups_of(kv, pools.slice(), view);
        const auto any =
            groups_of(PagedPlanes{kv.layout, places, {&table, 1}}, pools.slice(), view);
        REQUIRE(two.has_value());
        REQUIRE(any.has_value());
        REQUIRE(two->size() == 1);
        REQUIRE(any->size() == 1);
        REQUIRE(two->front().shape == any->front().shape);
        REQUIRE(two->front().shape == shape_of(kv, pools.slice()).value());
        REQUIRE(two->front().near == any->front().near);
        REQUIRE(two->front().pools == any->front().pools);
        REQUIRE(two->front().width == 16);
        REQUIRE(any->front().width == 16);
        REQUIRE(evenly_spaced(two->front()).size() == 1);
      }
    }
  }
}

TEST_CASE("runs are taken together as far as they are equally far from each other") {
  std::vector<std::byte> view(1 << 16);
  std::mt19937 random(3);
  const auto group_at = [&](const std::vector<std::size_t>& offsets) {
    Group group;
    for (const std::size_t at : offsets) {
      group.near.push_back(view.data() + at);
      group.pools.push_back(view.data() + at + 1);  // to see that both stay together
    }
    return group;
  };
  CHECK(evenly_spaced(group_at({0, 64, 128, 192})).size() == 1);
  CHECK(evenly_spaced(group_at({0, 64, 200, 264, 400, 464})).size() == 2);  // K, V, scales
  CHECK(evenly_spaced(group_at({5})).size() == 1);
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::size_t> offsets{random() % 100};
    const std::size_t n = 1 + random() % 30;
    const std::size_t distances = 1 + random() % 3;
    while (offsets.size() < n) offsets.push_back(offsets.back() + 16 * (1 + random() % distances));
    const Group group = group_at(offsets);
    std::set<std::byte*> seen;
    for (const Group& even : evenly_spaced(group)) {
      for (std::uint32_t i = 0; i < even.size(); ++i) {
        REQUIRE(even.near[i] == even.near[0] + i * even.stride());
        REQUIRE(even.pools[i] == even.near[i] + 1);
        REQUIRE(seen.insert(even.near[i]).second);
      }
    }
    REQUIRE(seen.size() == n);
  }
}

TEST_CASE(
    "rows are merged and cut until they are long enough for the kernel and short enough for a "
    "piece") {
  // Eight scales of two bytes: 16 bytes of a token. A state of 5 MB: rows that divide it.
  std::vector<std::byte> pool(64);
  const std::int32_t page = 0;
  const auto group_of = [&](const KvPlane& plane, bool state) {
    const KvLayout layout{1, {{{plane}, 0, state}}};
    const std::uint32_t n = 4;
    const PageTable table{n, 1, {&page, 1}};
    const PlanePool place = PlanePool::packed(pool.data(), plane, state ? 1 : n);
    const auto runs = std::make_shared<const KvRuns>(layout, n);
    const KvView view(pool.data(), 0, runs);  // nothing is moved
    auto groups =
        groups_of(PagedPlanes{layout, {&place, 1}, {&table, 1}}, {0, {0, n}, {0, 1}}, view);
    REQUIRE(groups.has_value());
    REQUIRE(groups->size() == 1);
    return groups->front();
  };
  CHECK(group_of({8, 2}, false).shape.row_bytes == 16);
  CHECK(group_of({8, 2}, false).width == 16);
  CHECK(group_of({8, 2, KvOrder::hnd}, false).shape.row_bytes == 2);
  CHECK(group_of({8, 2, KvOrder::hnd}, false).width == 2);
  CHECK(group_of({3, 16}, false).shape.row_bytes == 16);
  const Group state = group_of({1, 5'000'000}, true);
  CHECK(state.shape.row_bytes * std::size_t{state.shape.heads} == 5'000'000);
  CHECK(state.shape.row_bytes == 50'000);  // still a multiple of 16
  CHECK(group_of({1, 1 << 22}, true).shape.row_bytes == kMostRowBytes);
  CHECK(group_of({64, 1 << 15}, true).shape.row_bytes == 1 << 15);
}
