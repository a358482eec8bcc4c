// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The whole loader in real time, with a device and a link that only sleep: passes cost what they do
// on a GPU and are enqueued two at a time, reads take a latency and then their turn on the link. So
// a schedule that a GPU machine showed can be looked at anywhere. Calm: everything takes what it
// should. Disturbed: reads go at four fifths of their rate while the device computes, and every
// read and pass is off by up to a tenth. `simulated`: the same run in virtual time, on the machine that
// its report tells of, over the real one.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <random>
#include <thread>
#include <vector>

#include "benchmarks/replayed.hpp"
#include "cake/chunk/format.hpp"
#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/throttled.hpp"

namespace {

using namespace cake;
using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr std::uint32_t kChunk = 256;
constexpr double kRealChunk = 33.55e6;  // bytes of one in the shape of Llama-3.1-8B
/// As measured on an H200 in passes of 128 to 2048 tokens: within a tenth of all of them.
constexpr ComputeCost kCost = {3.2e-3, 17.5e-6, 0.9e-9};

struct Pass {
  Clock::time_point end;
  bool ready() const { return Clock::now() >= end; }
  Status wait() const {
    std::this_thread::sleep_until(end);
    return {};
  }
};

/// What a read or a pass takes of what it should, each time something else.
class Disturbance {
 public:
  explicit Disturbance(bool on) : on_(on) {}
  double factor() {
    if (!on_) return 1;
    std::lock_guard lock(mutex_);
    return std::uniform_real_distribution<double>(0.9, 1.1)(random_);
  }
  /// Of a read.
  double factor(bool computing) { return factor() * (on_ && computing ? 1.25 : 1); }

 private:
  bool on_;
  std::mutex mutex_;
  std::mt19937 random_{1};
};

/// Does one pass after the other, as a stream does.
struct SleepingDevice {
  explicit SleepingDevice(bool disturbed = false) : disturbance(disturbed) {}
  Disturbance disturbance;
  std::atomic<Clock::time_point> free{Clock::time_point()};
  bool computing() const { return Clock::now() < free.load(); }
  UniformKvLayout layout() const { return {8, 1, 16, DType::f16, KvOrder::nhd}; }
  ModelFingerprint fingerprint() const { return {}; }
  /// Each layer as soon as it may read what lies below it.
  Pass prefill(Tokens, TokenRange range, LayerGate gate) {
    const std::uint32_t layers = layout().n_layers;
    const std::chrono::duration<double> cost(kCost.pass(range.begin, range.end) *
                                             disturbance.factor() / layers);
    for (std::uint32_t l = 0; l < layers; ++l) {
      if (!gate.wait(l)) break;
      free =
          std::max(Clock::now(), free.load()) + std::chrono::duration_cast<Clock::duration>(cost);
    }
    return {free};
  }
  Status insert(const Slice&, const KvView&) {
    std::this_thread::sleep_for(1200us);
    return {};
  }
  Status extract(const Slice&, const MutableKvView&) { return {}; }
};
static_assert(ComputeBackend<SleepingDevice>);

/// A store behind a link that compute may disturb.
struct StoodInLink {
  StoodInLink(MemoryStorage& memory, const LinkOptions& options, SleepingDevice& device_in)
      : link(memory, options), rate(options), device(device_in) {}
  auto read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    LinkOptions now = rate;
    now.bytes_per_second /= device.disturbance.factor(device.computing());
    link.set_link(tier, now);
    return link.read(tier, key, offset, out);
  }
  auto lookup(std::span<const ChunkKey> keys) { return link.lookup(keys); }
  auto write(const ChunkKey& key, ConstBytes bytes) { return link.write(key, bytes); }
  Status erase(const ChunkKey& key) { return link.erase(key); }

  ThrottledStorage<MemoryStorage> link;
  LinkOptions rate;
  SleepingDevice& device;
};

struct Measured {
  double ms = 0;         // the median of some prompts, after some by which rates are learned
  PrefillReport report;  // of the last one
  double simulated = 0;  // its TTFT in virtual time over the real one
};

