// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The first prompt of a model whose passes nobody has measured, over lanes that nobody has measured.
#include <optional>
#include <string>
#include <utility>

#include "cake/scheduler/meet_in_the_middle.hpp"
#include "catch.hpp"
#include "core_helpers.hpp"

using namespace cake;
using namespace cake::testing;
using namespace std::chrono_literals;

namespace {

constexpr std::uint32_t kBudget = 256;  // tokens: sixteen chunks

/// A pass is said to take 1 ms and a chunk 16 ms more, reading a chunk `chunk_s` seconds.
struct Guess {
  Guess(const std::string& chunks, double chunk_s, std::uint32_t measured_reads = 0)
      : prompt(chunks), scheduler(options()) {
    const auto bytes = static_cast<double>(prompt.spec.read_bytes({0, prompt.spec.n_layers}));
    for (LinkEstimate& prior : prompt.priors) {
      prior = {bytes / chunk_s, Time{0}, Time{0}};
      prior.measured = measured_reads;
    }
    prompt.spec.max_step_tokens = kBudget;
    prompt.spec.may_gate = false;
    state.emplace(prompt);
    scheduler.begin(state->view().spec());
  }
  static MeetOptions options() {
    MeetOptions o;
    o.cost = {1e-3, 1e-3, 0};
    return o;
  }
  Step step(Time now = Time{0}) { return scheduler.next_step(state->view(), kBudget, now); }
  std::optional<LoadRequest> load(Time now = Time{0}) {
    return scheduler.next_load(state->view(), 0, now);
  }
  /// The engine does `tokens` in `took`.
  void run(TokenRange tokens, Time took) {
    const Step ran = state->step(tokens.begin, tokens.end);
    state->done(ran.id, tokens.size(), Errc::ok, took);
  }
  Prompt prompt;
  MeetInTheMiddleScheduler scheduler;
  std::optional<OwnState> state;
};

const std::string kLong(32, '1');

}  // namespace

TEST_CASE("the first step of a model that nobody has measured is a short one") {
  Guess guess(kLong, 10.0, LinkEstimate::kSure);
  CHECK(guess.step().tokens == TokenRange{0, 64});
  Guess known(kLong, 10.0, LinkEstimate::kSure);
  known.scheduler = MeetInTheMiddleScheduler([] {
    MeetOptions options = Guess::options();
    options.cost_is_measured = true;
    return options;
  }());
  known.scheduler.begin(known.prompt.spec);
  CHECK(known.step().tokens == TokenRange{0, kBudget});
}

TEST_CASE(
    "the second step waits until the first has shown what passes cost, and is not much longer") {
  Guess guess(kLong, 10.0, LinkEstimate::kSure);
  const Step first = guess.state->step(0, 64);
  CHECK(guess.step(Time(1000)).kind == Step::Kind::wait);
  CHECK_FALSE(guess.scheduler.step_at_once(guess.state->view(), kBudget, Time(1000)));
  guess.state->done(first.id, 32, Errc::ok, 33ms);  // the engine did less
  CHECK(guess.step(33ms).tokens == TokenRange{32, 32 + 4 * 32});
}

TEST_CASE("no short step comes first where it would cost as much as the whole prompt") {
  Guess guess("11111", 10.0, LinkEstimate::kSure);
  const std::uint32_t all = guess.prompt.spec.n_tokens;
  REQUIRE(all > 64);
  CHECK(guess.step().tokens == TokenRange{0, all});
}

TEST_CASE("a hole at the front is computed by a short step as well") {
  Guess guess("0" + kLong, 1e-4, LinkEstimate::kSure);
  CHECK(guess.step().tokens.begin == 0);
  CHECK(guess.step().tokens.size() <= 64);
}

TEST_CASE("nothing is computed to measure it where the loads should end first") {
  Guess guess(kLong, 5e-4, LinkEstimate::kSure);  // 16 ms; four chunks take 65
  CHECK(guess.step().kind == Step::Kind::wait);
}

TEST_CASE("compute waits a moment for the first read of lanes that nobody has measured") {
  Guess guess(kLong, 10.0);
  const Step wait = guess.step();
  REQUIRE(wait.kind == Step::Kind::wait);
  CHECK(wait.until == 2ms);
  CHECK(guess.step(2ms).kind == Step::Kind::compute);
}

TEST_CASE("compute waits no longer once a first read has landed") {
  Guess guess(kLong, 10.0);
  REQUIRE(guess.step().kind == Step::Kind::wait);
  const auto load = guess.load();
  REQUIRE(load);
  guess.state->land(guess.state->load(load->slice.chunk), 1ms);
  const Step step = guess.step(1ms);  // 32 ms for all of them: nothing is worth a pass
  CHECK((step.kind == Step::Kind::compute || step.until > 2ms));
}

TEST_CASE("a lane goes on with compute's chunks while nobody has measured a pass") {
  Guess guess(kLong, 16e-3, LinkEstimate::kSure);
  std::uint32_t loads = 0;
  guess.state->step(0, 64);
  while (const auto load = guess.load()) {
    guess.state->land(guess.state->load(load->slice.chunk));
    ++loads;
  }
  CHECK(loads == 24);  // all but what this step has, and the next one
  Guess known(kLong, 16e-3, LinkEstimate::kSure);
  known.run({0, 64}, 65ms);
  loads = 0;
  while (const auto load = known.load(65ms)) {
    known.state->land(known.state->load(load->slice.chunk), 65ms);
    ++loads;
  }
  CHECK(loads < 20);
}

TEST_CASE("a step that should have ended makes compute dearer, and the lanes' share larger") {
  MeetOptions options = Guess::options();
  options.cost_is_measured = true;
  Guess guess(kLong, 16e-3, LinkEstimate::kSure);
  guess.scheduler = MeetInTheMiddleScheduler(options);
  guess.scheduler.begin(guess.prompt.spec);
  guess.state->step(0, 64);
  const std::uint32_t before = guess.scheduler.predicted_meet(guess.state->view(), 1ms);
  CHECK(guess.scheduler.predicted_meet(guess.state->view(), 70ms) == before);  // 65 were expected
  CHECK(guess.scheduler.predicted_meet(guess.state->view(), 200ms) < before);
}
