// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Prompts that run over a bucket: what the server does wrong costs the chunks that it held, and no
// answer.
#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "cake/storage/s3.hpp"
#include "cake/storage/tiered.hpp"
#include "catch.hpp"
#include "s3_helpers.hpp"
#include "s3_weed.hpp"
#include "saved_prompt.hpp"

using namespace cake;
using namespace cake_s3_test;
using namespace std::chrono_literals;
using cake::testing::kChunk;
using cake::testing::kChunks;
using cake::testing::kTokens;
using Saved = sample::SavedPrompt<S3Storage>;

namespace {

bool is_get(const Asked& asked) { return asked.method == "GET"; }

}  // namespace

TEST_CASE("a prompt that is saved in a bucket is loaded from it") {
  Server server;
  S3Storage store(options_for(server));
  Saved saved(store);
  CHECK(saved.run().tokens_loaded == kChunk * kChunks);
  CHECK(server.bad_signatures() == std::vector<std::string>{});
}

TEST_CASE("wrong bytes from a bucket cost their chunk, and no answer") {
  Server server;
  S3Storage store(options_for(server));
  Saved saved(store);
  std::atomic<int> seen{0};
  server.misbehave([&](const Asked& asked, Answer& answer) {
    if (!is_get(asked) || seen++ != 1) return;
    answer.body[answer.body.size() / 2] ^= 1;
  });
  const PrefillReport report = saved.run();
  CHECK(report.tokens_loaded == kChunk * (kChunks - 1));
  CHECK(report.failed_loads == 1);
  // What is damaged is erased, so that the next save writes it anew.
  CHECK(server.objects().size() == kChunks - 1);
}

TEST_CASE("another object under a key's name is not taken for it") {
  Server server;
  S3Storage store(options_for(server));
  Saved saved(store);
  const auto objects = server.objects();
  server.put(objects.begin()->first, std::next(objects.begin())->second);
  CHECK(saved.run().tokens_loaded == kChunk * (kChunks - 1));
}

TEST_CASE("a server that is killed in the middle of a prefill leaves the rest to compute") {
  Server server;
  S3Options options = options_for(server);
  options.attempts = 2;
  S3Storage store(options);
  Saved saved(store);
  std::atomic<int> seen{0};
  std::atomic<bool> enough{false};
  server.misbehave([&](const Asked& asked, Answer& answer) {
    if (!is_get(asked) || ++seen <= 3) return;
    enough = true;
    answer.cut = answer.body.size() / 2;
    answer.then = Answer::Then::hang;
  });
  std::thread killer([&] {
    while (!enough) std::this_thread::sleep_for(1ms);
    server.kill();
  });
  LoaderOptions one = Saved::options();
  one.lanes.threads = 1;
  const PrefillReport report = saved.run(one);
  killer.join();
  CHECK(report.tokens_loaded == 3 * kChunk);
  CHECK(report.tokens_computed == kTokens - 3 * kChunk);
  CHECK(report.load_error.error().context.find("read of http://127.0.0.1") != std::string::npos);
}

TEST_CASE("a server that is not there leaves the prompt to compute") {
  Server server;
  S3Options options = options_for(server);
  options.attempts = 2;
  S3Storage store(options);
  Saved saved(store);
  server.kill();
  const PrefillReport report = saved.run();
  CHECK(report.tokens_loaded == 0);
  CHECK(report.lookup.error().context.find("cannot be reached") != std::string::npos);
}

TEST_CASE("the deadline of a lane's read breaks its transfers off") {
  Server server;
  S3Options options = options_for(server);
  options.read_timeout = 1h;
  options.stall_timeout = 1h;
  S3Storage store(options);
  Saved saved(store);
  server.misbehave([](const Asked& asked, Answer& answer) { answer.hang_at_once = is_get(asked); });
  LoaderOptions late = Saved::options();
  late.session.read_timeout = 50ms;
  const PrefillReport report = saved.run(late);  // whose lanes end, too
  CHECK(report.tokens_loaded == 0);
  CHECK(store.stats().canceled > 0);
}

TEST_CASE("SeaweedFS that is killed in the middle of a prefill leaves the rest to compute") {
  const char* const program = weed_program();
  if (program == nullptr) return;
  Weed weed(program);
  S3Options options = weed.options();
  options.attempts = 2;
  options.connections = 1;
  S3Storage store(options);
  Saved saved(store);
  CHECK(saved.run().tokens_loaded == kChunk * kChunks);
  const std::uint64_t before = store.stats().read_bytes;
  std::thread killer([&] {
    while (store.stats().read_bytes == before) std::this_thread::sleep_for(50us);
    weed.kill();
  });
  const PrefillReport report = saved.run();
  killer.join();
  CHECK(report.tokens_loaded + report.tokens_computed == kTokens);
  // And as if nothing had been, when it is there again.
  weed.start();
  weed.wait_until_it_answers();
  CHECK(saved.run().tokens_loaded == kChunk * kChunks);
}
