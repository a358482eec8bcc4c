// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Matrix products of Llama-3.1-8B on the GPU: cuBLASLt's first proposal, the fastest of 8 and of
// 64; and gate and up with SwiGLU, as a product and a kernel behind it and as one kernel, by turns.
// Weights change from launch to launch, so that none is left in the cache. Medians of graphs of
// kLaunches launches; TFLOP/s count the products alone.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

#include "cake/cuda/runtime.hpp"
#include "src/reference/cuda/gemm.hpp"
#include "src/reference/cuda/kernels.hpp"
#include "src/reference/cuda/swiglu_product.hpp"

namespace {

using namespace cake;
using namespace cake::cuda;
using namespace cake::reference::cuda_impl;

constexpr std::uint32_t kEmbd = 4096;
constexpr std::uint32_t kFf = 14336;
constexpr std::uint32_t kMostRows = 8192;
constexpr int kLaunches = 8;

void must(const Status& status) { status.value(); }
void must(cudaError_t code) { must(to_status(code, "benchmark")); }

DeviceBuffer normal(std::size_t count, float deviation, std::uint64_t seed) {
  DeviceBuffer buffer(count * 2);
  must(fill_normal_bf16(buffer.data(), count, deviation, seed, nullptr));
  must(cudaDeviceSynchronize());
  return buffer;
}

class Graph {
 public:
  template <class Enqueue>
  explicit Graph(Enqueue enqueue) {
    cudaGraph_t graph = nullptr;
    must(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < kLaunches; ++i) enqueue(i, stream_.get());
    must(cudaStreamEndCapture(stream_.get(), &graph));
    must(cudaGraphInstantiate(&exec_, graph, 0));
    must(cudaGraphDestroy(graph));
  }
  ~Graph() { (void)cudaGraphExecDestroy(exec_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void run() {
    const Event begin(true);
    const Event end(true);
    must(begin.record(stream_.get()));
    must(cudaGraphLaunch(exec_, stream_.get()));
    must(end.record(stream_.get()));
    must(end.wait());
    times_.push_back(Event::seconds_between(begin, end).value() / kLaunches);
  }
  double median() {
    std::nth_element(times_.begin() + 1, times_.begin() + static_cast<long>(times_.size() / 2),
                     times_.end());
    return times_[times_.size() / 2];
  }

 private:
  Stream stream_;
  cudaGraphExec_t exec_ = nullptr;
  std::vector<double> times_;
};

struct Buffers {
  DeviceBuffer in = normal(std::size_t{kMostRows} * kFf, 1, 1);
  DeviceBuffer weights = normal(std::size_t{4} * 2 * kFf * kEmbd, 0.015f, 2);
  DeviceBuffer out = normal(std::size_t{kMostRows} * 2 * kFf, 1, 3);
  DeviceBuffer other = normal(std::size_t{kMostRows} * kFf, 1, 4);
  const void* weight(int i, std::size_t size) const {
    return weights.as<std::byte>() + static_cast<std::size_t>(i % 4) * size * 2;
  }
};

Product product_of(const Buffers& b, std::uint32_t rows, std::uint32_t outputs,
                   std::uint32_t inputs, bool add, int i) {
  return {rows,         outputs, inputs,
          b.in.data(),  inputs,  b.weight(i, std::size_t{outputs} * inputs),
          b.out.data(), outputs, false,
          add};
}

void products(const Buffers& b, std::uint32_t rows) {
  struct {
    const char* name;
    std::uint32_t outputs, inputs;
    bool add;
  } const shapes[] = {{"qkv", 6144, kEmbd, false},
                      {"o", kEmbd, kEmbd, true},
                      {"gate_up", 2 * kFf, kEmbd, false},
                      {"down", kEmbd, kFf, true}};
  for (const auto& s : shapes) {
    std::array<Gemm, 3> gemms;
    const Stream stream;
    for (const std::size_t i : {1u, 2u}) {
      must(gemms[i].tune(product_of(b, rows, s.outputs, s.inputs, s.add, 0), stream.get(),
                         i == 1 ? 8 : 64));
    }
    std::vector<std::unique_ptr<Graph>> graphs;
    for (Gemm& gemm : gemms) {
      must(gemm.run(product_of(b, rows, s.outputs, s.inputs, s.add, 0), stream.get()));
      must(stream.wait());
      graphs.push_back(std::make_unique<Graph>([&](int i, cudaStream_t to) {
        must(gemm.run(product_of(b, rows, s.outputs, s.inputs, s.add, i), to));
      }));
    }
    for (int round = 0; round < 8; ++round) {
      for (auto& graph : graphs) graph->run();
    }
    std::printf("%6u %-8s", rows, s.name);
    for (auto& graph : graphs) {
      std::printf(" %7.0f", 2e-12 * rows * s.outputs * s.inputs / graph->median());
    }
    std::printf("\n");
  }
}

void swiglu(const Buffers& b, std::uint32_t rows) {
  Gemm gemm;
  const Stream stream;
  must(gemm.tune(product_of(b, rows, 2 * kFf, kEmbd, false, 0), stream.get()));
  const auto two = [&](int i, cudaStream_t to) {
    must(gemm.run(product_of(b, rows, 2 * kFf, kEmbd, false, i), to));
    must(silu_product(b.other.data(), b.out.data(), rows, kFf, to));
  };
  const auto one = [&](int i, cudaStream_t to) {
    must(swiglu_product(
        {b.in.data(), b.weight(i, std::size_t{2} * kFf * kEmbd), b.other.data(), rows, kFf, kEmbd},
        to));
  };
  two(0, stream.get());
  must(stream.wait());
  const std::size_t count = std::size_t{rows} * kFf;
  std::vector<std::uint16_t> expected(count);
  std::vector<std::uint16_t> got(count);
  must(cudaMemcpy(expected.data(), b.other.data(), count * 2, cudaMemcpyDefault));
  must(cudaMemset(b.other.data(), 0xff, count * 2));
  must(cudaDeviceSynchronize());
  one(0, stream.get());
  must(stream.wait());
  must(cudaMemcpy(got.data(), b.other.data(), count * 2, cudaMemcpyDefault));
  double difference = 0;
  double size = 0;
  const auto number = [](std::uint16_t bits) {
    return double{std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16)};
  };
  for (std::size_t i = 0; i < count; ++i) {
    difference += (number(got[i]) - number(expected[i])) * (number(got[i]) - number(expected[i]));
    size += number(expected[i]) * number(expected[i]);
  }
  Graph apart(two);
  Graph together(one);
  Graph alone([&](int i, cudaStream_t to) {
    must(gemm.run(product_of(b, rows, 2 * kFf, kEmbd, false, i), to));
  });
  for (int round = 0; round < 12; ++round) {
    apart.run();
    together.run();
    alone.run();
  }
  const double work = 2e-12 * rows * 2 * kFf * kEmbd;
  std::printf(
      "%6u gate and up %5.0f TFLOP/s, %7.1f us; with SwiGLU behind %7.1f us; in one %7.1f us "
      "(%5.0f TFLOP/s), %.3f of the two; they differ by %.1e\n",
      rows, work / alone.median(), alone.median() * 1e6, apart.median() * 1e6,
      together.median() * 1e6, work / together.median(), together.median() / apart.median(),
      std::sqrt(difference / size));
  std::fflush(stdout);
}

}  // namespace

int main() {
  const Status gpu = usable();
  if (!gpu) {
    std::printf("gemm_bench: %s\n", gpu.error().message().c_str());
    return 77;
  }
  const Buffers buffers;
  if (sm90_processors()) {
    for (const std::uint32_t rows : {128u, 256u, 512u, 1024u, 2048u, 4096u, 8192u}) {
      swiglu(buffers, rows);
    }
  }
  std::printf("TFLOP/s of cuBLASLt\n  rows           first  of 8    of 64\n");
  for (const std::uint32_t rows : {128u, 512u, 2048u, 8192u}) products(buffers, rows);
}
