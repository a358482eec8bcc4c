// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// From landed bytes to verified KV, on the host or on the device that they landed on.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "cake/chunk/reader.hpp"
#include "cake/export.hpp"
#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Parses the tables if they are not known, and checks every byte of the slice, unless the store has
/// done so: `seal` as of BorrowedBytes.
///
/// Needs:   `bytes` lies in `device`, or on the host when that is null
/// Errors:  as parse_chunk() and verify_slice(); device; out_of_memory
CAKE_API Result<KvView> verify_landed(ConstBytes bytes, LayerRange layers,
                                      std::uint64_t object_size, const ChunkIdentity& expected,
                                      DeviceStaging* device,
                                      std::shared_ptr<const ChunkTables>& tables,
                                      std::optional<std::uint32_t> seal = std::nullopt);

}  // namespace cake::inline CAKE_ABI::detail
