// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The read path, whole and verified, beside what the medium gives to plain reads or plain copies in
// the same run: HostStorage into pages, PosixStorage into staging memory from a disk and from memory,
// GdsStorage into device memory.
//
//     read_bench [FOLDER-ON-A-DISK FOLDER-IN-MEMORY]     without folders HostStorage alone
//
// Host memory is page-locked and pages lie on the device where there is a GPU; else all is plain
// memory. Each folder takes about 2.2 GB, and is removed at the end.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/staging.hpp"
#include "cake/storage/host.hpp"
#include "cake/storage/posix.hpp"
#ifdef CAKE_BENCH_CUDA
#include "read_bench_gpu.hpp"
#endif

namespace {

using namespace cake;

constexpr std::uint32_t kChunk = 256;
constexpr std::uint32_t kChunks = 64;  // of 32 MiB

/// Page-locked memory; null without a GPU.
std::unique_ptr<StagingMemory> pinned(std::size_t keep_bytes) {
#ifdef CAKE_BENCH_CUDA
  if (cuda::usable()) return std::make_unique<cuda::PinnedStaging>(keep_bytes);
#endif
  (void)keep_bytes;
  return nullptr;
}

/// Has the KV shape of Llama-3.1-8B, computes nothing and keeps nothing.
struct Sink {
  static constexpr cake::EngineAbilities abilities{.staging_memory = true,
                                                   .inserts_from_device = true};
  std::unique_ptr<StagingMemory> staging = pinned(std::size_t{1} << 30);
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
  StagingMemory* staging_memory() { return staging.get(); }
};
static_assert(ComputeBackend<Sink>);

/// An engine whose pages are plain host memory: chunks go into the places of a few, by turns.
struct HostPages {
  static constexpr std::uint32_t kPlaces = 16;
  HostPages() { std::memset(memory.data(), 1, memory.size()); }
  UniformKvLayout layout() const { return Sink().layout(); }
  ModelFingerprint fingerprint() const { return {}; }
  Status prefill(Tokens, TokenRange) { return {}; }
  Status insert(const Slice& slice, const KvView& from) {
    const std::size_t run = layout().run_bytes(kChunk);
    std::byte* const chunk = memory.data() + slice.chunk % kPlaces * chunk_bytes();
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      std::memcpy(chunk + 2 * l * run, from.k(l).data(), run);
      std::memcpy(chunk + (2 * l + 1) * run, from.v(l).data(), run);
    }
    return {};
  }
  Status extract(const Slice&, const MutableKvView&) {
    return Error{Errc::not_found, 0, "nothing is kept"};
  }
  static std::size_t chunk_bytes() {
    return kChunk * UniformKvLayout(Sink().layout()).bytes_per_token();
  }
  AlignedBuffer memory{kPlaces * chunk_bytes()};
};
static_assert(ComputeBackend<HostPages>);

/// The plain copy beside it.
struct HostCopy {
  void operator()(unsigned, std::uint32_t chunk, ConstBytes from) const {
    std::memcpy(to + chunk % HostPages::kPlaces * from.size(), from.data(), from.size());
  }
  std::byte* to;
};

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

/// GB/s of one prefill that loads everything; every byte is verified on the way, or was by the store.
template <class AnyLoader>
double load_once(AnyLoader& loader, Tokens prompt) {
  const PrefillReport report = loader.prefill(prompt);
  report.status.value();
  if (report.tokens_loaded != prompt.size() / kChunk * kChunk) {
    throw Exception(
        {Errc::corrupt, 0,
         "not all was loaded: " +
             (report.load_error ? std::string("late") : report.load_error.error().message())});
  }
  return static_cast<double>(report.bytes_read) / PrefillReport::seconds_of(report.ttft) * 1e-9;
}

template <class Engine, class Storage>
Loader<Engine, Storage, LoadOnlyScheduler> loader_of(Engine& engine, Storage& storage,
                                                     unsigned threads) {
  LoaderOptions options;
  options.lanes.threads = threads;
  options.lanes.staging_bytes = std::uint64_t{512} << 20;
  // Computing costs nothing here, and is to take nothing from the loads.
  options.session.idle_timeout = std::chrono::minutes(1);
  return Loader(engine, storage, options, LoadOnlyScheduler());
}

/// The median of three, after one that is not counted.
template <class Storage>
double loaded(Sink& sink, Storage& storage, Tokens prompt) {
  auto loader = loader_of(sink, storage, 8);
  std::vector<double> rates;
  for (int round = 0; round < 4; ++round) {
    const double rate = load_once(loader, prompt);
    if (round > 0) rates.push_back(rate);
  }
  return median(rates);
}

/// GB/s of plain copies of all chunks out of the store's own memory, one after the other.
template <class Copy>
double copied(HostStorage& storage, std::span<const ChunkKey> keys, unsigned threads,
              const Copy& copy) {
  const std::size_t bytes = HostPages::chunk_bytes();
  std::atomic<std::uint32_t> next{0};
  std::vector<std::jthread> pool;
  const auto begin = std::chrono::steady_clock::now();
  for (unsigned t = 0; t < threads; ++t) {
    pool.emplace_back([&, t] {
      for (std::uint32_t i; (i = next++) < keys.size();) {
        const BorrowedBytes loan = storage.borrow(0, keys[i], 0, bytes).value();
        copy(t, i, loan.bytes());
      }
    });
  }
  pool.clear();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  return static_cast<double>(keys.size() * bytes) / took.count() * 1e-9;
}

