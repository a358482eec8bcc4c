// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Device staging on a GPU, and the real cuFile library in whatever state the machine has it.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "cake/chunk/digest.hpp"
#include "cake/cuda/device_arena.hpp"
#include "cake/detail/landing.hpp"
#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/testing/check_storage.hpp"
#include "tests/cuda/gpu.hpp"
#include "tests/storage/contract.hpp"
#include "tests/storage/gds_engine.hpp"
#include "tests/storage/posix_helpers.hpp"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
/// libcufile keeps 8 KiB of each driver that it opened.
// NOLINTNEXTLINE(readability-identifier-naming): the sanitizer's name
const char* __lsan_default_suppressions() { return "leak:libcufile\n"; }
#endif

namespace {

using namespace cake;
using namespace std::chrono_literals;
using cuda::DeviceArena;
using sample::AlwaysDevice;
using sample::DeviceToy;
using sample::Directory;
using sample::ThroughDevice;

std::uint64_t next(std::uint64_t& x) {
  x = x * 6364136223846793005u + 1442695040888963407u;
  return x >> 33;
}

/// A directory on a disk: temporary ones are often memory, which cuFile refuses.
std::filesystem::path parent_directory() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nobody sets it
  const char* const named = std::getenv("CAKE_GDS_DIRECTORY");
  return named != nullptr ? std::filesystem::path(named) : std::filesystem::current_path();
}

GdsOptions options_of(const Directory& directory, bool force) {
  GdsOptions options;
  options.posix.directory = directory.path();
  options.force = force;
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nobody sets it
  if (const char* const library = std::getenv("CAKE_CUFILE_LIBRARY")) options.library = library;
  return options;
}

TEST_CASE("digests on the device equal those on the host, over sizes, blocks and places") {
  CAKE_NEEDS_GPU();
  constexpr std::size_t kRoom = std::size_t{1} << 20;
  DeviceArena arena(2 * kRoom);
  const AlignedBuffer device(kRoom, &arena);
  AlignedBuffer host(kRoom);
  sample::fill(host.bytes(), 9);
  REQUIRE(arena.from_host(device.data(), host.data(), kRoom));
  std::uint64_t x = 1;
  const auto check = [&](std::size_t at, std::size_t run, std::size_t runs, std::size_t block) {
    CAPTURE(at, run, runs, block);
    const std::size_t per_run = (run + block - 1) / block;
    std::vector<std::uint32_t> out(per_run * runs, 0xdeadbeef);
    REQUIRE(arena.crc32c(device.data() + at, run, runs, block, out));
    std::vector<std::uint32_t> expected;
    for (std::size_t r = 0; r < runs; ++r) {
      for (std::size_t b = 0; b < run; b += block) {
        expected.push_back(crc32c({host.data() + at + r * run + b, std::min(block, run - b)}));
      }
    }
    REQUIRE(out == expected);
  };
  for (const std::size_t run : {4u, 8u, 252u, 256u, 260u, 4096u, 65532u, 65536u, 65540u, 139264u}) {
    check(0, run, 1, 65536);
    check(4, run, 1, 65536);  // not at 16 bytes
    check(16, run, 5, 65536);
    check(0, run, 3, 4096);
  }
  check(0, kRoom, 1, kDigestBlock);
  check(0, kRoom / 16, 16, kDigestBlock);
  for (int i = 0; i < 300; ++i) {
    const std::size_t run = 4 + next(x) % 40000 * 4;
    const std::size_t runs = 1 + next(x) % 4;
    const std::size_t block = 4 + next(x) % 16384 * 4;
    const std::size_t at = next(x) % ((kRoom - run * runs) / 4 + 1) * 4;
    check(at, run, runs, block);
  }
  std::vector<std::uint32_t> one(1);
  CHECK(arena.crc32c(device.data(), 6, 1, 4096, one).code() == Errc::invalid_argument);
  CHECK(arena.crc32c(device.data() + 2, 8, 1, 4096, one).code() == Errc::invalid_argument);
  CHECK(arena.crc32c(device.data(), 8, 1, 65540, one).code() == Errc::invalid_argument);
  CHECK(arena.crc32c(device.data(), 8, 1, 0, one).code() == Errc::invalid_argument);
  CHECK(arena.crc32c(device.data(), 8, 2, 8, one).code() == Errc::invalid_argument);
  CHECK(arena.crc32c(device.data(), 8, 0, 8, {}).has_value());
}

