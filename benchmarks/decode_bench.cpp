// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Speed of attention of few queries beside a plain copy of the same run. A graph walks layers, each
// with KV of its own, until a gigabyte was read, so that the cache holds none of it from the last
// time. `rate` counts the bytes of K and V once; the copy's counts what it reads and what it
// writes. `splits` is the kernel for many queries with its keys split in 32 parts.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "cake/cuda/attention.hpp"
#include "cake/cuda/runtime.hpp"

namespace {

using namespace cake;
using namespace cake::cuda;

constexpr std::size_t kPoolBytes = std::size_t{1} << 30;

void must(const Status& status) { status.value(); }
void must(cudaError_t code) { must(to_status(code, "benchmark")); }

struct Problem {
  std::uint32_t queries = 1;
  std::uint32_t keys = 0;
  std::uint32_t dim = 128;
  std::uint32_t page = 0;  // 0: contiguous
  KvOrder order = KvOrder::nhd;
  std::uint32_t num_splits = 0;
  std::uint32_t heads = 32;
  std::uint32_t kv_heads = 8;

  std::size_t side() const { return std::size_t{keys} * kv_heads * dim * 2; }
};

DeviceBuffer normal_numbers(std::size_t bytes) {
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> some(1 << 22);
  for (auto& x : some) {
    const float f = normal(random);
    std::uint32_t bits;
    std::memcpy(&bits, &f, 4);
    x = static_cast<std::uint16_t>(bits >> 16);
  }
  DeviceBuffer buffer(bytes);
  for (std::size_t at = 0; at < bytes / 2; at += some.size()) {
    const std::size_t n = std::min(bytes / 2 - at, some.size());
    must(cudaMemcpy(buffer.as<std::uint16_t>() + at, some.data(), n * 2, cudaMemcpyDefault));
  }
  return buffer;
}

/// Median of the seconds of some launches of what `enqueue(stream)` enqueues, as a graph.
template <class Enqueue>
double seconds_of(Enqueue enqueue) {
  const Stream stream;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  must(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
  enqueue(stream.get());
  must(cudaStreamEndCapture(stream.get(), &graph));
  must(cudaGraphInstantiate(&exec, graph, 0));
  std::vector<double> times;
  for (int i = 0; i < 11; ++i) {
    const Event begin(true);
    const Event end(true);
    must(begin.record(stream.get()));
    must(cudaGraphLaunch(exec, stream.get()));
    must(end.record(stream.get()));
    must(end.wait());
    if (i >= 2) times.push_back(Event::seconds_between(begin, end).value());
  }
  must(cudaGraphExecDestroy(exec));
  must(cudaGraphDestroy(graph));
  std::nth_element(times.begin(), times.begin() + 4, times.end());
  return times[4];
}

/// Seconds of one attention, from `layers` of them in a row.
double measure(const Problem& p, const DeviceBuffer& pool, std::uint32_t layers) {
  const std::uint32_t page = p.page == 0 ? p.keys : p.page;
  const std::uint32_t pages = p.keys / page;
  std::vector<std::int32_t> table(pages);
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937(5));
  const DeviceBuffer table_device(table.size() * 4);
  must(cudaMemcpy(table_device.data(), table.data(), table_device.size(), cudaMemcpyDefault));
  const DeviceBuffer keys(4);
  must(cudaMemcpy(keys.data(), &p.keys, 4, cudaMemcpyDefault));
  const DeviceBuffer q = normal_numbers(std::size_t{p.queries} * p.heads * p.dim * 2);
  const DeviceBuffer out(q.size());
  AttentionArgs args;
  args.shape = {p.heads, p.kv_heads, p.dim, DType::bf16, 1, p.queries, p.queries, p.num_splits};
  const DeviceBuffer workspace(attention_workspace_bytes(args.shape).value());
  args.q = q.data();
  args.out = out.data();
  args.q_head_stride = args.out_head_stride = p.dim;
  args.q_token_stride = args.out_token_stride = std::int64_t{p.heads} * p.dim;
  args.strides = PageStrides::packed({1, p.kv_heads, p.dim, DType::bf16, p.order}, page);
  args.page_tokens = p.page;
  args.page_table = table_device.as<std::int32_t>();
  args.table_stride = pages;
  args.seqlens_k = keys.as<std::int32_t>();
  args.workspace = workspace.data();
  args.workspace_bytes = workspace.size();
  const std::size_t fit = kPoolBytes / (2 * p.side());
  return seconds_of([&](cudaStream_t stream) {
           for (std::uint32_t l = 0; l < layers; ++l) {
             args.k = pool.as<std::byte>() + l % fit * 2 * p.side();
             args.v = static_cast<const std::byte*>(args.k) + p.side();
             must(attention(args, stream));
           }
         }) /
         layers;
}

double copy_rate(const DeviceBuffer& pool) {
  const std::size_t half = kPoolBytes / 2;
  const double seconds = seconds_of([&](cudaStream_t stream) {
    must(
        cudaMemcpyAsync(pool.as<std::byte>() + half, pool.data(), half, cudaMemcpyDefault, stream));
  });
  return static_cast<double>(kPoolBytes) / seconds;
}

void line(Problem p, const DeviceBuffer& pool, double copy) {
  const auto layers = static_cast<std::uint32_t>(kPoolBytes / (2 * p.side()));
  const auto rate = [&](std::uint32_t n) {
    return 2.0 * static_cast<double>(p.side()) / measure(p, pool, n);
  };
  const double own = rate(std::max(16u, layers));
  std::printf("%4u %7u %7u %7.1f %6.0f %5.2f  %5.2f", p.dim, p.queries, p.keys,
              2e6 * static_cast<double>(p.side()) / own, own * 1e-9, own / copy, rate(1) / copy);
  for (const std::uint32_t page : {64u, 16u, 1u}) {
    p.page = page;
    std::printf("  %5.2f", rate(std::max(16u, layers)) / copy);
  }
  p.page = 16;
  p.order = KvOrder::hnd;
  std::printf("  %5.2f", rate(std::max(16u, layers)) / copy);
  p.page = 0;
  p.order = KvOrder::nhd;
  p.num_splits = 32;
  std::printf("  %5.2f\n", rate(std::max(16u, layers)) / copy);
  std::fflush(stdout);
}

}  // namespace

int main() {
  const Status gpu = usable();
  if (!gpu) {
    std::printf("decode_bench: %s\n", gpu.error().message().c_str());
    return 77;
  }
  const DeviceBuffer pool = normal_numbers(kPoolBytes);
  const double copy = copy_rate(pool);
  std::printf(
      "%s; a copy of 512 MiB: %.0f GB/s read and written. bf16, 32 query heads over 8; rates over "
      "that copy's\n",
      device_info().value().name.c_str(), copy * 1e-9);
  std::printf(
      "   d queries    keys      us   GB/s ratio  alone  pg 64  pg 16   pg 1  hnd16  splits\n");
  for (const std::uint32_t keys : {2048u, 8192u, 32768u, 131072u}) {
    for (const std::uint32_t queries : {1u, 4u, 16u}) {
      line({.queries = queries, .keys = keys}, pool, copy);
    }
    line({.queries = 1, .keys = keys, .dim = 64}, pool, copy);
  }
  std::printf("a copy again: %.0f GB/s\n", copy_rate(pool) * 1e-9);
}
