// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Each kernel between the matrix products against fp64 on the host.
#include <algorithm>
#include <cstring>
#include <limits>

#include "src/reference/cuda/kernels.hpp"
#include "src/reference/cuda/kv_pool.hpp"
#include "tests/cuda/device_data.hpp"
#include "tests/cuda/gpu.hpp"

using namespace cake;
using namespace cake::testing;
using reference::f32_to_bf16;
using reference::cuda_impl::StepState;

namespace {

cuda::DeviceBuffer step_at(std::int32_t begin, std::int32_t rows) {
  cuda::DeviceBuffer step(sizeof(StepState));
  REQUIRE(reference::cuda_impl::set_step(step.as<StepState>(), {begin, begin + rows}, nullptr) ==
          cudaSuccess);
  return step;
}

}  // namespace

TEST_CASE("a step's numbers arrive with the launch") {
  CAKE_NEEDS_GPU();
  const auto step = step_at(1234, 66);
  const auto back = to_host<std::int32_t>(step);
  CHECK(back == std::vector<std::int32_t>{1234, 1300});
}

TEST_CASE("embedding copies the rows of the step's tokens") {
  CAKE_NEEDS_GPU();
  constexpr std::uint32_t kVocab = 50;
  constexpr std::uint32_t kRows = 37;
  for (const std::uint32_t width : {8u, 72u, 576u, 4096u}) {
    CAPTURE(width);
    const auto table = normal_bf16(std::size_t{kVocab} * width, 1);
    const auto device_table = to_device(table);
    cuda::PinnedBuffer tokens(100 * sizeof(std::int32_t));
    for (int i = 0; i < 100; ++i) tokens.as<std::int32_t>()[i] = i * 7 % 50;
    const auto step = step_at(20, kRows);
    const cuda::DeviceBuffer wide(std::size_t{kRows} * width * 4);
    const cuda::DeviceBuffer narrow(std::size_t{kRows} * width * 2);
    for (const bool f32 : {true, false}) {
      REQUIRE(reference::cuda_impl::embed(tokens.device<std::int32_t>(), step.as<StepState>(),
                                          device_table.data(), f32 ? wide.data() : narrow.data(),
                                          f32, kRows, width, nullptr) == cudaSuccess);
    }
    const auto got_wide = to_host<float>(wide);
    const auto got_narrow = to_host<std::uint16_t>(narrow);
    std::size_t wrong = 0;
    for (std::size_t row = 0; row < kRows; ++row) {
      for (std::size_t i = 0; i < width; ++i) {
        const std::uint16_t expected = table[(20 + row) * 7 % 50 * width + i];
        wrong += got_narrow[row * width + i] != expected;
        wrong += got_wide[row * width + i] != bf16_value(expected);
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("RMSNorm agrees with fp64, for every width and both kinds of residual stream") {
  CAKE_NEEDS_GPU();
  constexpr std::uint32_t kRows = 5;
  for (const std::uint32_t width :
       {8u, 64u, 128u, 576u, 2040u, 2048u, 2056u, 4096u, 5120u, 8192u, 8200u, 16384u}) {
    for (const bool f32 : {true, false}) {
      CAPTURE(width, f32);
      const auto numbers = normal_floats(std::size_t{kRows} * width, width, 3.0);
      const auto rounded = normal_bf16(std::size_t{kRows} * width, width, 3.0);
      const auto weight = normal_floats(width, 9);
      const auto x = f32 ? to_device(numbers) : to_device(rounded);
      const auto in = f32 ? values_of(numbers) : values_of(rounded);
      const auto w = to_device(weight);
      const cuda::DeviceBuffer out(std::size_t{kRows} * width * 2);
      REQUIRE(reference::cuda_impl::rms_norm(out.data(), x.data(), f32, w.as<float>(), kRows, width,
                                             1e-5f, nullptr) == cudaSuccess);
      std::vector<double> expected(in.size());
      for (std::size_t row = 0; row < kRows; ++row) {
        double squares = 0;
        for (std::size_t i = 0; i < width; ++i)
          squares += in[row * width + i] * in[row * width + i];
        const double rms = std::sqrt(squares / width + 1e-5);
        for (std::size_t i = 0; i < width; ++i) {
          expected[row * width + i] = in[row * width + i] / rms * double{weight[i]};
        }
      }
      CHECK(worst_relative(values_of(to_host<std::uint16_t>(out)), expected, 1e-6) <
            1.01 * kHalfUlp);
    }
  }
  CHECK(reference::cuda_impl::rms_norm(nullptr, nullptr, true, nullptr, 1, 12, 1e-5f, nullptr) ==
        cudaErrorInvalidValue);
}

namespace {

struct RopeCase {
  std::uint32_t heads, kv_heads, dim, turned, page, first_query;
  KvOrder order;
};

void check_rope(const RopeCase& c) {
  CAPTURE(c.heads, c.kv_heads, c.dim, c.turned, c.page, c.first_query, to_string(c.order));
  constexpr std::uint32_t kRows = 70;
  constexpr std::uint32_t kBegin = 131;
  constexpr std::uint32_t kTokens = 256;
  const KvLayout layout{1, c.kv_heads, c.dim, DType::bf16, c.order};
  const std::uint32_t n_pages = (kTokens + c.page - 1) / c.page;
  const auto pages = reference::cuda_impl::assign_pages(n_pages, 3);
  const auto strides = cuda::PageStrides::packed(layout, c.page);
  const std::size_t width = std::size_t{c.heads + 2 * c.kv_heads} * c.dim;
  const auto qkv = normal_bf16(kRows * width, 5);
  std::vector<float> frequency;
  for (std::uint32_t i = 0; i < c.turned / 2; ++i) {
    frequency.push_back(static_cast<float>(std::pow(10000.0, -2.0 * i / c.turned)));
  }
  const std::size_t pool_size = std::size_t{n_pages} * static_cast<std::size_t>(strides.page);
  const std::vector<std::uint16_t> poison(pool_size, 0xffff);
  const auto device_qkv = to_device(qkv);
  const auto k = to_device(poison);
  const auto v = to_device(poison);
  const auto table = to_device(pages);
  const auto frequencies = to_device(frequency);
  const cuda::DeviceBuffer turns(std::size_t{kTokens} * frequency.size() * sizeof(float2));
  const auto step = step_at(kBegin, kRows);
  REQUIRE(reference::cuda_impl::rope_table(turns.as<float2>(), frequencies.as<float>(), kTokens,
                                           c.turned / 2, nullptr) == cudaSuccess);
  reference::cuda_impl::RopeArgs args;
  args.qkv = device_qkv.data();
  args.step = step.as<StepState>();
  args.table = turns.as<float2>();
  args.k = k.data();
  args.v = v.data();
  args.strides = strides;
  args.page_table = table.as<std::int32_t>();
  args.page_tokens = c.page;
  args.rows = kRows;
  args.first_query = c.first_query;
  args.n_heads = c.heads;
  args.n_kv_heads = c.kv_heads;
  args.head_dim = c.dim;
  args.rope_dimensions = c.turned;
  REQUIRE(reference::cuda_impl::rope_and_store(args, nullptr) == cudaSuccess);

  const auto got_qkv = to_host<std::uint16_t>(device_qkv);
  const auto got_k = to_host<std::uint16_t>(k);
  const auto got_v = to_host<std::uint16_t>(v);
  std::vector<bool> touched(pool_size);
  double worst_q = 0;
  double worst_k = 0;
  std::size_t wrong = 0;
  for (std::uint32_t row = 0; row < kRows; ++row) {
    const std::uint32_t t = kBegin + row;
    for (std::uint32_t head = 0; head < c.heads + 2 * c.kv_heads; ++head) {
      const std::uint16_t* const from = &qkv[row * width + std::size_t{head} * c.dim];
      const std::uint16_t* const q = &got_qkv[row * width + std::size_t{head} * c.dim];
      const bool is_q = head < c.heads;
      const bool is_k = !is_q && head < c.heads + c.kv_heads;
      const std::uint32_t kv_head = is_q ? 0 : (head - c.heads) % c.kv_heads;
      const auto slot = static_cast<std::size_t>(
          pages[t / c.page] * strides.page + (t % c.page) * strides.token + kv_head * strides.head);
      for (std::uint32_t i = 0; i < c.dim; ++i) {
        double expected = double{bf16_value(from[i])};
        double scale = std::abs(expected);
        if ((is_q || is_k) && i < c.turned) {
          const double angle{static_cast<float>(t) * frequency[i / 2]};
          const double x = double{bf16_value(from[i & ~1u])};
          const double y = double{bf16_value(from[i | 1u])};
          expected = i % 2 == 0 ? x * std::cos(angle) - y * std::sin(angle)
                                : x * std::sin(angle) + y * std::cos(angle);
          scale = std::abs(x) + std::abs(y);  // what cancels is rounded in fp32
        }
        const auto error = [&](std::uint16_t bits) {
          const double e = std::abs(double{bf16_value(bits)} - expected) -
                           kHalfUlp * 1.001 * std::abs(expected) - 1e-6 * scale;
          return std::isnan(e) ? HUGE_VAL : e;
        };
        if (is_q) {
          if (row < c.first_query) {
            wrong += q[i] != from[i];  // left alone
          } else {
            worst_q = std::max(worst_q, error(q[i]));
          }
        } else if (is_k) {
          worst_k = std::max(worst_k, error(got_k[slot + i]));
          touched[slot + i] = true;
        } else {
          wrong += got_v[slot + i] != from[i];  // V is copied
        }
      }
    }
  }
  for (std::size_t i = 0; i < pool_size; ++i) {
    if (!touched[i]) wrong += got_k[i] != 0xffff || got_v[i] != 0xffff;
  }
  CHECK(worst_q <= 0);
  CHECK(worst_k <= 0);
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("RoPE turns Q and K, and KV lands in its pages and nowhere else") {
  CAKE_NEEDS_GPU();
  for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
    for (const std::uint32_t page : {1u, 16u, 33u, 64u, 256u}) {
      check_rope({4, 2, 64, 64, page, 0, order});
      check_rope({9, 3, 64, 64, page, 69, order});
      check_rope({32, 8, 128, 128, page, 70, order});
      check_rope({6, 1, 128, 32, page, 35, order});  // part of a head does not turn
    }
  }
}

TEST_CASE("the table of angles keeps its accuracy at far positions") {
  CAKE_NEEDS_GPU();
  const std::vector<float> frequency = {1.0f, 0.31f, 1e-3f, 1e-5f};
  constexpr std::uint32_t kPositions = 131072;
  const auto device = to_device(frequency);
  const cuda::DeviceBuffer table(std::size_t{kPositions} * 4 * sizeof(float2));
  REQUIRE(reference::cuda_impl::rope_table(table.as<float2>(), device.as<float>(), kPositions, 4,
                                           nullptr) == cudaSuccess);
  const auto got = to_host<float>(table);
  double worst = 0;
  for (std::size_t t = 0; t < kPositions; ++t) {
    for (std::size_t i = 0; i < 4; ++i) {
      const double angle{static_cast<float>(t) * frequency[i]};
      worst = std::max(worst, std::abs(double{got[(t * 4 + i) * 2]} - std::cos(angle)));
      worst = std::max(worst, std::abs(double{got[(t * 4 + i) * 2 + 1]} - std::sin(angle)));
    }
  }
  CHECK(worst < 1e-7);
}

TEST_CASE("SwiGLU agrees with fp64, also far from zero") {
  CAKE_NEEDS_GPU();
  for (const std::uint32_t width : {8u, 192u, 1536u, 14336u}) {
    for (const std::uint32_t rows : {1u, 33u}) {
      CAPTURE(width, rows);
      auto in = normal_bf16(std::size_t{rows} * 2 * width, width + rows, 4.0);
      in[0] = f32_to_bf16(-100.0f);
      in[1] = f32_to_bf16(100.0f);
      in[2] = f32_to_bf16(0.0f);
      const auto device = to_device(in);
      const cuda::DeviceBuffer out(std::size_t{rows} * width * 2);
      REQUIRE(reference::cuda_impl::silu_product(out.data(), device.data(), rows, width, nullptr) ==
              cudaSuccess);
      const auto x = values_of(in);
      std::vector<double> expected;
      for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t i = 0; i < width; ++i) {
          const double gate = x[r * 2 * width + i];
          expected.push_back(gate / (1 + std::exp(-gate)) * x[r * 2 * width + width + i]);
        }
      }
      CHECK(worst_relative(values_of(to_host<std::uint16_t>(out)), expected, 1e-6) <
            1.02 * kHalfUlp);
    }
  }
}

TEST_CASE("weights are rounded to bf16 as the CPU rounds them") {
  CAKE_NEEDS_GPU();
  std::mt19937 random(1);
  std::vector<float> in(100'001);
  for (float& x : in) {
    do {
      const auto bits = static_cast<std::uint32_t>(random());
      std::memcpy(&x, &bits, 4);
    } while (std::isnan(x));
  }
  const std::uint32_t ties[] = {0x3f808000u, 0x3f818000u, 0x00008000u, 0x7f7fffffu, 0x80000000u};
  std::memcpy(in.data(), ties, sizeof ties);
  in[5] = std::numeric_limits<float>::infinity();
  const auto device = to_device(in);
  const cuda::DeviceBuffer out(in.size() * 2);
  REQUIRE(reference::cuda_impl::round_to_bf16(out.data(), device.as<float>(), in.size(), nullptr) ==
          cudaSuccess);
  const auto got = to_host<std::uint16_t>(out);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < in.size(); ++i) wrong += got[i] != f32_to_bf16(in[i]);
  CHECK(wrong == 0);
}

TEST_CASE("random weights are normal, and depend on seed and place alone") {
  CAKE_NEEDS_GPU();
  constexpr std::size_t kCount = (1 << 20) + 3;
  const auto draw = [](std::size_t count, std::uint64_t seed) {
    const cuda::DeviceBuffer out(count * 2);
    REQUIRE(reference::cuda_impl::fill_normal_bf16(out.data(), count, 0.5f, seed, nullptr) ==
            cudaSuccess);
    return to_host<std::uint16_t>(out);
  };
  const auto first = draw(kCount, 1);
  double sum = 0;
  double squares = 0;
  std::size_t beyond = 0;
  for (const double x : values_of(first)) {
    sum += x;
    squares += x * x;
    beyond += std::abs(x) > 1.0;  // two deviations: 4.55 %
  }
  CHECK(std::abs(sum / kCount) < 0.005);
  CHECK(std::abs(squares / kCount - 0.25) < 0.005);
  CHECK(std::abs(static_cast<double>(beyond) / kCount - 0.0455) < 0.003);
  CHECK(draw(kCount, 1) == first);
  const auto part = draw(1001, 1);
  CHECK(std::equal(part.begin(), part.end(), first.begin()));
  CHECK(draw(1001, 2) != part);
}

TEST_CASE("numbers reach mapped host memory by kernel") {
  CAKE_NEEDS_GPU();
  const auto numbers = normal_floats(128'256, 4);
  const auto device = to_device(numbers);
  cuda::PinnedBuffer host(numbers.size() * sizeof(float));
  REQUIRE(reference::cuda_impl::copy_floats(host.device<float>(), device.as<float>(),
                                            numbers.size(), nullptr) == cudaSuccess);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(std::equal(numbers.begin(), numbers.end(), host.as<float>()));
}
