// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Whole runs of the loader over a GDS store: bytes that never touch the host until the engine has
// them.
#include <fstream>
#include <set>

#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "catch.hpp"
#include "gds_helpers.hpp"
#include "posix_helpers.hpp"

namespace {

using namespace cake;
using namespace std::chrono_literals;
using fault::FakeCufile;
using sample::DeviceToy;
using sample::Directory;
using sample::fake;
using sample::FakeDevice;
using sample::NothingLeft;
using testing::toy_prompt;

constexpr std::uint32_t kChunks = 9;

struct Shape {
  std::uint32_t chunk_tokens;
  UniformKvLayout layout;
};
// One block to an extent; and two, the second one short.
const Shape kShapes[] = {{64, {3, 2, 8, DType::f32, KvOrder::nhd}},
                         {80, {5, 4, 64, DType::f32, KvOrder::nhd}}};

struct World {
  explicit World(const Shape& shape_in = kShapes[0], std::size_t device_bytes = 8u << 20)
      : shape(shape_in),
        prompt(toy_prompt(shape.chunk_tokens * kChunks + 20)),
        device(device_bytes),
        engine(prompt.size(), device, {shape.layout}) {
    GdsStorage store(sample::gds_options(directory.path()));
    Loader loader(engine, store, {.chunks = {.chunk_tokens = shape.chunk_tokens}});
    REQUIRE(loader.prefill(prompt).status.has_value());
    expected = engine.kv();
    REQUIRE(loader.save(prompt).status.has_value());
    keys = prefix_chain(root_key(engine.fingerprint(), engine.layout(), shape.chunk_tokens, {}),
                        prompt, shape.chunk_tokens);
  }
  GdsStorage open(bool force = false) {
    GdsOptions options = sample::gds_options(directory.path());
    options.force = force;
    options.op_bytes = 12288;
    options.bounce_bytes = 16384;
    return GdsStorage(options, &device);
  }
  template <class Sch>
  PrefillReport run(GdsStorage& storage, Sch scheduler, LaneOptions lanes = {}) {
    engine.clear();
    engine.from_device = 0;
    Loader loader(engine, storage,
                  {.chunks = {.chunk_tokens = shape.chunk_tokens},
                   .lanes = lanes,
                   .session = {.idle_timeout = 1min}},
                  std::move(scheduler));
    PrefillReport report = loader.prefill(prompt);
    CHECK(report.status.has_value());
    CHECK(report.scheduler_faults == 0);
    CHECK(report.tokens_computed + report.tokens_loaded == prompt.size());
    CHECK(engine.kv() == expected);
    CHECK(engine.has_logits());
    return report;
  }
  PrefillReport load_only(GdsStorage& storage) { return run(storage, LoadOnlyScheduler()); }
  std::uint32_t stored_tokens() const { return shape.chunk_tokens * kChunks; }
  void damage(std::uint32_t chunk, std::uint64_t at) {
    std::fstream file(sample::file_of(directory.path(), keys[chunk]),
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at));
    const char byte = static_cast<char>(file.get());
    file.seekp(static_cast<std::streamoff>(at));
    file.put(static_cast<char>(byte ^ 8));
  }

  NothingLeft end;
  Shape shape;
  std::vector<TokenId> prompt;
  Directory directory;
  FakeDevice device;
  DeviceToy engine;
  std::vector<std::byte> expected;
  std::vector<ChunkKey> keys;
};

TEST_CASE("a prompt is loaded through device memory, and the KV is that computed") {
  for (const Shape& shape : kShapes) {
    for (const bool native : {true, false}) {
      World world(shape);
      fake().way = native ? FakeCufile::nvfs : FakeCufile::posix;
      GdsStorage storage = world.open(true);
      const std::uint64_t probe = world.device.copied_in;
      const PrefillReport report = world.load_only(storage);
      CHECK(report.tokens_loaded == world.stored_tokens());
      CHECK(report.failed_loads == 0);
      CHECK(world.engine.from_device == world.engine.inserts);
      CHECK(world.engine.inserts >= static_cast<int>(kChunks));
      CHECK(world.device.digests >= static_cast<int>(kChunks));
      CHECK(world.device.copied_in == probe);
      CHECK(storage.report().reads >= kChunks);
      for (int i = 0; i < 5; ++i) world.run(storage, MeetInTheMiddleScheduler());
      CHECK(storage.report().bounced == 0);
      CHECK(world.device.allocated == 0);
    }
  }
}

