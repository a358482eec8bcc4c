// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/session_core.hpp"

#include <optional>
#include <utility>

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
detail::SessionCore core_of(const Prompt& prompt) {
  detail::SessionCore core{detail::AnyScheduler(S())};
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

TEST_CASE(
    "a session that waits behind reads of other prompts is not idle, for as long as a read may "
    "take") {
  auto core = core_of<Waits>(Prompt("1111111"));
  const SessionOptions options;
  core.set_lane_ahead(0, 1'000'000, Time{0});  // a second of the lane
  const Time others = core.view().lane(0).others_until();
  REQUIRE(others > options.idle_timeout);
  REQUIRE(others < options.read_timeout);
  const Step waits = core.next_step(16, true, Time{0});
  CHECK(waits.kind == Step::Kind::wait);
  CHECK(core.next_step(16, true, others + options.idle_timeout - Time(1)).kind == Step::Kind::wait);
  CHECK(core.next_step(16, true, others + options.idle_timeout).kind == Step::Kind::compute);

  auto longer = core_of<Waits>(Prompt("1111111"));
  longer.set_lane_ahead(0, 1'000'000'000, Time{0});
  const Time most = options.read_timeout + options.idle_timeout;
  CHECK(longer.next_step(16, true, Time{0}).kind == Step::Kind::wait);
  CHECK(longer.next_step(16, true, most - Time(1)).kind == Step::Kind::wait);
  CHECK(longer.next_step(16, true, most).kind == Step::Kind::compute);

  auto absent = core_of<Waits>(Prompt("1111111", 8, 2));  // of the second lane it wants nothing
  absent.set_lane_ahead(1, 1'000'000, Time{0});
  CHECK(absent.next_step(16, true, Time{0}).kind == Step::Kind::wait);
  CHECK(absent.next_step(16, true, options.idle_timeout).kind == Step::Kind::compute);
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

TEST_CASE("a lane gets as many reads at once as it is fast with, or as its latency hides") {
  const auto reads_at_once = [](std::uint32_t depth, double chunks_in_latency) {
    Prompt prompt("111111111111");
    const double seconds = 1e-3;
    const auto bytes = static_cast<double>(prompt.spec.read_bytes({0, 4}));
    prompt.priors[0] = {bytes / seconds, from_seconds(chunks_in_latency * seconds), Time{0}};
    prompt.priors[0].depth = depth;
    auto core = core_of<LoadOnlyScheduler>(prompt);
    int reads = 0;
    while (core.next_load(0, ~0ull, Time{0})) ++reads;
    return reads;
  };
  CHECK(reads_at_once(2, 0) == 2);
  CHECK(reads_at_once(5, 0) == 5);
  CHECK(reads_at_once(2, 3) ==
        8);  // the first that leaves no less than twice the latency and half a read
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

namespace {

/// Says at once what it wants, and what it was told of the run.
struct SaysAtOnce : Waits {
  explicit SaysAtOnce(std::uint32_t* asked_in) : asked(asked_in) {}
  std::optional<Step> step_at_once(const RunView& view, std::uint32_t, Time) {
    if (broken) throw 1;
    if (view.front() >= end) return std::nullopt;
    Step step;
    step.kind = Step::Kind::compute;
    step.tokens = {view.front(), view.spec().n_tokens};
    return step;
  }
  Step next_step(const RunView& view, std::uint32_t budget, Time now) {
    ++*asked;
    return Waits::next_step(view, budget, now);
  }
  std::uint32_t* asked;
  std::uint32_t end = 32;
  bool broken = false;
};

}  // namespace

TEST_CASE("a scheduler that says the next step at once is not asked to think about it") {
  std::uint32_t asked = 0;
  const Prompt prompt("1111");
  detail::SessionCore core{detail::AnyScheduler(SaysAtOnce(&asked))};
  core.begin(prompt.spec, prompt.stored, prompt.priors);
  CHECK(core.next_step(16, true, Time{0}).tokens == TokenRange{0, 16});  // by the rules of any step
  CHECK(core.next_step(16, true, Time{0}).tokens == TokenRange{16, 32});
  CHECK(asked == 0);
  core.done(1, 16, Errc::ok, Time(1));
  CHECK(core.next_step(16, true, Time(1)).kind == Step::Kind::wait);
  CHECK(asked == 1);
}

TEST_CASE("a scheduler that fails to say a step at once is asked all the same") {
  std::uint32_t asked = 0;
  const Prompt prompt("1111");
  SaysAtOnce scheduler(&asked);
  scheduler.broken = true;
  detail::SessionCore core{detail::AnyScheduler(scheduler)};
  core.begin(prompt.spec, prompt.stored, prompt.priors);
  CHECK(core.next_step(16, true, Time{0}).kind == Step::Kind::wait);
  CHECK(asked == 1);
  CHECK(core.report(Time{0}).scheduler_faults == 1);
}

namespace {

/// Orders what it was told to.
struct Orders : Waits {
  Step step;
  std::optional<LoadRequest> load;
  Step next_step(const RunView&, std::uint32_t, Time) { return step; }
  std::optional<LoadRequest> next_load(const RunView&, LaneId, Time) {
    return std::exchange(load, std::nullopt);
  }
};

TokenRange ordered(const Prompt& prompt, const Step& step, std::uint32_t budget = 64) {
  Orders orders;
  orders.step = step;
  detail::SessionCore core{detail::AnyScheduler(orders)};
  core.begin(prompt.spec, prompt.stored, prompt.priors);
  const Step got = core.next_step(budget, true, Time{0});
  CHECK(got.kind == Step::Kind::compute);
  CHECK(core.report(Time(1)).scheduler_faults == 0);
  return got.tokens;
}

}  // namespace

TEST_CASE("a step of fewer tokens than cost the same is extended over what only compute can fill") {
  Prompt prompt("0101", 40);
  prompt.spec.smallest_step = 24;
  // Chunk 0 is not stored; chunk 1 can be loaded, so the step ends before it.
  CHECK(ordered(prompt, step_of(0, 4)) == TokenRange{0, 16});
  // The rest of a chunk that the step has begun.
  CHECK(ordered(prompt, step_of(0, 20)) == TokenRange{0, 24});
  CHECK(ordered(prompt, step_of(0, 30)) == TokenRange{0, 30});
  CHECK(ordered(prompt, step_of(0, 4), 8) == TokenRange{0, 8});  // the budget is the engine's wish
  // Behind a gate, in the suffix.
  CHECK(ordered(Prompt("1111", 40), step_of(64, 70, true)) == TokenRange{64, 70});
  Prompt stored("1111", 40);
  stored.spec.smallest_step = 24;
  CHECK(ordered(stored, step_of(64, 70, true)) == TokenRange{64, 88});
  stored.spec.n_tokens = 64 + 10;
  CHECK(ordered(stored, step_of(64, 70, true)) == TokenRange{64, 74});
  // Two chunks that are not stored, one after the other.
  Prompt holes("0011");
  holes.spec.smallest_step = 24;
  CHECK(ordered(holes, step_of(0, 4)) == TokenRange{0, 24});
  // The suffix, from a chunk that nobody stored.
  Prompt all("00", 40);
  all.spec.end_chunk = 0;
  all.spec.smallest_step = 50;
  all.stored.clear();
  CHECK(ordered(all, step_of(0, 4)) == TokenRange{0, 50});
}

TEST_CASE("a step behind a gate takes no more tokens than the engine wants there") {
  Prompt prompt("1111", 40);
  prompt.spec.max_overlap_tokens = 16;
  CHECK(ordered(prompt, step_of(64, 104, true)) == TokenRange{64, 80});
  CHECK(ordered(prompt, step_of(0, 48, true)) == TokenRange{0, 48});  // nothing is below it
}

TEST_CASE("a gated step above the budget is cut where the engine does not take wide ones") {
  Prompt prompt("1111", 100);
  CHECK(ordered(prompt, step_of(64, 164, true)) == TokenRange{64, 128});
  prompt.spec.max_overlap_tokens = 80;
  CHECK(ordered(prompt, step_of(64, 164, true), 32) == TokenRange{64, 96});
}

TEST_CASE("a wide step has all tokens that are left, or as many as the engine takes") {
  Prompt prompt("1111", 100);
  prompt.spec.wide_gated_steps = true;
  CHECK(ordered(prompt, step_of(64, 164, true)) == TokenRange{64, 164});
  CHECK(ordered(prompt, step_of(64, 164, true), 1) == TokenRange{64, 164});
  prompt.spec.max_overlap_tokens = 80;
  CHECK(ordered(prompt, step_of(64, 164, true)) == TokenRange{64, 144});
  prompt.spec.max_overlap_tokens = 16;
  CHECK(ordered(prompt, step_of(64, 164, true)) == TokenRange{64, 80});
  // Nothing lies below it: no gate, no wide step.
  CHECK(ordered(prompt, step_of(0, 164, true)) == TokenRange{0, 64});
}

TEST_CASE("no step is wide where the engine takes no gated step now") {
  Prompt prompt("1111", 100);
  prompt.spec.wide_gated_steps = true;
  Orders orders;
  orders.step = step_of(64, 164, true);
  detail::SessionCore core{detail::AnyScheduler(orders)};
  core.begin(prompt.spec, prompt.stored, prompt.priors);
  CHECK_FALSE(core.next_step(64, false, Time{0}).gated);
  CHECK(core.report(Time(1)).scheduler_faults == 1);
}

TEST_CASE("a gated step is void as soon as no lane reads what it waits for") {
  const Prompt prompt("3", 8, 2);
  Orders orders;
  orders.step = step_of(16, 24, true);
  detail::SessionCore core{detail::AnyScheduler(orders)};
  core.begin(prompt.spec, prompt.stored, prompt.priors);
  CHECK_FALSE(core.next_load(0, ~0ull, Time{0}));  // before the step: says nothing of it
  CHECK_FALSE(core.next_load(1, ~0ull, Time{0}));
  const Step step = core.next_step(64, true, Time{0});
  REQUIRE(step.gated);
  core.expire(Time(1));
  CHECK_FALSE(core.next_load(0, ~0ull, Time(1)));
  CHECK(core.gate(step.id, 0, Time{0}) == detail::GateAnswer::shut);  // the other lane may come
  CHECK_FALSE(core.next_load(1, ~0ull, Time(1)));
  CHECK(core.gate(step.id, 0, Time{0}) == detail::GateAnswer::voided);
}

namespace {

/// Wants its gated step void from some time on.
struct GivesUp : Orders {
  Time gate_until(const RunView& view, Time now) {
    ++*asked;
    if (broken) throw 1;
    CHECK(view.running().back().gated);
    return now < from ? from : now;
  }
  std::uint32_t* asked = nullptr;
  Time from{100};
  bool broken = false;
};

struct Waiting {
  explicit Waiting(bool broken = false) : prompt("1") {
    GivesUp scheduler;
    scheduler.asked = &asked;
    scheduler.broken = broken;
    scheduler.step = step_of(16, 24, true);
    core.emplace(detail::AnyScheduler(scheduler));
    core->begin(prompt.spec, prompt.stored, prompt.priors);
    step = core->next_step(64, true, Time{0});
    REQUIRE(step.gated);
  }
  detail::GateAnswer gate(Time now) { return core->gate(step.id, 0, now); }

  Prompt prompt;
  std::uint32_t asked = 0;
  std::optional<detail::SessionCore> core;
  Step step;
};

}  // namespace

TEST_CASE("a scheduler may have the gated step void that waits, and says when it is asked again") {
  Waiting run;
  CHECK_FALSE(run.core->reconsider_gate(Time(1)));
  CHECK(run.core->gate_until() == Time(100));
  CHECK_FALSE(run.core->reconsider_gate(Time(99)));
  CHECK(run.asked == 1);
  CHECK(run.gate(Time(99)) == detail::GateAnswer::shut);
  CHECK(run.core->reconsider_gate(Time(100)));
  CHECK(run.gate(Time(100)) == detail::GateAnswer::voided);
  run.core->done(run.step.id, 0, Errc::superseded, Time(101));
  CHECK(run.core->status() == Errc::ok);
  CHECK(run.core->view().suffix_front() == 16);  // its tokens are nobody's again
  CHECK_FALSE(run.core->reconsider_gate(Time(102)));
  CHECK(run.asked == 2);  // nothing waits
}

TEST_CASE("an answer about a gate that is late, or none, leaves it as it is") {
  Waiting run;
  const auto question = run.core->begin_gate(Time(200));
  REQUIRE(question.ask);
  const Time until = run.core->ask(question);
  CHECK(until <= Time(200));
  run.core->set_lane_down(0, true);  // things have changed meanwhile
  CHECK_FALSE(run.core->end_gate(question, until, Time(201)));
  CHECK(run.gate(Time(201)) == detail::GateAnswer::shut);
  Waiting fails(true);
  CHECK_FALSE(fails.core->reconsider_gate(Time(200)));
  CHECK(fails.gate(Time(200)) == detail::GateAnswer::shut);
  CHECK(fails.core->report(Time(200)).scheduler_faults == 1);
}

TEST_CASE("a scheduler that says nothing of gates is not asked about them") {
  Orders orders;
  orders.step = step_of(16, 24, true);
  const Prompt prompt("1");
  detail::SessionCore core{detail::AnyScheduler(orders)};
  core.begin(prompt.spec, prompt.stored, prompt.priors);
  REQUIRE(core.next_step(64, true, Time{0}).gated);
  CHECK(core.gate_until() == kNever);
  CHECK_FALSE(core.reconsider_gate(Time(1000)));
}

TEST_CASE("loads of an engine that takes whole chunks have all layers") {
  Prompt prompt("11");
  prompt.spec.may_gate = false;
  prompt.spec.whole_chunks = true;
  Orders orders;
  orders.load = LoadRequest{{1, prompt.spec.object_range(1), {0, 1}}, kNever};
  detail::SessionCore core{detail::AnyScheduler(orders)};
  core.begin(prompt.spec, prompt.stored, prompt.priors);
  core.set_read_layers(2);
  CHECK_FALSE(core.next_load(0, prompt.spec.read_bytes({0, 2}), Time{0}));  // not even by room
  core = detail::SessionCore(detail::AnyScheduler(orders));
  core.begin(prompt.spec, prompt.stored, prompt.priors);
  core.set_read_layers(2);
  const auto load = core.next_load(0, ~0ull, Time{0});
  REQUIRE(load);
  CHECK(load->slice.layers == LayerRange{0, 4});
  CHECK(core.report(Time(1)).scheduler_faults == 0);
}

TEST_CASE("a step above the budget, behind windows that are read late, takes no chunk beyond it") {
  const Windowed windowed;
  const Prompt& prompt = windowed.prompt;
  Orders orders;
  orders.step = step_of(112, 160);
  detail::SessionCore core{detail::AnyScheduler(orders)};
  core.begin(prompt.spec, prompt.stored, prompt.priors);
  core.next_step(16, true, Time{0});
  CHECK(core.view().unloadable(7));
  CHECK_FALSE(core.view().unloadable(8));
  CHECK_FALSE(core.view().unloadable(9));
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

TEST_CASE("a step that begins where the front has its context takes all from there") {
  Prompt prompt("1111");
  const std::vector<std::uint32_t> reaches(4, 16);  // only the last chunk is needed
  prompt.spec.reaches = reaches;
  auto core = core_of<Orders>(prompt);
  CHECK(core.view().front() == 48);
  CHECK(core.view().context_from() == 0);
  CHECK(ordered(prompt, step_of(0, 64)) == TokenRange{0, 64});
  CHECK(ordered(prompt, step_of(0, 20)) == TokenRange{0, 20});
}
