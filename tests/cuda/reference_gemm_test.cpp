// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The matrix products against fp64 on the host.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "src/reference/cuda/gemm.hpp"
#include "tests/cuda/device_data.hpp"
#include "tests/cuda/gpu.hpp"

using namespace cake;
using namespace cake::testing;

namespace {

struct GemmCase {
  std::uint32_t rows, outputs, inputs;
  std::uint32_t in_pad = 0, out_pad = 0;  // elements behind each row
  std::uint32_t first_row = 0;            // of the output buffer: less alignment
  bool f32 = false, add = false;
};

void check_gemm(reference::cuda_impl::Gemm& gemm, const GemmCase& c, bool tune) {
  CAPTURE(c.rows, c.outputs, c.inputs, c.in_pad, c.out_pad, c.first_row, c.f32, c.add, tune);
  const std::size_t in_stride = c.inputs + c.in_pad;
  const std::size_t out_stride = c.outputs + c.out_pad;
  const auto in = normal_bf16(c.rows * in_stride, 1);
  const auto weight = normal_bf16(std::size_t{c.outputs} * c.inputs, 2,
                                  1 / std::sqrt(static_cast<double>(c.inputs)));
  const std::size_t out_count = (c.first_row + c.rows) * out_stride;
  const auto before_f32 = normal_floats(out_count, 3);
  const auto before_bf16 = normal_bf16(out_count, 3);
  const auto before = c.f32 ? values_of(before_f32) : values_of(before_bf16);
  const auto device_in = to_device(in);
  const auto device_weight = to_device(weight);
  const auto run = [&] {
    auto out = c.f32 ? to_device(before_f32) : to_device(before_bf16);
    reference::cuda_impl::Product p;
    p.rows = c.rows;
    p.outputs = c.outputs;
    p.inputs = c.inputs;
    p.in = device_in.data();
    p.in_stride = static_cast<std::int64_t>(in_stride);
    p.weight = device_weight.data();
    p.out = out.as<std::byte>() + c.first_row * out_stride * (c.f32 ? 4 : 2);
    p.out_stride = static_cast<std::int64_t>(out_stride);
    p.f32_out = c.f32;
    p.add = c.add;
    if (tune) {
      const Status tuned = gemm.tune(p, nullptr);
      INFO((tuned ? "" : tuned.error().message()));
      REQUIRE(tuned.has_value());
      out = c.f32 ? to_device(before_f32) : to_device(before_bf16);
      p.out = out.as<std::byte>() + c.first_row * out_stride * (c.f32 ? 4 : 2);
    }
    const Status status = gemm.run(p, nullptr);
    INFO((status ? "" : status.error().message()));
    REQUIRE(status.has_value());
    return out;
  };
  const auto first = run();
  const auto got =
      c.f32 ? values_of(to_host<float>(first)) : values_of(to_host<std::uint16_t>(first));
  const auto x = values_of(in);
  const auto w = values_of(weight);
  double worst = 0;
  std::size_t spilled = 0;
  for (std::size_t r = 0; r < c.first_row + c.rows; ++r) {
    for (std::size_t o = 0; o < out_stride; ++o) {
      const std::size_t at = r * out_stride + o;
      if (r < c.first_row || o >= c.outputs) {
        spilled += got[at] != before[at];
        continue;
      }
      double product = 0;
      for (std::size_t i = 0; i < c.inputs; ++i) {
        product += x[(r - c.first_row) * in_stride + i] * w[o * c.inputs + i];
      }
      const double sum = product + (c.add ? before[at] : 0);
      // Some kernels round the product before they add it, and then the sum.
      const double rounded = std::abs(sum) + (c.add ? std::abs(product) : 0);
      const double allowed = (c.f32 ? 0 : kHalfUlp * 1.01) * rounded + 1e-4;
      const double error = std::abs(got[at] - sum) / allowed;
      worst = std::isnan(error) ? HUGE_VAL : std::max(worst, error);
    }
  }
  CHECK(worst < 1);
  CHECK(spilled == 0);
  if (!tune) {
    const auto second = run();
    CHECK(to_host<std::uint16_t>(first) == to_host<std::uint16_t>(second));
  }
}

}  // namespace

TEST_CASE("matrix products agree with fp64, touch nothing else, and repeat bit for bit") {
  CAKE_NEEDS_GPU();
  reference::cuda_impl::Gemm gemm;
  for (const bool tune : {false, true}) {
    for (const bool f32 : {false, true}) {
      for (const bool add : {false, true}) {
        check_gemm(gemm, {.rows = 1, .outputs = 80, .inputs = 64, .f32 = f32, .add = add}, tune);
        check_gemm(gemm, {.rows = 7, .outputs = 128, .inputs = 256, .f32 = f32, .add = add}, tune);
        check_gemm(gemm, {.rows = 33, .outputs = 960, .inputs = 576, .f32 = f32, .add = add}, tune);
        check_gemm(gemm, {.rows = 129, .outputs = 576, .inputs = 1536, .f32 = f32, .add = add},
                   tune);
        check_gemm(gemm,
                   {.rows = 20,
                    .outputs = 384,
                    .inputs = 576,
                    .in_pad = 64,
                    .out_pad = 576,
                    .first_row = 3,
                    .f32 = f32,
                    .add = add},
                   tune);
        check_gemm(gemm,
                   {.rows = 1,
                    .outputs = 72,
                    .inputs = 2048,
                    .out_pad = 8,
                    .first_row = 1,
                    .f32 = f32,
                    .add = add},
                   tune);
      }
    }
  }
  check_gemm(gemm, {.rows = 1, .outputs = 1003, .inputs = 64, .f32 = true},
             false);  // odd vocabulary
  CHECK(gemm.shapes() > 20);
}

TEST_CASE("a product that cuBLASLt refuses names its shape") {
  CAKE_NEEDS_GPU();
  reference::cuda_impl::Gemm gemm;
  const cuda::DeviceBuffer numbers(4096);
  reference::cuda_impl::Product p;
  p.rows = 4;
  p.outputs = 8;
  p.inputs = 16;
  p.in_stride = 8;  // rows would overlap
  p.out_stride = 8;
  p.in = numbers.data();
  p.weight = numbers.as<std::byte>() + 1024;
  p.out = numbers.as<std::byte>() + 2048;
  const Status status = gemm.run(p, nullptr);
  REQUIRE(!status);
  CHECK(status.code() == Errc::device);
  CHECK(status.error().context.find("4 rows, 16 inputs, 8 outputs") != std::string::npos);
}
