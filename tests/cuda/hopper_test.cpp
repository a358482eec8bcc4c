// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The instructions of sm_90a that attention is made of, each against what the host computes.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "hopper_kernels.hpp"
#include "src/cuda/attention/sm90_attention.hpp"
#include "tests/cuda/device_data.hpp"
#include "tests/cuda/gpu.hpp"

using namespace cake;
using namespace cake::testing;

namespace {

/// Ends the test case as skipped on anything but compute capability 9.0.
#define CAKE_NEEDS_HOPPER()                                     \
  CAKE_NEEDS_GPU();                                             \
  if (!is_hopper()) {                                           \
    std::printf("[no GPU] skipped: no compute capability 9.0"); \
    return;                                                     \
  }                                                             \
  static_assert(true)

bool is_hopper() {
  cudaDeviceProp properties{};
  REQUIRE(cudaGetDeviceProperties(&properties, 0) == cudaSuccess);
  return properties.major == 9 && properties.minor == 0;
}

/// Keys [page][row][head][64] of consecutive numbers, as attention describes them to the copy
/// engine.
struct NumberedKeys {
  static constexpr std::uint32_t kRows = 128;  // of a page
  static constexpr std::uint32_t kHeads = 2;
  static constexpr std::uint32_t kPages = 3;

  NumberedKeys() : numbers(std::size_t{kPages} * kRows * kHeads * 64) {
    std::iota(numbers.begin(), numbers.end(), std::uint16_t{0});
    device = to_device(numbers);
    cuda::AttentionParams p{};
    p.q = p.k = p.v = device.data();
    p.n_heads = p.n_kv_heads = kHeads;
    p.group = 1;
    p.n_queries = 100;  // rows of q: fewer than there are
    p.head_dim = 64;
    p.page_tokens = kRows;
    p.q_token_stride = p.token_stride = kHeads * 64;
    p.q_head_stride = p.head_stride = 64;
    p.page_stride = kRows * kHeads * 64;
    boxes = cuda::sm90_boxes(p, DType::bf16, 128);
  }
  std::uint16_t at(int page, int row, int head, int column) const {
    return numbers[static_cast<std::size_t>(((page * 128 + row) * 2 + head) * 64 + column)];
  }

  std::vector<std::uint16_t> numbers;
  cuda::DeviceBuffer device;
  cuda::Sm90Boxes boxes;
};

std::vector<std::uint16_t> encoded(const std::vector<float>& from, bool bf16) {
  std::vector<std::uint16_t> out(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) {
    const __nv_bfloat16 b = __float2bfloat16(from[i]);
    const __half h = __float2half(from[i]);
    std::memcpy(&out[i], bf16 ? static_cast<const void*>(&b) : &h, 2);
  }
  return out;
}
double decoded(std::uint16_t bits, bool bf16) {
  if (bf16) return double{bf16_value(bits)};
  __half h;
  std::memcpy(static_cast<void*>(&h), &bits, 2);
  return double{__half2float(h)};
}

}  // namespace

TEST_CASE("a box arrives in the order that products read") {
  CAKE_NEEDS_HOPPER();
  const NumberedKeys keys;
  REQUIRE(keys.boxes.key_rows == 128);
  const cuda::DeviceBuffer out(128 * 64 * 2);
  for (const int page : {0, 2}) {
    for (const int head : {0, 1}) {
      REQUIRE(run_box(keys.boxes.k, {0, 0, head, page}, out.as<std::uint16_t>()) == cudaSuccess);
      const auto got = to_host<std::uint16_t>(out);
      bool same = true;
      for (int i = 0; i < 128 * 64; ++i) {
        same = same && got[static_cast<std::size_t>(i)] == keys.at(page, i / 64, head, i % 64);
      }
      CHECK(same);
    }
  }
}

