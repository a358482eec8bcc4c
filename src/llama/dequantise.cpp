// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Tensor types: their names, their block sizes, and how their blocks become fp32.
#include <cstring>
#include <iterator>

#include "cake/llama/gguf.hpp"
#include "gguf_types.hpp"
#include "numbers.hpp"

namespace cake::llama {
namespace {

constexpr std::uint32_t kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ8_0 = 8, kBf16 = 30;

constexpr TensorTypeInfo kTypes[] = {
    {"F32", 1, 4},  {"F16", 1, 2},  {"Q4_0", 32, 18}, {"Q4_1", 32, 20}, {"Q4_2"},    {"Q4_3"},
    {"Q5_0"},       {"Q5_1"},       {"Q8_0", 32, 34}, {"Q8_1"},         {"Q2_K"},    {"Q3_K"},
    {"Q4_K"},       {"Q5_K"},       {"Q6_K"},         {"Q8_K"},         {"IQ2_XXS"}, {"IQ2_XS"},
    {"IQ3_XXS"},    {"IQ1_S"},      {"IQ4_NL"},       {"IQ3_S"},        {"IQ2_S"},   {"IQ4_XS"},
    {"I8"},         {"I16"},        {"I32"},          {"I64"},          {"F64"},     {"IQ1_M"},
    {"BF16", 1, 2}, {"Q4_0_4_4"},   {"Q4_0_4_8"},     {"Q4_0_8_8"},     {"TQ1_0"},   {"TQ2_0"},
    {"IQ4_NL_4_4"}, {"IQ4_NL_4_8"}, {"IQ4_NL_8_8"},   {"MXFP4"},
};

std::uint16_t load_u16(const std::byte* p) {
  std::uint16_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

/// A block of 4-bit numbers: the low halves of its 16 bytes are elements 0 to 15, the high ones 16
/// to 31.
void unpack_nibbles(const std::byte* packed, float scale, float offset, float* out) {
  for (std::size_t i = 0; i < 16; ++i) {
    const auto byte = std::to_integer<unsigned>(packed[i]);
    out[i] = static_cast<float>(byte & 15) * scale + offset;
    out[i + 16] = static_cast<float>(byte >> 4) * scale + offset;
  }
}

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
  return info != nullptr && info->block_bytes != 0;
}

Status GgufFile::dequantise(const GgufTensor& tensor, std::span<float> out) const {
  if (!tensor_type_supported(tensor.type)) {
    return error(Errc::unsupported, "tensor \"" + tensor.name + "\" is " +
                                        tensor_type_name(tensor.type) +
                                        ", which is not supported; F32, F16, BF16, Q8_0, Q4_0 and "
                                        "Q4_1 are");
  }
  if (out.size() != tensor.elements) {
    return error(Errc::invalid_argument, "tensor \"" + tensor.name + "\" has " +
                                             std::to_string(tensor.elements) + " elements, not " +
                                             std::to_string(out.size()));
  }
  const std::byte* in = bytes_.data() + tensor.offset;
  const TensorTypeInfo& info = *find_tensor_type(tensor.type);
  float* to = out.data();
  float* const end = to + out.size();
  switch (tensor.type) {
    case kF32:
      std::memcpy(to, in, tensor.bytes);
      break;
    case kF16:
      for (; to != end; ++to, in += 2) *to = f16_to_f32(load_u16(in));
      break;
    case kBf16:
      for (; to != end; ++to, in += 2) *to = bf16_to_f32(load_u16(in));
      break;
    case kQ8_0:
      for (; to != end; to += 32, in += info.block_bytes) {
        const float scale = f16_to_f32(load_u16(in));
        for (std::size_t i = 0; i < 32; ++i) {
          to[i] = static_cast<float>(static_cast<std::int8_t>(in[2 + i])) * scale;
        }
      }
      break;
    case kQ4_0:
      for (; to != end; to += 32, in += info.block_bytes) {
        const float scale = f16_to_f32(load_u16(in));
        unpack_nibbles(in + 2, scale, -8.0f * scale, to);
      }
      break;
    case kQ4_1:
      for (; to != end; to += 32, in += info.block_bytes) {
        unpack_nibbles(in + 4, f16_to_f32(load_u16(in)), f16_to_f32(load_u16(in + 2)), to);
      }
      break;
    default:
      break;
  }
  return {};
}

}  // namespace cake::llama
