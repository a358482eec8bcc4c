// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Gate, up and SwiGLU in one kernel against fp64 on the host.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "src/reference/cuda/swiglu_product.hpp"
#include "tests/cuda/device_data.hpp"
#include "tests/cuda/gpu.hpp"

using namespace cake;
using namespace cake::testing;
using reference::cuda_impl::swiglu_product;
using reference::cuda_impl::SwigluProduct;

namespace {

/// Whether the kernel runs here; where it does not, it says so.
bool runs_here() {
  const auto processors = reference::cuda_impl::sm90_processors();
  if (processors) return true;
  CHECK(processors.error().code == Errc::unsupported);
  return false;
}

void check_swiglu(std::uint32_t rows, std::uint32_t n_ff, std::uint32_t n_embd) {
  CAPTURE(rows, n_ff, n_embd);
  constexpr std::size_t kBehind = 3;  // rows that are none of its business
  auto in = normal_bf16((rows + kBehind) * std::size_t{n_embd}, rows);
  std::fill(in.begin() + rows * std::ptrdiff_t{n_embd}, in.end(), std::uint16_t{0xffff});
  const auto weight =
      normal_bf16(std::size_t{2} * n_ff * n_embd, n_ff, 2 / std::sqrt(static_cast<double>(n_embd)));
  const auto device_in = to_device(in);
  const auto device_weight = to_device(weight);
  const std::size_t count = (rows + kBehind) * std::size_t{n_ff};
  const auto run = [&] {
    const auto out = to_device(std::vector<std::uint16_t>(count, 0xffff));
    const SwigluProduct p{device_in.data(), device_weight.data(), out.data(), rows, n_ff, n_embd};
    REQUIRE(swiglu_product(p, nullptr));
    return to_host<std::uint16_t>(out);
  };
  const auto got = run();
  CHECK(run() == got);
  const auto x = values_of(in);
  const auto w = values_of(weight);
  double worst = 0;
  // Every row and column of tiles, but not every number: fp64 on the host takes its time.
  for (std::size_t row = 0; row<rows; row += rows> 200 ? 3 : 1) {
    for (std::size_t i = row % 2; i<n_ff; i += n_ff> 200 ? 7 : 2) {
      double gate = 0;
      double up = 0;
      for (std::size_t k = 0; k < n_embd; ++k) {
        gate += x[row * n_embd + k] * w[i * n_embd + k];
        up += x[row * n_embd + k] * w[(n_ff + i) * n_embd + k];
      }
      const double expected = gate / (1 + std::exp(-gate)) * up;
      const double error = std::abs(double{bf16_value(got[row * n_ff + i])} - expected) /
                           (kHalfUlp * 1.02 * std::abs(expected) + 1e-4);
      worst = std::isnan(error) ? HUGE_VAL : std::max(worst, error);
    }
  }
  CHECK(worst < 1);
  std::size_t spilled = 0;
  for (std::size_t i = std::size_t{rows} * n_ff; i < count; ++i) spilled += got[i] != 0xffff;
  CHECK(spilled == 0);
}

}  // namespace

TEST_CASE("SwiGLU within its products agrees with fp64 around the edges of tiles") {
  CAKE_NEEDS_GPU();
  if (!runs_here()) return;
  for (const std::uint32_t rows : {1u, 2u, 63u, 64u, 65u, 127u, 128u, 129u, 255u, 256u, 257u}) {
    check_swiglu(rows, 128, 64);
    check_swiglu(rows, 384, 576);
  }
  for (const std::uint32_t rows : {1u, 64u, 65u, 128u, 129u, 257u}) {
    check_swiglu(rows, 896, 64);  // a multiple of 112 as well
    check_swiglu(rows, 1792, 576);
  }
  check_swiglu(513, 256, 4096);
  check_swiglu(2100, 384, 128);  // more than one group of rows
}

TEST_CASE("SwiGLU within its products takes more tiles than there are multiprocessors") {
  CAKE_NEEDS_GPU();
  if (!runs_here()) return;
  check_swiglu(300, 128 * 140, 64);
}

