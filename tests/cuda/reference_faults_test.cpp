// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What goes wrong while a GPU prefills: the logits stay right or the error is clear, nothing is
// leaked, and the next prompt runs.
#include <chrono>
#include <cmath>
#include <random>
#include <thread>

#include "cake/loader.hpp"
#include "cake/reference/cuda_backend.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "tests/cuda/gpu.hpp"
#include "tests/fault/faulty_storage.hpp"

using namespace cake;
using namespace std::chrono_literals;
using fault::FaultyStorage;
using fault::Kind;

namespace {

constexpr std::uint32_t kChunk = 64;
constexpr std::uint32_t kChunks = 12;
constexpr std::uint32_t kTokens = kChunk * kChunks + 20;

reference::Config small_model() {
  reference::Config config;
  config.name = "small";
  config.n_layers = 3;
  config.n_heads = 8;
  config.n_kv_heads = 2;
  config.head_dim = 64;
  config.n_embd = 512;
  config.n_ff = 1024;
  config.n_vocab = 1000;
  config.n_context = 4096;
  config.rms_epsilon = 1e-5f;
  config.rope.dimensions = 64;
  return config;
}

std::vector<TokenId> prompt_of(std::size_t tokens, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<TokenId> prompt(tokens);
  for (TokenId& token : prompt) token = static_cast<TokenId>(random() % 1000);
  return prompt;
}

struct World {
  std::shared_ptr<const reference::CudaWeights> weights =
      reference::CudaWeights::random(small_model(), 3).value();
  reference::CudaBackend engine{weights,
                                {.page_tokens = 16, .max_tokens = 2048, .shuffle_pages = 5}};
  std::vector<TokenId> prompt = prompt_of(kTokens, 1);
  MemoryStorage inner;
  FaultyStorage<MemoryStorage> storage{inner};
  std::vector<float> expected;
  std::vector<ChunkKey> keys;

  World() {
    Loader loader(engine, inner, options(), ComputeOnlyScheduler());
    REQUIRE(loader.prefill(prompt).status.has_value());
    expected.assign(engine.logits().begin(), engine.logits().end());
    REQUIRE(expected.size() == 1000);
    REQUIRE(loader.save(prompt).status.has_value());
    keys =
        prefix_chain(root_key(engine.fingerprint(), engine.layout(), kChunk, {}), prompt, kChunk);
  }

  static LoaderOptions options() {
    return {.chunks = {.chunk_tokens = kChunk},
            .session = {.max_step_tokens = 256, .idle_timeout = 1min}};
  }

  /// Relative distance of the logits from those of compute only.
  double distance() const {
    const auto now = engine.logits();
    REQUIRE(now.size() == expected.size());
    double difference = 0;
    double size = 1e-30;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double d = double{now[i]} - double{expected[i]};
      difference += d * d;
      size += double{expected[i]} * double{expected[i]};
    }
    return std::sqrt(difference / size);
  }

  template <class Sch>
  PrefillReport run(Sch scheduler) {
    engine.clear();
    Loader loader(engine, storage, options(), std::move(scheduler));
    PrefillReport report = loader.prefill(prompt);
    INFO((report.status ? std::string() : report.status.error().message()));
    CHECK(report.status.has_value());
    CHECK(report.tokens_computed + report.tokens_loaded == kTokens);
    CHECK(distance() < 3e-2);  // steps of other sizes round otherwise
    storage.heal();
    Loader saver(engine, inner, options());
    CHECK(saver.save(prompt).status.has_value());  // puts right what was found damaged
    return report;
  }
};

}  // namespace

TEST_CASE("KV loaded on a GPU gives the logits of KV computed, in any mix") {
  CAKE_NEEDS_GPU();
  World world;
  const PrefillReport load = world.run(LoadOnlyScheduler());
  CHECK(load.tokens_loaded == kChunk * kChunks);
  const PrefillReport split = world.run(FixedSplitScheduler(0.5));
  CHECK(split.tokens_loaded > 0);
  CHECK(split.tokens_computed > 0);
  world.run(MeetInTheMiddleScheduler());
}

