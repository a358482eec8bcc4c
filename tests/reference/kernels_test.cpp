// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "src/reference/cpu/kernels.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "catch.hpp"
#include "src/reference/gguf/numbers.hpp"
#include "tiny_model.hpp"

namespace cake::inline CAKE_ABI::reference {
extern const Kernels kernels_base;
}

namespace {

using namespace cake::reference;

/// The one for every processor, and the best one here.
std::vector<const Kernels*> tables() { return {&kernels_base, &kernels()}; }

std::vector<float> noise(std::size_t n, float from, float to, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(from, to);
  std::vector<float> values(n);
  for (float& v : values) v = uniform(random);
  return values;
}

}  // namespace

TEST_CASE("all 65,536 halves convert as defined, and back") {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const double value = tiny::half_value(half);
    if (std::isnan(value)) {
      REQUIRE(std::isnan(f16_to_f32(half)));
      REQUIRE((f32_to_f16(f16_to_f32(half)) & 0x7fff) > 0x7c00);
      continue;
    }
    REQUIRE(double{f16_to_f32(half)} == value);
    REQUIRE(f32_to_f16(f16_to_f32(half)) == half);
    if (std::isinf(value)) continue;
    // Half-way to the next one: to the even neighbour; a little further: to the next.
    const double next = bits % 0x8000 == 0x7bff
                            ? std::copysign(65536.0, value)
                            : tiny::half_value(static_cast<std::uint16_t>(bits + 1));
    const auto middle = static_cast<float>((value + next) / 2);
    REQUIRE(f32_to_f16(middle) == (bits % 2 == 0 ? bits : bits + 1));
    const float beyond = std::nextafter(middle, static_cast<float>(next));
    REQUIRE(f32_to_f16(beyond) == bits + 1);
  }
}

TEST_CASE("bf16 rounds to nearest, ties to even") {
  CHECK(f32_to_bf16(1.0f) == 0x3f80);
  const auto of = [](std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return f32_to_bf16(value);
  };
  CHECK(of(0x3f808000) == 0x3f80);  // half-way, even below
  CHECK(of(0x3f818000) == 0x3f82);  // half-way, even above
  CHECK(of(0x3f808001) == 0x3f81);
  CHECK(of(0x3f807fff) == 0x3f80);
  CHECK(of(0x7f7fffff) == 0x7f80);  // the largest float becomes infinity
  CHECK(of(0x7f800000) == 0x7f80);
  CHECK(std::isnan(bf16_to_f32(of(0x7f800001))));
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const auto value = bf16_to_f32(static_cast<std::uint16_t>(bits));
    if (!std::isnan(value)) REQUIRE(f32_to_bf16(value) == bits);
  }
}

TEST_CASE("every instruction set converts to the same bits") {
  std::mt19937 random(5);
  std::vector<float> values(4099);
  for (float& value : values) {
    const auto bits = static_cast<std::uint32_t>(random());
    std::memcpy(&value, &bits, 4);
  }
  std::vector<std::uint16_t> a(values.size()), b(values.size());
  kernels_base.to_f16(a.data(), values.data(), a.size());
  kernels().to_f16(b.data(), values.data(), b.size());
  CHECK(a == b);
  kernels_base.to_bf16(a.data(), values.data(), a.size());
  kernels().to_bf16(b.data(), values.data(), b.size());
  CHECK(a == b);
  std::vector<float> x(values.size()), y(values.size());
  kernels_base.from_f16(x.data(), a.data(), a.size());
  kernels().from_f16(y.data(), a.data(), a.size());
  CHECK(std::memcmp(x.data(), y.data(), 4 * x.size()) == 0);
  kernels_base.from_bf16(x.data(), a.data(), a.size());
  kernels().from_bf16(y.data(), a.data(), a.size());
  CHECK(std::memcmp(x.data(), y.data(), 4 * x.size()) == 0);
}