/// `curve`: of passes; null: the run is not simulated.
template <class Scheduler>
Measured measure(SleepingDevice& device, StoodInLink& link, Tokens prompt, Scheduler scheduler,
                 const ComputeCost* curve = nullptr) {
  LoaderOptions options;
  options.session.max_step_tokens = 2048;
  options.lanes.threads = 8;
  Loader loader(device, link, options, std::move(scheduler));
  std::vector<double> times, simulated;
  Measured out;
  for (int prompts = 0; prompts < 8; ++prompts) {
    const benchmarks::Known known(*loader.lanes().calibration(), device.fingerprint());
    out.report = loader.prefill(prompt);
    if (prompts < 3) continue;
    const double seconds = PrefillReport::seconds_of(out.report.ttft);
    times.push_back(seconds * 1e3);
    if (curve == nullptr) continue;
    simulated.push_back(benchmarks::replayed(out.report, known, *curve, options.lanes.threads,
                                             options.lanes.staging_bytes)
                            .simulated /
                        seconds);
  }
  const auto median = [](std::vector<double>& values) {
    std::sort(values.begin(), values.end());
    return values.empty() ? 0 : values[values.size() / 2];
  };
  out.ms = median(times);
  out.simulated = median(simulated);
  return out;
}

void line(std::uint32_t prefix, std::uint32_t suffix, double gigabytes, double latency_ms,
          bool show) {
  std::vector<TokenId> prompt(prefix + suffix);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(i * 7);
  std::printf("%6u %5u %6.1f %8.1f ", prefix, suffix, gigabytes, latency_ms);
  for (const bool disturbed : {false, true}) {
    MemoryStorage memory;
    SleepingDevice device(disturbed);
    Loader saver(device, memory, LoaderOptions{}, ComputeOnlyScheduler());
    saver.save(Tokens(prompt).first(prefix)).status.value();
    // Objects are small here: the link is slower by as much.
    const ChunkGeometry geometry(device.layout(), kChunk);
    const double rate = gigabytes * 1e9 * static_cast<double>(geometry.object_bytes()) / kRealChunk;
    StoodInLink link(memory,
                     {rate, std::chrono::nanoseconds(static_cast<std::int64_t>(latency_ms * 1e6))},
                     device);
    const Measured compute = measure(device, link, prompt, ComputeOnlyScheduler());
    const Measured load = measure(device, link, prompt, LoadOnlyScheduler());
    const ComputeCost curve = benchmarks::curve_of(compute.report);
    const Measured cake = measure(device, link, prompt, MeetInTheMiddleScheduler(), &curve);
    if (show) std::printf("%s", cake.report.timeline().c_str());
    std::printf(" %8.1f %8.1f %8.1f %7.2f %9.3f", compute.ms, load.ms, cake.ms,
                cake.ms / std::min(compute.ms, load.ms), cake.simulated);
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace

/// stand_in_bench [PREFIX NEW GB/S LATENCY-MS]: one line and its timeline, or a table.
int main(int argc, char** argv) try {
  std::printf("%28s%44s%44s\nprefix   new   GB/s  latency ", "", "calm", "disturbed");
  for (int i = 0; i < 2; ++i) std::printf("  compute     load  cake ms /better simulated");
  std::printf("\n");
  if (argc == 5) {
    line(static_cast<std::uint32_t>(std::atoi(argv[1])),
         static_cast<std::uint32_t>(std::atoi(argv[2])), std::atof(argv[3]), std::atof(argv[4]),
         true);
    return 0;
  }
  for (const std::uint32_t suffix : {128u, 1024u}) {
    for (const std::uint32_t prefix : {8192u, 32768u}) {
      for (const double rate : {3.0, 7.0, 12.0, 25.0}) line(prefix, suffix, rate, 8, false);
    }
  }
} catch (const std::exception& e) {
  std::fprintf(stderr, "stand_in_bench: %s\n", e.what());
  return 1;
}
