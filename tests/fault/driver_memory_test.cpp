// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The k-th allocation on the driving thread fails, and some that follow it, for every k that a run
// reaches between begin() and finish(): the KV is right, the report says so, and the session goes
// on. With failing_new.cpp, so it is a program
// of its own.
#include <utility>
#include <vector>

#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "catch.hpp"
#include "fault/failing_new.hpp"
#include "toy_engine.hpp"

namespace {

/// Of this thread.
struct Plan {
  bool armed = false;
  long allocations = 0;
  long first = -1;  // that fails
  long last = -1;
};
thread_local Plan plan;

bool refuses() {
  if (!plan.armed) return false;
  const long at = plan.allocations++;
  return at >= plan.first && at <= plan.last;
}

const bool asked = (cake::failing_new::when(refuses), true);

}  // namespace

using namespace cake;
using namespace std::chrono_literals;

namespace {

constexpr std::uint32_t kChunk = 32;
constexpr std::uint32_t kTokens = 12 * kChunk + 5;

/// Allocations of others do not count.
struct Others {
  Others() : was(std::exchange(plan.armed, false)) {}
  ~Others() { plan.armed = was; }
  Others(const Others&) = delete;
  Others& operator=(const Others&) = delete;
  bool was;
};

/// Its inserts, too, run on the driving thread.
struct Engine {
  static constexpr EngineAbilities abilities{.insert_on_caller = true};
  UniformKvLayout layout() const { return toy.layout(); }
  ModelFingerprint fingerprint() const { return toy.fingerprint(); }
  Status prefill(Tokens prompt, TokenRange range, const LayerGate& gate) {
    const Others others;
    return toy.prefill(prompt, range, gate);
  }
  Status insert(const Slice& slice, const KvView& view) {
    const Others others;
    return toy.insert(slice, view);
  }
  Status extract(const Slice& slice, const MutableKvView& view) { return toy.extract(slice, view); }
  testing::ToyEngine toy{kTokens};
};

/// Half of the prompt is computed in small steps, and half is loaded.
struct Half : FixedSplitScheduler {
  Half() : FixedSplitScheduler(0.5) {}
};

struct Setting {
  Setting() : prompt(testing::toy_prompt(kTokens)) {
    REQUIRE(alone.prefill(prompt, {0, kTokens}));
    REQUIRE(save(alone, storage, prompt, {.chunk_tokens = kChunk}).written == 12);
  }
  std::vector<TokenId> prompt;
  testing::ToyEngine alone{kTokens};
  MemoryStorage storage;
};

using Session = PrefillSession<Engine, MemoryStorage, Half>;

PrefillReport run(Session& session, Engine& engine, const Setting& setting, long first, long last) {
  engine.toy.clear();
  session.begin(setting.prompt);
  plan = {true, 0, first, last};
  for (Step step; (step = session.next(8)).kind != Step::Kind::finished;) {
    if (step.kind == Step::Kind::wait) {
      session.wait(step.until);
    } else {
      const Status status = engine.prefill(setting.prompt, step.tokens, session.gate(step));
      session.done(step, step.tokens.size(), status);
    }
  }
  PrefillReport report = session.finish();
  plan.armed = false;
  return report;
}

}  // namespace

TEST_CASE("any allocation of the driving thread may fail: the run and its report are whole") {
  Setting setting;
  Engine engine;
  IoLanes lanes(setting.storage);
  Session session(engine, lanes, {.chunk_tokens = kChunk}, {}, {.lookup_timeout = 1min});
  REQUIRE(run(session, engine, setting, -1, -1).status);
  const long all = plan.allocations;
  REQUIRE(all > 4);
  const long many = GENERATE(1, 5);
  for (long k = 0; k < all; ++k) {
    CAPTURE(k, many);
    const PrefillReport report = run(session, engine, setting, k, k + many - 1);
    REQUIRE(report.status);
    REQUIRE(report.tokens_computed + report.tokens_loaded == kTokens);
    REQUIRE(engine.toy.kv() == setting.alone.kv());
  }
}

TEST_CASE("a run that never gets memory for its next step ends with that error") {
  const Setting setting;
  Engine engine;
  MemoryStorage empty;
  IoLanes lanes(empty);
  Session session(engine, lanes, {.chunk_tokens = kChunk}, {}, {.lookup_timeout = 1min});
  session.begin(setting.prompt);
  plan = {true, 0, 0, 1L << 40};
  // Its first steps need none.
  std::uint32_t computed = 0;
  for (Step step; (step = session.next(8)).kind != Step::Kind::finished;) {
    if (step.kind == Step::Kind::wait) {
      session.wait(step.until);
    } else {
      session.done(step, step.tokens.size(), Status());
      computed = step.tokens.end;
    }
  }
  plan.armed = false;
  CHECK(computed < kTokens);
  CHECK(session.finish().status.code() == Errc::out_of_memory);
  REQUIRE(run(session, engine, setting, -1, -1).status);
  CHECK(engine.toy.kv() == setting.alone.kv());
}

TEST_CASE("a loader whose prefill found no memory serves the next prompt") {
  Setting setting;
  Engine engine;
  Loader loader(engine, setting.storage,
                {.chunks = {.chunk_tokens = kChunk},
                 .session = {.max_step_tokens = 8, .lookup_timeout = 1min}},
                Half());
  const auto prefill = [&](long k) {
    engine.toy.clear();
    plan = {true, 0, k, k};
    Status status = [&] {
      try {
        return loader.prefill(setting.prompt).status;
      } catch (const std::bad_alloc&) {
        return Status(Error{Errc::out_of_memory, 0, {}});
      }
    }();
    plan.armed = false;
    return status;
  };
  REQUIRE(prefill(-1));
  const long all = plan.allocations;
  for (long k = 0; k < all; ++k) {
    CAPTURE(k);
    const Status status = prefill(k);
    REQUIRE((status || status.code() == Errc::out_of_memory));
    if (status) REQUIRE(engine.toy.kv() == setting.alone.kv());
    if (k % 8 == 0) {
      REQUIRE(prefill(-1));
      REQUIRE(engine.toy.kv() == setting.alone.kv());
    }
  }
}
