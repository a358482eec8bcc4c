// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Chunks of KV from pinned host memory into pages, beside a plain copy of the same run and beside
// one cudaMemcpyAsync for each run of bytes; then what inserts cost a stream of GEMMs beside them,
// next to what a plain copy of the same rate costs. Prints two tables:
//
//     insert_bench
//
// Rates are of the wall clock, from the first call to the last byte; medians of 5.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cake/cuda/kv_transfer.hpp"
#include "cuda/kv_transfer_plan.hpp"
#ifdef CAKE_BENCH_CUBLAS
#include <cublas_v2.h>
#endif

namespace {

using namespace cake;
using namespace cake::cuda;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kChunkTokens = 256;
constexpr std::uint32_t kChunks = 16;  // of one measurement
constexpr std::uint32_t kSources = 4;  // different ones in host memory
constexpr int kTimes = 5;
constexpr std::size_t kPlainBytes = std::size_t{256} << 20;

double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }
void check(cudaError_t code, const char* what) { throw_unless_ok(code, what); }

double median(const std::function<double()>& measure) {
  (void)measure();  // the first one pays for what is lazy
  std::vector<double> values;
  for (int i = 0; i < kTimes; ++i) values.push_back(measure());
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Pools of Llama-3.1-8B's shape for kChunks chunks, with a shuffled table.
struct Memory {
  Memory(KvOrder order, std::uint32_t page_tokens)
      : layout{32, 8, 128, DType::bf16, order},
        page(page_tokens),
        n_pages(kChunks * kChunkTokens / page_tokens),
        side(std::size_t{n_pages} * page_tokens * layout.row_bytes()),
        pools(2 * layout.n_layers * side),
        table(n_pages) {
    for (std::uint32_t l = 0; l < layout.n_layers; ++l) {
      k.push_back(pools.as<std::byte>() + 2 * l * side);
      v.push_back(pools.as<std::byte>() + (2 * l + 1) * side);
    }
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(1));
  }
  PagedKv paged() const {
    return {layout, page, n_pages, PageStrides::packed(layout, page), k, v, table};
  }
  Slice slice(std::uint32_t chunk) const {
    return {chunk, {chunk * kChunkTokens, (chunk + 1) * kChunkTokens}, {0, layout.n_layers}};
  }
  std::size_t run_bytes() const { return layout.run_bytes(kChunkTokens); }
  std::size_t chunk_bytes() const { return 2 * layout.n_layers * run_bytes(); }
  KvView view(const PinnedBuffer& source, std::uint32_t chunk) const {
    return {source.data() + (chunk % kSources) * chunk_bytes(), 0, run_bytes(), run_bytes()};
  }

  KvLayout layout;
  std::uint32_t page;
  std::uint32_t n_pages;
  std::size_t side;
  DeviceBuffer pools;
  std::vector<std::int32_t> table;
  std::vector<void*> k;
  std::vector<void*> v;
};

/// GB/s of kChunks inserts, at most `in_flight` of them at once.
double insert_rate(KvTransfer& transfer, const Memory& memory, const PinnedBuffer& source,
                   std::size_t in_flight) {
  const auto begin = Clock::now();
  std::deque<Transfer> running;
  for (std::uint32_t c = 0; c < kChunks; ++c) {
    if (running.size() == in_flight) {
      running.front().wait().value();
      running.pop_front();
    }
    running.push_back(transfer.insert(memory.paged(), memory.slice(c), memory.view(source, c)));
  }
  for (Transfer& t : running) t.wait().value();
  return static_cast<double>(kChunks * memory.chunk_bytes()) / seconds(Clock::now() - begin) * 1e-9;
}

/// The same with one cudaMemcpyAsync for each run of bytes that lie side by side.
double loop_rate(const Stream& stream, const Memory& memory, const PinnedBuffer& source,
                 std::uint32_t chunks) {
  const auto begin = Clock::now();
  const PagedKv kv = memory.paged();
  for (std::uint32_t c = 0; c < chunks; ++c) {
    const auto shape = transfer::shape_of(kv, memory.slice(c)).value();
    const auto segments = transfer::segments_of(shape);
    const KvView view = memory.view(source, c);
    for (std::uint32_t l = 0; l < memory.layout.n_layers; ++l) {
      for (int side = 0; side < 2; ++side) {
        const std::byte* const run = (side == 0 ? view.k(l) : view.v(l)).data();
        auto* const pool = static_cast<std::byte*>(side == 0 ? kv.k[l] : kv.v[l]);
        for (const transfer::Segment& s : segments) {
          check(cudaMemcpyAsync(pool + s.pool, run + s.run, s.bytes, cudaMemcpyHostToDevice,
                                stream.get()),
                "copy");
        }
      }
    }
  }
  stream.wait().value();
  return static_cast<double>(chunks * memory.chunk_bytes()) / seconds(Clock::now() - begin) * 1e-9;
}

