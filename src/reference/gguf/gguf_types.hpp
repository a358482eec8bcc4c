// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What the numbers in a GGUF file mean.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "cake/reference/gguf.hpp"

namespace cake::inline CAKE_ABI::reference {

/// Bytes of one value in the file; 0 for strings and arrays, which say their own size.
constexpr std::uint64_t width_of(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean:
      return 1;
    case GgufType::u16:
    case GgufType::i16:
      return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32:
      return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64:
      return 8;
    case GgufType::string:
    case GgufType::array:
      return 0;
  }
  return 0;
}

/// One ggml tensor type. Supported types have a block size; of the others only the name is known.
///
/// Source:  ggml's enum ggml_type and block structs (facts: numbers and sizes)
struct TensorTypeInfo {
  std::string_view name;
  std::uint32_t block_elements = 0;
  std::uint32_t block_bytes = 0;
  void (*decode)(const std::byte* blocks, std::size_t n_blocks, float* out) = nullptr;
};

/// Null when no such number is known.
const TensorTypeInfo* find_tensor_type(std::uint32_t type);

}  // namespace cake::inline CAKE_ABI::reference