TEST_CASE("chunks that are corrupt, torn, another's, failing or missing are computed on the GPU") {
  CAKE_NEEDS_GPU();
  World world;
  struct {
    Kind kind;
    Errc error;
  } const cases[] = {{Kind::error, Errc::io},
                     {Kind::short_read, Errc::io},
                     {Kind::torn_read, Errc::corrupt},
                     {Kind::flipped_byte, Errc::corrupt},
                     {Kind::wrong_object, Errc::mismatch}};
  for (const auto& c : cases) {
    for (const std::uint32_t chunk : {0u, 5u, kChunks - 1}) {
      world.storage.on_key(
          world.keys[chunk],
          {.kind = c.kind, .position = 9001, .other = world.keys[(chunk + 1) % 3]});
      const PrefillReport report = world.run(LoadOnlyScheduler());
      CHECK(report.chunks[chunk].source == Source::computed);
      CHECK(report.chunks[chunk].load_error == c.error);
      CHECK(report.chunks_recomputed == 1);
    }
  }
  REQUIRE(world.inner.erase(world.keys[4]));
  CHECK(world.run(LoadOnlyScheduler()).chunks[4].load_error == Errc::not_found);
}

TEST_CASE("a read that hangs costs its deadline, and lands in nobody's pages") {
  CAKE_NEEDS_GPU();
  World world;
  world.storage.on_key(world.keys[7], {.kind = Kind::hang});
  MeetOptions options;
  options.deadline_factor = 1;
  options.deadline_floor = 50ms;
  options.cost = {1, 1, 1};  // compute looks dear, so that everything is to be loaded
  options.learn = false;
  world.engine.clear();
  {
    Loader loader(world.engine, world.storage, World::options(), MeetInTheMiddleScheduler(options));
    const PrefillReport report = loader.prefill(world.prompt);
    REQUIRE(report.status.has_value());
    CHECK(report.chunks[7].source == Source::computed);
    CHECK(report.chunks[7].load_error == Errc::timeout);
    CHECK(world.distance() < 3e-2);
    // The late bytes come while another prompt is at work in the same pages.
    const std::vector<float> before(world.engine.logits().begin(), world.engine.logits().end());
    world.storage.release();
    std::this_thread::sleep_for(20ms);
    CHECK(loader.save(world.prompt).status.has_value());
  }
  world.storage.heal();
  world.run(LoadOnlyScheduler());
}

TEST_CASE("a prefill canceled in the middle ends, and the next prompt runs") {
  CAKE_NEEDS_GPU();
  World world;
  for (const auto delay : {0us, 200us, 1000us, 3000us}) {
    std::stop_source stop;
    world.engine.clear();
    Loader loader(world.engine, world.storage, World::options());
    std::thread canceler([&] {
      std::this_thread::sleep_for(delay);
      stop.request_stop();
    });
    const PrefillReport report = loader.prefill(world.prompt, {.stop = stop.get_token()});
    canceler.join();
    CHECK((report.status.has_value() || report.status.code() == Errc::canceled));
    CHECK(loader.lanes().quarantined() == 0);
    world.run(MeetInTheMiddleScheduler());
  }
}

TEST_CASE("a device without room says what was asked for, leaks nothing, and serves the rest") {
  CAKE_NEEDS_GPU();
  World world;
  std::size_t before = 0;
  std::size_t after = 0;
  std::size_t total = 0;
  REQUIRE(cudaMemGetInfo(&before, &total) == cudaSuccess);
  reference::Config large = small_model();
  large.n_layers = 64;
  large.n_context = 1u << 28;
  large.n_kv_heads = large.n_heads = 64;
  large.head_dim = 128;
  large.n_embd = 128;
  large.rope.dimensions = 128;
  const auto weights = reference::CudaWeights::random(large, 1);
  REQUIRE(weights.has_value());
  for (int i = 0; i < 3; ++i) {
    try {
      const reference::CudaBackend engine(*weights, {.max_tokens = 1u << 27});
      FAIL("terabytes of pages were given");
    } catch (const Exception& e) {
      CHECK(e.error().code == Errc::out_of_memory);
      CHECK(!e.error().context.empty());
    }
    // Other tests use the device meanwhile; what they take comes back, what leaks does not.
    const auto until = std::chrono::steady_clock::now() + 10s;
    do {
      REQUIRE(cudaMemGetInfo(&after, &total) == cudaSuccess);
      if (i == 0) before = after;
      if (before - std::min(before, after) < (std::size_t{64} << 20)) break;
      std::this_thread::sleep_for(50ms);
    } while (std::chrono::steady_clock::now() < until);
    CHECK(before - std::min(before, after) < (std::size_t{64} << 20));
  }
  CHECK(cudaGetLastError() == cudaSuccess);
  world.run(LoadOnlyScheduler());
}
