// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/session_core.hpp"

#include "cake/scheduler/baselines.hpp"
#include "cake/session_options.hpp"
#include "catch.hpp"
#include "core_helpers.hpp"

using namespace cake;
using namespace cake::testing;

namespace {

struct Waits {
  void begin(const PrefillSpec&) {}
  Step next_step(const RunView&, std::uint32_t, Time now) {
    Step step;
    step.kind = Step::Kind::wait;
    step.until = now + Time(50);
    return step;
  }
  std::optional<LoadRequest> next_load(const RunView&, LaneId, Time) { return std::nullopt; }
};

template <class S>
detail::SessionCore<S> core_of(const Prompt& prompt) {
  detail::SessionCore<S> core;
  core.begin(prompt.spec, prompt.stored, prompt.priors);
  return core;
}

}  // namespace

TEST_CASE("a session computes the front itself when the scheduler waits for nobody") {
  auto core = core_of<Waits>(Prompt("11"));
  CHECK(core.next_step(64, true, Time{0}).kind == Step::Kind::wait);
  REQUIRE_FALSE(core.next_load(0, ~0ull, Time{0}));  // the lane is refused work
  const Step step = core.next_step(64, true, Time(1));
  CHECK(step.kind == Step::Kind::compute);
  CHECK(step.tokens == TokenRange{0, 40});
}

TEST_CASE("a session waits its idle timeout for lanes that may still ask, but once") {
  auto core = core_of<Waits>(Prompt("1111111"));
  const Time idle_timeout = SessionOptions().idle_timeout;
  CHECK(core.next_step(16, true, Time{0}).kind == Step::Kind::wait);
  CHECK(core.next_step(16, true, idle_timeout - Time(1)).kind == Step::Kind::wait);
  const Step first = core.next_step(16, true, idle_timeout);
  REQUIRE(first.kind == Step::Kind::compute);
  core.done(first.id, 16, Errc::ok, idle_timeout + Time(5));
  CHECK(core.next_step(16, true, idle_timeout + Time(5)).kind == Step::Kind::compute);
}

TEST_CASE("a wait names the time of the next deadline") {
  auto core = core_of<LoadOnlyScheduler>(Prompt("11"));
  const auto load = core.next_load(0, ~0ull, Time{0});
  REQUIRE(load);
  const Step step = core.next_step(64, true, Time{0});
  CHECK(step.kind == Step::Kind::wait);
  CHECK(step.until == load->deadline);
}

TEST_CASE("at most two steps are in flight, and none after the end") {
  auto core = core_of<ComputeOnlyScheduler>(Prompt("1111"));
  const Step a = core.next_step(32, true, Time{0});
  const Step b = core.next_step(32, true, Time{0});
  CHECK(core.next_step(32, true, Time{0}).kind == Step::Kind::wait);
  core.done(a.id, a.tokens.size(), Errc::ok, Time(1));
  const Step c = core.next_step(32, true, Time(1));
  CHECK(c.tokens == TokenRange{64, 72});
  core.done(b.id, b.tokens.size(), Errc::ok, Time(2));
  core.done(c.id, c.tokens.size(), Errc::ok, Time(3));
  CHECK(core.complete());
  CHECK(core.next_step(32, true, Time(3)).kind == Step::Kind::finished);
  CHECK(core.report(Time(9)).ttft == Time(3));
}

TEST_CASE("a lane without room for a read gets none, and is asked again") {
  auto core = core_of<LoadOnlyScheduler>(Prompt("11"));
  CHECK_FALSE(core.next_load(0, 100, Time{0}));
  CHECK(core.next_load(0, ~0ull, Time{0}));
}

TEST_CASE("a budget larger than any step is cut") {
  auto core = core_of<ComputeOnlyScheduler>(Prompt("11111111"));
  CHECK(core.next_step(~0u, true, Time{0}).tokens == TokenRange{0, 64});
}

namespace {

/// Orders all that is left in one step, whatever the budget.
struct OrdersAll : Waits {
  Step next_step(const RunView& view, std::uint32_t, Time) {
    Step step;
    step.kind = Step::Kind::compute;
    step.tokens = {view.front(), view.spec().n_tokens};
    return step;
  }
};

}  // namespace

TEST_CASE("a step that is larger than its budget is cut") {
  auto core = core_of<OrdersAll>(Prompt("1111"));
  const Step step = core.next_step(24, true, Time{0});
  CHECK(step.tokens == TokenRange{0, 24});
  core.done(step.id, 24, Errc::ok, Time(1));
  CHECK(core.next_step(24, true, Time(1)).tokens == TokenRange{24, 48});
}

TEST_CASE("a load of more layers than one read may take goes on where its last part ended") {
  auto core = core_of<LoadOnlyScheduler>(Prompt("1"));
  core.set_read_layers(3);
  const auto first = core.next_load(0, ~0ull, Time{0});
  REQUIRE(first);
  CHECK(first->slice.layers == LayerRange{0, 3});
  CHECK_FALSE(core.next_load(0, ~0ull, Time{0}));  // its tables are not known yet
  REQUIRE(core.begin_insert(first->id, Time(1)));
  const auto second = core.next_load(0, ~0ull, Time(1));
  REQUIRE(second);
  CHECK(second->slice.layers == LayerRange{3, 4});
  core.inserted(first->id, true, Time(2));
  REQUIRE(core.begin_insert(second->id, Time(3)));
  core.inserted(second->id, true, Time(4));
  CHECK(core.view().state(0) == ChunkState::resident);
}

namespace {

/// One step, and then loads alone.
struct StepThenWaits : Waits {
  Step next_step(const RunView& view, std::uint32_t budget, Time now) {
    if (view.finished().sequence > 0) return Waits::next_step(view, budget, now);
    Step step;
    step.kind = Step::Kind::compute;
    step.tokens = {0, 16};
    return step;
  }
};

}  // namespace

TEST_CASE("a lane that was refused work during a step is asked again after it") {
  auto core = core_of<StepThenWaits>(Prompt("1111"));
  const Step step = core.next_step(16, true, Time{0});
  REQUIRE(step.kind == Step::Kind::compute);
  REQUIRE_FALSE(core.next_load(0, ~0ull, Time{0}));
  core.done(step.id, 16, Errc::ok, Time(1));
  CHECK(core.next_step(16, true, Time(2)).kind == Step::Kind::wait);
}