TEST_CASE("a flipped bit anywhere changes the device's digest of its block alone") {
  CAKE_NEEDS_GPU();
  constexpr std::size_t kBytes = 4 * kDigestBlock;
  DeviceArena arena(kBytes);
  const AlignedBuffer device(kBytes, &arena);
  AlignedBuffer host(kBytes);
  sample::fill(host.bytes(), 10);
  REQUIRE(arena.from_host(device.data(), host.data(), kBytes));
  std::vector<std::uint32_t> good(4);
  REQUIRE(arena.crc32c(device.data(), kBytes, 1, kDigestBlock, good));
  std::uint64_t x = 5;
  for (int i = 0; i < 100; ++i) {
    const std::size_t at = next(x) % kBytes;
    const std::byte flipped = host.data()[at] ^ static_cast<std::byte>(1u << next(x) % 8);
    REQUIRE(arena.from_host(device.data() + at, &flipped, 1));
    std::vector<std::uint32_t> now(4);
    REQUIRE(arena.crc32c(device.data(), kBytes, 1, kDigestBlock, now));
    for (std::size_t b = 0; b < 4; ++b) REQUIRE((now[b] == good[b]) == (b != at / kDigestBlock));
    REQUIRE(arena.from_host(device.data() + at, host.data() + at, 1));
  }
}

