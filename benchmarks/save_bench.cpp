// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Saving beside what the medium gives to plain copies and writes in the same run, by turns: the
// blocking save() and a Saver, into memory, a full HostStorage and folders, from KV in host memory
// and, with a GPU, from its pages; and loads beside a save. Each chunk is extracted, digested and
// written.
//
//   save_bench [host|device] [FOLDER...]     KV of both, or of this; medians of 5 rounds, GB/s
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cake/chunk/format.hpp"
#include "cake/loader.hpp"
#include "cake/save.hpp"
#include "cake/saver.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/staging.hpp"
#include "cake/storage/host.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/posix.hpp"
#ifdef CAKE_BENCH_CUDA
#include "read_bench_gpu.hpp"
#endif

namespace {

using namespace cake;

constexpr std::uint32_t kChunk = 256;
constexpr std::uint32_t kChunks = 32;  // of 32 MiB
constexpr int kRounds = 5;

std::atomic<std::int64_t> saves{0};  // that began; also days, for a store that evicts the oldest

/// Has the KV shape of Llama-3.1-8B; every token has KV of its own chunk.
struct Source {
  static constexpr EngineAbilities abilities{.parallel_extracts = 64};
  std::vector<std::byte> kv;
  Source() : kv(ChunkGeometry(layout(), kChunk).object_bytes()) {
    std::uint32_t x = 1;
    for (auto& b : kv) b = static_cast<std::byte>((x = x * 1664525 + 1013904223) >> 24);
  }
  static UniformKvLayout layout() { return {32, 8, 128, DType::bf16, KvOrder::nhd}; }
  ModelFingerprint fingerprint() const { return {}; }
  Status insert(const Slice&, const KvView&) { return {}; }
  Status extract(const Slice& slice, const MutableKvView& to) {
    std::size_t at = slice.chunk;
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      for (const auto& side : {to.k(l), to.v(l)}) {
        std::memcpy(side.data(), kv.data() + at, side.size());
        at += side.size();
      }
    }
    return {};
  }
};
static_assert(KvMemory<Source>);

struct Rates {
  std::vector<double> all;
  void add(double bytes, std::chrono::steady_clock::time_point begin) {
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    all.push_back(bytes / took.count() * 1e-9);
  }
  double median() {
    std::sort(all.begin(), all.end());
    return all[all.size() / 2];
  }
};

/// GB/s of `work(thread, chunk)` for all chunks, each of so many bytes, on so many threads.
using Work = std::function<void(unsigned thread, std::uint32_t chunk)>;
void on_threads(unsigned n, Rates& rates, double bytes, const Work& work) {
  std::atomic<std::uint32_t> next{0};
  std::vector<std::jthread> pool;
  const auto begin = std::chrono::steady_clock::now();
  for (unsigned t = 0; t < n; ++t) {
    pool.emplace_back([&, t] {
      for (std::uint32_t c; (c = next++) < kChunks;) work(t, c);
    });
  }
  pool.clear();
  rates.add(bytes, begin);
}

/// Writes an object to a new file: past the page cache into room that was made for it, 16 MiB at a
/// time; else 1 MiB at a time.
void write_plain(const std::filesystem::path& path, bool direct, const AlignedBuffer& bytes) {
  const std::size_t op = std::size_t{direct ? 16u : 1u} << 20;
  const int file =
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | (direct ? O_DIRECT : 0), 0600);
  if (file < 0) throw Exception(errno_error(errno, "open"));
  if (direct) (void)::fallocate(file, 0, 0, static_cast<off_t>(bytes.size()));
  for (std::size_t at = 0; at < bytes.size(); at += op) {
    const std::size_t n = std::min(op, bytes.size() - at);
    if (::pwrite(file, bytes.data() + at, n, static_cast<off_t>(at)) != static_cast<ssize_t>(n)) {
      throw Exception(errno_error(errno, "write"));
    }
  }
  ::close(file);
}

void saved(const SaveReport& report) {
  report.status.value();
  if (report.written != kChunks) throw Exception({Errc::io, 0, "not all was saved"});
}

std::vector<TokenId> prompt_of(std::uint32_t chunks, std::uint32_t more = 0) {
  std::vector<TokenId> prompt(kChunk * chunks + more);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(i);
  return prompt;
}
/// Of a save that finds nothing stored.
ChunkOptions next_save() { return {.chunk_tokens = kChunk, .salt = std::to_string(++saves)}; }
const double kBytes = double{kChunks} * kChunk *
                      static_cast<double>(UniformKvLayout(Source::layout()).bytes_per_token());

