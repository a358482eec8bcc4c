// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The chunk object and the stores, each beside the ceiling that it is measured against, in one run:
//
//     storage_bench --benchmark_repetitions=7 --benchmark_enable_random_interleaving=true
//
// CAKE_BENCH_DIR names the file system to measure; the default is the current directory.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <isa-l/crc.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <thread>

#include "cake/chunk/reader.hpp"
#include "cake/chunk/tenant_keys.hpp"
#include "cake/chunk/writer.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/posix.hpp"

namespace {

using namespace cake;

// 256 tokens of Llama-3-8B in bf16: 32 MiB. The first argument of a benchmark is the layers.
UniformKvLayout layout_of(std::uint32_t layers) {
  return {layers, 8, 128, DType::bf16, KvOrder::nhd};
}
constexpr std::uint32_t kTokens = 256;

std::shared_ptr<const TenantKeys> some_keys() {
  std::array<std::byte, TenantKeys::kKeyBytes> secret;
  secret.fill(std::byte{42});
  return std::make_shared<const TenantKeys>(secret);
}

struct Sample {
  explicit Sample(std::uint32_t layers, Cipher cipher = Cipher::none)
      : writer(ChunkGeometry(layout_of(layers), kTokens, cipher)), tokens(kTokens) {
    for (std::uint32_t i = 0; i < kTokens; ++i) tokens[i] = static_cast<TokenId>(i * 37);
    identity.tokens = tokens;
    identity.geometry = writer.geometry();
    if (cipher != Cipher::none) identity.keys = some_keys();
    identity.key.bytes[0] = std::byte{7};
    const MutableKvView payload = writer.payload();
    for (std::uint32_t layer = 0; layer < layers; ++layer) {
      std::uint32_t x = layer + 1;
      for (auto& b : payload.k(layer)) b = static_cast<std::byte>(x = x * 1664525 + 1013);
      for (auto& b : payload.v(layer)) b = static_cast<std::byte>(x = x * 1664525 + 1013);
    }
    object = writer.finish(identity).value();
  }
  ChunkWriter writer;
  std::vector<TokenId> tokens;
  ChunkIdentity identity;
  ConstBytes object;
};

void set_bytes(benchmark::State& state, std::uint64_t bytes) {
  state.SetBytesProcessed(static_cast<std::int64_t>(bytes) * state.iterations());
}

// What the digest costs alone: ISA-L over the same bytes in one piece.
void plain_isal(benchmark::State& state) {
  const Sample sample(static_cast<std::uint32_t>(state.range(0)));
  auto* bytes =
      const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(sample.object.data()));
  for (auto _ : state) {
    benchmark::DoNotOptimize(crc32_iscsi(bytes, static_cast<int>(sample.object.size()), 0));
  }
  set_bytes(state, sample.object.size());
}

void parse_and_verify(benchmark::State& state) {
  const auto layers = static_cast<std::uint32_t>(state.range(0));
  const Sample sample(layers);
  for (auto _ : state) {
    const auto tables = parse_chunk(sample.object, sample.object.size(), sample.identity);
    auto view = verify_slice(*tables, sample.identity, {0, layers}, sample.object);
    if (!view) state.SkipWithError("a good chunk was refused");
    benchmark::DoNotOptimize(view);
  }
  set_bytes(state, sample.object.size());
}

void verify_layer_by_layer(benchmark::State& state) {
  const auto layers = static_cast<std::uint32_t>(state.range(0));
  const Sample sample(layers);
  for (auto _ : state) {
    const auto tables = parse_chunk(sample.object, sample.object.size(), sample.identity);
    for (std::uint32_t layer = 0; layer < layers; ++layer) {
      const ByteRange range = tables->geometry().read_range({layer, layer + 1});
      const auto view = verify_slice(*tables, sample.identity, {layer, layer + 1},
                                     sample.object.subspan(range.begin, range.size()));
      if (!view) state.SkipWithError("a good slice was refused");
    }
  }
  set_bytes(state, sample.object.size());
}

