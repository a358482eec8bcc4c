// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/prefill_state.hpp"

#include "catch.hpp"
#include "core_helpers.hpp"

using namespace cake;
using namespace cake::testing;

TEST_CASE("a load that compute took over is dropped before its insert") {
  OwnState state(Prompt("11"));
  const detail::ReadTicket ticket = state.load(0);
  state.step(0, 16);
  CHECK_FALSE(state.wanted(ticket.id));
  CHECK_FALSE(state.begin_insert(ticket.id, Time(3)));
  CHECK(state.report(Time(4)).reads_superseded == 1);
  CHECK(state.report(Time(4)).failed_loads == 0);
}

TEST_CASE("a deadline drops the read and leaves a hole") {
  OwnState state(Prompt("11"));
  const detail::ReadTicket ticket = state.load(1, {0, 4}, 0, Time{0}, Time(100));
  CHECK(state.next_deadline() == Time(100));
  state.expire(Time(99));
  CHECK(state.wanted(ticket.id));
  state.expire(Time(100));
  CHECK_FALSE(state.wanted(ticket.id));
  CHECK(state.view().state(1) == ChunkState::hole);
  CHECK_FALSE(state.begin_insert(ticket.id, Time(200)));
  CHECK(state.report(Time(200)).failed_loads == 1);
}

TEST_CASE("a failed slice makes a hole once the running inserts have ended") {
  OwnState state(Prompt("11"));
  state.land(state.load(1, {0, 1}));
  const detail::ReadTicket inserting = state.load(1, {1, 2});
  const detail::ReadTicket failing = state.load(1, {2, 4});
  REQUIRE(state.begin_insert(inserting.id, Time(1)));
  state.failed(failing.id, Errc::io, Time(2));
  CHECK(state.view().state(1) == ChunkState::inserting);
  CHECK(state.inserting() == 1);
  state.inserted(inserting.id, true, Time(3));
  CHECK(state.view().state(1) == ChunkState::hole);
  CHECK(state.inserting() == 0);
}

TEST_CASE("a short step gives the rest back") {
  OwnState state(Prompt("111"));
  const Step step = state.step(0, 48);
  state.done(step.id, 20, Errc::ok, Time(9));
  CHECK(state.view().front() == 20);
  CHECK(state.view().state(0) == ChunkState::resident);
  CHECK(state.view().state(1) == ChunkState::computing);
  CHECK(state.view().state(2) == ChunkState::open);
  const Step rest = state.step(20, 48);
  state.done(rest.id, 28, Errc::ok, Time(12));
  CHECK(state.view().state(2) == ChunkState::resident);
}

TEST_CASE("only the newest step may do less than asked") {
  OwnState state(Prompt("111"));
  const Step first = state.step(0, 16);
  state.step(16, 32);
  state.done(first.id, 10, Errc::ok, Time(9));
  CHECK(state.status() == Errc::invalid_argument);
}

TEST_CASE("a compute error ends the run and drops the reads") {
  OwnState state(Prompt("111"));
  const detail::ReadTicket ticket = state.load(2);
  const Step step = state.step(0, 16);
  state.done(step.id, 0, Errc::device, Time(9));
  CHECK(state.over());
  CHECK_FALSE(state.wanted(ticket.id));
  CHECK(state.report(Time(9)).status.code() == Errc::device);
}

TEST_CASE("cancelling lets inserts end and nothing else begin") {
  OwnState state(Prompt("111"));
  const detail::ReadTicket inserting = state.load(2);
  const detail::ReadTicket reading = state.load(1);
  REQUIRE(state.begin_insert(inserting.id, Time(1)));
  state.cancel();
  CHECK(state.status() == Errc::canceled);
  CHECK(state.inserting() == 1);
  CHECK_FALSE(state.begin_insert(reading.id, Time(2)));
  state.inserted(inserting.id, true, Time(3));
  CHECK(state.inserting() == 0);
}

