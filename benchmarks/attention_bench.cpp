// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Speed of attention, for the table beside benchmarks/peers/attention.py: causal prefill and
// append, paged and contiguous. Prints TFLOP/s with the causal area counted exactly; medians over
// events.
//
//   attention_bench        the table
//   attention_bench ask    reads lines "head_dim queries prefix page_tokens kernel" (kernel:
//   chosen,
//                          mma, sm90) and answers each with its rate: that way a script alternates
//                          between this and its peers
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "cake/cuda/attention.hpp"
#include "cake/cuda/runtime.hpp"
#include "src/cuda/attention/attention_kernels.hpp"

namespace {

using namespace cake;
using namespace cake::cuda;

struct Problem {
  std::uint32_t queries = 0;
  std::uint32_t prefix = 0;
  std::uint32_t dim = 128;
  std::uint32_t page = 0;  // 0: contiguous
  std::uint32_t heads = 32;
  std::uint32_t kv_heads = 8;
  AttentionKernel kernel = AttentionKernel::chosen;
};

void must(const Status& status) { status.value(); }
void must(cudaError_t code) { must(to_status(code, "benchmark")); }

/// Normal numbers, some of which are on the device: what is made of them is there at once, so that
/// the device does not cool down meanwhile.
class RandomNumbers {
 public:
  RandomNumbers() {
    std::mt19937_64 random(1);
    std::normal_distribution<float> normal;
    std::vector<std::uint16_t> numbers(kCount);
    for (auto& x : numbers) {
      const float f = normal(random);
      std::uint32_t bits;
      std::memcpy(&bits, &f, 4);
      x = static_cast<std::uint16_t>(bits >> 16);
    }
    must(cudaMemcpy(some_.data(), numbers.data(), some_.size(), cudaMemcpyDefault));
  }

  DeviceBuffer take(std::size_t count, std::uint64_t seed) const {
    DeviceBuffer buffer(count * 2);
    std::size_t skip = seed * 4099;
    for (std::size_t at = 0; at < count; skip = 977) {  // no period of a row
      const std::size_t n = std::min(count - at, kCount - skip);
      must(cudaMemcpyAsync(buffer.as<std::uint16_t>() + at, some_.as<std::uint16_t>() + skip, n * 2,
                           cudaMemcpyDefault));
      at += n;
    }
    return buffer;
  }

 private:
  static constexpr std::size_t kCount = 1 << 20;
  DeviceBuffer some_{kCount * 2};
};

/// For so long the attention to be measured runs before it is: the clock is then what this one's
/// power leaves, not what the one before left.
constexpr double kWarmSeconds = 0.1;

/// Seconds of one launch, the median of some.
double measure(const Problem& p) {
  static const RandomNumbers random;
  const std::uint32_t keys = p.prefix + p.queries;
  const std::uint32_t page = p.page == 0 ? keys : p.page;
  const std::uint32_t pages = (keys + page - 1) / page;
  const std::size_t row = std::size_t{p.kv_heads} * p.dim;
  const DeviceBuffer q = random.take(std::size_t{p.queries} * p.heads * p.dim, 1);
  const DeviceBuffer k = random.take(std::size_t{pages} * page * row, 2);
  const DeviceBuffer v = random.take(std::size_t{pages} * page * row, 3);
  const DeviceBuffer out(q.size());
  std::vector<std::int32_t> table(pages);
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937(5));
  const DeviceBuffer table_device(table.size() * 4);
  must(cudaMemcpy(table_device.data(), table.data(), table_device.size(), cudaMemcpyDefault));
  const DeviceBuffer keys_device(4);
  must(cudaMemcpy(keys_device.data(), &keys, 4, cudaMemcpyDefault));
  must(cudaDeviceSynchronize());  // the stream below does not wait for copies