void finish_chunk(benchmark::State& state) {
  Sample sample(static_cast<std::uint32_t>(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(sample.writer.finish(sample.identity));
  set_bytes(state, sample.object.size());
}

// Encrypted chunks: beside `openssl speed -elapsed -evp aes-256-gcm -bytes 65536` of the same run.
void open_encrypted(benchmark::State& state) {
  const auto layers = static_cast<std::uint32_t>(state.range(0));
  const Sample sample(layers, Cipher::aes_256_gcm);
  const AlignedBuffer plain(sample.identity.geometry.payload_bytes({0, layers}));
  for (auto _ : state) {
    const auto tables = parse_chunk(sample.object, sample.object.size(), sample.identity);
    auto view = open_slice(*tables, sample.identity, {0, layers}, sample.object, plain.bytes());
    if (!view) state.SkipWithError("a good chunk was refused");
    benchmark::DoNotOptimize(view);
  }
  set_bytes(state, sample.object.size());
}

/// What was encrypted is encrypted again: the same work as for KV.
void finish_encrypted(benchmark::State& state) {
  Sample sample(static_cast<std::uint32_t>(state.range(0)), Cipher::aes_256_gcm);
  for (auto _ : state) {
    benchmark::DoNotOptimize(sample.writer.payload());
    benchmark::DoNotOptimize(sample.writer.finish(sample.identity));
  }
  set_bytes(state, sample.object.size());
}

// --- files ---

std::filesystem::path scratch() {
  const char* base = std::getenv("CAKE_BENCH_DIR");
  return std::filesystem::path(base != nullptr ? base : ".") / "cake-bench-store";
}

constexpr std::size_t kObjects = 8;
ChunkKey key_of(std::size_t i) {
  ChunkKey key;
  key.bytes[0] = static_cast<std::byte>(i);
  return key;
}

/// Eight objects of 32 MiB in a directory, and one buffer for all of them.
struct Files {
  explicit Files(DirectIo direct, unsigned threads = 8, std::size_t op = std::size_t{1} << 20,
                 ReadEngine engine = ReadEngine::automatic)
      : sample(32),
        store({.directory = scratch(),
               .threads = threads,
               .op_bytes = op,
               .direct = direct,
               .engine = engine}),
        buffer(kObjects * sample.object.size()) {
    for (std::size_t i = 0; i < kObjects; ++i) store.write(key_of(i), sample.object).value();
    std::fill(buffer.bytes().begin(), buffer.bytes().end(), std::byte{0});
  }
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;
  ~Files() {
    std::error_code ignored;
    std::filesystem::remove_all(scratch(), ignored);
  }
  MutableBytes part(std::size_t i) {
    return buffer.bytes().subspan(i * sample.object.size(), sample.object.size());
  }
  Sample sample;
  PosixStorage store;
  AlignedBuffer buffer;
};

// The ceiling: threads that pread files that are open already, with nothing around it.
void plain_pread(benchmark::State& state) {
  Files files(DirectIo::automatic);
  const std::size_t op = std::size_t{1} << 20;
  const std::size_t size = files.sample.object.size();
  std::vector<int> open_files;
  for (std::size_t i = 0; i < kObjects; ++i) {
    const std::string hex = key_of(i).hex();
    const auto path = scratch() / hex.substr(0, 2) / (hex + ".ckv");
    open_files.push_back(::open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
    if (open_files.back() < 0) state.SkipWithError("the file system has no O_DIRECT");
  }
  const std::size_t per_file = (size + op - 1) / op;
  for (auto _ : state) {
    std::atomic<std::size_t> next{0};
    std::vector<std::thread> threads;
    threads.reserve(8);
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&] {
        for (std::size_t i; (i = next++) < kObjects * per_file;) {
          const std::size_t at = i % per_file * op;
          const std::size_t n = std::min(op, size - at);
          const auto to = files.part(i / per_file).data() + at;
          if (::pread(open_files[i / per_file], to, n, static_cast<off_t>(at)) !=
              static_cast<ssize_t>(n)) {
            std::abort();
          }
        }
      });
    }
    for (auto& thread : threads) thread.join();
  }
  for (const int file : open_files) ::close(file);
  set_bytes(state, kObjects * size);
}