TEST_CASE("many threads copy and digest in one arena at once") {
  CAKE_NEEDS_GPU();
  constexpr std::size_t kBytes = 5 * kDigestBlock + 4096;
  DeviceArena arena(std::size_t{16} << 20);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      AlignedBuffer host(kBytes);
      AlignedBuffer back(kBytes);
      for (std::uint64_t i = 0; i < 20; ++i) {
        const AlignedBuffer device(kBytes, &arena);
        sample::fill(host.bytes(), 100 * t + i);
        std::vector<std::uint32_t> out(6);
        const bool good = arena.use_on_this_thread() &&
                          arena.from_host(device.data(), host.data(), kBytes) &&
                          arena.crc32c(device.data(), kBytes, 1, kDigestBlock, out) &&
                          arena.to_host(back.data(), device.data(), kBytes);
        if (!good || !sample::equal(host.bytes(), back.bytes())) ++wrong;
        for (std::size_t b = 0; b < 6; ++b) {
          const std::size_t at = b * kDigestBlock;
          if (out[b] != crc32c({host.data() + at, std::min(kDigestBlock, kBytes - at)})) ++wrong;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(arena.largest_gap() == arena.arena().size());
}

TEST_CASE("an arena is aligned, as large as asked for, and refuses what the device has not") {
  CAKE_NEEDS_GPU();
  const DeviceArena arena((std::size_t{3} << 20) + 5);
  CHECK(arena.arena().size() >= (std::size_t{3} << 20) + 5);
  CHECK(reinterpret_cast<std::uintptr_t>(arena.arena().data()) % kIoAlignment == 0);
  CHECK(arena.contains(arena.arena().data()));
  CHECK_FALSE(arena.contains(arena.arena().data() + arena.arena().size()));
  try {
    const DeviceArena large(2 * cuda::device_info().value().memory_bytes);
    FAIL("twice the memory was given");
  } catch (const Exception& e) {
    CHECK(e.error().code == Errc::out_of_memory);
  }
}

TEST_CASE("host memory of an arena can be read into past the page cache") {
  CAKE_NEEDS_GPU();
  DeviceArena arena(1 << 20);
  const Directory directory(parent_directory());
  PosixStorage storage({.directory = directory.path()});
  const auto content = sample::content(1, 1 << 20);
  REQUIRE(storage.write(sample::key_of(1), content.bytes()));
  const AlignedBuffer host(1 << 20, arena.host_memory());
  const Status status = cake::await_completion(storage.read(0, sample::key_of(1), 0, host.bytes()));
  INFO((status ? std::string() : status.error().message()));
  REQUIRE(status);
  CHECK(sample::equal(host.bytes(), content.bytes()));
  std::printf("O_DIRECT in use: %s, refused %d times\n", storage.direct() ? "yes" : "no",
              static_cast<int>(storage.stats().direct_refusals));
}

TEST_CASE("the real cuFile in this machine's state: the report, and the contract of a store") {
  CAKE_NEEDS_GPU();
  for (const bool force : {false, true}) {
    const Directory directory(parent_directory());
    DeviceArena arena(std::size_t{64} << 20);
    {
      GdsStorage storage(options_of(directory, force), &arena);
      const GdsReport before = storage.report();
      std::printf("force %d: %s\n%s", force, storage.path().c_str(), before.text().c_str());
      REQUIRE_FALSE(before.checks.empty());
      CHECK(before.device ==
            (before.mode == GdsMode::native || (force && before.mode != GdsMode::none)));
      CHECK((storage.device_staging() == &arena) == before.device);
      CHECK(sample::count_files(directory.path()) == 0);
      ThroughDevice through(storage, arena);
      sample::check_contract(through);
      sample::check_contract(storage);
      sample::check_concurrent(through, 50);
      for (const std::string& failure : testing::check(through)) FAIL_CHECK(failure);
      const GdsReport after = storage.report();
      std::printf("%s", after.text().c_str());
      CHECK((after.reads > 0) == before.device);
      CHECK(after.retried == 0);
    }
    CHECK(arena.largest_gap() == arena.arena().size());
  }
}

/// Everything of the loader, with bytes landing in device memory.
template <class S>
void load_through(S& storage, DeviceArena& arena, const Directory& directory) {
  const UniformKvLayout layout{6, 4, 64, DType::f32, KvOrder::nhd};
  constexpr std::uint32_t kChunk = 80;  // extents of two blocks, the second one short
  const auto prompt = testing::toy_prompt(kChunk * 8 + 20);
  DeviceToy engine(prompt.size(), arena, {layout});
  {
    Loader loader(engine, storage, {.chunks = {.chunk_tokens = kChunk}});
    REQUIRE(loader.prefill(prompt).status);
    REQUIRE(loader.save(prompt).written == 8);
  }
  const auto expected = engine.kv();
  const auto run = [&](auto scheduler) {
    engine.clear();
    engine.from_device = 0;
    Loader loader(engine, storage,
                  {.chunks = {.chunk_tokens = kChunk}, .session = {.idle_timeout = 1min}},
                  std::move(scheduler));
    const PrefillReport report = loader.prefill(prompt);
    CHECK(report.status.has_value());
    CHECK(engine.kv() == expected);
    return report;
  };
  PrefillReport report = run(LoadOnlyScheduler());
  CHECK(report.tokens_loaded == 8 * kChunk);
  CHECK(report.failed_loads == 0);
  CHECK((engine.from_device == engine.inserts) == (storage.device_staging() != nullptr));
  for (int i = 0; i < 5; ++i) run(MeetInTheMiddleScheduler());

  // One byte of one file, found by the digests of the device.
  const auto keys =
      prefix_chain(root_key(engine.fingerprint(), layout, kChunk, {}), prompt, kChunk);
  const auto file = sample::file_of(directory.path(), keys[3]);
  const int fd = ::open(file.c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(fd >= 0);
  const auto at = static_cast<off_t>(ChunkGeometry(layout, kChunk).extent(2, 1).begin + 70000);
  char byte = 0;
  REQUIRE(::pread(fd, &byte, 1, at) == 1);
  byte = static_cast<char>(byte ^ 1);
  REQUIRE(::pwrite(fd, &byte, 1, at) == 1);
  REQUIRE(::fsync(fd) == 0);
  ::close(fd);
  report = run(LoadOnlyScheduler());
  CHECK(report.chunks_recomputed == 1);
  CHECK(report.chunks[3].source == Source::computed);
  CHECK(report.chunks[3].load_error == Errc::corrupt);
}

TEST_CASE("a loader run with bytes read into device memory, by cuFile where it works") {
  CAKE_NEEDS_GPU();
  const Directory directory(parent_directory());
  DeviceArena arena(std::size_t{64} << 20);
  {
    GdsStorage storage(options_of(directory, true), &arena);
    load_through(storage, arena, directory);
    std::printf("%s", storage.report().text().c_str());
  }
  CHECK(arena.largest_gap() == arena.arena().size());
}

TEST_CASE("a loader run with bytes that come by the host and a copy into device memory") {
  CAKE_NEEDS_GPU();
  const Directory directory(parent_directory());
  DeviceArena arena(std::size_t{64} << 20);
  {
    GdsOptions options = options_of(directory, false);
    options.library = "no-such-library.so";
    options.bounce_bytes = 65536;
    GdsStorage inner(options, &arena);
    AlwaysDevice storage(inner, arena);
    load_through(storage, arena, directory);
    CHECK(inner.report().bounced > 8);
    CHECK(inner.report().reads == 0);
  }
  CHECK(arena.largest_gap() == arena.arena().size());
}

TEST_CASE("a slice in device memory is verified as one on the host is, on the GPU") {
  CAKE_NEEDS_GPU();
  DeviceArena arena(std::size_t{16} << 20);
  const auto chunk = sample::make(5, {4, 8, 16, DType::bf16, KvOrder::nhd}, 600);
  const AlignedBuffer part(chunk.object.size(), &arena);
  auto bytes = chunk.object;
  std::uint64_t x = 3;
  for (int i = 0; i < 60; ++i) {
    const std::size_t at = next(x) % bytes.size();
    if (i != 0) bytes[at] ^= std::byte{2};
    REQUIRE(arena.from_host(part.data(), bytes.data(), bytes.size()));
    std::shared_ptr<const ChunkTables> tables;
    const auto view = detail::verify_landed({.bytes = part.bytes()}, {0, 4}, chunk.object.size(),
                                            chunk.identity, &arena, tables);
    CAPTURE(i, at);
    REQUIRE(view.has_value() == (i == 0));
    if (i != 0) REQUIRE(view.error().code == sample::check(bytes, chunk.identity).code());
    if (i != 0) bytes[at] ^= std::byte{2};
  }
}

}  // namespace