TEST_CASE("where GDS does not work, the same engine and store load on the host") {
  World world;
  const auto check = [&](GdsStorage& storage) {
    const PrefillReport report = world.load_only(storage);
    CHECK(report.tokens_loaded == world.stored_tokens());
    CHECK(world.engine.from_device == 0);
    CHECK(storage.report().bounced == 0);
    CHECK(world.device.digests == 0);
  };
  fake().handle_register = 5027;
  GdsStorage refused = world.open();
  check(refused);
  fake().obey();
  fake().way = FakeCufile::posix;
  GdsStorage compat = world.open();
  check(compat);
}

TEST_CASE("an engine that does not insert from device memory gets host memory") {
  World world;
  GdsStorage storage = world.open();
  testing::ToyEngine host(world.prompt.size(), {world.shape.layout});
  {
    Loader loader(host, storage, {.chunks = {.chunk_tokens = world.shape.chunk_tokens}},
                  LoadOnlyScheduler());
    CHECK(loader.lanes().device() == nullptr);
    CHECK(loader.prefill(world.prompt).tokens_loaded == world.stored_tokens());
    CHECK(host.kv() == world.expected);
  }
  IoLanes<GdsStorage> lanes(storage, {.device = true});
  CHECK(lanes.device() == &world.device);
  using Session = PrefillSession<testing::ToyEngine, GdsStorage, LoadOnlyScheduler>;
  try {
    const Session session(host, lanes);
    FAIL("a session that cannot insert was made");
  } catch (const Exception& e) {
    CHECK(e.error().code == Errc::invalid_argument);
  }
}

TEST_CASE("a corrupt byte is found on the device, computed instead, and repaired") {
  for (const Shape& shape : kShapes) {
    World world(shape);
    const ChunkGeometry geometry(shape.layout, shape.chunk_tokens);
    const std::uint64_t places[] = {10,
                                    4100,
                                    geometry.head_bytes(),
                                    geometry.extent(1, 0).begin + 77,
                                    geometry.extent(2, 1).end - 1,
                                    geometry.object_bytes() - 4000};
    for (const std::uint64_t at : places) {
      CAPTURE(at);
      GdsStorage storage = world.open();
      world.damage(4, at);
      const PrefillReport report = world.load_only(storage);
      CHECK(report.chunks_recomputed == 1);
      CHECK(report.failed_loads == 1);
      CHECK(report.chunks[4].source == Source::computed);
      CHECK(report.chunks[4].load_error == Errc::corrupt);
      Loader saver(world.engine, storage, {.chunks = {.chunk_tokens = shape.chunk_tokens}});
      CHECK(saver.save(world.prompt).written == 1);
      CHECK(world.load_only(storage).tokens_loaded == world.stored_tokens());
    }
  }
}

TEST_CASE("bytes that arrive otherwise than they are stored cost loads, not the stored chunks") {
  World world;
  GdsStorage storage = world.open();
  fake().flip_at = 4100;  // of every file that cuFile reads
  const PrefillReport report = world.load_only(storage);
  // Which reads come before the store gives cuFile up is up to the threads.
  CHECK(report.failed_loads > 0);
  for (const ChunkReport& chunk : report.chunks)
    CHECK((chunk.source == Source::loaded || chunk.load_error == Errc::device));
  CHECK(report.load_error.error().context.find("differ from the stored ones") != std::string::npos);
  while (!storage.report().demoted) world.load_only(storage);
  INFO(storage.report().text());
  CHECK(storage.report().reason.find("other bytes") != std::string::npos);
  CHECK(world.load_only(storage).tokens_loaded == world.stored_tokens());  // nothing was erased
  fake().obey();
}

