// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Chunks of KV from pinned host memory into pages, as one, two or four of the loader's lanes insert
// them, beside a plain copy of the same run and beside one cudaMemcpyAsync for each run of bytes:
//
//     insert_bench
//
// Then chunks of other layouts: a latent (MLA), values of 8 bits with scales, states.
// Rates are of the wall clock, from the first call to the last byte; medians of 5.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "cake/cuda/kv_transfer.hpp"
#include "insert_target.hpp"
#include "src/cuda/kv_transfer/kv_transfer_plan.hpp"

namespace {

using namespace cake;
using namespace cake::cuda;
using namespace cake::benchmarks;
using Clock = std::chrono::steady_clock;

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

/// GB/s of so many lanes that insert at once.
template <class Target>
double insert_rate(KvTransfer& transfer, const Target& target, const PinnedBuffer& source,
                   unsigned lanes) {
  const auto begin = Clock::now();
  const auto more = [](std::uint32_t n) { return n < 2 * kChunks; };
  const std::uint32_t chunks = insert_by_lanes(transfer, target, source, lanes, more);
  return static_cast<double>(chunks * target.chunk_bytes()) / seconds(Clock::now() - begin) * 1e-9;
}

/// The same with one cudaMemcpyAsync for each run of bytes that lie side by side.
double loop_rate(const Stream& stream, const InsertTarget& memory, const PinnedBuffer& source,
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

/// Layouts that are not K and V alike.
void other_layouts(const PinnedBuffer& source, double ceiling) {
  const KvPlane latent{1, 2 * (512 + 64)};
  const KvPlane values{8, 128};
  const KvPlane scales{1, 8 * sizeof(float)};
  const KvPlane heads{8, 256};
  const KvPlane state{128, 64 * 128 * 2};
  const KvPlane window{1, 3 * 16384};
  const KvLayout layouts[] = {
      {61, {{{latent}}}},
      {32, {{{values, scales, values, scales}}}},
      {32, {{{heads, heads}}, {{window, state}, 0, true}}, std::vector<std::uint16_t>(32, 1)}};
  constexpr const char* kNames[] = {"latent, 61 layers", "8 bits and scales, 32",
                                    "4 K and V, 28 states"};
  std::printf("\n%-22s %8s %10s %10s %10s %10s\n", "GB/s", "pages", "MiB", "1 lane", "2 lanes",
              "of plain");
  for (std::size_t i = 0; i < std::size(layouts); ++i) {
    for (const std::uint32_t page : {16u, 64u}) {
      KvLayout layout = layouts[i];
      for (std::uint32_t l = 0; l < layout.kind_of.size(); l += 8) layout.kind_of[l] = 0;
      const PlanesTarget memory(layout, page);
      KvTransfer transfer;
      const double one = median([&] { return insert_rate(transfer, memory, source, 1); });
      const double two = median([&] { return insert_rate(transfer, memory, source, 2); });
      std::printf("%-22s %8u %10.1f %10.1f %10.1f %8.0f %%\n", kNames[i], page,
                  static_cast<double>(memory.chunk_bytes()) / (1 << 20), one, two,
                  100 * two / ceiling);
    }
  }
}

}  // namespace

int main() try {
  if (const Status status = usable(); !status) {
    std::printf("insert_bench needs a GPU: %s\n", status.error().message().c_str());
    return 77;
  }
  const DeviceInfo info = device_info().value();
  std::printf("%s; Llama-3.1-8B: 32 layers, 8 heads of 128, bf16; chunks of %u tokens, 32 MiB\n",
              info.name.c_str(), kChunkTokens);
  const PinnedBuffer source = make_sources();
  const DeviceBuffer target(kPlainBytes);
  const Stream stream;
  const double ceiling = median([&] { return plain_rate(stream, target, source); });
  std::printf("plain copy of 256 MiB, pinned: %.1f GB/s\n\n", ceiling);
  std::printf("%-12s %10s %10s %10s %10s %10s %12s\n", "GB/s", "1 lane", "2 lanes", "4 lanes",
              "of plain", "staged, 2", "copy by copy");
  KvTransferOptions never;
  never.direct_bytes = SIZE_MAX;
  for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
    for (const std::uint32_t page : {16u, 64u, 256u}) {
      const InsertTarget memory(order, page);
      KvTransfer transfer;
      KvTransfer staged(never);
      double rates[3];
      for (const int i : {0, 1, 2}) {
        rates[i] = median([&] { return insert_rate(transfer, memory, source, 1u << i); });
      }
      const double by_kernel = median([&] { return insert_rate(staged, memory, source, 2); });
      const double loop = median([&] { return loop_rate(stream, memory, source, 2); });
      std::printf("%s, %-7u %10.1f %10.1f %10.1f %8.0f %% %10.1f %12.1f\n",
                  std::string(to_string(order)).c_str(), page, rates[0], rates[1], rates[2],
                  100 * rates[1] / ceiling, by_kernel, loop);
    }
  }
  other_layouts(source, ceiling);
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "insert_bench: %s\n", e.what());
  return 1;
}
