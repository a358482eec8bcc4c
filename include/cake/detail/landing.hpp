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
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI::detail {

/// What the parts of one read are told to: they are digested on the thread that read them.
class DigestingSink final : public PieceSink {
 public:
  DigestingSink(const ChunkGeometry& geometry, LayerRange layers, ConstBytes bytes)
      : digests(geometry, layers, bytes) {}
  void arrived(ConstBytes piece) noexcept override { digests.arrived(piece); }

  SliceDigests digests;
};

/// What a good read brought.
struct Landed {
  ConstBytes bytes;
  bool lent = false;  // they lie in the store: whoever inserts them moves them, not the lane
  std::optional<std::uint32_t> seal = std::nullopt;  // as of BorrowedBytes
  const DigestingSink* sink = nullptr;               // what its parts were told to
};

/// Why lanes that read into device memory load no encrypted chunks.
CAKE_API Error encrypted_on_device();

/// Parses the tables if they are not known, and checks every byte of the slice, unless that was done
/// on the way. An encrypted slice is decrypted into `plain`.
///
/// Needs:   the bytes lie in `device`, or on the host when that is null; `plain` as open_slice()
/// Errors:  as parse_chunk(), verify_slice() and open_slice(); device; out_of_memory; unsupported: an
///          encrypted slice in `device`
CAKE_API Result<KvView> verify_landed(const Landed& landed, LayerRange layers,
                                      std::uint64_t object_size, const ChunkIdentity& expected,
                                      DeviceStaging* device,
                                      std::shared_ptr<const ChunkTables>& tables,
                                      MutableBytes plain = {});

}  // namespace cake::inline CAKE_ABI::detail
