// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A fleet in virtual time: 10,000 prompts that share prefixes come in bursts to several devices over one
// store; time to first token, bytes read and device time by policy. Prompts of the shape of Llama-3.1-8B at
// 400 TFLOP/s, chunks of 256 tokens. What is simulated, and what is not: fleet/fleet.hpp.
//
//     fleet [--requests N] [--devices N] [--load X] [--store GB/S] [--memory GB] [--seed N] [--csv FILE]
//
// --load: how many times the calm and burst rates of fleet/workload.hpp; --memory: of each RAM tier.
#include "benchmarks/fleet/fleet.hpp"

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "benchmarks/fleet/workload.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"

namespace {

using namespace cake;
using namespace cake::benchmarks;

struct Options {
  WorkloadSpec workload;
  double load = 1;
  double store_gb = 10;  // a second
  double memory_gb = 64;
  std::string csv;
};

[[noreturn]] void usage() {
  std::fprintf(stderr,
               "usage: fleet [--requests N] [--devices N] [--load X] [--store GB/S] [--memory GB] "
               "[--seed N] [--csv FILE]\n"
               "N is a whole number of 1 or more, X, GB/S and GB are above 0\n");
  std::exit(2);
}

double number(const char* text, double at_least) {
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  if (end == text || *end != '\0' || !(value >= at_least) || value > 4e9) usage();
  return value;
}
std::uint32_t count(const char* text) { return static_cast<std::uint32_t>(number(text, 1)); }

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    if (i + 1 == argc) usage();
    const std::string_view name = argv[i];
    const char* const value = argv[i + 1];
    if (name == "--requests") {
      options.workload.requests = count(value);
    } else if (name == "--devices") {
      options.workload.devices = count(value);
    } else if (name == "--load") {
      options.load = number(value, 1e-3);
    } else if (name == "--store") {
      options.store_gb = number(value, 1e-3);
    } else if (name == "--memory") {
      options.memory_gb = number(value, 1e-3);
    } else if (name == "--documents") {
      options.workload.documents = count(value);
    } else if (name == "--seed") {
      options.workload.seed = count(value);
    } else if (name == "--csv") {
      options.csv = value;
    } else {
      usage();
    }
  }
  options.workload.calm_rate *= options.load;
  options.workload.burst_rate *= options.load;
  return options;
}

FleetSpec spec_of(const Options& options) {
  FleetSpec spec;
  spec.prompt.chunk_tokens = 256;
  spec.prompt.n_layers = 32;
  spec.prompt.max_step_tokens = 2048;
  spec.prompt.head_bytes = 8192;
  spec.prompt.layer_bytes = 256ull * 4096;
  spec.prompt.foot_bytes = 4096;
  spec.prompt.wide_gated_steps = true;
  spec.cost = {1e-3, 3.489660928e-05, 6.5536e-10};
  spec.devices = options.workload.devices;
  spec.memory = {{{Time{0}, 25e9}}, std::chrono::microseconds(20)};
  spec.store = {{{Time{0}, options.store_gb * 1e9}}, std::chrono::microseconds(500)};
  spec.memory_bytes = static_cast<std::uint64_t>(options.memory_gb * 1e9);
  return spec;
}

template <Scheduler S>
detail::AnyScheduler any(S scheduler) {
  return detail::AnyScheduler(std::move(scheduler));
}

std::vector<FleetPolicy> policies(const ComputeCost& cost) {
  MeetOptions meet;
  meet.cost = cost;
  meet.cost_is_measured = true;
  const auto cake = [meet](std::size_t) { return any(MeetInTheMiddleScheduler(meet)); };
  // Of a device that k others use as well each pass is taken to last k + 1 times as long.
  const auto shared = [meet](std::size_t others) {
    MeetOptions options = meet;
    options.cost = meet.cost.slower(1 + static_cast<double>(others));
    options.learn = false;
    return any(MeetInTheMiddleScheduler(options));
  };
  return {
      {"cake", cake},
      {"cake, lanes first come", cake, false},
      {"cake, all first come", cake, false, false},
      {"cake, no joined reads", cake, true, true, false},
      {"cake, compute dearer", shared},
      {"cake, prefetch", cake, true, true, true, true},
      {"published", [](std::size_t) { return any(PublishedScheduler()); }},
      {"load only", [](std::size_t) { return any(LoadOnlyScheduler()); }},
      {"compute only", [](std::size_t) { return any(ComputeOnlyScheduler()); }},
  };
}

