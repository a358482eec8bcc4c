// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/scheduler/meet_in_the_middle.hpp"

#include <string>
#include <utility>

#include "catch.hpp"
#include "core_helpers.hpp"

using namespace cake;
using namespace cake::testing;

namespace {

/// Every chunk takes 16 ms to compute and `chunk_s` seconds to load.
struct Run {
  explicit Run(Prompt p, double chunk_s) : prompt(std::move(p)), scheduler(options()) {
    const auto bytes = static_cast<double>(prompt.spec.read_bytes({0, prompt.spec.n_layers}));
    for (LinkEstimate& prior : prompt.priors) prior = {bytes / chunk_s, Time{0}, Time{0}};
    prompt.spec.may_gate = false;
    state.emplace(prompt);
    scheduler.begin(state->view().spec());
  }
  static MeetOptions options() {
    MeetOptions o;
    o.cost = {1e-3, 1e-3, 0};
    o.cost_is_measured = true;
    return o;
  }
  Step step(Time now = Time{0}) { return scheduler.next_step(state->view(), 64, now); }
  std::optional<Step> at_once(Time now = Time{0}) {
    return scheduler.step_at_once(state->view(), 64, now);
  }
  std::optional<LoadRequest> load(Time now = Time{0}) {
    return scheduler.next_load(state->view(), 0, now);
  }
  Prompt prompt;
  MeetInTheMiddleScheduler scheduler;
  std::optional<OwnState> state;
};

}  // namespace

TEST_CASE("compute begins at the front and loads at the back, and they meet") {
  Run run(Prompt("11111111"), 16e-3);
  CHECK(run.step().tokens.begin == 0);
  std::vector<std::uint32_t> loads;
  while (const auto load = run.load()) {
    loads.push_back(load->slice.chunk);
    run.state->load(load->slice.chunk);
  }
  CHECK(loads == std::vector<std::uint32_t>{7, 6, 5, 4});
  CHECK(run.scheduler.predicted_meet(run.state->view(), Time{0}) == 64);
}

TEST_CASE("no step is started that the loads would overtake") {
  Run run(Prompt("1111"), 1e-3);
  CHECK(run.step().kind == Step::Kind::wait);
}

TEST_CASE("no load is asked for that compute would reach first") {
  Run run(Prompt("1111"), 10.0);
  CHECK_FALSE(run.load());
  CHECK(run.step().tokens == TokenRange{0, 64});
}

TEST_CASE(
    "a read that would wait for another one until it is given up is asked for behind that one") {
  Prompt prompt("11111111");
  prompt.spec.read_timeout = from_seconds(20e-3);
  Run run(prompt, 16e-3);
  const auto first = run.load();
  REQUIRE(first);
  const auto ticket = run.state->load(first->slice.chunk);
  CHECK_FALSE(run.load());
  run.state->land(ticket, from_seconds(16e-3));
  CHECK(run.load(from_seconds(16e-3)));
}

TEST_CASE("a hole at the front is computed at once") {
  Run run(Prompt("0111"), 1e-4);
  CHECK(run.step().tokens == TokenRange{0, 16});
}

TEST_CASE("a step that loads may make needless is enqueued when the one before it is nearly done") {
  Run run(Prompt("11111111"), 16e-3);
  const Step first = run.step();
  REQUIRE(first.tokens == TokenRange{0, 64});  // the loads have the rest
  run.state->step(0, 32);                      // but the engine took less of it
  while (const auto load = run.load()) run.state->load(load->slice.chunk);
  const Step early = run.step(Time(1000));
  CHECK(early.kind == Step::Kind::wait);
  CHECK(early.until > std::chrono::milliseconds(20));
  CHECK(early.until < std::chrono::milliseconds(33));  // 33: when the device will be idle
  const Step late = run.step(early.until);
  CHECK(late.kind == Step::Kind::compute);
  CHECK(late.tokens == TokenRange{32, 64});
}