void line(const char* what, double rate, double ceiling, const std::string& path) {
  std::printf("%-40s %7.2f %9.2f %7.2f  %s\n", what, rate, ceiling, rate / ceiling, path.c_str());
  std::fflush(stdout);
}

constexpr unsigned kLanes[] = {1, 2, 4, 8};

/// Medians of 5 by turns: loads from the store into the engine's pages, and copies by as many threads.
template <class Engine, class MakeCopy>
void ram_rows(const char* what, HostStorage& storage, Engine& engine, Tokens prompt,
              const MakeCopy& make_copy) {
  const ChunkKey root = root_key(engine.fingerprint(), engine.layout(), kChunk, {});
  const auto keys = prefix_chain(root, prompt, kChunk);
  for (const unsigned threads : kLanes) {
    auto loader = loader_of(engine, storage, threads);
    const auto copy = make_copy(threads);
    std::vector<double> loads, copies;
    for (int round = 0; round < 6; ++round) {
      const double load = load_once(loader, prompt);
      const double plain = copied(storage, keys, threads, copy);
      if (round == 0) continue;
      loads.push_back(load);
      copies.push_back(plain);
    }
    line((std::string(what) + ", " + std::to_string(threads) + " threads").c_str(), median(loads),
         median(copies), "beside plain copies");
  }
}

/// 1 GiB of chunks in host memory.
void run_ram(Sink& sink, Tokens prompt) {
  const auto memory = pinned(0);
  HostStorage storage({.capacity_bytes = std::uint64_t{1200} << 20, .memory = memory.get()});
  if (!storage.problem()) std::printf("%s\n", storage.problem().error().message().c_str());
  const auto begin = std::chrono::steady_clock::now();
  save(sink, storage, prompt).status.value();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::printf("RAM tier: saved, generation of the KV included, in %.2f s\n", took.count());
#ifdef CAKE_BENCH_CUDA
  if (memory != nullptr) {
    for (const std::uint32_t page : {16u, 64u}) {
      benchmarks::DevicePages pages(page);
      const std::string what = "RAM tier, device pages of " + std::to_string(page);
      ram_rows(what.c_str(), storage, pages, prompt,
               [&](unsigned threads) { return benchmarks::DeviceCopy(pages, threads); });
    }
    return;
  }
#endif
  HostPages pages;
  ram_rows("RAM tier, plain pages", storage, pages, prompt,
           [&](unsigned) { return HostCopy{pages.memory.data()}; });
}

std::vector<TokenId> prompt_of(std::uint32_t chunks) {
  std::vector<TokenId> prompt(kChunk * chunks + 1);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(i);
  return prompt;
}

void run_folders(Sink& sink, const std::filesystem::path& disk, const std::filesystem::path& fast) {
  const std::vector<TokenId> prompt = prompt_of(kChunks);
  for (const bool on_disk : {true, false}) {
    const auto& folder = on_disk ? disk : fast;
    PosixStorage storage({.directory = folder, .threads = on_disk ? 8u : 16u});
    Loader(sink, storage, LoaderOptions{}, ComputeOnlyScheduler()).save(prompt).status.value();
    const double rate = loaded(sink, storage, prompt);
    line(on_disk ? "POSIX, disk" : "POSIX, memory", rate,
         plain(folder, storage.direct(), on_disk ? 8 : 16),
         storage.direct() ? "O_DIRECT" : "buffered");
  }
#ifdef CAKE_BENCH_CUDA
  if (sink.staging == nullptr) return;
  cuda::DeviceArena arena(std::size_t{512} << 20);
  for (const bool force : {false, true}) {
    GdsStorage storage({.posix = {.directory = disk}, .force = force}, &arena);
    const double rate = loaded(sink, storage, prompt);
    line(force ? "GDS forced, disk, device memory" : "GDS, disk", rate, plain(disk, true, 8),
         storage.path());
  }
#endif
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 1 && argc != 3) {
    std::fprintf(stderr, "usage: read_bench [FOLDER-ON-A-DISK FOLDER-IN-MEMORY]\n");
    return 2;
  }
  std::vector<std::filesystem::path> folders;
  for (int i = 1; i < argc; ++i) folders.push_back(std::filesystem::path(argv[i]) / "cake-read");
  int result = 0;
  try {
    Sink sink;
    std::printf("%s; GB/s, chunks of 32 MiB\n%*sloaded   plain   ratio\n",
                sink.staging != nullptr ? "page-locked memory" : "no GPU: plain memory", 43, "");
    run_ram(sink, prompt_of(32));
    if (!folders.empty()) run_folders(sink, folders[0], folders[1]);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "read_bench: %s\n", e.what());
    result = 1;
  }
  for (const auto& folder : folders) std::filesystem::remove_all(folder);
  return result;
}