struct Row {
  std::string name;
  FleetResult result;
  double wall_s = 0;
};

double gigabytes(std::uint64_t bytes) { return static_cast<double>(bytes) * 1e-9; }

void print(const Row& row) {
  const FleetResult& r = row.result;
  const double tokens = static_cast<double>(r.loaded_tokens + r.computed_tokens);
  std::printf(
      "| %-24s | %8.1f | %8.1f | %8.1f | %8.0f | %6.0f | %6.0f | %6.1f %% | %8.1f | %6.1f | %5.1f "
      "|\n",
      row.name.c_str(), mean_seconds(r.ttft) * 1e3, to_seconds(percentile(r.ttft, 0.5)) * 1e3,
      to_seconds(percentile(r.ttft, 0.99)) * 1e3, gigabytes(r.store_bytes),
      gigabytes(r.memory_bytes), gigabytes(r.joined_bytes),
      100 * static_cast<double>(r.loaded_tokens) / tokens, to_seconds(r.device_time),
      to_seconds(r.gate_time), row.wall_s);
}

bool write_csv(const std::string& name, const std::vector<Row>& rows) {
  std::FILE* const file = std::fopen(name.c_str(), "w");
  if (file == nullptr) return false;
  std::fprintf(
      file,
      "policy,requests,mean_s,p50_s,p99_s,store_bytes,memory_bytes,joined_bytes,prefetched_bytes,"
      "loaded_tokens,computed_tokens,failed_loads,device_s,gate_s,ended_s\n");
  for (const Row& row : rows) {
    const FleetResult& r = row.result;
    std::fprintf(
        file, "\"%s\",%zu,%.6f,%.6f,%.6f,%llu,%llu,%llu,%llu,%llu,%llu,%u,%.6f,%.6f,%.6f\n",
        row.name.c_str(), r.ttft.size(), mean_seconds(r.ttft), to_seconds(percentile(r.ttft, 0.5)),
        to_seconds(percentile(r.ttft, 0.99)), static_cast<unsigned long long>(r.store_bytes),
        static_cast<unsigned long long>(r.memory_bytes),
        static_cast<unsigned long long>(r.joined_bytes),
        static_cast<unsigned long long>(r.prefetched_bytes),
        static_cast<unsigned long long>(r.loaded_tokens),
        static_cast<unsigned long long>(r.computed_tokens), r.failed_loads,
        to_seconds(r.device_time), to_seconds(r.gate_time), to_seconds(r.ended));
  }
  const bool written = std::ferror(file) == 0;
  return std::fclose(file) == 0 && written;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = parse(argc, argv);
  const FleetSpec spec = spec_of(options);
  const std::vector<Request> requests = make_workload(options.workload);
  double tokens = 0;
  for (const Request& request : requests) tokens += request.tokens();
  std::printf(
      "%zu prompts of %.0f tokens on average in %.0f s, %u devices, store %.1f GB/s, RAM "
      "tiers of %.0f GB at 25 GB/s; TTFT in ms, GB, s\n\n",
      requests.size(), tokens / static_cast<double>(requests.size()),
      to_seconds(requests.back().arrival), spec.devices, options.store_gb, options.memory_gb);
  std::printf(
      "| policy                   |     mean |      p50 |      p99 | store GB | RAM GB | "
      "joined |  loaded  | device s | gate s | run s |\n");
  std::printf(
      "|:-------------------------|---------:|---------:|---------:|---------:|-------:|"
      "-------:|---------:|---------:|-------:|------:|\n");
  std::vector<Row> rows;
  for (const FleetPolicy& policy : policies(spec.cost)) {
    const auto begin = std::chrono::steady_clock::now();
    Row row{policy.name, run_fleet(spec, policy, requests)};
    row.wall_s = to_seconds(std::chrono::steady_clock::now() - begin);
    if (!row.result.violation.empty()) {
      std::fprintf(stderr, "%s: %s\n", policy.name.c_str(), row.result.violation.c_str());
      return 1;
    }
    print(row);
    std::fflush(stdout);
    rows.push_back(std::move(row));
  }
  if (!options.csv.empty() && !write_csv(options.csv, rows)) {
    std::fprintf(stderr, "cannot write %s: choose a file in a folder that can be written to\n",
                 options.csv.c_str());
    return 1;
  }
  return 0;
}
