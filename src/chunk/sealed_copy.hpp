// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The way of an object into a store that keeps it in memory: copied and verified in one pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "cake/chunk/reader.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Copies an object and verifies the copy as verify_object() does, each block while it is in the
/// cache. Returns the seal; none for bytes that are no chunk object, or one of a format that this
/// build does not know: they are copied as they are.
///
/// `to` may be null: the object is then verified where it lies.
///
/// Needs:   room for the whole object at `to`
/// Errors:  corrupt, mismatch; `to` then holds nothing of use
Result<std::optional<std::uint32_t>> sealed_copy(ConstBytes object, const ChunkKey& key,
                                                 std::byte* to);

/// Whether the header is that of an object of this key, size and seal.
///
/// Errors:  mismatch
Status check_seal(ConstBytes object, const ChunkKey& key, std::uint32_t seal);

}  // namespace cake::inline CAKE_ABI::detail
