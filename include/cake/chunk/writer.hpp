// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Builds a stored chunk in memory, ready to be published in one write.
#pragma once

#include <cstdint>

#include "cake/chunk/format.hpp"
#include "cake/engine.hpp"
#include "cake/export.hpp"
#include "cake/result.hpp"
#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI {

/// Builds one object after the other in the same buffer.
///
///     cake::ChunkWriter writer(memory.layout(), 256);
///     memory.extract(slice, writer.payload());       // all layers
///     storage.write(identity.key, *writer.finish(identity));
///
/// Thread:  Requires external synchronization
/// Errors:  the constructor throws Exception(invalid_argument) unless ChunkGeometry::fits, and
///          std::bad_alloc
class CAKE_API ChunkWriter {
 public:
  /// The object lies in `memory`, which outlives the writer; null: in plain host memory.
  ChunkWriter(const KvLayout& layout, std::uint32_t chunk_tokens, StagingMemory* memory = nullptr);

  const ChunkGeometry& geometry() const { return geometry_; }
  /// Where the KV of all layers goes. Stays the same from chunk to chunk.
  MutableKvView payload();
  /// Fills in digests, tables, header and footer, and returns the object. It is valid until the
  /// payload is written again. `held`: one of geometry().held_counts(); the first layers of
  /// KvLayout::stored_order(), whose KV alone is in the object. Without it: all.
  ///
  /// Errors:  invalid_argument: `identity` has another layout or number of tokens than the writer,
  ///          or no object holds so many layers
  Result<ConstBytes> finish(const ChunkIdentity& identity);
  Result<ConstBytes> finish(const ChunkIdentity& identity, std::uint32_t held);

 private:
  ChunkGeometry geometry_;
  AlignedBuffer object_;
};

}  // namespace cake::inline CAKE_ABI