TEST_CASE("errors after some reads: retried, then demoted, and not one chunk is lost") {
  for (const std::uint64_t after : {0u, 1u, 5u, 20u}) {
    World world;
    GdsStorage storage = world.open();
    fake().bad_result = -1;
    fake().bad_errno = EIO;
    fake().good_reads = after;
    fake().bad_reads = FakeCufile::kAlways;
    const PrefillReport report = world.load_only(storage);
    CHECK(report.tokens_loaded == world.stored_tokens());
    CHECK(report.failed_loads == 0);
    CHECK(world.engine.from_device ==
          world.engine.inserts);  // the lanes' memory stays the device's
    GdsReport gds = storage.report();
    INFO(gds.text());
    CHECK(gds.retried >= 1);
    CHECK(gds.bounced >= gds.retried);
    // A later loader over the demoted store reads on the host.
    while (!storage.report().demoted) world.load_only(storage);
    CHECK(world.load_only(storage).tokens_loaded == world.stored_tokens());
    CHECK(world.engine.from_device == 0);
  }
}

TEST_CASE("a device that fails in the middle of a run costs loads, never the prompt") {
  for (const bool digests : {true, false}) {
    World world;
    GdsStorage storage = world.open();
    (digests ? world.device.fail_digests : world.device.fail_copies) = true;
    const PrefillReport report = world.load_only(storage);
    CHECK(report.tokens_loaded == 0);
    CHECK(report.chunks[kChunks - 1].load_error == Errc::device);
    world.device.fail_digests = world.device.fail_copies = false;
    CHECK(world.load_only(storage).tokens_loaded == world.stored_tokens());  // nothing was erased
  }
}

TEST_CASE("device reads that hang past their deadline are computed instead") {
  World world;
  GdsStorage storage = world.open();
  MeetOptions hasty;
  hasty.deadline_floor = 5ms;
  hasty.deadline_factor = 2;
  world.engine.clear();
  {
    Loader loader(world.engine, storage, {.chunks = {.chunk_tokens = world.shape.chunk_tokens}},
                  MeetInTheMiddleScheduler(hasty));
    fake().hang = true;
    const PrefillReport report = loader.prefill(world.prompt);
    CHECK(report.status.has_value());
    CHECK(report.tokens_computed == world.prompt.size());
    CHECK(world.engine.kv() == world.expected);
    CHECK(world.engine.inserts == 0);
    fake().hang = false;  // the lanes' end waits for every read
  }
  CHECK(world.engine.kv() == world.expected);  // and none landed
  CHECK(world.device.allocated == 0);
  CHECK(world.load_only(storage).tokens_loaded == world.stored_tokens());
}

TEST_CASE("device memory smaller than the lanes want holds reads back, and fails none") {
  World world;
  const std::uint64_t object =
      ChunkGeometry(world.shape.layout, world.shape.chunk_tokens).object_bytes();
  for (const std::uint64_t room : {object, 2 * object + 4096}) {
    FakeDevice small(room);
    GdsStorage storage(sample::gds_options(world.directory.path()), &small);
    REQUIRE(storage.report().device);
    DeviceToy engine(world.prompt.size(), small, {world.shape.layout});
    Loader loader(
        engine, storage,
        {.chunks = {.chunk_tokens = world.shape.chunk_tokens}, .session = {.idle_timeout = 1min}},
        LoadOnlyScheduler());
    for (int i = 0; i < 3; ++i) {
      engine.clear();
      const PrefillReport report = loader.prefill(world.prompt);
      CHECK(report.tokens_loaded == world.stored_tokens());
      CHECK(report.failed_loads == 0);
      CHECK(engine.kv() == world.expected);
    }
    // A lane gives the buffer back a moment after the insert.
    while (loader.lanes().free_staging_bytes() != room) std::this_thread::yield();
    while (small.allocated != 0) std::this_thread::yield();
  }
  fake().shadow = 0;
}

TEST_CASE("two prompts' loaders share one store and its device memory") {
  World world;
  GdsStorage storage = world.open();
  DeviceToy second(world.prompt.size(), world.device, {world.shape.layout});
  std::atomic<int> wrong{0};
  const auto load = [&](DeviceToy& engine) {
    Loader loader(engine, storage, {.chunks = {.chunk_tokens = world.shape.chunk_tokens}});
    for (int i = 0; i < 20; ++i) {
      engine.clear();
      const PrefillReport report = loader.prefill(world.prompt);
      if (!report.status || engine.kv() != world.expected) ++wrong;
    }
  };
  std::thread other([&] { load(second); });
  load(world.engine);
  other.join();
  CHECK(wrong == 0);
  CHECK(world.device.allocated == 0);
}

}  // namespace
