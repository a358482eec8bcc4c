// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/chunk_table.hpp"

#include <algorithm>
#include <memory>

#include "cake/detail/wanted_reads.hpp"
#include "catch.hpp"
#include "core_helpers.hpp"

using namespace cake;
using namespace cake::testing;

namespace {

bool same(const RunView& a, const RunView& b) {
  bool chunks = true;
  for (std::uint32_t c = 0; c < a.spec().end_chunk; ++c) {
    chunks = chunks && a.state(c) == b.state(c) && a.layers_issued(c) == b.layers_issued(c) &&
             a.parsed(c) == b.parsed(c) && a.unloadable(c) == b.unloadable(c) &&
             a.next_hole(c) == b.next_hole(c) && a.next_stored(c) == b.next_stored(c);
    for (std::uint32_t l = 0; l < a.spec().n_layers; ++l) {
      chunks = chunks && a.layer_resident(c, l) == b.layer_resident(c, l);
    }
  }
  const bool sums = a.front() == b.front() && a.suffix_front() == b.suffix_front() &&
                    a.holes() == b.holes() && a.lost_chunks() == b.lost_chunks() &&
                    a.open_chunks() == b.open_chunks() && a.loaded_chunks() == b.loaded_chunks() &&
                    a.inserting_chunks() == b.inserting_chunks() && a.may_gate() == b.may_gate();
  const bool steps =
      a.running().size() == b.running().size() && a.finished().sequence == b.finished().sequence;
  const bool bytes =
      std::equal(a.open_bytes().begin(), a.open_bytes().end(), b.open_bytes().begin(),
                 b.open_bytes().end(), [](const OpenBytes& x, const OpenBytes& y) {
                   return x.tiers == y.tiers && x.bytes == y.bytes;
                 });
  return chunks && sums && steps && bytes &&
         a.lane(0).bytes_in_flight() == b.lane(0).bytes_in_flight() &&
         a.lane(0).down() == b.lane(0).down();
}

}  // namespace

TEST_CASE("a copy that is brought up to date shows what the run shows") {
  OwnState state(Prompt("11011111"));
  detail::RunTables copy = state.tables();
  const auto check = [&] {
    state.update(copy);
    CHECK(same(RunView(copy), state.view()));
  };
  check();
  const detail::ReadTicket slice = state.load(7, {0, 1});
  check();
  REQUIRE(state.begin_insert(slice.id, Time(1)));
  check();
  const detail::ReadTicket rest = state.load(7, {1, 4});
  state.inserted(slice.id, true, Time(2));
  check();
  state.land(rest, Time(3));
  check();
  const detail::ReadTicket taken = state.load(1);
  const Step step = state.step(0, 40);  // takes chunk 1 over
  check();
  state.failed(taken.id, Errc::io, Time(4));
  state.done(step.id, 20, Errc::ok, Time(5));
  check();
  state.failed(state.load(5).id, Errc::corrupt, Time(6));
  check();
  state.returned(state.load(4).id, Time(7));
  state.set_lane_down(0, true);
  check();
  const Step gated = state.step(128, 136, true);
  check();
  state.done(gated.id, 0, Errc::device, Time(8));
  check();
}

TEST_CASE("a copy of a run goes on by itself when the original is gone") {
  auto original = std::make_unique<OwnState>(Prompt("1011"));
  OwnState copy = *original;
  original->step(0, 16);
  original.reset();
  CHECK(copy.view().front() == 0);
  CHECK(copy.view().on_lane(0, 0));
  CHECK_FALSE(copy.view().on_lane(1, 0));
  copy.land(copy.load(3));
  CHECK(copy.view().state(3) == ChunkState::resident);
}

TEST_CASE("a read is wanted while it has its claim and its deadline has not passed") {
  OwnState state(Prompt("111"));
  const detail::ReadTicket reading = state.load(2, {0, 4}, 0, Time{0}, Time(50));
  const detail::ReadTicket landed = state.load(1, {0, 4}, 0, Time{0}, Time(50));
  const detail::ReadTicket dropped = state.load(0, {0, 4}, 0, Time{0}, Time(50));
  REQUIRE(state.begin_insert(landed.id, Time(1)));
  state.step(0, 16);
  detail::WantedReads wanted;
  CHECK_FALSE(wanted.contains(reading.id, Time(1)));
  wanted.reserve(state.reads().size());
  wanted.publish(state.reads());
  CHECK(wanted.contains(reading.id, Time(49)));
  CHECK_FALSE(wanted.contains(reading.id, Time(50)));
  CHECK(wanted.contains(landed.id, Time(1000)));
  CHECK_FALSE(wanted.contains(dropped.id, Time(1)));
}