double plain_rate(const Stream& stream, const DeviceBuffer& to, const PinnedBuffer& from) {
  const auto begin = Clock::now();
  for (std::size_t at = 0; at < kPlainBytes; at += from.size()) {
    check(cudaMemcpyAsync(to.as<std::byte>() + at, from.data(), from.size(), cudaMemcpyHostToDevice,
                          stream.get()),
          "copy");
  }
  stream.wait().value();
  return static_cast<double>(kPlainBytes) / seconds(Clock::now() - begin) * 1e-9;
}

#ifdef CAKE_BENCH_CUBLAS

/// GEMMs of a prefill step of 2048 tokens, one behind the other.
class Gemms {
 public:
  static constexpr int kM = 2048, kK = 4096, kN = 28672, kCount = 120;

  Gemms()
      : a_(std::size_t{2} * kM * kK), b_(std::size_t{2} * kK * kN), c_(std::size_t{2} * kM * kN) {
    // Random finite numbers: power, and so the clock, depends on the bits.
    std::vector<std::uint16_t> bits(std::size_t{kK} * kN);
    std::mt19937 random(3);
    for (std::uint16_t& x : bits) x = static_cast<std::uint16_t>(0x3c00 | (random() & 0x83ff));
    check(cudaMemcpy(a_.data(), bits.data(), a_.size(), cudaMemcpyHostToDevice), "copy");
    check(cudaMemcpy(b_.data(), bits.data(), b_.size(), cudaMemcpyHostToDevice), "copy");
    if (cublasCreate(&handle_) != CUBLAS_STATUS_SUCCESS) throw std::runtime_error("cublasCreate");
    (void)cublasSetStream(handle_, stream_.get());
  }
  ~Gemms() { (void)cublasDestroy(handle_); }
  Gemms(const Gemms&) = delete;
  Gemms& operator=(const Gemms&) = delete;

  /// Seconds of kCount GEMMs, by the device's clock.
  double run() {
    begin_.record(stream_.get()).value();
    const float one = 1, zero = 0;
    for (int i = 0; i < kCount; ++i) {
      if (cublasGemmEx(handle_, CUBLAS_OP_N, CUBLAS_OP_N, kN, kM, kK, &one, b_.data(), CUDA_R_16BF,
                       kN, a_.data(), CUDA_R_16BF, kK, &zero, c_.data(), CUDA_R_16BF, kN,
                       CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS) {
        throw std::runtime_error("cublasGemmEx");
      }
    }
    end_.record(stream_.get()).value();
    end_.wait().value();
    return Event::seconds_between(begin_, end_).value();
  }

 private:
  DeviceBuffer a_, b_, c_;
  Stream stream_;
  Event begin_{true}, end_{true};
  cublasHandle_t handle_ = nullptr;
};

/// Runs `piece`, which moves bytes and says how many, again and again beside the GEMMs, at no more
/// than `limit` GB/s (0: as fast as it goes).
struct Beside {
  double gemm_seconds = 0;
  double rate = 0;
};
Beside beside(Gemms& gemms, const std::function<std::size_t()>& piece, double limit) {
  std::atomic<bool> stop{false};
  std::atomic<bool> started{false};
  std::size_t bytes = 0;
  double span = 0;
  std::thread loads([&] {
    (void)piece();
    started = true;
    const auto begin = Clock::now();
    while (!stop) {
      bytes += piece();
      if (limit > 0) {
        std::this_thread::sleep_until(
            begin + std::chrono::duration_cast<Clock::duration>(
                        std::chrono::duration<double>(static_cast<double>(bytes) / (limit * 1e9))));
      }
    }
    span = seconds(Clock::now() - begin);
  });
  while (!started) std::this_thread::yield();
  const double gemm_seconds = gemms.run();
  stop = true;
  loads.join();
  return {gemm_seconds, static_cast<double>(bytes) / span * 1e-9};
}

Beside median_beside(Gemms& gemms, const std::function<std::size_t()>& piece, double limit) {
  std::vector<Beside> all;
  for (int i = 0; i < kTimes; ++i) all.push_back(beside(gemms, piece, limit));
  std::sort(all.begin(), all.end(),
            [](const Beside& a, const Beside& b) { return a.gemm_seconds < b.gemm_seconds; });
  return all[all.size() / 2];
}

void interference(const PinnedBuffer& source, const Stream& stream, const DeviceBuffer& target) {
  Gemms gemms;
  const double flop = 2.0 * Gemms::kM * Gemms::kN * Gemms::kK * Gemms::kCount;
  const double alone = median([&] { return gemms.run(); });
  std::printf("\nGEMMs %d x %d x %d bf16 alone: %.0f TFLOP/s\n", Gemms::kM, Gemms::kK, Gemms::kN,
              flop / alone * 1e-12);
  std::printf("%-28s %12s %16s %24s\n", "beside them", "GB/s", "GEMMs slower by",
              "plain copy, same rate");
  const auto slower = [&](const Beside& b) { return 100 * (b.gemm_seconds / alone - 1); };
  // Two batches in flight, so that the copy engine never idles.
  const Event events[2];
  unsigned turn = 0;
  constexpr std::size_t kPiece = std::size_t{8} << 20;
  const auto plain = [&] {
    const Event& event = events[turn++ % 2];
    event.wait().value();
    check(cudaMemcpyAsync(target.data(), source.data() + (turn % 8) * kPiece, kPiece,
                          cudaMemcpyHostToDevice, stream.get()),
          "copy");
    event.record(stream.get()).value();
    return kPiece;
  };
  const Beside full = median_beside(gemms, plain, 0);
  std::printf("%-28s %12.1f %14.1f %%\n", "plain copies of 8 MiB", full.rate, slower(full));
  struct Kind {
    const char* name;
    KvOrder order;
    std::uint32_t page;
  };
  for (const Kind& kind : {Kind{"inserts, nhd, pages of 16", KvOrder::nhd, 16},
                           Kind{"inserts, nhd, pages of 64", KvOrder::nhd, 64},
                           Kind{"inserts, hnd, pages of 16", KvOrder::hnd, 16}}) {
    const Memory memory(kind.order, kind.page);
    KvTransfer transfer;
    std::deque<Transfer> running;
    std::uint32_t chunk = 0;
    const auto insert = [&] {
      if (running.size() == 2) {
        running.front().wait().value();
        running.pop_front();
      }
      running.push_back(
          transfer.insert(memory.paged(), memory.slice(chunk), memory.view(source, chunk)));
      chunk = (chunk + 1) % kChunks;
      return memory.chunk_bytes();
    };
    const Beside inserts = median_beside(gemms, insert, 0);
    running.clear();
    const Beside same = median_beside(gemms, plain, inserts.rate);
    std::printf("%-28s %12.1f %14.1f %% %14.1f %% (%.1f GB/s)\n", kind.name, inserts.rate,
                slower(inserts), slower(same), same.rate);
  }
  check(cudaDeviceSynchronize(), "end");
}

#endif

}  // namespace

