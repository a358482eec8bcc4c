// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Time to first token on a GPU, end to end: compute only, load only and cake, for the shape of
// Llama-3.1-8B with random weights, from a real disk and from a fast file system behind links of
// given rates. Each figure is the median of some runs of a loader that has served a prompt before.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "benchmarks/replayed.hpp"
#include "cake/loader.hpp"
#include "cake/reference/cuda_backend.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/posix.hpp"
#include "cake/storage/throttled.hpp"

namespace {

using namespace cake;
using Store = ThrottledStorage<PosixStorage>;

constexpr std::uint32_t kChunk = 256;
constexpr std::uint32_t kStep = 2048;
constexpr std::uint32_t kLongest = 32768;
constexpr std::uint32_t kMostNew = 4096;

struct Outcome {
  double seconds = 0;
  double bound = 0;
  std::uint32_t loaded = 0;
  std::uint32_t meet = 0;
  std::uint32_t gated = 0;  // tokens of gated steps
  Time latency{0};          // of the lane with an insert, as the planner sees it
  double difference = 0;    // of the logits from compute only's, relative
  std::string trace = {};
  std::string knows = {};  // what its session began with
  benchmarks::Replayed replayed = {};
};

/// What a session begins with, and the meeting point that it planned first.
template <class L>
std::string knowledge(L& loader, const ModelFingerprint& model) {
  const Calibration& known = *loader.lanes().calibration();
  const LinkEstimate lane = known.tiers().front();
  const ComputeCost cost = known.compute(model).value_or(ComputeCostEstimator()).current();
  char text[240];
  std::snprintf(
      text, sizeof text,
      "%.1f GB/s, latency %.2f ms, insert %.2f ms + %.2f of 32 MiB; passes %.2f ms + %.2f us a "
      "token + %.3f ns a position, at least %.0f tokens",
      lane.bytes_per_second * 1e-9, to_seconds(lane.latency) * 1e3, to_seconds(lane.insert) * 1e3,
      lane.insert_per_byte * 0x1p25 * 1e3, cost.overhead * 1e3, cost.per_token * 1e6,
      cost.per_position * 1e9, cost.smallest);
  return text;
}

struct Bench {
  reference::CudaBackend& engine;
  std::vector<float> logits;  // of compute only
  ComputeCost curve = {};     // of passes, by compute only
  unsigned runs = 3;
  std::filesystem::path traces;  // folder for the median runs' traces; may be empty
  double worst_ratio = 0;
  double worst_difference = 0;
  std::string all_known = {};  // of each run since the last row, a line

  static LoaderOptions options() {
    LoaderOptions options;
    options.chunks.chunk_tokens = kChunk;
    options.session.max_step_tokens = kStep;
    options.lanes.staging_bytes = std::uint64_t{512} << 20;
    return options;
  }

  static std::uint32_t gated_tokens(const PrefillReport& report) {
    std::uint32_t tokens = 0;
    for (const StepReport& step : report.steps) {
      if (step.gated && !step.voided) tokens += step.tokens.size();
    }
    return tokens;
  }

  template <class L>
  static Time latency_of(L& loader) {
    const LinkEstimate lane = loader.lanes().calibration()->tiers().front();
    return lane.latency + lane.insert;
  }

  double difference() const {
    const auto now = engine.logits();
    double sum = 0;
    double size = 1e-30;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double d = double{now[i]} - double{logits[i]};
      sum += d * d;
      size += double{logits[i]} * double{logits[i]};
    }
    return now.size() == logits.size() ? std::sqrt(sum / size) : 1e9;
  }