TEST_CASE("a gated step that waits for nobody frees its chunks at once when every lane is down") {
  OwnState state(Prompt("1"));
  const Step step = state.step(16, 24, true);
  state.expire(Time(1));
  CHECK(state.gate(step.id, 0, Time{0}) == detail::GateAnswer::shut);
  state.set_lane_down(0, true);
  state.expire(Time(2));
  CHECK(state.gate(step.id, 0, Time{0}) == detail::GateAnswer::voided);
  CHECK(state.view().state(0) == ChunkState::hole);
}

TEST_CASE("a wide step ends at its next layer once the run is over") {
  for (const bool wide : {false, true}) {
    Prompt prompt("1", 200);
    prompt.spec.wide_gated_steps = wide;
    OwnState state(prompt);
    const Step step = state.step(16, 216, true);
    state.land(state.load(0));
    CHECK(state.gate(step.id, 0, Time{0}) == detail::GateAnswer::open);
    state.cancel();
    CHECK(state.gate(step.id, 1, Time{0}) ==
          (wide ? detail::GateAnswer::voided : detail::GateAnswer::open));
    state.done(step.id, 0, Errc::superseded, Time(5));
    CHECK(state.status() == Errc::canceled);
    CHECK(state.report(Time(5)).steps[0].voided);
  }
}

TEST_CASE("a step that was issued behind another has the device once that one has ended") {
  OwnState state(Prompt("1111"));
  const Step first = state.step(0, 16);
  state.step(16, 48);
  CHECK(state.view().running()[1].begins == state.view().running()[1].issued);
  state.done(first.id, 16, Errc::ok, Time(70));
  REQUIRE(state.view().running().size() == 1);
  CHECK(state.view().running()[0].begins == Time(70));
}

TEST_CASE(
    "a step whose end went unnoticed, while the one behind it waited in a gate, was busy that long "
    "at most") {
  for (const Time noticed : {Time(1000), Time(1010), Time(1100)}) {
    OwnState state(Prompt("11"));
    const Step first = state.step(0, 16);
    const Step second = state.step(32, 40, true);
    CHECK(state.gate(second.id, 0, Time(1)) == detail::GateAnswer::shut);
    state.land(state.load(1));
    CHECK(state.gate(second.id, 0, Time(1000)) == detail::GateAnswer::open);
    state.done(first.id, 16, Errc::ok, noticed);
    CHECK(state.view().finished().busy == noticed);
    CHECK(state.view().finished().gated == (noticed < Time(1100)));
  }
  OwnState waiting(Prompt("11"));
  const Step first = waiting.step(0, 16);
  const Step second = waiting.step(32, 40, true);
  CHECK(waiting.gate(second.id, 0, Time(1)) == detail::GateAnswer::shut);
  waiting.done(first.id, 16, Errc::ok, Time(1000));  // by somebody else, who may have been late
  CHECK(waiting.view().finished().gated);
}

TEST_CASE("the end of a step is noticed when the one behind it was asked for no gate yet") {
  OwnState state(Prompt("11"));
  const Step first = state.step(0, 16);
  state.step(32, 40, true);
  state.done(first.id, 16, Errc::ok, Time(1000));
  CHECK_FALSE(state.view().finished().gated);
}

TEST_CASE("the last four steps that were done are known") {
  OwnState state(Prompt("111111"));
  CHECK(state.view().finished().sequence == 0);
  CHECK(state.view().finished(0) == nullptr);
  for (std::uint32_t i = 0; i < 6; ++i) {
    state.done(state.step(16 * i, 16 * i + 16).id, 16, Errc::ok, Time(10 * (i + 1)));
  }
  CHECK(state.view().finished().sequence == 6);
  CHECK(state.view().finished(2) == nullptr);
  CHECK(state.view().finished(7) == nullptr);
  REQUIRE(state.view().finished(3) != nullptr);
  CHECK(state.view().finished(3)->tokens == TokenRange{32, 48});
  CHECK(state.view().finished(6) == &state.view().finished());
}