  AttentionArgs args;
  args.shape = {p.heads, p.kv_heads, p.dim, DType::bf16, 1, p.queries, p.queries, 0};
  const DeviceBuffer workspace(attention_workspace_bytes(args.shape).value());
  args.q = q.data();
  args.out = out.data();
  args.q_head_stride = args.out_head_stride = p.dim;
  args.q_token_stride = args.out_token_stride = std::int64_t{p.heads} * p.dim;
  args.k = k.data();
  args.v = v.data();
  args.strides = PageStrides::packed({1, p.kv_heads, p.dim, DType::bf16, KvOrder::nhd}, page);
  args.page_tokens = p.page;
  args.page_table = table_device.as<std::int32_t>();
  args.table_stride = pages;
  args.seqlens_k = keys_device.as<std::int32_t>();
  args.workspace = workspace.data();
  args.workspace_bytes = workspace.size();

  const Stream stream;
  const auto timed = [&](int launches) {
    const Event begin(true);
    const Event end(true);
    must(begin.record(stream.get()));
    for (int i = 0; i < launches; ++i) must(attention_by(p.kernel, args, stream.get()));
    must(end.record(stream.get()));
    must(end.wait());
    return Event::seconds_between(begin, end).value() / launches;
  };
  (void)timed(1);
  // Several launches between two events, so that what the host takes for one does not count.
  const double once = timed(2);
  (void)timed(1 + static_cast<int>(kWarmSeconds / once));
  const int launches = 1 + static_cast<int>(4e-3 / once);
  std::vector<double> times;
  for (int i = 0; i < 9; ++i) times.push_back(timed(launches));
  std::nth_element(times.begin(), times.begin() + 4, times.end());
  return times[4];
}

double flops(const Problem& p) {
  const double queries = p.queries;
  const double area = queries * p.prefix + queries * (queries + 1) / 2;
  return 4 * area * p.heads * p.dim;
}

void line(const Problem& contiguous) {
  const double base = flops(contiguous) / measure(contiguous) * 1e-12;
  std::printf("%4u %6u %7u %8.0f", contiguous.dim, contiguous.queries, contiguous.prefix, base);
  for (const std::uint32_t page : {256u, 64u, 16u, 1u}) {
    Problem paged = contiguous;
    paged.page = page;
    const double rate = flops(paged) / measure(paged) * 1e-12;
    std::printf("  %5.0f %4.2f", rate, rate / base);
  }
  std::printf("\n");
}

/// Answers questions until there are no more. False: one was not understood.
bool answer() {
  for (std::string line; std::getline(std::cin, line);) {
    Problem p;
    std::string kernel;
    if (!(std::istringstream(line) >> p.dim >> p.queries >> p.prefix >> p.page >> kernel)) {
      std::fprintf(stderr, "attention_bench: no question: %s\n", line.c_str());
      return false;
    }
    p.kernel = kernel == "mma"    ? AttentionKernel::mma
               : kernel == "sm90" ? AttentionKernel::sm90
                                  : AttentionKernel::chosen;
    std::printf("%.1f\n", flops(p) / measure(p) * 1e-12);
    std::fflush(stdout);
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  const Status gpu = usable();
  if (!gpu) {
    std::printf("attention_bench: %s\n", gpu.error().message().c_str());
    return 77;
  }
  if (argc == 2 && std::string(argv[1]) == "ask") return answer() ? 0 : 1;
  std::printf(
      "TFLOP/s, bf16, 32 query heads over 8; for pages the rate and its ratio to contiguous\n");
  std::printf("   d queries prefix contig.    page 256     page 64     page 16      page 1\n");
  for (const std::uint32_t dim : {128u, 64u}) {
    for (const std::uint32_t n : {2048u, 8192u, 32768u}) line({.queries = n, .dim = dim});
  }
  for (const std::uint32_t queries : {1u, 128u, 512u, 1024u, 2048u}) {
    for (const std::uint32_t prefix : {8192u, 32768u, 131072u}) {
      line({.queries = queries, .prefix = prefix});
    }
  }
}