  template <class Scheduler>
  Outcome measure(Store& store, Tokens prompt, Scheduler scheduler) {
    Loader loader(engine, store, options(), std::move(scheduler));
    std::vector<Outcome> outcomes;
    for (unsigned run = 0; run <= runs; ++run) {
      engine.clear();
      std::string knows = knowledge(loader, engine.fingerprint());
      const benchmarks::Known known(*loader.lanes().calibration(), engine.fingerprint());
      const PrefillReport report = loader.prefill(prompt);
      if (!report.status) throw Exception(report.status.error());
      all_known += run == 0 ? "first run\n" : "";
      if (run == 0) continue;  // rates are learned, staging is allocated
      if constexpr (std::same_as<Scheduler, ComputeOnlyScheduler>) {
        logits.assign(engine.logits().begin(), engine.logits().end());
        curve = benchmarks::curve_of(report);
      }
      knows += "; planned to meet at " + std::to_string(report.predicted_meet_token) + ", met at " +
               std::to_string(report.meet_token);
      all_known +=
          knows + ", " + std::to_string(PrefillReport::seconds_of(report.ttft) * 1e3) + " ms\n";
      outcomes.push_back({PrefillReport::seconds_of(report.ttft), report.bound_s,
                          report.tokens_loaded, report.meet_token, gated_tokens(report),
                          latency_of(loader), difference(),
                          traces.empty() ? std::string() : report.chrome_trace(), knows});
      if constexpr (std::same_as<Scheduler, MeetInTheMiddleScheduler>) {
        outcomes.back().replayed = benchmarks::replayed(
            report, known, curve, lane_options(engine, options().lanes).threads,
            options().lanes.staging_bytes);
      }
    }
    for (const Outcome& o : outcomes) worst_difference = std::max(worst_difference, o.difference);
    const auto middle = outcomes.begin() + static_cast<std::ptrdiff_t>(outcomes.size() / 2);
    std::nth_element(outcomes.begin(), middle, outcomes.end(),
                     [](const Outcome& a, const Outcome& b) { return a.seconds < b.seconds; });
    return *middle;
  }

  void line(const std::string& link, Store& store, Tokens prompt, std::uint32_t prefix,
            double compute) {
    const Outcome load = measure(store, prompt, LoadOnlyScheduler());
    const Outcome cake = measure(store, prompt, MeetInTheMiddleScheduler());
    const double ratio = cake.seconds / std::min(compute, load.seconds);
    worst_ratio = std::max(worst_ratio, ratio);
    if (!traces.empty()) {
      const std::string name = std::to_string(prefix) + "-" +
                               std::to_string(prompt.size() - prefix) + "-" + link.substr(0, 2);
      std::ofstream(traces / (name + "-cake.json")) << cake.trace;
      std::ofstream(traces / (name + "-known.txt")) << std::exchange(all_known, {});
      std::ofstream(traces / (name + "-load.json")) << load.trace;
    }
    std::printf("%6u %5zu  %-12s %8.1f %8.1f %8.1f %7.3f %7.3f %7u %7u %6u %7.2f %9.1e\n", prefix,
                prompt.size() - prefix, link.c_str(), compute * 1e3, load.seconds * 1e3,
                cake.seconds * 1e3, ratio, cake.seconds / cake.bound, cake.meet, cake.loaded,
                cake.gated, to_seconds(cake.latency) * 1e3, cake.difference);
    const testing::TtftParts& parts = cake.replayed.parts;
    const auto ms = [](Time t) { return to_seconds(t) * 1e3; };
    std::printf(
        "              simulated %.3f of that, passes %.3f of the curve; ms: planning %.1f, "
        "computing "
        "%.1f, gates %.1f, loads %.1f, idle %.1f\n",
        cake.replayed.simulated / cake.seconds, cake.replayed.slowdown, ms(parts.planning),
        ms(parts.computing), ms(parts.gates), ms(parts.loads), ms(parts.idle));
    if (!traces.empty()) std::printf("       %s\n", cake.knows.c_str());
    std::fflush(stdout);
  }
};

std::vector<TokenId> random_tokens(std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 128000);
  return tokens;
}

/// Sizes of the steps that a run may take: whole chunks, the suffix, and both together.
std::vector<std::uint32_t> step_sizes(std::uint32_t suffix) {
  std::vector<std::uint32_t> sizes = {std::min(suffix, kStep)};
  for (std::uint32_t n = kChunk; n <= kStep; n += kChunk) {
    sizes.push_back(n);
    if (n + suffix <= kStep) sizes.push_back(n + suffix);
  }
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  return sizes;
}

struct Medium {
  Medium(const std::filesystem::path& directory, unsigned threads)
      : posix({.directory = directory, .threads = threads}), store(posix, LinkOptions{}) {}
  PosixStorage posix;
  Store store;
};

/// Which rows are measured.
struct Rows {
  std::vector<double> suffixes = {128, 1024, kMostNew};  // tokens
  std::vector<double> links = {0, 3, 7, 12, 25};         // GB/s; 0: the disk, without a link

  /// "1024,4096"
  static std::vector<double> numbers(const std::string& text) {
    std::vector<double> all;
    std::istringstream in(text);
    for (std::string one; std::getline(in, one, ',');) all.push_back(std::atof(one.c_str()));
    return all;
  }
};