TEST_CASE("RMS norm, SiLU and rotation agree with fp64") {
  for (const Kernels* k : tables()) {
    INFO(k->name);
    const std::size_t n = 602;  // no multiple of a vector
    const auto x = noise(n, -3, 3, 1), w = noise(n, -2, 2, 2);
    std::vector<float> out(n);
    k->rms_norm(out.data(), x.data(), w.data(), n, 1e-5f);
    double squares = 0;
    for (const float v : x) squares += double{v} * double{v};
    for (std::size_t i = 0; i < n; ++i) {
      const double expected = double{x[i]} / std::sqrt(squares / n + 1e-5) * double{w[i]};
      REQUIRE(double{out[i]} == Approx(expected).epsilon(2e-6));
    }

    const auto gate = noise(n, -100, 100, 3);
    k->silu_product(out.data(), gate.data(), w.data(), n);
    for (std::size_t i = 0; i < n; ++i) {
      const double expected = double{gate[i]} / (1 + std::exp(-double{gate[i]})) * double{w[i]};
      REQUIRE(double{out[i]} == Approx(expected).epsilon(2e-6).margin(1e-30));
    }

    std::vector<float> angles(n);
    for (std::size_t i = 0; i < n; i += 2) {
      angles[i] = std::cos(x[i]);
      angles[i + 1] = std::sin(x[i]);
    }
    std::vector<float> turned = w;
    k->rotate(turned.data(), turned.data(), angles.data(), n, 0.5f);  // in place
    for (std::size_t i = 0; i < n; i += 2) {
      REQUIRE(turned[i] ==
              Approx(0.5f * (w[i] * angles[i] - w[i + 1] * angles[i + 1])).margin(1e-6));
      REQUIRE(turned[i + 1] ==
              Approx(0.5f * (w[i] * angles[i + 1] + w[i + 1] * angles[i])).margin(1e-6));
    }
  }
}

TEST_CASE("extreme gates give neither NaN nor infinity") {
  for (const Kernels* k : tables()) {
    const std::vector<float> gate{-1e30f, -200.0f, -88.0f, 0.0f, 88.0f, 1e30f};
    const std::vector<float> up(gate.size(), 1.0f);
    std::vector<float> out(gate.size());
    k->silu_product(out.data(), gate.data(), up.data(), gate.size());
    CHECK(std::abs(out[0]) < 1e-6f);
    CHECK(std::abs(out[1]) < 1e-30f);
    CHECK(std::abs(out[2]) < 1e-30f);
    CHECK(out[3] == 0.0f);
    CHECK(out[4] == 88.0f);
    CHECK(out[5] == 1e30f);
  }
}

TEST_CASE("softmax in steps is the softmax of the whole") {
  for (const Kernels* k : tables()) {
    INFO(k->name);
    const std::size_t n = 1000;
    auto scores = noise(n, -60, 60, 9);
    scores[3] = -1e30f;
    const double largest = double{*std::max_element(scores.begin(), scores.end())};
    double total = 0;
    for (const float s : scores) total += std::exp2(double{s} - largest);

    float maximum = -std::numeric_limits<float>::infinity(), sum = 0;
    std::vector<float> weights = scores;
    for (std::size_t at = 0; at < n;) {
      const std::size_t count = std::min<std::size_t>(n - at, 1 + at % 97);
      const float factor = k->softmax_step(weights.data() + at, count, &maximum, &sum);
      for (std::size_t i = 0; i < at; ++i) weights[i] *= factor;
      at += count;
    }
    CHECK(double{maximum} == largest);
    CHECK(double{sum} == Approx(total).epsilon(1e-5));
    for (std::size_t i = 0; i < n; ++i) {
      const double expected = std::exp2(double{scores[i]} - largest) / total;
      REQUIRE(double{weights[i] / sum} == Approx(expected).epsilon(1e-5).margin(1e-30));
    }
  }
}
