// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/landing.hpp"

#include <algorithm>
#include <new>
#include <utility>

namespace cake::inline CAKE_ABI::detail {

namespace {

/// Parses header and tables at the front of `bytes`; of device memory no more than that is copied.
///
/// Errors:  as parse_chunk(), and device
Result<ChunkTables> parse_landed(ConstBytes bytes, std::uint64_t object_size,
                                 const ChunkIdentity& expected, DeviceStaging* device) {
  if (device == nullptr) return parse_chunk(bytes, object_size, expected);
  const AlignedBuffer head(std::min<std::uint64_t>(expected.geometry.head_bytes(), bytes.size()));
  if (auto status = device->to_host(head.data(), bytes.data(), head.size()); !status) {
    return status.error();
  }
  return parse_chunk(head.bytes(), object_size, expected);
}

}  // namespace

Error encrypted_on_device() {
  return {Errc::unsupported, 0,
          "encrypted chunks cannot be read into device memory; open the lanes with "
          "LaneOptions::device = false, or save and load without ChunkOptions::keys"};
}

Result<KvView> verify_landed(const Landed& landed, LayerRange layers, std::uint64_t object_size,
                             const ChunkIdentity& expected, DeviceStaging* device,
                             std::shared_ptr<const ChunkTables>& tables, MutableBytes plain) {
  const ConstBytes bytes = landed.bytes;
  const bool encrypted = expected.geometry.valid() && expected.geometry.encrypted();
  if (encrypted && device != nullptr) return encrypted_on_device();
  try {
    if (!tables) {
      auto fresh = parse_landed(bytes, object_size, expected, device);
      if (!fresh) return fresh.error();
      tables = std::make_shared<const ChunkTables>(std::move(*fresh));
    }
    if (encrypted) return open_slice(*tables, expected, layers, bytes, plain);
    if (device != nullptr) return verify_slice(*tables, expected, layers, bytes, *device);
    if (landed.seal) return verify_slice(*tables, expected, layers, bytes, *landed.seal);
    if (landed.sink != nullptr) {
      return verify_slice(*tables, expected, layers, bytes, landed.sink->digests);
    }
    return verify_slice(*tables, expected, layers, bytes);
  } catch (const std::bad_alloc&) {
    return Error{Errc::out_of_memory, 0, "parse the tables of a chunk: no memory"};
  }
}

}  // namespace cake::inline CAKE_ABI::detail
