// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// From landed bytes to verified KV, on the host or on the device that they landed on.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "cake/chunk/reader.hpp"
#include "cake/detail/guarded.hpp"
#include "cake/staging.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Parses header and tables at the front of `bytes`; of device memory no more than that is copied.
///
/// Errors:  as parse_chunk(), and device
inline Result<ChunkTables> parse_landed(ConstBytes bytes, std::uint64_t object_size,
                                        const ChunkIdentity& expected, DeviceStaging* device) {
  if (device == nullptr) return parse_chunk(bytes, object_size, expected);
  const AlignedBuffer head(std::min<std::uint64_t>(expected.geometry.head_bytes(), bytes.size()));
  if (auto status = device->to_host(head.data(), bytes.data(), head.size()); !status) {
    return status.error();
  }
  return parse_chunk(head.bytes(), object_size, expected);
}

/// Parses the tables if they are not known, and checks every byte of the slice.
///
/// Needs:   `bytes` lies in `device`, or on the host when that is null
/// Errors:  as parse_chunk() and verify_slice(); device; out_of_memory
inline Result<KvView> verify_landed(ConstBytes bytes, LayerRange layers, std::uint64_t object_size,
                                    const ChunkIdentity& expected, DeviceStaging* device,
                                    std::shared_ptr<const ChunkTables>& tables) {
  try {
    if (!tables) {
      auto fresh = parse_landed(bytes, object_size, expected, device);
      if (!fresh) return fresh.error();
      tables = std::make_shared<const ChunkTables>(std::move(*fresh));
    }
    return device == nullptr ? verify_slice(*tables, expected, layers, bytes)
                             : verify_slice(*tables, expected, layers, bytes, *device);
  } catch (const std::bad_alloc&) {
    return Error{Errc::out_of_memory, 0, "parse the tables of a chunk: no memory"};
  }
}

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
