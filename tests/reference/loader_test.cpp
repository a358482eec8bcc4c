// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The loader over the CPU backend and a store: what was saved by one engine is what another one
// loads.
#include "cake/loader.hpp"

#include <algorithm>
#include <chrono>
#include <string>

#include "cake/scheduler/baselines.hpp"
#include "cake/storage/host.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/posix.hpp"
#include "cake/storage/tiered.hpp"
#include "cake/testing/check_engine.hpp"
#include "catch.hpp"
#include "storage/helpers.hpp"
#include "tiny_engine.hpp"

using namespace tiny;
namespace sample = cake::sample;

namespace {

constexpr cake::SessionOptions kPatient{.max_step_tokens = 128,
                                        .idle_timeout = std::chrono::minutes(1)};

/// Saves a prompt with one engine and loads it with another; true when KV and logits are equal, bit
/// for bit.
template <class Storage>
bool round_trip(Storage& storage, const std::shared_ptr<const Weights>& weights,
                const CpuOptions& options, std::uint32_t chunk, std::uint32_t n_tokens) {
  const auto prompt = prompt_of(n_tokens);
  const std::uint32_t prefix = std::min(n_tokens - 1, n_tokens / chunk * chunk);
  CpuBackend first(weights, options);
  cake::Loader saver(first, storage, {.chunks = {.chunk_tokens = chunk}, .session = kPatient},
                     cake::ComputeOnlyScheduler());
  if (!saver.prefill(prompt).status || !saver.save(prompt).status) return false;
  CpuBackend second(weights, options);
  cake::Loader loader(second, storage, {.chunks = {.chunk_tokens = chunk}, .session = kPatient},
                      cake::LoadOnlyScheduler());
  const cake::PrefillReport report = loader.prefill(prompt);
  if (!report.status || report.tokens_loaded != prefix) return false;
  Buffer saved(first.layout(), {0, {0, prefix}, {0, first.layout().n_layers}});
  Buffer loaded(second.layout(), {0, {0, prefix}, {0, second.layout().n_layers}});
  return first.extract(saved.slice, saved.view()) && second.extract(loaded.slice, loaded.view()) &&
         same(saved, loaded);
}

bool round_trip(const std::shared_ptr<const Weights>& weights, const CpuOptions& options,
                std::uint32_t chunk, std::uint32_t n_tokens) {
  cake::MemoryStorage storage;
  return round_trip(storage, weights, options, chunk, n_tokens);
}

}  // namespace

TEST_CASE("KV that was loaded is KV that was saved, for every dtype, order, chunk and page size") {
  const auto weights = load({.context = 1100});
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
      for (const std::uint32_t page : {1u, 2u, 7u, 16u, 33u, 64u}) {
        for (const std::uint32_t chunk : {16u, 17u, 64u, 100u, 256u, 512u}) {
          CAPTURE(to_string(dtype), to_string(order), page, chunk);
          REQUIRE(round_trip(
              weights, {.threads = 1, .kv_dtype = dtype, .kv_order = order, .page_tokens = page},
              chunk, 2 * chunk < 300 ? 300 : chunk + 5));
        }
      }
    }
  }
  // All chunk sizes between, at one page size each.
  for (std::uint32_t chunk = 16; chunk <= 512; chunk += 31) {
    CAPTURE(chunk);
    REQUIRE(round_trip(weights,
                       {.threads = 1, .kv_dtype = DType::bf16, .page_tokens = 1 + chunk % 64},
                       chunk, 2 * chunk + 5));
  }
}

TEST_CASE("KV that is inserted from where a host store keeps it is KV that was saved") {
  const auto weights = load({.context = 1100});
  for (const bool verify_on_read : {false, true}) {
    for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
      for (const std::uint32_t page : {7u, 64u}) {
        CAPTURE(verify_on_read, to_string(order), page);
        const CpuOptions options{.threads = 1, .kv_order = order, .page_tokens = page};
        cake::HostStorage alone(
            {.capacity_bytes = std::uint64_t{64} << 20, .verify_on_read = verify_on_read});
        REQUIRE(round_trip(alone, weights, options, 64, 700));
        CHECK(alone.stats().loans != 0);
        CHECK(alone.stats().reads == 0);
      }
    }
  }
}

TEST_CASE("a host store in front of a disk lends what it has, and the disk reads the rest") {
  const auto weights = load({.context = 1100});
  const sample::Directory directory;
  cake::PosixStorage disk({.directory = directory.path() / "kv"});
  cake::HostStorage host({.capacity_bytes = std::uint64_t{64} << 20});
  cake::TieredStorage both(host, disk);  // writes go to the disk
  const CpuOptions options{.threads = 1, .page_tokens = 16};
  REQUIRE(round_trip(host, weights, options, 64, 300));
  REQUIRE(host.stats().objects == 4);
  const std::uint64_t loans = host.stats().loans;
  REQUIRE(round_trip(both, weights, options, 64, 700));
  CHECK(host.stats().objects == 4);
  CHECK(disk.stats().reads >= 6);  // what the disk alone has
  CHECK(host.stats().loans - loans + disk.stats().reads == 10);
}

TEST_CASE("every schedule gives the same next token, and KV within rounding") {
  const auto weights = load();
  const auto prompt = prompt_of(400);
  cake::MemoryStorage storage;
  CpuBackend engine(weights, {.threads = 2});
  cake::Loader saver(engine, storage, {.chunks = {.chunk_tokens = 32}});
  REQUIRE(saver.prefill(prompt).status.has_value());
  REQUIRE(saver.save(prompt).status.has_value());
  const cake::TokenId token = engine.argmax();
  for (int i = 0; i < 20; ++i) {
    engine.clear();
    cake::Loader loader(engine, storage,
                        {.chunks = {.chunk_tokens = 32}, .session = {.max_step_tokens = 64}});
    const cake::PrefillReport report = loader.prefill(prompt);
    REQUIRE(report.status.has_value());
    CHECK(report.tokens_computed + report.tokens_loaded == 400);
    CHECK(engine.argmax() == token);
  }
}

TEST_CASE("the CPU backend keeps the rules of the conformance kit") {
  const auto weights = load();
  const auto prompt = prompt_of(60);
  for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
    CpuBackend engine(weights, {.threads = 2, .kv_order = order, .page_tokens = 8});
    std::string failures;
    for (const std::string& failure : cake::testing::check(engine, prompt))
      failures += failure + "\n";
    CAPTURE(failures);
    CHECK(failures.empty());
  }
}
