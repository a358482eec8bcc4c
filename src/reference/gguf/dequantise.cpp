// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Tensor types: their names, their block sizes, and how their blocks become fp32.
#include <cstring>
#include <iterator>

#include "cake/reference/gguf.hpp"
#include "gguf_types.hpp"
#include "numbers.hpp"

namespace cake::inline CAKE_ABI::reference {
namespace {

std::uint16_t load_u16(const std::byte* p) {
  std::uint16_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}
float load_f16(const std::byte* p) { return f16_to_f32(load_u16(p)); }
unsigned load_u8(const std::byte* p) { return std::to_integer<unsigned>(*p); }

void decode_f32(const std::byte* in, std::size_t n, float* out) {
  std::memcpy(out, in, n * sizeof(float));
}
void decode_f16(const std::byte* in, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; ++i) out[i] = load_f16(in + 2 * i);
}
void decode_bf16(const std::byte* in, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; ++i) out[i] = bf16_to_f32(load_u16(in + 2 * i));
}

/// 32 elements: a scale, 32 signed bytes.
void decode_q8_0(const std::byte* in, std::size_t n, float* out) {
  for (; n-- > 0; in += 34, out += 32) {
    const float scale = load_f16(in);
    for (std::size_t i = 0; i < 32; ++i) {
      out[i] = static_cast<float>(static_cast<std::int8_t>(in[2 + i])) * scale;
    }
  }
}