TEST_CASE("a step that is needed in any case is enqueued at once behind another one") {
  // Loads that hardly matter; and a meeting point that is far away.
  for (const auto& [chunks, chunk_s] : {std::pair(8, 10.0), std::pair(32, 16e-3)}) {
    Run run(Prompt(std::string(static_cast<std::size_t>(chunks), '1')), chunk_s);
    const Step first = run.step();
    run.state->step(first.tokens.begin, first.tokens.end);
    const Step second = run.step(Time(1000));
    CHECK(second.kind == Step::Kind::compute);
    CHECK(second.tokens.begin == first.tokens.end);
  }
}

TEST_CASE("a step that is said at once is the one that a scheduler which is asked for it gives") {
  Run run(Prompt(std::string(32, '1')), 10.0);
  CHECK_FALSE(run.at_once());  // there is no schedule yet
  for (std::uint32_t front = 0; front < run.prompt.spec.n_tokens;) {
    const std::uint32_t budget = front % 3 == 0 ? 64 : 48;
    MeetInTheMiddleScheduler asked = run.scheduler;
    const Step said = asked.next_step(run.state->view(), budget, Time{0});
    const auto step = run.scheduler.step_at_once(run.state->view(), budget, Time{0});
    CHECK(step.has_value() == (front != 0));
    CHECK(step.value_or(said).tokens == said.tokens);
    if (!step) run.scheduler = asked;
    const Step ran = run.state->step(said.tokens.begin, said.tokens.end);
    run.state->done(ran.id, ran.tokens.size(), Errc::ok, Time{0});
    front = said.tokens.end;
  }
}

TEST_CASE("no step is said at once where the schedule does not hold, or has none") {
  Run late(Prompt(std::string(32, '1')), 10.0);
  CHECK(late.step().kind == Step::Kind::compute);
  CHECK(late.at_once());
  const auto ticket = late.state->load(31);
  late.state->failed(ticket.id, Errc::io, Time{0});
  CHECK_FALSE(late.at_once(std::chrono::seconds(1)));  // things are not as they were assumed

  Run idle(Prompt("1111"), 1e-3);
  CHECK(idle.step().kind == Step::Kind::wait);
  CHECK_FALSE(idle.at_once());
}

TEST_CASE("a step that cannot be said at once changes nothing") {
  Run run(Prompt("11111111"), 1e-3);  // all is loaded
  MeetInTheMiddleScheduler other = run.scheduler;
  CHECK(run.step().kind == Step::Kind::wait);
  CHECK(other.next_step(run.state->view(), 64, Time{0}).kind == Step::Kind::wait);
  for (int i = 0; i < 50; ++i)
    CHECK_FALSE(run.scheduler.step_at_once(run.state->view(), 16, Time{0}));
  // Steps of 16 tokens would be another schedule.
  const auto later = std::chrono::seconds(1);
  const Step mine = run.scheduler.next_step(run.state->view(), 64, later);
  const Step others = other.next_step(run.state->view(), 64, later);
  CHECK(mine.kind == others.kind);
  CHECK(mine.tokens == others.tokens);
  CHECK(mine.until == others.until);
}