TEST_CASE("rows of a box beyond the tensor are zero") {
  CAKE_NEEDS_HOPPER();
  const NumberedKeys keys;
  REQUIRE(keys.boxes.queries_by_box);
  const cuda::DeviceBuffer out(128 * 64 * 2);
  REQUIRE(run_box(keys.boxes.q, {0, 0, 1, 40}, out.as<std::uint16_t>()) == cudaSuccess);
  const auto got = to_host<std::uint16_t>(out);
  bool same = true;
  for (int i = 0; i < 128 * 64; ++i) {
    const int row = 40 + i / 64;
    const std::uint16_t wanted = row < 100 ? keys.at(row / 128, row % 128, 1, i % 64) : 0;
    same = same && got[static_cast<std::size_t>(i)] == wanted;
  }
  CHECK(same);
}

TEST_CASE("a barrier counts threads whose copies are there") {
  CAKE_NEEDS_HOPPER();
  std::vector<std::uint32_t> numbers(128 * 4);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<std::uint32_t>(i) + 7;
  const auto from = to_device(numbers);
  const cuda::DeviceBuffer out(128 * 16);
  REQUIRE(run_gathered(from.data(), out.data()) == cudaSuccess);
  const auto got = to_host<std::uint32_t>(out);
  bool same = true;
  for (std::size_t i = 0; i < got.size(); ++i) {
    same = same && got[i] == (i / 4 % 2 == 1 ? numbers[i] : 0);
  }
  CHECK(same);
}

TEST_CASE("products of a warpgroup agree with fp64") {
  CAKE_NEEDS_HOPPER();
  for (const int turn : {0, 1, 2, 3, 4, 5, 6, 7}) {
    const bool bf16 = turn % 2 == 0;
    const int dim = turn / 2 % 2 == 0 ? 64 : 128;
    const bool in_registers = turn / 4 == 1;
    INFO((bf16 ? "bf16, " : "f16, ") << dim << (in_registers ? ", q in registers" : ""));
    const auto n = static_cast<std::size_t>(dim);
    const auto q = encoded(normal_floats(64 * n, 1), bf16);
    const auto k = encoded(normal_floats(128 * n, 2, 0.1), bf16);
    const auto v = encoded(normal_floats(128 * n, 3), bf16);
    const cuda::DeviceBuffer scores_device(64 * 128 * 4);
    const cuda::DeviceBuffer out_device(64 * n * 4);
    const auto q_device = to_device(q);
    const auto k_device = to_device(k);
    const auto v_device = to_device(v);
    REQUIRE(run_products(bf16, dim, in_registers, q_device.data(), k_device.data(), v_device.data(),
                         scores_device.as<float>(), out_device.as<float>()) == cudaSuccess);
    const auto scores = to_host<float>(scores_device);
    const auto out = to_host<float>(out_device);
    std::vector<double> wanted(64 * 128);
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      for (std::size_t d = 0; d < n; ++d) {
        wanted[i] += decoded(q[i / 128 * n + d], bf16) * decoded(k[i % 128 * n + d], bf16);
      }
    }
    CHECK(worst_relative(scores, wanted, 1.0) < 1e-5);
    const auto weights = encoded(scores, bf16);
    std::vector<double> product(64 * n);
    for (std::size_t i = 0; i < product.size(); ++i) {
      for (std::size_t j = 0; j < 128; ++j) {
        product[i] += decoded(weights[i / n * 128 + j], bf16) * decoded(v[j * n + i % n], bf16);
      }
    }
    CHECK(worst_relative(out, product, 1.0) < 1e-5);
  }
}

TEST_CASE("a ring hands everything over in order, between warpgroups that traded registers") {
  CAKE_NEEDS_HOPPER();
  for (const int places : {2, 3}) {
    const cuda::DeviceBuffer out(1000 * sizeof(int));
    REQUIRE(run_ring(places, 1000, out.as<int>()) == cudaSuccess);
    const auto got = to_host<int>(out);
    bool same = true;
    for (int i = 0; i < 1000; ++i) same = same && got[static_cast<std::size_t>(i)] == i;
    CHECK(same);
  }
}

TEST_CASE("warpgroups at named barriers go in turn") {
  CAKE_NEEDS_HOPPER();
  const cuda::DeviceBuffer out(300 * sizeof(int));
  REQUIRE(run_turns(100, out.as<int>()) == cudaSuccess);
  const auto got = to_host<int>(out);
  bool same = true;
  for (int i = 0; i < 300; ++i) same = same && got[static_cast<std::size_t>(i)] == i % 3;
  CHECK(same);
}