TEST_CASE("SwiGLU within its products keeps to its range far from zero") {
  CAKE_NEEDS_GPU();
  if (!runs_here()) return;
  // One input of 1 and weights that are the sums: 128 gates from -1e4 to 1e4, up is 1.
  std::vector<std::uint16_t> in(64, 0);
  in[0] = reference::f32_to_bf16(1.0f);
  std::vector<std::uint16_t> weight(std::size_t{256} * 64, 0);
  std::vector<float> gates;
  for (int i = 0; i < 128; ++i) {
    const float size = std::pow(10.0f, static_cast<float>(i % 64) / 8 - 4);
    weight[static_cast<std::size_t>(i) * 64] = reference::f32_to_bf16(i < 64 ? -size : size);
    weight[static_cast<std::size_t>(128 + i) * 64] = reference::f32_to_bf16(1.0f);
    gates.push_back(bf16_value(weight[static_cast<std::size_t>(i) * 64]));
  }
  const auto device_in = to_device(in);
  const auto device_weight = to_device(weight);
  const cuda::DeviceBuffer out(256);
  REQUIRE(
      swiglu_product({device_in.data(), device_weight.data(), out.data(), 1, 128, 64}, nullptr));
  const auto got = to_host<std::uint16_t>(out);
  double worst = 0;
  for (std::size_t i = 0; i < 128; ++i) {
    const double gate{gates[i]};
    const double expected = gate / (1 + std::exp(-gate));
    const double error = std::abs(double{bf16_value(got[i])} - expected) /
                         (kHalfUlp * 1.02 * std::abs(expected) + 1e-30);
    worst = std::isnan(error) ? HUGE_VAL : std::max(worst, error);
  }
  CHECK(worst < 1);
}

TEST_CASE("SwiGLU within its products refuses shapes of no whole tiles by name") {
  CHECK(reference::cuda_impl::swiglu_product_takes(14336, 4096));
  CHECK_FALSE(reference::cuda_impl::swiglu_product_takes(14336 + 64, 4096));
  CHECK_FALSE(reference::cuda_impl::swiglu_product_takes(128, 96));
  CHECK_FALSE(reference::cuda_impl::swiglu_product_takes(0, 64));
  SwigluProduct p;
  p.rows = 1;
  p.n_ff = 192;
  p.n_embd = 64;
  const Status status = swiglu_product(p, nullptr);
  CHECK(status.code() == Errc::unsupported);
  CHECK(status.error().context.find("192") != std::string::npos);
}

TEST_CASE("SwiGLU within its products takes tiles of the width that is done sooner") {
  using reference::cuda_impl::swiglu_tile_columns;
  CHECK(swiglu_tile_columns(512, 14336, 132) == 112);   // 4 rounds of either
  CHECK(swiglu_tile_columns(128, 14336, 132) == 112);   // one
  CHECK(swiglu_tile_columns(2048, 14336, 132) == 128);  // 14 of 128 are as long as 16 of 112
  CHECK(swiglu_tile_columns(512, 13312, 132) == 128);   // no whole tiles of 112
}

TEST_CASE("SwiGLU is taken within its products where tiles fill the multiprocessors") {
  using reference::cuda_impl::swiglu_product_suits;
  CHECK(swiglu_product_suits(2048, 14336, 132));
  CHECK(swiglu_product_suits(8192, 14336, 132));
  CHECK(swiglu_product_suits(1024, 14336, 132));
  CHECK(swiglu_product_suits(128, 14336, 132));
  CHECK(swiglu_product_suits(256, 14336, 132));
  CHECK_FALSE(swiglu_product_suits(257, 14336, 132));
  CHECK_FALSE(swiglu_product_suits(64, 14336, 132));
  CHECK_FALSE(swiglu_product_suits(128, 1536, 132));  // 12 tiles
  CHECK_FALSE(swiglu_product_suits(1, 14336, 132));
  CHECK(swiglu_product_suits(512, 14336, 132));        // 3.9 rounds of narrow tiles take 4
  CHECK_FALSE(swiglu_product_suits(512, 13312, 132));  // 3.2 of wide ones take 4; none narrow
  CHECK_FALSE(swiglu_product_suits(2048, 1536, 132));  // 1.5 take 2
  CHECK_FALSE(swiglu_product_suits(2048, 14336, 0));
  CHECK_FALSE(swiglu_product_suits(0, 14336, 132));
  CHECK(swiglu_product_suits(0x8000'0000u, 14336, 132));  // no overflow
}
