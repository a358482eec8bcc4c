// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/chunk/digest.hpp"

#include <isa-l/crc.h>

#include <algorithm>

namespace cake::inline CAKE_ABI {

std::uint32_t crc32c(ConstBytes bytes, std::uint32_t seed) {
  // ISA-L leaves out the inversion before and after, takes a mutable pointer that it does not write
  // through, and counts in int.
  constexpr std::size_t most = std::size_t{1} << 30;
  std::uint32_t state = ~seed;
  while (!bytes.empty()) {
    const std::size_t size = std::min(bytes.size(), most);
    auto* data = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(bytes.data()));
    state = crc32_iscsi(data, static_cast<int>(size), state);
    bytes = bytes.subspan(size);
  }
  return ~state;
}

}  // namespace cake::inline CAKE_ABI
