// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Every call into code of others throws once, every kind of exception. What was called answers with
// a status, the KV is right whenever that is ok, and the next prompt is served as if nothing had
// been.
#include <chrono>
#include <string>
#include <vector>

#include "cake/loader.hpp"
#include "cake/save.hpp"
#include "catch.hpp"
#include "fault/throwing.hpp"

using namespace cake;
using namespace std::chrono_literals;
using fault::Later;
using fault::LaterTimed;
using fault::Thrown;

namespace {

constexpr std::uint32_t kChunk = 32;
constexpr std::uint32_t kChunks = 12;
constexpr std::uint32_t kStored = 8;  // at first
constexpr std::uint32_t kTokens = kChunk * kChunks + 10;
constexpr Thrown kAll[] = {Thrown::runtime_error, Thrown::bad_alloc, Thrown::integer};

/// Lookups and lanes that a busy machine delays are waited for. A scheduler that threw in begin()
/// offers no loads, and nobody waits for those.
SessionOptions patient(const std::string& site = {}) {
  SessionOptions options{.max_step_tokens = kChunk};
  options.lookup_timeout = 10min;
  if (site != "scheduler.begin" && site != "scheduler.predicted_meet") options.idle_timeout = 10min;
  return options;
}

template <class Completion, bool OnCaller = false>
struct World {
  using Engine = fault::ThrowingEngine<Completion, OnCaller>;
  using Storage = fault::ThrowingStorage<Completion>;

  World() : prompt(testing::toy_prompt(kTokens)) {
    testing::ToyEngine alone(kTokens);
    REQUIRE(alone.prefill(prompt, {0, kTokens}));
    expected = alone.kv();
    const Tokens part = Tokens(prompt).first(kStored * kChunk);
    REQUIRE(save(alone, storage.inner, part, {.chunk_tokens = kChunk}).written == kStored);
    engine.toy.clear();
  }
  bool right() const { return engine.toy.kv() == expected; }

  fault::ThrowOrder order;
  std::vector<TokenId> prompt;
  std::vector<std::byte> expected;
  Storage storage{order};
  Engine engine{kTokens, order};
};

template <class W>
auto loader_of(W& world, const std::string& site) {
  return Loader<typename W::Engine, typename W::Storage, fault::ThrowingScheduler>(
      world.engine, world.storage, {.chunks = {.chunk_tokens = kChunk}, .session = patient(site)},
      fault::ThrowingScheduler(world.order));
}

template <class W, class L>
PrefillReport prefill(W& world, L& loader) {
  world.engine.toy.clear();
  world.engine.closed = false;
  PrefillReport report;
  REQUIRE_NOTHROW(report = loader.prefill(world.prompt));
  world.engine.closed = true;
  return report;
}

/// `ends`: the prefill cannot be good.
template <class Completion, bool OnCaller = false>
void throw_in_prefill(const std::string& site, bool ends, int before = 0) {
  for (const Thrown what : kAll) {
    CAPTURE(site, static_cast<int>(what), before);
    World<Completion, OnCaller> world;
    auto loader = loader_of(world, site);
    if (site == "erase" || site == "stored_bytes_differ") world.storage.flips = 2;
    world.order.set(site, what, before);
    const PrefillReport report = prefill(world, loader);
    CHECK(world.order.thrown());
    CHECK(report.status.has_value() == !ends);
    if (report.status) CHECK(world.right());
    if (!report.status) CHECK_FALSE(report.status.error().message().empty());
    const SaveReport saved = loader.save(world.prompt);
    CHECK(saved.status.has_value() == report.status.has_value());
    world.order.clear();
    world.storage.flips = 0;
    const PrefillReport again = prefill(world, loader);
    CHECK(again.status.has_value());
    CHECK(again.lookup.has_value());
    CHECK(world.right());
    CHECK_FALSE(world.engine.late_insert);
    CHECK(loader.save(world.prompt).status.has_value());
    CHECK(world.storage.inner.size() == kChunks);
  }
}

}  // namespace

TEST_CASE("an engine that throws ends the prefill with a status, and the loader goes on") {
  for (const char* site : {"layout", "fingerprint", "prefill", "pass.wait"}) {
    throw_in_prefill<Later>(site, true);
    throw_in_prefill<LaterTimed>(site, true);
  }
  throw_in_prefill<Later>("prefill", true, 2);
  throw_in_prefill<Later>("pass.wait", true, 1);
}

TEST_CASE("a pass whose ready() throws is waited for") {
  throw_in_prefill<Later, true>("pass.ready", false);
  throw_in_prefill<LaterTimed, true>("pass.wait_for", false);
}

TEST_CASE("an exception of lookup() costs the loads of one prompt") {
  throw_in_prefill<Later>("lookup", false);
}

TEST_CASE("an exception of read() or its completion costs the chunk") {
  for (const int before : {0, 2}) {
    throw_in_prefill<Later>("read", false, before);
    throw_in_prefill<Later>("read.ready", false, before);
    throw_in_prefill<Later>("read.wait", false, before);
    throw_in_prefill<LaterTimed>("read.wait_for", false, before);
    throw_in_prefill<LaterTimed>("read.wait", false, before);
  }
}