/// Eight reads at once. `piece` > 0: as many reads of so many bytes, as lanes ask for them.
void posix_read(benchmark::State& state, DirectIo direct, ReadEngine engine,
                std::size_t piece = 0) {
  std::optional<Files> made;
  try {
    made.emplace(direct, static_cast<unsigned>(state.range(0)),
                 static_cast<std::size_t>(state.range(1)) << 10, engine);
  } catch (const Exception& e) {
    return state.SkipWithError(e.what());
  }
  Files& files = *made;
  const std::size_t size = files.sample.object.size();
  if (piece == 0) piece = size;
  for (auto _ : state) {
    std::vector<PosixRead> reads;
    for (std::size_t i = 0; i < kObjects; ++i) {
      for (std::size_t at = 0; at < size; at += piece) {
        const std::size_t n = std::min(piece, size - at);
        reads.push_back(files.store.read(0, key_of(i), at, files.part(i).subspan(at, n)));
      }
    }
    for (auto& read : reads) {
      if (!read.wait()) state.SkipWithError("a read failed");
    }
  }
  set_bytes(state, kObjects * size);
  state.counters["direct"] = files.store.direct() ? 1 : 0;
}
constexpr std::size_t kPiece = std::size_t{1} << 20;
void posix_read_direct_threads(benchmark::State& state) {
  posix_read(state, DirectIo::automatic, ReadEngine::threads);
}
void posix_read_direct_io_uring(benchmark::State& state) {
  posix_read(state, DirectIo::automatic, ReadEngine::io_uring);
}
void posix_read_buffered_threads(benchmark::State& state) {
  posix_read(state, DirectIo::off, ReadEngine::threads);
}
void posix_read_buffered_io_uring(benchmark::State& state) {
  posix_read(state, DirectIo::off, ReadEngine::io_uring);
}
void posix_read_pieces_threads(benchmark::State& state) {
  posix_read(state, DirectIo::automatic, ReadEngine::threads, kPiece);
}
void posix_read_pieces_io_uring(benchmark::State& state) {
  posix_read(state, DirectIo::automatic, ReadEngine::io_uring, kPiece);
}

/// As lanes read: each piece is digested by the thread that read it.
struct Digest final : PieceSink {
  void arrived(ConstBytes piece) noexcept override {
    auto* bytes = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(piece.data()));
    benchmark::DoNotOptimize(crc32_iscsi(bytes, static_cast<int>(piece.size()), 0));
  }
};
void posix_read_digested(benchmark::State& state, ReadEngine engine) {
  std::optional<Files> made;
  try {
    made.emplace(DirectIo::automatic, static_cast<unsigned>(state.range(0)), kPiece, engine);
  } catch (const Exception& e) {
    return state.SkipWithError(e.what());
  }
  Files& files = *made;
  const auto digest = std::make_shared<Digest>();
  for (auto _ : state) {
    std::vector<PosixRead> reads;
    for (std::size_t i = 0; i < kObjects; ++i) {
      reads.push_back(files.store.read_pieces(0, key_of(i), 0, files.part(i), digest));
    }
    for (auto& read : reads) {
      if (!read.wait()) state.SkipWithError("a read failed");
    }
  }
  set_bytes(state, kObjects * files.sample.object.size());
}
void posix_read_digested_threads(benchmark::State& state) {
  posix_read_digested(state, ReadEngine::threads);
}
void posix_read_digested_io_uring(benchmark::State& state) {
  posix_read_digested(state, ReadEngine::io_uring);
}

void posix_write(benchmark::State& state) {
  Files files(DirectIo::automatic);
  for (auto _ : state) {
    if (!files.store.write(key_of(100), files.sample.object)) state.SkipWithError("write failed");
    state.PauseTiming();
    static_cast<void>(files.store.erase(key_of(100)));
    state.ResumeTiming();
  }
  set_bytes(state, files.sample.object.size());
}

// A 1,000,000-token prompt in chunks of 256 tokens, half of them stored (small objects).
template <class Store>
void lookup(benchmark::State& state, Store& store) {
  const AlignedBuffer page(4096);
  std::vector<ChunkKey> keys(3906);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const auto digest = Sha256().update(std::to_string(i)).finish();
    keys[i].bytes = digest;
    if (i % 2 == 0) store.write(keys[i], page.bytes()).value();
  }
  for (auto _ : state) benchmark::DoNotOptimize(store.lookup(keys));
  state.SetItemsProcessed(static_cast<std::int64_t>(keys.size()) * state.iterations());
}
void lookup_memory(benchmark::State& state) {
  MemoryStorage store;
  lookup(state, store);
}
void lookup_posix(benchmark::State& state) {
  PosixStorage store({.directory = scratch()});
  lookup(state, store);
  std::filesystem::remove_all(scratch());
}

