// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The read path, whole and verified, beside what the medium gives to plain reads in the same run:
// PosixStorage into pinned memory from a disk and from memory, GdsStorage into device memory.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cake/cuda/device_arena.hpp"
#include "cake/cuda/pinned_staging.hpp"
#include "cake/cuda/runtime.hpp"
#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/staging.hpp"
#include "cake/storage/gds.hpp"
#include "cake/storage/posix.hpp"

namespace {

using namespace cake;

constexpr std::uint32_t kChunk = 256;
constexpr std::uint32_t kChunks = 64;  // of 32 MiB

/// Has the KV shape of Llama-3.1-8B, computes nothing and keeps nothing.
struct Sink {
  static constexpr cake::EngineAbilities abilities{.staging_memory = true,
                                                   .inserts_from_device = true};
  cuda::PinnedStaging staging{std::size_t{1} << 30};
  std::atomic<std::uint64_t> inserted{0};
  UniformKvLayout layout() const { return {32, 8, 128, DType::bf16, KvOrder::nhd}; }
  ModelFingerprint fingerprint() const { return {}; }
  Status prefill(Tokens, TokenRange) { return {}; }
  Status insert(const Slice& slice, const KvView&) {
    inserted += slice.tokens.size();
    return {};
  }
  Status extract(const Slice& slice, const MutableKvView& to) {
    std::uint32_t x = slice.chunk + 1;
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      for (auto& b : to.k(l)) b = static_cast<std::byte>((x = x * 1664525 + 1013904223) >> 24);
      for (auto& b : to.v(l)) b = static_cast<std::byte>((x = x * 1664525 + 1013904223) >> 24);
    }
    return {};
  }
  StagingMemory* staging_memory() { return &staging; }
};
static_assert(ComputeBackend<Sink>);

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// GB/s of plain reads of all files in the folder, 1 MiB at a time.
double plain(const std::filesystem::path& folder, bool direct, unsigned threads) {
  constexpr std::size_t kOp = std::size_t{1} << 20;
  std::vector<std::pair<std::string, std::uint64_t>> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && entry.file_size() > kOp) {
      files.emplace_back(entry.path(), entry.file_size());
    }
  }
  std::vector<double> rates;
  for (int round = 0; round < 3; ++round) {
    std::atomic<std::size_t> next{0};
    std::atomic<std::uint64_t> bytes{0};
    std::vector<std::thread> pool;
    pool.reserve(threads);
    const auto begin = std::chrono::steady_clock::now();
    for (unsigned t = 0; t < threads; ++t) {
      pool.emplace_back([&] {
        const AlignedBuffer buffer(kOp);
        for (std::size_t i; (i = next++) < files.size();) {
          const int file = ::open(files[i].first.c_str(), O_RDONLY | (direct ? O_DIRECT : 0));
          for (std::uint64_t at = 0; at < files[i].second; at += kOp) {
            const ssize_t n = ::pread(file, buffer.data(), kOp, static_cast<off_t>(at));
            if (n > 0) bytes += static_cast<std::uint64_t>(n);
          }
          ::close(file);
        }
      });
    }
    for (std::thread& thread : pool) thread.join();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    rates.push_back(static_cast<double>(bytes.load()) / took.count() * 1e-9);
  }
  return median(rates);
}

/// GB/s of a prefill that loads everything; every byte is verified on the way.
template <class Storage>
double loaded(Sink& sink, Storage& storage, Tokens prompt) {
  LoaderOptions options;
  options.lanes.threads = 8;
  options.lanes.staging_bytes = std::uint64_t{512} << 20;
  Loader loader(sink, storage, options, LoadOnlyScheduler());
  std::vector<double> rates;
  for (int round = 0; round < 4; ++round) {
    const PrefillReport report = loader.prefill(prompt);
    report.status.value();
    if (report.tokens_loaded != kChunk * kChunks) throw Exception({Errc::corrupt, 0, "not loaded"});
    if (round > 0) {
      rates.push_back(static_cast<double>(report.bytes_read) /
                      PrefillReport::seconds_of(report.ttft) * 1e-9);
    }
  }
  return median(rates);
}

void line(const char* what, double rate, double ceiling, const std::string& path) {
  std::printf("%-34s %7.2f %9.2f %7.2f  %s\n", what, rate, ceiling, rate / ceiling, path.c_str());
  std::fflush(stdout);
}

void run(const std::filesystem::path& disk, const std::filesystem::path& fast) {
  Sink sink;
  std::vector<TokenId> prompt(kChunk * kChunks + 1);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(i);
  std::printf("GB/s, chunks of 32 MiB%*s  loaded   plain   ratio\n", 12, "");
  for (const bool on_disk : {true, false}) {
    const auto& folder = on_disk ? disk : fast;
    PosixStorage storage({.directory = folder, .threads = on_disk ? 8u : 16u});
    Loader(sink, storage, LoaderOptions{}, ComputeOnlyScheduler()).save(prompt).status.value();
    const double rate = loaded(sink, storage, prompt);
    line(on_disk ? "POSIX, disk, pinned memory" : "POSIX, memory, pinned memory", rate,
         plain(folder, storage.direct(), on_disk ? 8 : 16),
         storage.direct() ? "O_DIRECT" : "buffered");
  }
  cuda::DeviceArena arena(std::size_t{512} << 20);
  for (const bool force : {false, true}) {
    GdsStorage storage({.posix = {.directory = disk}, .force = force}, &arena);
    const double rate = loaded(sink, storage, prompt);
    line(force ? "GDS forced, disk, device memory" : "GDS, disk", rate, plain(disk, true, 8),
         storage.path());
  }
}

}  // namespace

/// read_bench DISK FAST: two folders, about 2.2 GB each, removed at the end.
int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: read_bench FOLDER-ON-A-DISK FOLDER-IN-MEMORY\n");
    return 2;
  }
  if (const Status gpu = cuda::usable(); !gpu) {
    std::printf("read_bench: %s\n", gpu.error().message().c_str());
    return 77;
  }
  const std::filesystem::path disk = std::filesystem::path(argv[1]) / "cake-read";
  const std::filesystem::path fast = std::filesystem::path(argv[2]) / "cake-read";
  int result = 0;
  try {
    run(disk, fast);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "read_bench: %s\n", e.what());
    result = 1;
  }
  std::filesystem::remove_all(disk);
  std::filesystem::remove_all(fast);
  return result;
}
