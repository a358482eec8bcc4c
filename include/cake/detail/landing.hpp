// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// From landed bytes to verified KV, on the host or on the device that they landed on.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>

#include "cake/chunk/reader.hpp"
#include "cake/detail/guarded.hpp"
#include "cake/export.hpp"
#include "cake/staging.hpp"
#include "cake/storage_backend.hpp"

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

/// What to report of bytes that failed verify_landed() with `why`. Bytes that the store reads
/// differently on another path (`stored_bytes_differ`) are a fault of the path; the object is whole.
template <class S>
Error classify_failure(S& storage, const ChunkKey& key, std::uint64_t offset, ConstBytes bytes,
                       const Error& why) {
  if ((why.code == Errc::corrupt || why.code == Errc::mismatch) &&
      detail::value_or(
          [&] { return storage_traits<S>::stored_bytes_differ(storage, key, offset, bytes); },
          false)) {
    return {Errc::device, 0,
            "the bytes received of a chunk differ from the stored ones (transport error)"};
  }
  return why;
}

}  // namespace cake::inline CAKE_ABI::detail