int run(const std::filesystem::path& disk, const std::filesystem::path& fast, unsigned runs,
        const std::filesystem::path& traces, const Rows& rows) {
  const auto weights = reference::CudaWeights::random(reference::llama_3_1_8b(), 1).value();
  reference::CudaBackend engine(weights, {.max_tokens = kLongest + kMostNew,
                                          .max_step_tokens = kStep,
                                          .shuffle_pages = 1,
                                          .max_graphs = 64});
  Medium on_disk(disk, 8);
  Medium in_memory(fast, 16);
  const std::vector<TokenId> prefix = random_tokens(kLongest, 1);
  Bench bench{engine, {}, {}, runs, traces};
  {
    Loader saver(engine, in_memory.store, Bench::options(), ComputeOnlyScheduler());
    saver.prefill(prefix).status.value();
    saver.save(prefix).status.value();
    if (std::find(rows.links.begin(), rows.links.end(), 0) != rows.links.end()) {
      Loader second(engine, on_disk.store, Bench::options(), ComputeOnlyScheduler());
      second.save(prefix).status.value();
    }
    std::printf("saved %u tokens, %.2f GB, to %s and %s\n", kLongest,
                static_cast<double>(engine.layout().bytes_per_token()) * kLongest * 1e-9,
                disk.c_str(), fast.c_str());
  }
  std::printf("%6s %5s  %-12s %8s %8s %8s %7s %7s %7s %7s %6s %7s %9s\n", "prefix", "new", "link",
              "compute", "load", "cake ms", "/better", "/bound", "meet", "loaded", "gated",
              "lane ms", "logits");
  for (const double new_tokens : rows.suffixes) {
    const std::uint32_t suffix = std::min(static_cast<std::uint32_t>(new_tokens), kMostNew);
    engine.prepare(step_sizes(suffix)).value();
    for (const std::uint32_t n : {8192u, kLongest}) {
      std::vector<TokenId> prompt(prefix.begin(), prefix.begin() + n);
      const auto news = random_tokens(suffix, 100 + suffix + n);
      prompt.insert(prompt.end(), news.begin(), news.end());
      in_memory.store.set_link(0, {});
      const double compute = bench.measure(in_memory.store, prompt, ComputeOnlyScheduler()).seconds;
      for (const double rate : rows.links) {
        if (rate <= 0) {
          bench.line(on_disk.posix.direct() ? "disk, direct" : "disk", on_disk.store, prompt, n,
                     compute);
          continue;
        }
        in_memory.store.set_link(0, {rate * 1e9, std::chrono::microseconds(100)});
        bench.line(std::to_string(static_cast<int>(rate)) + " GB/s", in_memory.store, prompt, n,
                   compute);
      }
    }
  }
  std::printf("worst: %.3f of the better baseline, logits %.1e from compute only\n",
              bench.worst_ratio, bench.worst_difference);
  return 0;
}

}  // namespace

/// ttft_bench DISK FAST [RUNS [TRACES [NEW [LINKS]]]]: two folders for the store, about 4.4 GB each,
/// removed at the end; one for Perfetto traces; numbers of new tokens, and rates in GB/s of links (0:
/// the disk), as in "1024,4096" and "12,25".
int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(
        stderr,
        "usage: ttft_bench FOLDER-ON-A-DISK FOLDER-IN-MEMORY [RUNS [FOLDER-FOR-TRACES [NEW-TOKENS "
        "[LINKS]]]]\n");
    return 2;
  }
  const Status gpu = cuda::usable();
  if (!gpu) {
    std::printf("ttft_bench: %s\n", gpu.error().message().c_str());
    return 77;
  }
  const std::filesystem::path disk = std::filesystem::path(argv[1]) / "cake-ttft";
  const std::filesystem::path fast = std::filesystem::path(argv[2]) / "cake-ttft";
  int result = 1;
  try {
    Rows rows;
    if (argc > 5) rows.suffixes = Rows::numbers(argv[5]);
    if (argc > 6) rows.links = Rows::numbers(argv[6]);
    result = run(disk, fast, argc > 3 ? static_cast<unsigned>(std::atoi(argv[3])) : 3,
                 argc > 4 ? argv[4] : "", rows);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "ttft_bench: %s\n", e.what());
  }
  std::filesystem::remove_all(disk);
  std::filesystem::remove_all(fast);
  return result;
}