int main() try {
  if (const Status status = usable(); !status) {
    std::printf("insert_bench needs a GPU: %s\n", status.error().message().c_str());
    return 77;
  }
  const DeviceInfo info = device_info().value();
  std::printf("%s; Llama-3.1-8B: 32 layers, 8 heads of 128, bf16; chunks of %u tokens, 32 MiB\n",
              info.name.c_str(), kChunkTokens);
  const PinnedBuffer source(kSources * (std::size_t{32} << 20));
  std::memset(source.data(), 0x3c, source.size());
  const DeviceBuffer target(kPlainBytes);
  const Stream stream;
  const double ceiling = median([&] { return plain_rate(stream, target, source); });
  std::printf("plain copy of 256 MiB, pinned: %.1f GB/s\n\n", ceiling);
  std::printf("%-12s %10s %10s %10s %10s %10s %12s\n", "GB/s", "1 insert", "2 at once", "4 at once",
              "of plain", "staged, 2", "copy by copy");
  KvTransferOptions never;
  never.direct_bytes = SIZE_MAX;
  for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
    for (const std::uint32_t page : {16u, 64u, 256u}) {
      const Memory memory(order, page);
      KvTransfer transfer;
      KvTransfer staged(never);
      double rates[3];
      for (const int i : {0, 1, 2}) {
        rates[i] =
            median([&] { return insert_rate(transfer, memory, source, std::size_t{1} << i); });
      }
      const double by_kernel = median([&] { return insert_rate(staged, memory, source, 2); });
      const double loop = median([&] { return loop_rate(stream, memory, source, 2); });
      std::printf("%s, %-7u %10.1f %10.1f %10.1f %8.0f %% %10.1f %12.1f\n",
                  std::string(to_string(order)).c_str(), page, rates[0], rates[1], rates[2],
                  100 * rates[1] / ceiling, by_kernel, loop);
    }
  }
#ifdef CAKE_BENCH_CUBLAS
  interference(source, stream, target);
#else
  std::puts("\nwithout cuBLAS there are no GEMMs to measure beside");
#endif
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "insert_bench: %s\n", e.what());
  return 1;
}
