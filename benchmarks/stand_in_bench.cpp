// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The whole loader in real time, with a device and a link that only sleep: passes cost what they do
// on a GPU and are enqueued two at a time, reads take a latency and then their turn on the link. So
// a schedule that a GPU machine showed can be looked at anywhere.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <thread>
#include <vector>

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
/// Measured on an H200: 1 ms a pass, 21 us a token, and more the longer the prefix is.
constexpr ComputeCost kCost = {1e-3, 21e-6, 0.35e-9};

struct Pass {
  Clock::time_point end;
  bool ready() const { return Clock::now() >= end; }
  Status wait() const {
    std::this_thread::sleep_until(end);
    return {};
  }
};

/// Does one pass after the other, as a stream does.
struct SleepingDevice {
  Clock::time_point free{};
  KvLayout layout() const { return {8, 1, 16, DType::f16, KvOrder::nhd}; }
  ModelFingerprint fingerprint() const { return {}; }
  Pass prefill(Tokens, TokenRange range, LayerGate gate) {
    for (std::uint32_t l = 0; l < layout().n_layers; ++l) {
      if (!gate.wait(l)) break;
    }
    const std::chrono::duration<double> cost(kCost.pass(range.begin, range.end));
    free = std::max(Clock::now(), free) + std::chrono::duration_cast<Clock::duration>(cost);
    return {free};
  }
  Status insert(const Slice&, const KvView&) {
    std::this_thread::sleep_for(1200us);
    return {};
  }
  Status extract(const Slice&, const MutableKvView&) { return {}; }
};
static_assert(ComputeBackend<SleepingDevice>);

/// Milliseconds of the last of some prompts, so that rates are learned; prints its steps if asked.
template <class Store, class Scheduler>
double measure(Store& store, Tokens prompt, Scheduler scheduler, bool show) {
  SleepingDevice device;
  LoaderOptions options;
  options.max_step_tokens = 2048;
  options.lanes.threads = 8;
  Loader loader(device, store, options, std::move(scheduler));
  PrefillReport report;
  for (int prompts = 0; prompts < 5; ++prompts) report = loader.prefill(prompt);
  if (show) std::printf("%s", report.timeline().c_str());
  return PrefillReport::seconds_of(report.ttft) * 1e3;
}

void line(std::uint32_t prefix, std::uint32_t suffix, double gigabytes, double latency_ms,
          bool show) {
  std::vector<TokenId> prompt(prefix + suffix);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(i * 7);
  MemoryStorage memory;
  SleepingDevice device;
  Loader saver(device, memory, LoaderOptions{}, ComputeOnlyScheduler());
  saver.save(Tokens(prompt).first(prefix)).status.value();
  // Objects are small here: the link is slower by as much.
  const ChunkGeometry geometry(device.layout(), kChunk);
  const double rate = gigabytes * 1e9 * static_cast<double>(geometry.object_bytes()) / kRealChunk;
  ThrottledStorage link(
      memory,
      LinkOptions{rate, std::chrono::nanoseconds(static_cast<std::int64_t>(latency_ms * 1e6))});
  const double compute = measure(link, prompt, ComputeOnlyScheduler(), false);
  const double load = measure(link, prompt, LoadOnlyScheduler(), false);
  const double cake = measure(link, prompt, MeetInTheMiddleScheduler(), show);
  std::printf("%6u %5u %6.1f %8.1f %9.1f %8.1f %8.1f %7.2f\n", prefix, suffix, gigabytes,
              latency_ms, compute, load, cake, cake / std::min(compute, load));
  std::fflush(stdout);
}

}  // namespace

/// stand_in_bench [PREFIX NEW GB/S LATENCY-MS]: one line and its timeline, or a table.
int main(int argc, char** argv) try {
  std::printf("prefix   new   GB/s  latency   compute     load  cake ms /better\n");
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