/// A block of 4-bit numbers: the low halves of its 16 bytes are elements 0 to 15, the high ones 16
/// to 31. With `high`, the bits of a word are their fifth ones.
void unpack_nibbles(const std::byte* packed, std::uint32_t high, float scale, float offset,
                    float* out) {
  for (std::size_t i = 0; i < 16; ++i) {
    const unsigned byte = load_u8(packed + i);
    const unsigned low = (byte & 15) | (high >> i & 1) << 4;
    const unsigned upper = byte >> 4 | (high >> (i + 16) & 1) << 4;
    out[i] = static_cast<float>(low) * scale + offset;
    out[i + 16] = static_cast<float>(upper) * scale + offset;
  }
}
std::uint32_t load_u32(const std::byte* p) {
  std::uint32_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

void decode_q4_0(const std::byte* in, std::size_t n, float* out) {
  for (; n-- > 0; in += 18, out += 32) {
    const float scale = load_f16(in);
    unpack_nibbles(in + 2, 0, scale, -8.0f * scale, out);
  }
}
void decode_q4_1(const std::byte* in, std::size_t n, float* out) {
  for (; n-- > 0; in += 20, out += 32) {
    unpack_nibbles(in + 4, 0, load_f16(in), load_f16(in + 2), out);
  }
}
void decode_q5_0(const std::byte* in, std::size_t n, float* out) {
  for (; n-- > 0; in += 22, out += 32) {
    const float scale = load_f16(in);
    unpack_nibbles(in + 6, load_u32(in + 2), scale, -16.0f * scale, out);
  }
}
void decode_q5_1(const std::byte* in, std::size_t n, float* out) {
  for (; n-- > 0; in += 24, out += 32) {
    unpack_nibbles(in + 8, load_u32(in + 4), load_f16(in), load_f16(in + 2), out);
  }
}

/// Scale and minimum of one of eight sub-blocks: 6 bits each, in 12 bytes. The first four of both
/// are the low 6 bits of bytes 0 to 3 and 4 to 7; the others have their low 4 bits in bytes 8 to 11
/// and their high 2 bits above those six.
struct ScaleAndMinimum {
  unsigned scale, minimum;
};
ScaleAndMinimum sub_block(const std::byte* packed, std::size_t i) {
  const auto byte = [&](std::size_t at) { return load_u8(packed + at); };
  if (i < 4) return {byte(i) & 63, byte(i + 4) & 63};
  return {(byte(i + 4) & 15) | byte(i - 4) >> 6 << 4, byte(i + 4) >> 4 | byte(i) >> 6 << 4};
}

/// 256 elements in eight sub-blocks of 32. Sub-blocks 2k and 2k + 1 are the low and the high halves
/// of the same 32 bytes; where there is a fifth bit, that of sub-block s is bit s of 32 bytes more.
template <bool kFifthBit>
void decode_q45_k(const std::byte* in, std::size_t n, float* out) {
  constexpr std::size_t kHigh = kFifthBit ? 32 : 0;
  for (; n-- > 0; in += 16 + kHigh + 128) {
    const float scale = load_f16(in);
    const float minimum = load_f16(in + 2);
    const std::byte* const high = in + 16;
    const std::byte* const low = high + kHigh;
    for (std::size_t s = 0; s < 8; ++s, out += 32) {
      const ScaleAndMinimum six = sub_block(in + 4, s);
      const float d = scale * static_cast<float>(six.scale);
      const float m = minimum * static_cast<float>(six.minimum);
      for (std::size_t i = 0; i < 32; ++i) {
        unsigned q = load_u8(low + s / 2 * 32 + i) >> (s % 2 * 4) & 15;
        if constexpr (kFifthBit) q |= (load_u8(high + i) >> s & 1) << 4;
        out[i] = d * static_cast<float>(q) - m;
      }
    }
  }
}

/// 256 elements of 6 bits in two halves of 128: the low 4 bits in 64 bytes a half, the high 2 bits
/// in 32 bytes a half, then a signed scale for every 16 elements, then the scale of all.
void decode_q6_k(const std::byte* in, std::size_t n, float* out) {
  for (; n-- > 0; in += 210) {
    const float scale = load_f16(in + 208);
    for (std::size_t half = 0; half < 2; ++half) {
      const std::byte* const low = in + half * 64;
      const std::byte* const high = in + 128 + half * 32;
      const std::byte* const scales = in + 192 + half * 8;
      for (std::size_t quarter = 0; quarter < 4; ++quarter, out += 32) {
        for (std::size_t i = 0; i < 32; ++i) {
          const unsigned four = load_u8(low + quarter % 2 * 32 + i) >> (quarter / 2 * 4) & 15;
          const unsigned two = load_u8(high + i) >> (quarter * 2) & 3;
          const auto sub_scale = static_cast<std::int8_t>(scales[quarter * 2 + i / 16]);
          out[i] = scale * static_cast<float>(sub_scale) *
                   static_cast<float>(static_cast<int>(four | two << 4) - 32);
        }
      }
    }
  }
}

constexpr TensorTypeInfo kTypes[] = {
    {"F32", 1, 4, decode_f32},
    {"F16", 1, 2, decode_f16},
    {"Q4_0", 32, 18, decode_q4_0},
    {"Q4_1", 32, 20, decode_q4_1},
    {"Q4_2"},
    {"Q4_3"},
    {"Q5_0", 32, 22, decode_q5_0},
    {"Q5_1", 32, 24, decode_q5_1},
    {"Q8_0", 32, 34, decode_q8_0},
    {"Q8_1"},
    {"Q2_K"},
    {"Q3_K"},
    {"Q4_K", 256, 144, decode_q45_k<false>},
    {"Q5_K", 256, 176, decode_q45_k<true>},
    {"Q6_K", 256, 210, decode_q6_k},
    {"Q8_K"},
    {"IQ2_XXS"},
    {"IQ2_XS"},
    {"IQ3_XXS"},
    {"IQ1_S"},
    {"IQ4_NL"},
    {"IQ3_S"},
    {"IQ2_S"},
    {"IQ4_XS"},
    {"I8"},
    {"I16"},
    {"I32"},
    {"I64"},
    {"F64"},
    {"IQ1_M"},
    {"BF16", 1, 2, decode_bf16},
    {"Q4_0_4_4"},
    {"Q4_0_4_8"},
    {"Q4_0_8_8"},
    {"TQ1_0"},
    {"TQ2_0"},
    {"IQ4_NL_4_4"},
    {"IQ4_NL_4_8"},
    {"IQ4_NL_8_8"},
    {"MXFP4"},
};

}  // namespace

const TensorTypeInfo* find_tensor_type(std::uint32_t type) {
  return type < std::size(kTypes) ? &kTypes[type] : nullptr;
}

std::string tensor_type_name(std::uint32_t type) {
  const auto* info = find_tensor_type(type);
  return info != nullptr ? std::string(info->name) : "type " + std::to_string(type);
}

bool tensor_type_supported(std::uint32_t type) {
  const auto* info = find_tensor_type(type);
  return info != nullptr && info->decode != nullptr;
}

std::string supported_tensor_types() {
  std::string names;
  for (const TensorTypeInfo& type : kTypes) {
    if (type.decode == nullptr) continue;
    if (!names.empty()) names += ", ";
    names += type.name;
  }
  return names;
}

}  // namespace cake::inline CAKE_ABI::reference