// Writes to a full store of so many objects that it has not seen yet: sparse files of 1 MiB. All is
// made once; the counters say how long opening and the writes took, in milliseconds.
void write_at_capacity(benchmark::State& state) {
  constexpr std::uint64_t size = std::uint64_t{1} << 20;
  const auto n = static_cast<std::uint64_t>(state.range(0));
  const auto key = [](std::uint64_t i) {
    ChunkKey made;
    made.bytes = Sha256().update(std::to_string(i)).finish();
    return made;
  };
  { PosixStorage make({.directory = scratch()}); }
  for (std::uint64_t i = 0; i < n; ++i) {
    const std::string hex = key(i).hex();
    const auto folder = scratch() / hex.substr(0, 2);
    if (i < 4096) {
      std::filesystem::create_directory(folder);
      std::filesystem::permissions(folder, std::filesystem::perms::owner_all);
    }
    const int file =
        ::open((folder / (hex + ".ckv")).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ::ftruncate(file, static_cast<off_t>(size)) != 0) std::abort();
    ::close(file);
  }
  AlignedBuffer object(size);
  std::fill(object.bytes().begin(), object.bytes().end(), std::byte{1});
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point begin) {
    return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
  };
  for (auto _ : state) {
    const auto begin = Clock::now();
    PosixStorage store({.directory = scratch(), .capacity_bytes = n * size});
    state.counters["open"] = since(begin);
    std::vector<double> took;
    for (std::uint64_t i = 0; i < 2000; ++i) {
      const auto start = Clock::now();
      if (!store.write(key(n + i), object.bytes())) state.SkipWithError("a write failed");
      took.push_back(since(start));
    }
    state.counters["first"] = took.front();
    std::sort(took.begin(), took.end());
    state.counters["p50"] = took[took.size() / 2];
    state.counters["p99"] = took[took.size() * 99 / 100];
    state.counters["max"] = took.back();
    state.counters["evicted"] = static_cast<double>(store.stats().evicted);
  }
  std::filesystem::remove_all(scratch());
}

BENCHMARK(plain_isal)->Arg(1)->Arg(32)->Unit(benchmark::kMicrosecond);
BENCHMARK(parse_and_verify)->Arg(1)->Arg(32)->Unit(benchmark::kMicrosecond);
BENCHMARK(verify_layer_by_layer)->Arg(32)->Unit(benchmark::kMicrosecond);
BENCHMARK(finish_chunk)->Arg(32)->Unit(benchmark::kMicrosecond);
BENCHMARK(open_encrypted)->Arg(1)->Arg(32)->Unit(benchmark::kMicrosecond);
BENCHMARK(finish_encrypted)->Arg(32)->Unit(benchmark::kMicrosecond);
BENCHMARK(plain_pread)->UseRealTime()->Unit(benchmark::kMillisecond);
void read_arguments(benchmark::internal::Benchmark* row) {
  row->ArgsProduct({{1, 4, 8, 16}, {1024}})->ArgNames({"threads", "op_kib"});
  row->UseRealTime()->MeasureProcessCPUTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK(posix_read_direct_threads)->Args({8, 256})->Args({8, 4096})->Apply(read_arguments);
BENCHMARK(posix_read_direct_io_uring)->Args({8, 256})->Args({8, 4096})->Apply(read_arguments);
BENCHMARK(posix_read_pieces_threads)->Apply(read_arguments);
BENCHMARK(posix_read_pieces_io_uring)->Apply(read_arguments);
BENCHMARK(posix_read_digested_threads)->Apply(read_arguments);
BENCHMARK(posix_read_digested_io_uring)->Apply(read_arguments);
BENCHMARK(posix_read_buffered_threads)->Apply(read_arguments);
BENCHMARK(posix_read_buffered_io_uring)->Apply(read_arguments);
BENCHMARK(posix_write)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(write_at_capacity)
    ->Arg(20000)
    ->Arg(300000)
    ->Iterations(1)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(lookup_memory)->Unit(benchmark::kMicrosecond);
BENCHMARK(lookup_posix)->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();
