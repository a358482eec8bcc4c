// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The read path, whole and verified, beside what the medium gives to plain reads and copies in the
// same run, by turns: HostStorage and PosixStorage into the engine's pages, from a disk, from memory
// and over links of a given rate; GdsStorage into device memory.
//
//     read_bench [FOLDER-ON-A-DISK FOLDER-IN-MEMORY [READS-AT-ONCE [KIB-OF-A-PIECE [KIB-OF-A-PART]]]]
//
// Without folders HostStorage alone. With the last three, which are what lanes and PosixStorage take by
// themselves (-1 for a part; 0: reads are not carried out in parts), only what they bear on. Where the
// lanes' threads read themselves, there are as many of them as the row says; else as many of the store's.
//
// Host memory is page-locked and pages lie on the device where there is a GPU; else all is plain
// memory. The disk's folder takes 2.2 GB, that in memory up to 4.4 GB; both are
// removed at the end.
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/staging.hpp"
#include "cake/storage/host.hpp"
#include "cake/storage/posix.hpp"
#include "cake/storage/throttled.hpp"
#include "read_ceilings.hpp"
#ifdef CAKE_BENCH_CUDA
#include "read_bench_gpu.hpp"
#endif

namespace {

using namespace cake;

constexpr std::uint32_t kChunk = 256;
constexpr std::uint32_t kChunks = 64;  // of 32 MiB

/// What can be tried out.
struct Tuning {
  unsigned reads_at_once = 0;  // as the lanes take by themselves
  std::size_t piece_bytes = 0;
  std::int64_t part_kib = -1;
  bool brief = false;
};
Tuning tuning;

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
  KvOrder order = KvOrder::nhd;
  std::atomic<std::uint64_t> inserted{0};
  UniformKvLayout layout() const { return {32, 8, 128, DType::bf16, order}; }
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
  static constexpr cake::EngineAbilities abilities{.inserts_parts = true};
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

/// Layer 0 of every chunk, then layer 1, ...: reads of 1 MiB.
class LayerMajorScheduler : public LoadOnlyScheduler {
 public:
  std::optional<LoadRequest> next_load(const RunView& view, LaneId, Time now) {
    const PrefillSpec& spec = view.spec();
    for (; layer_ < spec.n_layers; ++layer_, chunk_ = 0) {
      for (; chunk_ < spec.end_chunk; ++chunk_) {
        if (view.layers_issued(chunk_) != layer_ || view.unloadable(chunk_)) continue;
        LoadRequest load{spec.whole(chunk_), now + std::chrono::minutes(1)};
        load.slice.layers = {layer_, layer_ + 1};
        return load;
      }
    }
    return std::nullopt;
  }

