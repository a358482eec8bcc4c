// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The digest of stored bytes: CRC-32C (Castagnoli), one per 64 KiB block.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cake/engine.hpp"
#include "cake/export.hpp"

namespace cake::inline CAKE_ABI {

/// Bytes that one digest covers; the last block of an extent may be shorter.
inline constexpr std::size_t kDigestBlock = std::size_t{64} * 1024;

/// CRC-32C of `bytes`. With the digest of what came before as `seed` the two run on:
/// crc32c(b, crc32c(a)) is the digest of a followed by b.
///
/// Source:  RFC 3720 section 12.1 (check value of "123456789": 0xE3069283); computed by ISA-L
CAKE_API std::uint32_t crc32c(ConstBytes bytes, std::uint32_t seed = 0);

}  // namespace cake::inline CAKE_ABI