TEST_CASE("an exception of erase() or stored_bytes_differ() costs nothing but the damaged chunk") {
  throw_in_prefill<Later>("erase", false);
  throw_in_prefill<Later>("stored_bytes_differ", false);
}

TEST_CASE("an exception of insert() costs the chunk") {
  for (const int before : {0, 2}) {
    throw_in_prefill<Later>("insert", false, before);
    throw_in_prefill<LaterTimed>("inserted.wait", false, before);
  }
}

TEST_CASE("staging memory that is not there costs no more than its chunk") {
  throw_in_prefill<Later>("staging.allocate", false);
}

TEST_CASE("a scheduler that throws is done without, and counted") {
  for (const char* site : {"scheduler.begin", "scheduler.predicted_meet", "scheduler.next_step",
                           "scheduler.next_load"}) {
    for (const Thrown what : kAll) {
      CAPTURE(site, static_cast<int>(what));
      World<Later> world;
      auto loader = loader_of(world, site);
      world.order.set(site, what);
      const PrefillReport report = prefill(world, loader);
      CHECK(report.status.has_value());
      CHECK(report.scheduler_faults == 1);
      CHECK(world.right());
    }
    throw_in_prefill<Later>(site, false);
  }
  throw_in_prefill<Later>("scheduler.next_step", false, 2);
  throw_in_prefill<Later>("scheduler.next_load", false, 2);
}

TEST_CASE("save() reports what extract(), lookup() and write() throw") {
  for (const char* site :
       {"extract", "extracted.wait", "lookup", "write", "written.wait", "layout", "fingerprint"}) {
    for (const Thrown what : kAll) {
      CAPTURE(site, static_cast<int>(what));
      World<Later> world;
      auto loader = loader_of(world, site);
      REQUIRE(prefill(world, loader).status.has_value());
      world.storage.inner.clear();
      world.order.set(site, what);
      SaveReport saved;
      REQUIRE_NOTHROW(saved = loader.save(world.prompt));
      CHECK(world.order.thrown());
      CHECK_FALSE(saved.status.has_value());
      CHECK(saved.failed > 0);
      CHECK(saved.written + saved.present + saved.failed == kChunks);
      world.order.clear();
      CHECK(loader.save(world.prompt).status.has_value());
      CHECK(world.storage.inner.size() == kChunks);
    }
  }
}

namespace {

/// An engine's loop that knows nothing of exceptions of others.
template <class W, class Session>
PrefillReport drive(W& world, Session& session) {
  world.engine.toy.clear();
  world.engine.closed = false;
  session.begin(world.prompt);
  for (Step step; (step = session.next(kChunk)).kind != Step::Kind::finished;) {
    if (step.kind == Step::Kind::wait) {
      session.wait(step.until);
    } else {
      const Status status = world.engine.toy.prefill(world.prompt, step.tokens, session.gate(step));
      session.done(step, step.tokens.size(), status);
    }
  }
  PrefillReport report = session.finish();
  world.engine.closed = true;
  return report;
}

}  // namespace

TEST_CASE("no exception of store or scheduler reaches an engine's own loop") {
  using W = World<Later>;
  using Session = PrefillSession<W::Engine, W::Storage, fault::ThrowingScheduler>;
  for (const char* site :
       {"lookup", "read", "read.ready", "read.wait", "erase", "stored_bytes_differ", "insert",
        "inserted.wait", "staging.allocate", "scheduler.begin", "scheduler.predicted_meet",
        "scheduler.next_step", "scheduler.next_load"}) {
    for (const Thrown what : kAll) {
      CAPTURE(site, static_cast<int>(what));
      W world;
      IoLanes lanes(world.storage, {.staging = world.engine.staging_memory()});
      Session session(world.engine, lanes, {.chunk_tokens = kChunk},
                      fault::ThrowingScheduler(world.order), patient(site));
      if (std::string(site) == "erase" || std::string(site) == "stored_bytes_differ")
        world.storage.flips = 1;
      world.order.set(site, what);
      PrefillReport report;
      REQUIRE_NOTHROW(report = drive(world, session));
      CHECK(world.order.thrown());
      CHECK(report.status.has_value());
      CHECK(world.right());
      world.order.clear();
      REQUIRE_NOTHROW(report = drive(world, session));
      CHECK(world.right());
      CHECK_FALSE(world.engine.late_insert);
    }
  }
}

TEST_CASE("begin() passes on what the engine threw as an Exception, and the next run begins") {
  using W = World<Later>;
  using Session = PrefillSession<W::Engine, W::Storage, fault::ThrowingScheduler>;
  for (const char* site : {"layout", "fingerprint"}) {
    for (const Thrown what : kAll) {
      W world;
      IoLanes lanes(world.storage);
      Session session(world.engine, lanes, {.chunk_tokens = kChunk},
                      fault::ThrowingScheduler(world.order), patient(site));
      world.order.set(site, what);
      CHECK_THROWS_AS(session.begin(world.prompt), Exception);
      CHECK_THROWS_AS(session.finish(), Exception);
      world.order.clear();
      CHECK(drive(world, session).status.has_value());
      CHECK(world.right());
    }
  }
}