TEST_CASE("an insert of a part keeps the run alive when another part of its read has failed") {
  OwnState state(Prompt("11"));
  const detail::ReadTicket ticket = state.load(1);
  REQUIRE(state.begin_part(ticket.id));
  state.failed(ticket.id, Errc::io, Time(1));
  CHECK(state.loads_live());  // compute waits: the chunk is no hole yet
  CHECK(state.view().state(1) == ChunkState::inserting);
  CHECK_FALSE(state.begin_part(ticket.id));
  state.end_part(1);
  CHECK_FALSE(state.loads_live());
  CHECK(state.view().state(1) == ChunkState::hole);
}

TEST_CASE("a read that was dropped counts on its lane until it has ended") {
  OwnState state(Prompt("111"));
  const detail::ReadTicket dropped = state.load(1);
  state.step(0, 32);  // takes chunk 1 over
  const detail::ReadTicket next = state.load(2);
  CHECK(state.view().lane(0).in_flight().size() == 2);
  CHECK_FALSE(state.failed(dropped.id, Errc::io, Time(1)));
  REQUIRE(state.view().lane(0).in_flight().size() == 1);
  CHECK(state.view().lane(0).in_flight().front().load == next.id);
}

TEST_CASE("the next deadline is that of the read that is due first") {
  OwnState state(Prompt("111"));
  state.load(2, {0, 4}, 0, Time{0}, Time(50));
  state.load(1, {0, 4}, 0, Time{0}, Time(20));
  state.load(0, {0, 4}, 0, Time{0}, Time(40));
  CHECK(state.next_deadline() == Time(20));
  state.expire(Time(20));
  CHECK(state.next_deadline() == Time(40));
}

namespace {

std::string states_of(const RunView& view) {
  std::string text;
  for (std::uint32_t c = 0; c < view.spec().end_chunk; ++c) {
    const ChunkState state = view.state(c);
    text += state == ChunkState::open        ? 'o'
            : state == ChunkState::hole      ? 'h'
            : state == ChunkState::inserting ? 'i'
                                             : '.';
  }
  return text;
}

}  // namespace

TEST_CASE(
    "all chunks of a step that begins behind windows are compute's, up to one being inserted") {
  const Windowed windowed;
  OwnState state(windowed.prompt);
  REQUIRE(state.view().front() == 112);
  REQUIRE(states_of(state.view()) == ".......ooo");
  state.take_front({112, 150});
  CHECK(states_of(state.view()) == "....ooohhh");  // what the step lacks is to be loaded
  CHECK(state.view().front() == 64);

  OwnState busy(windowed.prompt);
  REQUIRE(busy.begin_insert(busy.load(8, {0, 2}).id, Time(1)));
  busy.take_front({112, 160});
  CHECK(states_of(busy.view()) == "....ooohio");
}

TEST_CASE("a read that was joined says nothing of its lane") {
  OwnState state(Prompt("111"));
  const LinkEstimate before = state.view().lane(0).rate();
  const detail::ReadTicket joined = state.claim(
      LoadRequest{{2, state.view().spec().chunk_range(2), {0, 4}}, kNever}, 0, Time{0}, true);
  CHECK(joined.joined);
  state.land(joined, Time(1));
  CHECK(state.view().lane(0).rate() == before);
  CHECK_FALSE(state.view().lane(0).measured());
  CHECK(state.view().state(2) == ChunkState::resident);
  state.land(state.load(1, {0, 4}, 0, Time(1)), Time(1000));
  CHECK(state.view().lane(0).measured());
}

TEST_CASE("layers without bytes come with the ones before them") {
  Prompt prompt("11");  // the third and fourth layer share the KV of others
  const std::uint64_t begins[] = {0, 4096, 8192, 8192, 8192};
  prompt.spec.layer_begins = begins;
  prompt.spec.foot_bytes = 0;
  OwnState state(prompt);
  const detail::ReadTicket ticket = state.load(1, {0, 2});
  CHECK(ticket.slice.layers == LayerRange{0, 4});
  CHECK(ticket.bytes == 8192 + 8192);
  state.land(ticket);
  CHECK(state.view().state(1) == ChunkState::resident);
  const detail::ReadTicket first = state.load(0, {0, 1});
  CHECK(first.slice.layers == LayerRange{0, 1});
}
