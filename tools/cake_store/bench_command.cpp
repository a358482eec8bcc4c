// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// bench: writes objects of its own, reads and replaces them for a while, and erases them.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <span>

#include "cake/chunk/writer.hpp"
#include "commands.hpp"
#include "parallel.hpp"

namespace cake::tools {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

/// Real objects of a model that nobody has, so that a verify finds nothing wrong with them, and
/// an erase by its fingerprint takes away what a killed bench has left.
struct Objects {
  std::vector<ChunkKey> keys;
  std::vector<std::vector<std::byte>> bytes;
  ModelFingerprint model;
};

Objects make_objects(unsigned count, std::uint64_t bytes) {
  constexpr std::uint32_t kTokens = 256, kLayers = 4, kHead = 16;
  constexpr std::uint64_t kStep = std::uint64_t{2} * kLayers * kTokens * kHead * 2;
  const auto heads = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(bytes / kStep, 1, 16384));
  const KvLayout layout = UniformKvLayout{kLayers, heads, kHead};
  std::random_device device;
  std::mt19937_64 random(device());
  Objects made;
  made.model = FingerprintBuilder().add("cake_store", "bench").add("run", random()).finish();
  std::vector<TokenId> prompt(std::size_t{kTokens} * count);
  for (TokenId& token : prompt) token = static_cast<TokenId>(random() % 50000);
  const ChunkKey root = root_key(made.model, layout, kTokens, "");
  made.keys = prefix_chain(root, prompt, kTokens);
  ChunkWriter writer(layout, kTokens);
  for (unsigned i = 0; i < count; ++i) {
    for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
      for (const auto plane : {0u, 1u}) {
        const std::span<std::byte> values = writer.payload().plane(layer, plane);
        for (std::byte& byte : values) byte = static_cast<std::byte>(random() >> 56);
      }
    }
    const std::uint32_t begin = i * kTokens;
    const auto object = writer.finish({.key = made.keys[i],
                                       .parent = i == 0 ? root : made.keys[i - 1],
                                       .fingerprint = made.model,
                                       .tenant = tenant_tag(""),
                                       .token_begin = begin,
                                       .tokens = Tokens(prompt).subspan(begin, kTokens),
                                       .geometry = writer.geometry()});
    made.bytes.emplace_back(object.value().begin(), object.value().end());
  }
  return made;
}

/// Times of one kind of operation.
struct Times {
  std::vector<double> seconds;
  std::uint64_t bytes = 0;

  void add(const Times& other) {
    seconds.insert(seconds.end(), other.seconds.begin(), other.seconds.end());
    bytes += other.bytes;
  }
  /// The time that so many of a hundred stay below.
  double percentile(double of_hundred) const {
    const double rank = std::ceil(of_hundred / 100 * static_cast<double>(seconds.size()));
    return seconds.empty() ? 0 : seconds[static_cast<std::size_t>(std::max(rank, 1.0)) - 1];
  }
};

struct Measured {
  Times reads, writes;
  double elapsed = 0;
};

/// One thread's objects, which no other one touches.
class Worker {
 public:
  Worker(OpenStore& store, const Objects& objects, std::size_t number, std::size_t of,
         Failures& failures)
      : store_(store), objects_(objects), failures_(failures), random_(std::random_device{}()) {
    for (std::size_t i = number; i < objects.keys.size(); i += of) mine_.push_back(i);
  }

  void write_all() {
    for (const std::size_t i : mine_) write(i);
  }
  void mix(unsigned read_percent, Clock::time_point until) {
    while (!mine_.empty() && failed_ < kMostFailures && Clock::now() < until) {
      const std::size_t i = mine_[random_() % mine_.size()];
      if (random_() % 100 < read_percent) {
        read(i);
      } else if (check(store_.erase(objects_.keys[i]), "erase", i)) {
        write(i);
      }
    }
  }
  void erase_all() {
    for (const std::size_t i : mine_) check(store_.erase(objects_.keys[i]), "erase", i);
  }
  const Times& reads() const { return reads_; }
  const Times& writes() const { return writes_; }

 private:
  static constexpr unsigned kMostFailures = 3;

