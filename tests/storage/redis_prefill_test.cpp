// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Prompts that run over Redis: what a server does wrong costs the chunks that it held, and no answer.
#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "cake/storage/redis.hpp"
#include "catch.hpp"
#include "redis_process.hpp"
#include "redis_proxy.hpp"
#include "saved_prompt.hpp"

using namespace cake;
using namespace cake_redis_test;
using namespace std::chrono_literals;
using cake::testing::kChunk;
using cake::testing::kChunks;
using cake::testing::kTokens;
using Saved = sample::SavedPrompt<RedisStorage>;
using Words = RedisProxy::Words;

namespace {

struct Rig {
  RedisProcess server{cake_loopback_test::free_ports(1)[0]};
  RedisProxy proxy{server.port()};
  RedisOptions options = options_for(proxy.port());
};

}  // namespace

TEST_CASE("a prompt that is saved in Redis is loaded from it") {
  if (redis_program() == nullptr) return;
  Rig rig;
  RedisStorage store(rig.options);
  Saved saved(store);
  CHECK(saved.run().tokens_loaded == kChunk * kChunks);
}

TEST_CASE("wrong bytes from Redis cost their chunk, and no answer") {
  if (redis_program() == nullptr) return;
  Rig rig;
  RedisStorage store(rig.options);
  Saved saved(store);
  std::atomic<int> seen{0};
  rig.proxy.misbehave([&](const Words& words, Answer& answer) {
    if (words[0] == "GETRANGE" && seen++ == 1) answer.bytes[answer.bytes.size() / 2] ^= 1;
  });
  const PrefillReport report = saved.run();
  CHECK(report.tokens_loaded == kChunk * (kChunks - 1));
  CHECK(report.failed_loads == 1);
  // What is damaged is erased, so that the next save writes it anew.
  CHECK(rig.server.ask({"DBSIZE"}) == number_of(kChunks - 1));
}

TEST_CASE(
    "a server of Redis that is killed in the middle of a prefill leaves the rest to compute") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.options.attempts = 2;
  RedisStorage store(rig.options);
  Saved saved(store);
  std::atomic<int> seen{0};
  std::atomic<bool> enough{false};
  rig.proxy.misbehave([&](const Words& words, Answer& answer) {
    if (words[0] != "GETRANGE" || ++seen <= 3) return;
    enough = true;
    answer.end_after(answer.bytes.size() / 2, Answer::Then::hang);
  });
  std::thread killer([&] {
    while (!enough) std::this_thread::sleep_for(1ms);
    rig.proxy.kill();
  });
  LoaderOptions one = Saved::options();
  one.lanes.threads = 1;
  const PrefillReport report = saved.run(one);
  killer.join();
  CHECK(report.tokens_loaded == 3 * kChunk);
  CHECK(report.tokens_computed == kTokens - 3 * kChunk);
  CHECK(report.load_error.error().context.find("read of redis://127.0.0.1") != std::string::npos);
}

TEST_CASE("a server of Redis that is not there leaves the prompt to compute") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.options.attempts = 2;
  RedisStorage store(rig.options);
  Saved saved(store);
  rig.proxy.kill();
  const PrefillReport report = saved.run();
  CHECK(report.tokens_loaded == 0);
  CHECK(report.lookup.error().context.find("cannot be reached") != std::string::npos);
}

TEST_CASE("the deadline of a lane's read from Redis breaks its transfers off") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.options.read_timeout = rig.options.stall_timeout = 1h;
  RedisStorage store(rig.options);
  Saved saved(store);
  rig.proxy.misbehave([](const Words& words, Answer& answer) {
    if (words[0] == "GETRANGE") answer.end_after(0, Answer::Then::hang);
  });
  LoaderOptions late = Saved::options();
  late.session.read_timeout = 50ms;
  const PrefillReport report = saved.run(late);  // whose lanes end, too
  CHECK(report.tokens_loaded == 0);
  CHECK(store.stats().canceled > 0);
}