/// Savers of so many threads, by turns with plain work of as many, or of `plain_threads`. `fresh`
/// makes a store that has room or is full of what may go.
struct Plan {
  std::string what;
  std::vector<unsigned> threads = {1, 4, 12};
  unsigned plain_threads = 0;
  StagingMemory* staging = nullptr;
};
template <class Engine, class Fresh>
void measure(const Plan& plan, Engine& engine, const Fresh& fresh, const Work& plain) {
  const auto prompt = prompt_of(kChunks);
  for (const unsigned threads : plan.threads) {
    Rates ours, taken, theirs;
    for (int round = 0; round < kRounds + 1; ++round) {
      const auto store = fresh();
      Saver saver(*store, {.threads = threads, .staging = plan.staging});
      saved(saver.save(engine, prompt, next_save()).wait());  // the next one finds memory in place
      const ChunkOptions chunks = next_save();
      const auto begin = std::chrono::steady_clock::now();
      SaveTicket ticket = saver.save(engine, prompt, chunks);
      ticket.wait_extracted();
      taken.add(kBytes, begin);
      saved(ticket.wait());
      ours.add(kBytes, begin);
      on_threads(plan.plain_threads == 0 ? threads : plan.plain_threads, theirs, kBytes, plain);
      if (round == 0) ours.all.clear(), taken.all.clear(), theirs.all.clear();
    }
    std::printf("%-34s %2u threads: saver %6.2f (extracted %6.2f), plain %6.2f, ratio %.2f\n",
                plan.what.c_str(), threads, ours.median(), taken.median(), theirs.median(),
                ours.median() / theirs.median());
    std::fflush(stdout);
  }
}

/// The blocking save(), on this thread.
template <class Engine, class Fresh>
void measure_blocking(const std::string& what, Engine& engine, const Fresh& fresh) {
  const auto prompt = prompt_of(kChunks);
  Rates rates;
  for (int round = 0; round < kRounds; ++round) {
    const auto store = fresh();
    saved(save(engine, *store, prompt, next_save()));
    const ChunkOptions chunks = next_save();
    const auto begin = std::chrono::steady_clock::now();
    saved(save(engine, *store, prompt, chunks));
    rates.add(kBytes, begin);
  }
  std::printf("%-34s save(): %.2f\n", what.c_str(), rates.median());
}

/// Each save evicts the one before.
HostOptions full_host(std::uint64_t object_bytes, StagingMemory* memory, std::uint32_t more = 0) {
  return {.capacity_bytes = (object_bytes + 65536) * (kChunks + 8 + more),
          .memory = memory,
          .clock = [] { return saves.load() * 86400; }};
}

void memory_rows() {
  Source engine;
  const AlignedBuffer object(ChunkGeometry(Source::layout(), kChunk).object_bytes());
  std::memset(object.data(), 1, object.size());
  std::vector<std::unique_ptr<AlignedBuffer>> copies(kChunks);
  const auto memory = [] { return std::make_unique<MemoryStorage>(); };
  measure_blocking("memory", engine, memory);
  measure({.what = "memory"}, engine, memory, [&](unsigned, std::uint32_t c) {
    copies[c] = std::make_unique<AlignedBuffer>(object.size());
    std::memcpy(copies[c]->data(), object.data(), object.size());
  });
  // Plain copies go into memory that is there as well, from KV as large as the engine's.
  HostStorage host(full_host(object.size(), nullptr));
  const auto full = [&] { return &host; };
  measure_blocking("host memory, full", engine, full);
  measure({.what = "host memory, full"}, engine, full, [&](unsigned, std::uint32_t c) {
    std::memcpy(copies[c]->data(), object.data(), object.size());
  });
}

/// Into a folder: plain writes by eight threads are what the medium gives.
template <class Engine>
void folder_row(const std::string& from, const std::filesystem::path& folder, Engine& engine,
                StagingMemory* staging) {
  const AlignedBuffer object(ChunkGeometry(Source::layout(), kChunk).object_bytes());
  std::memset(object.data(), 1, object.size());
  const auto store = folder / "save_bench_store", plain = folder / "save_bench_plain";
  bool direct = false;
  std::filesystem::create_directories(plain);
  measure(
      {.what = folder.string() + from, .threads = {4, 12}, .plain_threads = 8, .staging = staging},
      engine,
      [&] {
        std::filesystem::remove_all(store);
        auto made = std::make_unique<PosixStorage>(PosixOptions{.directory = store});
        direct = made->direct();
        return made;
      },
      [&](unsigned, std::uint32_t c) {
        std::filesystem::remove(plain / std::to_string(c));
        write_plain(plain / std::to_string(c), direct, object);
      });
  std::filesystem::remove_all(store);
  std::filesystem::remove_all(plain);
}