  void write(std::size_t i) {
    const auto begin = Clock::now();
    const auto written = store_.write(objects_.keys[i], objects_.bytes[i]);
    note(writes_, begin, i);
    check(written ? Status() : Status(written.error()), "write", i);
  }
  void read(std::size_t i) {
    const AlignedBuffer buffer(objects_.bytes[i].size());
    const auto begin = Clock::now();
    const Status status = store_.read(objects_.keys[i], 0, buffer.bytes());
    note(reads_, begin, i);
    if (!check(status, "read", i)) return;
    const auto seal = verify_object(buffer.bytes(), objects_.keys[i]);
    check(seal ? Status() : Status(seal.error()), "read", i);
  }
  void note(Times& times, Clock::time_point begin, std::size_t i) {
    times.seconds.push_back(Seconds(Clock::now() - begin).count());
    times.bytes += objects_.bytes[i].size();
  }
  bool check(const Status& status, const char* doing, std::size_t i) {
    if (status) return true;
    ++failed_;
    failures_.tell(std::string(doing) + " of " + store_.place_of(objects_.keys[i]) + ": " +
                   status.error().context);
    return false;
  }

  OpenStore& store_;
  const Objects& objects_;
  Failures& failures_;
  std::mt19937_64 random_;
  std::vector<std::size_t> mine_;
  Times reads_, writes_;
  unsigned failed_ = 0;
};

Measured measure(OpenStore& store, const Objects& objects, const Settings& settings,
                 Failures& failures) {
  const std::size_t count = std::min<std::size_t>(settings.workers, objects.keys.size());
  std::vector<std::unique_ptr<Worker>> workers;
  for (std::size_t i = 0; i < count; ++i) {
    workers.push_back(std::make_unique<Worker>(store, objects, i, count, failures));
  }
  Measured measured;
  const auto begin = Clock::now();
  in_parallel(count, settings.workers, [&](std::size_t i) { workers[i]->write_all(); });
  if (failures.count() == 0) {
    const auto until =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(Seconds(settings.seconds));
    in_parallel(count, settings.workers,
                [&](std::size_t i) { workers[i]->mix(settings.read_percent, until); });
  }
  measured.elapsed = Seconds(Clock::now() - begin).count();
  in_parallel(count, settings.workers, [&](std::size_t i) { workers[i]->erase_all(); });
  for (const auto& worker : workers) {
    measured.reads.add(worker->reads());
    measured.writes.add(worker->writes());
  }
  std::sort(measured.reads.seconds.begin(), measured.reads.seconds.end());
  std::sort(measured.writes.seconds.begin(), measured.writes.seconds.end());
  return measured;
}

Json times_json(const Times& times, double elapsed) {
  return {{"count", times.seconds.size()},
          {"bytes", times.bytes},
          {"bytes_per_second", elapsed > 0 ? static_cast<double>(times.bytes) / elapsed : 0},
          {"p50_seconds", times.percentile(50)},
          {"p90_seconds", times.percentile(90)},
          {"p99_seconds", times.percentile(99)},
          {"max_seconds", times.percentile(100)}};
}

void print_times(const char* name, const Times& times, double elapsed) {
  const double rate = elapsed > 0 ? static_cast<double>(times.bytes) / elapsed : 0;
  std::printf("  %-6s %6zu  %10s/s  p50 %8.3f ms  p90 %8.3f ms  p99 %8.3f ms  max %8.3f ms\n", name,
              times.seconds.size(), bytes_text(static_cast<std::uint64_t>(rate)).c_str(),
              1e3 * times.percentile(50), 1e3 * times.percentile(90), 1e3 * times.percentile(99),
              1e3 * times.percentile(100));
}

}  // namespace

int bench(const Settings& settings) {
  const auto store = open_store(settings.store, Access::create, settings.trust_directory);
  if (!store) return refused(store.error());
  const Objects objects = make_objects(settings.bench_objects, settings.bench_bytes);
  Failures failures;
  const Measured measured = measure(**store, objects, settings, failures);
  if (settings.json) {
    const Json all{{"store", (*store)->shown()},
                   {"objects", objects.keys.size()},
                   {"object_bytes", objects.bytes.front().size()},
                   {"workers", settings.workers},
                   {"read_percent", settings.read_percent},
                   {"seconds", measured.elapsed},
                   {"model", objects.model.hex()},
                   {"reads", times_json(measured.reads, measured.elapsed)},
                   {"writes", times_json(measured.writes, measured.elapsed)},
                   {"failed", failures.count()}};
    std::puts(all.dump(2).c_str());
  } else {
    std::printf("%s: %zu objects of %s, %u threads, %.1f s\n", (*store)->shown().c_str(),
                objects.keys.size(), bytes_text(objects.bytes.front().size()).c_str(),
                settings.workers, measured.elapsed);
    print_times("reads", measured.reads, measured.elapsed);
    print_times("writes", measured.writes, measured.elapsed);
  }
  return failures.count() == 0 ? kGood : kFailed;
}

}  // namespace cake::tools
