// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Saving beside what the medium gives to plain writes in the same run, by turns: the blocking
// save() and a Saver with 1, 4 and 8 threads, into memory and into folders. The engine's KV lies in
// host memory; each chunk is extracted, digested and written.
//
//   save_bench [FOLDER...]     medians of 5 rounds, GB/s
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
#include "cake/save.hpp"
#include "cake/saver.hpp"
#include "cake/staging.hpp"
#include "cake/storage/host.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/posix.hpp"

namespace {

using namespace cake;

constexpr std::uint32_t kChunk = 256;
constexpr std::uint32_t kChunks = 32;  // of 32 MiB
constexpr int kRounds = 5;

std::atomic<std::int64_t> saves{0};  // that began; also days, for a store that evicts the oldest

/// Has the KV shape of Llama-3.1-8B; every token has KV of its own chunk.
struct Source {
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

/// Runs `write` for each chunk on so many threads.
void on_threads(unsigned n, const std::function<void(std::uint32_t)>& write) {
  std::atomic<std::uint32_t> next{0};
  std::vector<std::thread> pool;
  for (unsigned t = 0; t < n; ++t) {
    pool.emplace_back([&] {
      for (std::uint32_t c; (c = next++) < kChunks;) write(c);
    });
  }
  for (std::thread& thread : pool) thread.join();
}

/// Writes an object to a new file, 1 MiB at a time.
void write_plain(const std::filesystem::path& path, bool direct, const AlignedBuffer& bytes) {
  constexpr std::size_t kOp = std::size_t{1} << 20;
  const int file =
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | (direct ? O_DIRECT : 0), 0600);
  for (std::size_t at = 0; file >= 0 && at < bytes.size(); at += kOp) {
    const std::size_t n = std::min(kOp, bytes.size() - at);
    if (::pwrite(file, bytes.data() + at, n, static_cast<off_t>(at)) != static_cast<ssize_t>(n)) {
      throw Exception(errno_error(errno, "write"));
    }
  }
  if (file >= 0) ::close(file);
}

void saved(const SaveReport& report) {
  report.status.value();
  if (report.written != kChunks) throw Exception({Errc::io, 0, "not all was saved"});
}

/// One medium: `fresh` makes an empty store, `plain` writes a chunk without cake.
template <class Fresh>
void measure(const std::string& what, const Fresh& fresh,
             const std::function<void(std::uint32_t)>& plain) {
  Source engine;
  std::vector<TokenId> prompt(kChunk * kChunks);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(i);
  const double bytes = static_cast<double>(engine.kv.size()) * kChunks;
  const auto next = [&] {  // a save that finds nothing stored
    return ChunkOptions{.chunk_tokens = kChunk, .salt = std::to_string(++saves)};
  };
  const unsigned threads[] = {1, 4, 8};
  Rates blocking, ours[3], taken[3], theirs[3];
  for (int round = 0; round < kRounds; ++round) {
    {
      const auto store = fresh();
      saved(save(engine, *store, Tokens(prompt), next()));  // the next one finds memory in place
      const ChunkOptions chunks = next();
      const auto begin = std::chrono::steady_clock::now();
      saved(save(engine, *store, prompt, chunks));
      blocking.add(bytes, begin);
    }
    for (int i = 0; i < 3; ++i) {
      const auto store = fresh();
      Saver saver(*store, {.threads = threads[i]});
      saved(saver.save(engine, prompt, next()).wait());
      const ChunkOptions chunks = next();
      auto begin = std::chrono::steady_clock::now();
      SaveTicket ticket = saver.save(engine, prompt, chunks);
      ticket.wait_extracted();
      taken[i].add(bytes, begin);
      saved(ticket.wait());
      ours[i].add(bytes, begin);
      begin = std::chrono::steady_clock::now();
      on_threads(threads[i], plain);
      theirs[i].add(bytes, begin);
    }
  }
  std::printf("%-24s save() %6.2f\n", what.c_str(), blocking.median());
  for (int i = 0; i < 3; ++i) {
    std::printf("%24s %u threads: saver %6.2f (extracted %6.2f), plain %6.2f, ratio %.2f\n", "",
                threads[i], ours[i].median(), taken[i].median(), theirs[i].median(),
                ours[i].median() / theirs[i].median());
  }
  std::fflush(stdout);
}

void run(const std::vector<std::filesystem::path>& folders) {
  const AlignedBuffer object(ChunkGeometry(Source::layout(), kChunk).object_bytes());
  std::memset(object.data(), 1, object.size());
  std::vector<std::unique_ptr<AlignedBuffer>> copies(kChunks);
  measure(
      "memory", [] { return std::make_unique<MemoryStorage>(); },
      [&](std::uint32_t c) {
        copies[c] = std::make_unique<AlignedBuffer>(object.size());
        std::memcpy(copies[c]->data(), object.data(), object.size());
      });
  // Full: each save evicts the one before. Plain copies go into memory that is there as well.
  HostStorage host({.capacity_bytes = (object.size() + 8192) * (kChunks + 4),
                    .clock = [] { return saves.load() * 86400; }});
  measure(
      "host memory, full", [&] { return &host; },
      [&](std::uint32_t c) { std::memcpy(copies[c]->data(), object.data(), object.size()); });
  copies.clear();
  for (const auto& folder : folders) {
    const auto store = folder / "save_bench_store", plain = folder / "save_bench_plain";
    bool direct = false;
    std::filesystem::create_directories(plain);
    measure(
        folder.string(),
        [&] {
          std::filesystem::remove_all(store);
          auto made = std::make_unique<PosixStorage>(PosixOptions{.directory = store});
          direct = made->direct();
          return made;
        },
        [&](std::uint32_t c) {
          std::filesystem::remove(plain / std::to_string(c));
          write_plain(plain / std::to_string(c), direct, object);
        });
    std::filesystem::remove_all(store);
    std::filesystem::remove_all(plain);
  }
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