#ifdef CAKE_BENCH_CUDA
/// KV in pages on the device, chunk by chunk in the places of a few.
struct DeviceSource : benchmarks::DevicePages {
  static constexpr EngineAbilities abilities{.staging_memory = true, .parallel_extracts = 4};
  DeviceSource() : DevicePages(16, KvOrder::nhd) {
    cuda::throw_unless_ok(cudaMemset(target.pools.data(), 0x3c, target.pools.size()), "fill");
  }
  cuda::Transfer extract(const Slice& slice, const MutableKvView& to) {
    Slice place = target.slice(slice.chunk % benchmarks::kChunks);
    place.layers = slice.layers;
    return transfer.extract(target.paged(), place, to);
  }
};
static_assert(KvMemory<DeviceSource>);

/// Plain copies out of the device into page-locked memory, whole chunks, a stream for each thread.
class DeviceToHost {
 public:
  explicit DeviceToHost(const DeviceSource& from, unsigned threads)
      : from_(from.target.pools.as<std::byte>()),
        bytes_(from.target.chunk_bytes()),
        to_(kChunks * bytes_),
        streams_(threads) {}
  void operator()(unsigned thread, std::uint32_t chunk) const {
    const cuda::Stream& stream = streams_[thread];
    cuda::throw_unless_ok(
        cudaMemcpyAsync(to_.data() + chunk * bytes_, from_ + chunk % benchmarks::kChunks * bytes_,
                        bytes_, cudaMemcpyDeviceToHost, stream.get()),
        "copy");
    stream.wait().value();
  }

 private:
  std::byte* from_;
  std::size_t bytes_;
  cuda::PinnedBuffer to_;
  std::vector<cuda::Stream> streams_;
};

/// A prompt that is in host memory is loaded again and again, alone and while a saver saves another
/// one into the same store.
void load_beside_save(HostStorage& storage, DeviceSource& source) {
  benchmarks::DevicePages pages(16, KvOrder::nhd);
  const auto prompt = prompt_of(kChunks), loaded = prompt_of(kChunks, 1);
  IoLanes lanes(storage, lane_options(pages));
  Saver saver(lanes);
  const ChunkOptions chunks = next_save();
  saved(saver.save(source, prompt, chunks).wait());
  Loader loader(pages, lanes, chunks, LoadOnlyScheduler());
  const auto load = [&](Rates& rates) {
    const PrefillReport report = loader.prefill(loaded);
    report.status.value();
    if (report.tokens_loaded != prompt.size()) throw Exception({Errc::io, 0, "not all was loaded"});
    rates.all.push_back(static_cast<double>(report.bytes_read) /
                        PrefillReport::seconds_of(report.ttft) * 1e-9);
  };
  Rates alone, beside, saving;
  for (int round = 0; round < 2 * kRounds + 1; ++round) {
    load(alone);
    const std::uint64_t before = saver.stats().written_bytes;
    const auto begin = std::chrono::steady_clock::now();
    std::vector<SaveTicket> tickets;
    tickets.reserve(2);
    for (int i = 0; i < 2; ++i) tickets.push_back(saver.save(source, prompt, next_save()));
    for (int i = 0; i < 3; ++i) load(beside);
    if (tickets.back().ready()) beside.all.resize(beside.all.size() - 1);
    saving.add(static_cast<double>(saver.stats().written_bytes - before), begin);
    for (SaveTicket& ticket : tickets) saved(ticket.wait());
    if (round == 0) alone.all.clear(), beside.all.clear(), saving.all.clear();
  }
  std::printf("loads from host memory: alone %.2f, beside a save of %.2f: %.2f, ratio %.2f\n",
              alone.median(), saving.median(), beside.median(), beside.median() / alone.median());
}

void device_rows(const std::vector<std::filesystem::path>& folders) {
  if (!cuda::usable()) return;
  DeviceSource source;
  cuda::PinnedStaging pinned(std::size_t{2} << 30);
  const std::uint64_t object = ChunkGeometry(Source::layout(), kChunk).object_bytes();
  {
    HostStorage host(full_host(object, &pinned, 2 * kChunks));
    measure_blocking("device pages, host memory, full", source, [&] { return &host; });
    const DeviceToHost copies(source, 16);
    measure(
        {.what = "device pages, host memory, full"}, source, [&] { return &host; },
        [&](unsigned thread, std::uint32_t c) { copies(thread, c); });
    load_beside_save(host, source);
  }
  for (const auto& folder : folders) folder_row(", device pages", folder, source, &pinned);
}
#endif

void run(std::vector<std::filesystem::path> folders) {
  const std::string only = folders.empty() ? "" : folders.front().string();
  if (only == "host" || only == "device") folders.erase(folders.begin());
#ifdef CAKE_BENCH_CUDA
  if (only != "host") device_rows(folders);
#endif
  if (only == "device") return;
  memory_rows();
  Source engine;
  for (const auto& folder : folders) folder_row("", folder, engine, nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run({argv + 1, argv + argc});
  } catch (const std::exception& e) {
    std::fprintf(stderr, "save_bench: %s\n", e.what());
    return 1;
  }
  return 0;
}