 private:
  std::uint32_t layer_ = 0;  // of the next read
  std::uint32_t chunk_ = 0;
};
static_assert(Scheduler<LayerMajorScheduler>);

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// One prefill that loads everything; every byte is verified on the way, or was by the store.
struct Load {
  double seconds = 0;
  double rate = 0;         // GB/s
  double first = 0;        // seconds until the first chunk is resident
  double cpu_per_gib = 0;  // seconds of all threads
};

double cpu_seconds() {
  rusage use{};
  ::getrusage(RUSAGE_SELF, &use);
  const auto of = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return of(use.ru_utime) + of(use.ru_stime);
}

template <class AnyLoader>
Load load_once(AnyLoader& loader, Tokens prompt) {
  const double cpu = cpu_seconds();
  const PrefillReport report = loader.prefill(prompt);
  report.status.value();
  if (report.tokens_loaded != prompt.size() / kChunk * kChunk) {
    throw Exception(
        {Errc::corrupt, 0,
         "not all was loaded: " +
             (report.load_error ? std::string("late") : report.load_error.error().message())});
  }
  Time first = report.ttft;
  for (const ChunkReport& chunk : report.chunks) first = std::min(first, chunk.end);
  const LoadReport* early = nullptr;
  for (const LoadReport& l : report.loads) {
    if (early == nullptr || l.resident < early->resident) early = &l;
  }
  if (tuning.brief && early != nullptr) {
    const auto us = [](Time t) { return static_cast<double>(t.count()) * 1e-3; };
    std::printf("planning %.0f us; first: issued %.0f, landed %.0f, resident %.0f\n",
                us(report.planning), us(early->issued), us(early->landed), us(early->resident));
  }
  Load load;
  const auto bytes = static_cast<double>(report.bytes_read);
  load.seconds = PrefillReport::seconds_of(report.ttft);
  load.rate = bytes / load.seconds * 1e-9;
  load.first = PrefillReport::seconds_of(first);
  load.cpu_per_gib = (cpu_seconds() - cpu) / bytes * (1 << 30);
  return load;
}

template <class Scheduler = LoadOnlyScheduler, class Engine, class Storage>
Loader<Engine, Storage, Scheduler> loader_of(Engine& engine, Storage& storage, unsigned threads) {
  LoaderOptions options;
  options.lanes.threads = threads;
  if (tuning.part_kib >= 0)
    options.lanes.part_bytes = std::uint64_t{1024} * static_cast<std::uint64_t>(tuning.part_kib);
  options.lanes.staging_bytes = std::uint64_t{512} << 20;
  // Computing costs nothing here, and is to take nothing from the loads.
  options.session.idle_timeout = std::chrono::minutes(1);
  return Loader(engine, storage, options, Scheduler());
}

/// Medians of 5 by turns, after a round that is not counted.
struct Row {
  Load load;
  double ceiling = 0;  // GB/s
};
template <class AnyLoader, class PlainRate>
Row by_turns(AnyLoader& loader, Tokens prompt, const PlainRate& plain_rate) {
  std::vector<double> seconds, rates, firsts, cpu, ceilings;
  for (int round = 0; round < 6; ++round) {
    const Load load = load_once(loader, prompt);
    const double ceiling = plain_rate();
    if (round == 0) continue;
    seconds.push_back(load.seconds);
    rates.push_back(load.rate);
    firsts.push_back(load.first);
    cpu.push_back(load.cpu_per_gib);
    ceilings.push_back(ceiling);
  }
  return {{median(seconds), median(rates), median(firsts), median(cpu)}, median(ceilings)};
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

void line(const std::string& what, const Row& row, const std::string& beside) {
  std::printf("%-46s %7.2f %8.2f %6.2f %8.2f %8.3f  %s\n", what.c_str(), row.load.rate, row.ceiling,
              row.load.rate / row.ceiling, 1e3 * row.load.first, row.load.cpu_per_gib,
              beside.c_str());
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
    line(std::string(what) + ", " + std::to_string(threads) + " threads",
         by_turns(loader, prompt, [&] { return copied(storage, keys, threads, copy); }),
         "plain copies");
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
      benchmarks::DevicePages pages(page, KvOrder::nhd);
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

#ifdef CAKE_BENCH_CUDA
void run_gds(Sink& sink, const std::filesystem::path& disk, Tokens prompt) {
  cuda::DeviceArena arena(std::size_t{512} << 20);
  for (const bool force : {false, true}) {
    GdsStorage storage({.posix = {.directory = disk}, .force = force}, &arena);
    const benchmarks::Ceiling ceiling(disk, true);
    auto loader = loader_of(sink, storage, 8);
    line(force ? "GDS forced, disk, device memory" : "GDS, disk",
         by_turns(loader, prompt,
                  [&] {
                    return ceiling.rate(8, false,
                                        [] { return std::make_unique<benchmarks::PieceTarget>(); });
                  }),
         storage.path());
  }
}
#endif

/// Loads from a folder into the engine's pages, beside what as many threads reach that read a piece,
/// digest it and copy it there.
template <class Scheduler = LoadOnlyScheduler, class Engine>
void folder_row(const std::string& what, const std::filesystem::path& folder, Engine& engine,
                Tokens prompt, unsigned threads, const benchmarks::Ceiling::MakeTarget& target) {
  PosixStorage storage({.directory = folder, .threads = threads, .op_bytes = tuning.piece_bytes});
  const benchmarks::Ceiling ceiling(folder, storage.direct());
  const bool by_lanes = storage.reads_on_caller(0) && tuning.part_kib != 0;
  auto loader = loader_of<Scheduler>(engine, storage, by_lanes ? threads : tuning.reads_at_once);
  line(what + ", " + std::to_string(threads) + " threads",
       by_turns(loader, prompt, [&] { return ceiling.rate(threads, true, target); }),
       storage.direct() ? "O_DIRECT + CRC + copy" : "pread + CRC + copy");
}

/// The same bytes, read without checking or copying them.
void ceilings(const std::filesystem::path& folder, bool direct,
              const benchmarks::Ceiling::MakeTarget& copy) {
  const benchmarks::Ceiling ceiling(folder, direct);
  const auto nowhere = [] { return std::make_unique<benchmarks::PieceTarget>(); };
  std::printf("ceilings of %s:", direct ? "the disk" : "memory");
  for (const unsigned threads : {1u, 4u, 8u, 16u}) {
    std::vector<double> plain, digested, copied, both;
    for (int round = 0; round < 3; ++round) {
      plain.push_back(ceiling.rate(threads, false, nowhere));
      digested.push_back(ceiling.rate(threads, true, nowhere));
      copied.push_back(ceiling.rate(threads, false, copy));
      both.push_back(ceiling.rate(threads, true, copy));
    }
    std::printf("  %u threads: %.1f plain, %.1f CRC, %.1f copy, %.1f both;", threads, median(plain),
                median(digested), median(copied), median(both));
  }
  std::printf("\n");
}

/// 8k tokens over links of these rates, into the engine's pages.
template <class Engine>
void link_rows(const std::filesystem::path& folder, Engine& engine, Tokens prompt) {
  PosixStorage storage({.directory = folder, .threads = 16, .op_bytes = tuning.piece_bytes});
  for (const double rate : {3.0, 7.0, 12.0, 25.0}) {
    ThrottledStorage link(storage, {.bytes_per_second = rate * 1e9});
    auto loader = loader_of(engine, link, tuning.reads_at_once);
    const Row row = by_turns(loader, prompt, [&] { return rate; });
    line("link of " + std::to_string(static_cast<int>(rate)) + " GB/s, 8k tokens", row,
         "nominal; wall " + std::to_string(1e3 * row.load.seconds) + " ms");
  }
}

template <class Engine>
void folder_rows(const std::string& pages, const std::filesystem::path& disk,
                 const std::filesystem::path& fast, Engine& engine, bool all,
                 const benchmarks::Ceiling::MakeTarget& target) {
  const std::vector<TokenId> prompt = prompt_of(kChunks);
  for (const unsigned threads : {1u, 4u, 16u}) {
    if (!all && threads != 16) continue;
    folder_row("memory, " + pages, fast, engine, prompt, threads, target);
  }
  folder_row<LayerMajorScheduler>("memory, layer-major, " + pages, fast, engine, prompt, 16,
                                  target);
  if (!all || tuning.brief) return;
  folder_row("disk, " + pages, disk, engine, prompt, 8, target);
  const std::vector<TokenId> short_prompt = prompt_of(32);
  folder_row("memory, 8k tokens, " + pages, fast, engine, short_prompt, 16, target);
  link_rows(fast, engine, short_prompt);
}

/// Whether the store goes past the page cache.
bool save_to(const std::filesystem::path& folder, Sink& sink, Tokens prompt) {
  PosixStorage storage({.directory = folder});
  Loader(sink, storage, LoaderOptions{}, ComputeOnlyScheduler()).save(prompt).status.value();
  return storage.direct();
}

#ifdef CAKE_BENCH_CUDA
void run_device_rows(Sink& sink, const std::filesystem::path& disk,
                     const std::filesystem::path& fast, bool direct) {
  const std::vector<TokenId> prompt = prompt_of(kChunks);
  for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
    sink.order = order;  // another order has other keys
    if (order == KvOrder::hnd) save_to(fast, sink, prompt);
    for (const std::uint32_t page : {16u, 64u}) {
      benchmarks::DevicePages pages(page, order);
      const auto target = [&] { return std::make_unique<benchmarks::DeviceTarget>(pages); };
      const bool first = order == KvOrder::nhd && page == 16;
      if (first && !tuning.brief) ceilings(fast, false, target);
      if (first && !tuning.brief) ceilings(disk, direct, target);
      const std::string what = order == KvOrder::nhd ? "nhd" : "hnd";
      folder_rows(what + " pages of " + std::to_string(page), disk, fast, pages, first, target);
    }
  }
  sink.order = KvOrder::nhd;
  if (!tuning.brief) run_gds(sink, disk, prompt);
}
#endif

void run_folders(Sink& sink, const std::filesystem::path& disk, const std::filesystem::path& fast) {
  const std::vector<TokenId> prompt = prompt_of(kChunks);
  const bool direct = !tuning.brief && save_to(disk, sink, prompt);
  save_to(fast, sink, prompt);
#ifdef CAKE_BENCH_CUDA
  if (sink.staging != nullptr) return run_device_rows(sink, disk, fast, direct);
#endif
  HostPages pages;
  const auto target = [&] {
    return std::make_unique<benchmarks::HostTarget>(pages.memory.bytes());
  };
  ceilings(fast, false, target);
  ceilings(disk, direct, target);
  folder_rows("plain pages", disk, fast, pages, true, target);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 || argc > 6) {
    std::fprintf(stderr,
                 "usage: read_bench [FOLDER-ON-A-DISK FOLDER-IN-MEMORY [READS-AT-ONCE "
                 "[KIB-OF-A-PIECE [KIB-OF-A-PART]]]]\n");
    return 2;
  }
  tuning.brief = argc > 3;
  if (argc > 3) tuning.reads_at_once = static_cast<unsigned>(std::atoi(argv[3]));
  if (argc > 4)
    tuning.piece_bytes = std::size_t{1024} * static_cast<std::size_t>(std::atoi(argv[4]));
  if (argc > 5) tuning.part_kib = std::atoi(argv[5]);
  std::vector<std::filesystem::path> folders;
  for (int i = 1; i < std::min(argc, 3); ++i)
    folders.push_back(std::filesystem::path(argv[i]) / "cake-read");
  int result = 0;
  try {
    Sink sink;
    std::printf("%s; chunks of 32 MiB\n%-46s %7s %8s %6s %8s %8s\n%-46s %7s %8s %6s %8s %8s\n",
                sink.staging != nullptr ? "page-locked memory" : "no GPU: plain memory", "",
                "loaded", "plain", "ratio", "first", "CPU", "", "GB/s", "GB/s", "", "ms", "s/GiB");
    if (!tuning.brief) run_ram(sink, prompt_of(32));
    if (!folders.empty()) run_folders(sink, folders[0], folders[1]);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "read_bench: %s\n", e.what());
    result = 1;
  }
  for (const auto& folder : folders) std::filesystem::remove_all(folder);
  return result;
}