TEST_CASE("a load that does not come is taken over") {
  Run run(Prompt("1"), 1e-3);
  const auto load = run.load();
  REQUIRE(load);
  run.state->load(load->slice.chunk);
  const Step early = run.step(Time(500'000));
  CHECK(early.kind == Step::Kind::wait);
  CHECK(early.until > Time(500'000));
  const Step late = run.step(std::chrono::milliseconds(60));
  CHECK(late.kind == Step::Kind::compute);
  CHECK(late.tokens.begin == 0);
}

TEST_CASE(
    "a read may take a multiple of what it should on a lane that was measured, else much more") {
  Run run(Prompt("1111"), 1e-3);
  const auto guessed = run.load(Time(100));
  REQUIRE(guessed);
  CHECK(to_seconds(guessed->deadline) > 30);
  run.prompt.priors[0].measured = LinkEstimate::kSure;
  run.state.emplace(run.prompt);
  const auto load = run.load(Time(100));
  REQUIRE(load);
  const Time expected = std::chrono::milliseconds(500) + std::chrono::milliseconds(8);
  CHECK(to_seconds(load->deadline - Time(100)) == Approx(to_seconds(expected)).epsilon(1e-3));
}

TEST_CASE(
    "a lane that looks too slow gets one read of what compute has, as long as nobody measured it") {
  for (const bool measured : {false, true}) {
    Run run(Prompt("11111111"), 10.0);
    run.prompt.priors[0].measured = measured ? LinkEstimate::kSure : 0;
    run.state.emplace(run.prompt);
    const auto load = run.load();
    CHECK(load.has_value() != measured);
    if (!load) continue;
    CHECK(load->slice.chunk >= 4);  // not what the next step takes
    run.state->load(load->slice.chunk);
    CHECK_FALSE(run.load());
    CHECK(run.step().tokens == TokenRange{0, 64});
  }
}

TEST_CASE("a lane that looks too slow is tried the more seldom the more reads its rate rests on") {
  for (const std::uint32_t measured : {1u, 2u, 5u, LinkEstimate::kSure}) {
    for (const bool due : {false, true}) {
      Run run(Prompt("11111111"), 10.0);
      run.prompt.priors[0].measured = measured;
      run.prompt.priors[0].unused = due ? measured : measured - 1;
      run.state.emplace(run.prompt);
      CAPTURE(measured, due);
      CHECK(run.load().has_value() == due);
    }
  }
}

namespace {

/// The step behind the first layers of two chunks.
Step step_behind_first_layers(const Prompt& prompt) {
  Run run(prompt, 4e-3);
  run.prompt.spec.may_gate = true;
  run.prompt.priors[0].measured = LinkEstimate::kSure;  // else it would wait for that
  run.state.emplace(run.prompt);
  run.state->next_step_may_gate();
  run.scheduler.begin(run.state->view().spec());
  std::vector<detail::ReadTicket> orders;
  for (std::uint32_t chunk : {1u, 0u}) {
    const auto load = run.load();
    REQUIRE(load);
    CHECK(load->slice.chunk == chunk);
    CHECK(load->slice.layers == LayerRange{0, 1});
    orders.push_back(run.state->load(chunk, {0, 1}));
  }
  CHECK(run.step(Time(1)).kind == Step::Kind::wait);  // the first layer is not there
  for (const detail::ReadTicket& ticket : orders) run.state->land(ticket, Time(2'000'000));
  return run.step(Time(2'000'000));
}

}  // namespace

TEST_CASE("the last loads come layer by layer, and the suffix pass follows them gated") {
  const Step step = step_behind_first_layers(Prompt("11", 64));
  CHECK(step.kind == Step::Kind::compute);
  CHECK(step.gated);
  CHECK(step.tokens == TokenRange{32, 96});
}

TEST_CASE("where the engine takes no gated step now, the schedule counts on none") {
  Prompt prompt("11", 64);
  prompt.spec.may_gate = true;
  const auto bytes = static_cast<double>(prompt.spec.read_bytes({0, 4}));
  prompt.priors[0] = {bytes / 14e-3, Time{0}, Time{0}};  // compute takes 16 ms for each
  OwnState state(prompt);
  MeetInTheMiddleScheduler scheduler(Run::options());
  scheduler.begin(state.view().spec());
  CHECK(scheduler.predicted_meet(state.view(), Time{0}) == 0);  // the suffix pass hides the loads
  state.next_step_may_gate(false);
  CHECK(scheduler.next_step(state.view(), 64, Time{0}).kind == Step::Kind::compute);
  CHECK(scheduler.predicted_meet(state.view(), Time{0}) == 16);
}

TEST_CASE("an engine that takes wide steps gets the whole suffix in one") {
  Prompt prompt("11", 300);
  prompt.spec.wide_gated_steps = true;
  const Step step = step_behind_first_layers(prompt);
  CHECK(step.gated);
  CHECK(step.tokens == TokenRange{32, 332});
  prompt.spec.max_overlap_tokens = 200;
  CHECK(step_behind_first_layers(prompt).tokens == TokenRange{32, 232});
}
