// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// GGUF files made by the tests themselves: a writer that can also write nonsense, and a Llama model
// small enough to be computed naively.
#pragma once

#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cake/reference/gguf.hpp"

namespace tiny {

enum TensorType : std::uint32_t {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q5_0 = 6,
  Q5_1 = 7,
  Q8_0 = 8,
  Q3_K = 11,  // not supported
  Q4_K = 12,
  Q5_K = 13,
  Q6_K = 14,
  BF16 = 30
};

/// A half as fp64, by its definition: the library's own conversion is tested against this.
inline double half_value(std::uint16_t bits) {
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  if (exponent == 31) return fraction == 0 ? sign * HUGE_VAL : NAN;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

class Writer {
 public:
  struct Tensor {
    std::string name;
    std::vector<std::uint64_t> shape;
    std::uint32_t type = F32;
    std::vector<std::byte> data;
    std::int64_t shift = 0;  // added to its offset
  };

  std::uint32_t magic = 0x46554747;
  std::uint32_t version = 3;
  std::uint64_t alignment = 32;
  std::int64_t extra_tensors = 0, extra_values = 0;  // what the counts claim too much
  std::vector<Tensor> tensors;

  /// Adds a value of any trivially copyable type under its type number.
  template <class T>
  Writer& value(const std::string& key, std::uint32_t type, T v) {
    begin(key, type);
    raw(values_, v);
    return *this;
  }
  Writer& u32(const std::string& key, std::uint32_t v) { return value(key, 4, v); }
  Writer& f32(const std::string& key, float v) { return value(key, 6, v); }
  Writer& boolean(const std::string& key, bool v) { return value(key, 7, std::uint8_t{v}); }
  Writer& string(const std::string& key, const std::string& v) {
    begin(key, 8);
    text(values_, v);
    return *this;
  }
  Writer& strings(const std::string& key, const std::vector<std::string>& all) {
    begin(key, 9);
    raw(values_, std::uint32_t{8});
    raw(values_, std::uint64_t{all.size()});
    for (const std::string& v : all) text(values_, v);
    return *this;
  }
  template <class T>
  Writer& array(const std::string& key, std::uint32_t type, const std::vector<T>& all) {
    begin(key, 9);
    raw(values_, type);
    raw(values_, std::uint64_t{all.size()});
    for (const T& v : all) raw(values_, v);
    return *this;
  }
  /// Bytes in place of a value, for nonsense.
  Writer& bytes(const std::string& key, std::uint32_t type, const std::vector<std::uint8_t>& all) {
    begin(key, type);
    for (const std::uint8_t b : all) raw(values_, b);
    return *this;
  }
  Tensor& tensor(const std::string& name) {
    for (Tensor& t : tensors) {
      if (t.name == name) return t;
    }
    throw std::out_of_range(name);
  }

  std::vector<std::byte> finish() const {
    std::vector<std::byte> out;
    raw(out, magic);
    raw(out, version);
    raw(out, tensors.size() + static_cast<std::uint64_t>(extra_tensors));
    raw(out, n_values_ + static_cast<std::uint64_t>(extra_values));
    out.insert(out.end(), values_.begin(), values_.end());
    std::uint64_t at = 0;
    for (const Tensor& t : tensors) {
      text(out, t.name);
      raw(out, static_cast<std::uint32_t>(t.shape.size()));
      for (const std::uint64_t size : t.shape) raw(out, size);
      raw(out, t.type);
      raw(out, at + static_cast<std::uint64_t>(t.shift));
      at += (t.data.size() + alignment - 1) / alignment * alignment;
    }
    for (const Tensor& t : tensors) {
      while (out.size() % alignment != 0) out.push_back(std::byte{});
      out.insert(out.end(), t.data.begin(), t.data.end());
    }
    return out;
  }

 private:
  template <class T>
  static void raw(std::vector<std::byte>& out, const T& v) {
    const std::size_t at = out.size();
    out.resize(at + sizeof v);
    std::memcpy(&out[at], &v, sizeof v);
  }
  static void text(std::vector<std::byte>& out, const std::string& v) {
    raw(out, std::uint64_t{v.size()});
    const auto all = std::as_bytes(std::span(v));
    out.insert(out.end(), all.begin(), all.end());
  }
  void begin(const std::string& key, std::uint32_t type) {
    text(values_, key);
    raw(values_, type);
    ++n_values_;
  }
  std::vector<std::byte> values_;
  std::uint64_t n_values_ = 0;
};

/// Random weights in the given type's encoding, and beside it what they mean in fp64.
struct Encoded {
  std::vector<std::byte> bytes;
  std::vector<double> values;
};

/// One random block of 256 elements of Q4_K, Q5_K or Q6_K. Each element's bits are looked up by its
/// number, where the library walks over the block.
inline void encode_k_block(std::uint32_t type, Encoded& out, std::mt19937& random,
                           std::uint16_t scale, std::uint16_t minimum) {
  const std::size_t size = type == Q6_K ? 210 : type == Q5_K ? 176 : 144;
  std::vector<std::uint8_t> block(size);
  for (std::uint8_t& b : block) b = static_cast<std::uint8_t>(random());
  std::array<unsigned, 8> scales{}, minimums{};
  if (type == Q6_K) {
    std::memcpy(&block[208], &scale, 2);
  } else {
    std::memcpy(&block[0], &scale, 2);
    std::memcpy(&block[2], &minimum, 2);
    for (std::size_t s = 0; s < 8; ++s) scales[s] = random() & 63, minimums[s] = random() & 63;
    for (std::size_t s = 0; s < 4; ++s) {
      block[4 + s] = static_cast<std::uint8_t>(scales[s] | scales[s + 4] >> 4 << 6);
      block[8 + s] = static_cast<std::uint8_t>(minimums[s] | minimums[s + 4] >> 4 << 6);
      block[12 + s] = static_cast<std::uint8_t>((scales[s + 4] & 15) | (minimums[s + 4] & 15) << 4);
    }
  }
  for (std::size_t e = 0; e < 256; ++e) {
    if (type == Q6_K) {
      const std::size_t in_half = e % 128;
      const int low = block[e / 128 * 64 + e % 64] >> (in_half < 64 ? 0 : 4) & 15;
      const int high = block[128 + e / 128 * 32 + e % 32] >> (in_half / 32 * 2) & 3;
      const auto sub_scale = static_cast<std::int8_t>(block[192 + e / 16]);
      out.values.push_back(half_value(scale) * sub_scale * (low + 16 * high - 32));
      continue;
    }
    const std::size_t low_at = (type == Q5_K ? 48 : 16) + e / 64 * 32 + e % 32;
    int q = block[low_at] >> (e % 64 < 32 ? 0 : 4) & 15;
    if (type == Q5_K) q += 16 * (block[16 + e % 32] >> (e / 32) & 1);
    out.values.push_back(half_value(scale) * scales[e / 32] * q -
                         half_value(minimum) * minimums[e / 32]);
  }
  const auto all = std::as_bytes(std::span(block));
  out.bytes.insert(out.bytes.end(), all.begin(), all.end());
}

inline Encoded encode(std::uint32_t type, std::size_t count, std::mt19937& random, double scale) {
  Encoded out;
  const auto put = [&](const auto& v) {
    const auto* p = reinterpret_cast<const std::byte*>(&v);
    out.bytes.insert(out.bytes.end(), p, p + sizeof v);
  };
  std::normal_distribution<double> normal(0.0, scale);
  // A positive half of about the wanted size: 2^exponent * (1 + fraction).
  const auto half = [&](double size) {
    const int exponent = static_cast<int>(std::floor(std::log2(size)));
    return static_cast<std::uint16_t>(static_cast<unsigned>(exponent + 15) << 10 |
                                      (random() & 1023));
  };
  if (type == F32 || type == BF16 || type == F16) {
    for (std::size_t i = 0; i < count; ++i) {
      if (type == F16) {
        const auto bits = static_cast<std::uint16_t>(half(scale) | (random() & 1) << 15);
        put(bits);
        out.values.push_back(half_value(bits));
        continue;
      }
      auto value = static_cast<float>(normal(random));
      std::uint32_t bits;
      std::memcpy(&bits, &value, 4);
      if (type == BF16) {
        bits &= 0xffff0000u;
        put(static_cast<std::uint16_t>(bits >> 16));
        std::memcpy(&value, &bits, 4);
      } else {
        put(bits);
      }
      out.values.push_back(double{value});
    }
    return out;
  }
  if (type == Q4_K || type == Q5_K || type == Q6_K) {
    for (std::size_t block = 0; block < count / 256; ++block) {
      const double q = type == Q6_K ? 64 * 18 : type == Q5_K ? 32 * 9 : 32 * 5;
      encode_k_block(type, out, random, half(scale / q), half(scale / 32));
    }
    return out;
  }
  const bool five_bits = type == Q5_0 || type == Q5_1;
  for (std::size_t block = 0; block < count / 32; ++block) {
    const std::uint16_t d = half(type == Q8_0 ? scale / 70 : five_bits ? scale / 10 : scale / 5);
    const auto m = static_cast<std::uint16_t>(half(scale * 1.5) | 0x8000);
    const auto fifth = five_bits ? static_cast<std::uint32_t>(random()) : 0;
    put(d);
    if (type == Q4_1 || type == Q5_1) put(m);
    if (five_bits) put(fifth);
    const std::size_t first = out.values.size();
    out.values.resize(first + 32);
    for (std::size_t i = 0; i < (type == Q8_0 ? 32u : 16u); ++i) {
      const auto byte = static_cast<std::uint8_t>(random());
      put(byte);
      if (type == Q8_0) {
        out.values[first + i] = half_value(d) * static_cast<std::int8_t>(byte);
      } else {
        const double offset = type == Q4_1 || type == Q5_1 ? half_value(m)
                              : five_bits                  ? -16 * half_value(d)
                                                           : -8 * half_value(d);
        const unsigned low = (byte & 15u) + 16 * (fifth >> i & 1);
        const unsigned high = (byte >> 4) + 16 * (fifth >> (i + 16) & 1);
        out.values[first + i] = half_value(d) * low + offset;
        out.values[first + 16 + i] = half_value(d) * high + offset;
      }
    }
  }
  return out;
}

/// The model's shape and what is special about it.
struct Shape {
  std::uint32_t type = F32;  // of the matrices
  std::uint32_t layers = 3, heads = 4, kv_heads = 2, head_dim = 16, embd = 64, ff = 96, vocab = 80;
  std::uint32_t context = 512;
  std::uint32_t rope_dimensions = 16;
  double rope_base = 500.0;
  double linear_factor = 1.0;
  bool rope_freqs = false;
  bool tied = true;
  std::uint32_t seed = 1;
  std::uint32_t output_type = ~0u;  // of an output that is not tied; none: as the matrices
};

struct Model {
  Shape shape;
  Writer file;
  std::map<std::string, std::vector<double>> weights;
};

inline Model make(const Shape& s = {}) {
  Model model{s, {}, {}};
  Writer& file = model.file;
  file.string("general.architecture", "llama").string("general.name", "tiny");
  file.u32("llama.block_count", s.layers).u32("llama.embedding_length", s.embd);
  file.u32("llama.attention.head_count", s.heads).u32("llama.attention.head_count_kv", s.kv_heads);
  file.u32("llama.feed_forward_length", s.ff).u32("llama.context_length", s.context);
  file.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  file.u32("llama.attention.key_length", s.head_dim);
  file.u32("llama.attention.value_length", s.head_dim);
  file.u32("llama.rope.dimension_count", s.rope_dimensions);
  file.f32("llama.rope.freq_base", static_cast<float>(s.rope_base));
  if (s.linear_factor != 1.0) {
    file.string("llama.rope.scaling.type", "linear");
    file.f32("llama.rope.scaling.factor", static_cast<float>(s.linear_factor));
  }
  std::mt19937 random(s.seed);
  const auto add = [&](const std::string& name, std::vector<std::uint64_t> shape,
                       std::uint32_t type, double scale) {
    std::size_t count = 1;
    for (const std::uint64_t size : shape) count *= size;
    Encoded data = encode(type, count, random, scale);
    model.weights[name] = std::move(data.values);
    file.tensors.push_back({name, std::move(shape), type, std::move(data.bytes), 0});
  };
  const std::uint64_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  const double in = 1.2 / std::sqrt(s.embd), out = 0.6 / std::sqrt(q);
  add("token_embd.weight", {s.embd, s.vocab}, s.type, 1.0);
  for (std::uint32_t i = 0; i < s.layers; ++i) {
    const std::string block = "blk." + std::to_string(i) + ".";
    add(block + "attn_norm.weight", {s.embd}, F32, 1.0);
    add(block + "attn_q.weight", {s.embd, q}, s.type, 2 * in);
    add(block + "attn_k.weight", {s.embd, kv}, s.type, 2 * in);
    add(block + "attn_v.weight", {s.embd, kv}, s.type, in);
    add(block + "attn_output.weight", {q, s.embd}, s.type, out);
    add(block + "ffn_norm.weight", {s.embd}, F32, 1.0);
    add(block + "ffn_gate.weight", {s.embd, s.ff}, s.type, in);
    add(block + "ffn_up.weight", {s.embd, s.ff}, s.type, in);
    add(block + "ffn_down.weight", {s.ff, s.embd}, s.type, out);
  }
  add("output_norm.weight", {s.embd}, F32, 1.0);
  if (!s.tied) {
    add("output.weight", {s.embd, s.vocab}, s.output_type == ~0u ? s.type : s.output_type, in);
  }
  if (s.rope_freqs) {
    add("rope_freqs.weight", {s.rope_dimensions / 2}, F32, 1.0);
    auto& tensor = file.tensors.back();
    for (std::size_t i = 0; i < s.rope_dimensions / 2; ++i) {
      const float factor = 1.0f + 0.75f * static_cast<float>(i);
      std::memcpy(tensor.data.data() + 4 * i, &factor, 4);
      model.weights["rope_freqs.weight"][i] = double{factor};
    }
  }
  return model;
}

/// Opens bytes that live until the program ends.
inline cake::reference::GgufFile parse(std::vector<std::byte> bytes) {
  static std::vector<std::vector<std::byte>>& kept = *new std::vector<std::vector<std::byte>>;
  kept.push_back(std::move(bytes));
  return cake::reference::GgufFile::parse(kept.back(), "tiny.gguf").value();
}

/// Logits of the last token, as simply as they can be computed: token by token in fp64.
inline std::vector<double> naive_logits(const Model& model, std::span<const std::int32_t> tokens) {
  const Shape& s = model.shape;
  using Vector = std::vector<double>;
  const auto& all = model.weights;
  const auto times = [](const Vector& matrix, const Vector& x) {
    Vector y(matrix.size() / x.size());
    for (std::size_t r = 0; r < y.size(); ++r) {
      for (std::size_t c = 0; c < x.size(); ++c) y[r] += matrix[r * x.size() + c] * x[c];
    }
    return y;
  };
  const auto norm = [](const Vector& x, const Vector& weight) {
    double squares = 0;
    for (const double v : x) squares += v * v;
    const double rms = std::sqrt(squares / static_cast<double>(x.size()) + 1e-5);
    Vector y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] / rms * weight[i];
    return y;
  };
  const auto rotate = [&](Vector& heads, std::size_t position) {
    for (std::size_t h = 0; h < heads.size(); h += s.head_dim) {
      for (std::size_t i = 0; i < s.rope_dimensions / 2; ++i) {
        double angle = static_cast<double>(position) / s.linear_factor *
                       std::pow(s.rope_base, -2.0 * static_cast<double>(i) / s.rope_dimensions);
        if (s.rope_freqs) angle /= all.at("rope_freqs.weight")[i];
        const double a = heads[h + 2 * i], b = heads[h + 2 * i + 1];
        heads[h + 2 * i] = a * std::cos(angle) - b * std::sin(angle);
        heads[h + 2 * i + 1] = a * std::sin(angle) + b * std::cos(angle);
      }
    }
  };
  std::vector<std::vector<Vector>> keys(s.layers), values(s.layers);
  Vector x;
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const auto row =
        all.at("token_embd.weight").begin() + tokens[t] * static_cast<std::int64_t>(s.embd);
    x.assign(row, row + s.embd);
    for (std::uint32_t layer = 0; layer < s.layers; ++layer) {
      const std::string block = "blk." + std::to_string(layer) + ".";
      const auto w = [&](const char* name) -> const Vector& {
        return all.at(block + name + ".weight");
      };
      const Vector in = norm(x, w("attn_norm"));
      Vector q = times(w("attn_q"), in), k = times(w("attn_k"), in);
      rotate(q, t);
      rotate(k, t);
      keys[layer].push_back(k);
      values[layer].push_back(times(w("attn_v"), in));
      Vector attended(q.size());
      for (std::size_t h = 0; h < s.heads; ++h) {
        const std::size_t kv = h / (s.heads / s.kv_heads) * s.head_dim;
        Vector weight(t + 1);
        double sum = 0;
        for (std::size_t u = 0; u <= t; ++u) {
          double score = 0;
          for (std::size_t i = 0; i < s.head_dim; ++i)
            score += q[h * s.head_dim + i] * keys[layer][u][kv + i];
          weight[u] = std::exp(score / std::sqrt(s.head_dim));
          sum += weight[u];
        }
        for (std::size_t u = 0; u <= t; ++u) {
          for (std::size_t i = 0; i < s.head_dim; ++i) {
            attended[h * s.head_dim + i] += weight[u] / sum * values[layer][u][kv + i];
          }
        }
      }
      const Vector projected = times(w("attn_output"), attended);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += projected[i];
      const Vector normed = norm(x, w("ffn_norm"));
      Vector gate = times(w("ffn_gate"), normed);
      const Vector up = times(w("ffn_up"), normed);
      for (std::size_t i = 0; i < gate.size(); ++i)
        gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      const Vector down = times(w("ffn_down"), gate);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += down[i];
    }
  }
  return times(all.at(s.tied ? "token_embd.weight" : "output.weight"),
               norm(x, all.at("output_norm.weight")));
}

/// A file in the temporary folder, removed again.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::vector<std::byte>& bytes) {
    static int number = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("cake_tiny_" + std::to_string(::getpid()) + "_" + std::to_string(number++) + ".gguf");
    std::ofstream file(path_, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace tiny
