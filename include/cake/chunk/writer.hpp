// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Builds a stored chunk in memory, ready to be published in one write.
#pragma once

#include <cstdint>
#include <optional>

#include "cake/chunk/format.hpp"
#include "cake/engine.hpp"
#include "cake/export.hpp"
#include "cake/result.hpp"
#include "cake/staging.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

namespace detail {
class Gcm;
class WriterForTests;
}  // namespace detail
namespace wire {
struct Header;
}

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
  explicit ChunkWriter(ChunkGeometry geometry, StagingMemory* memory = nullptr);
  /// The object lies in memory of the caller's, which nothing is written to before payload() is.
  ///
  /// Needs:   `object` has geometry.object_bytes() bytes, and outlives the writer
  ChunkWriter(ChunkGeometry geometry, MutableBytes object);

  const ChunkGeometry& geometry() const { return geometry_; }
  /// Where the KV of all layers goes. Stays the same from chunk to chunk.
  MutableKvView payload();
  /// The KV of these layers, as positions of KvLayout::stored_order(), is in the payload and stays as
  /// it is: digests it now, while it is in the cache, so that finish() need not. Layers come in
  /// order, from 0 on for each object; what comes out of turn is left for finish(), and so are encrypted
  /// objects.
  void digest(LayerRange positions);
  /// Fills in digests, tables, header and footer, and returns the object. It is valid until the
  /// payload is written again. Of an encrypted object the payload is encrypted where it lies, with a key
  /// of this one object: all layers are to be put there anew before the next finish(). `held`: one of
  /// geometry().held_counts(); the first layers of KvLayout::stored_order(), whose KV alone is in the
  /// object. Without it: all.
  ///
  /// Errors:  invalid_argument: `identity` has another layout or number of tokens than the writer, or no
  ///          keys; no object holds so many layers; payload() was not called since an encrypted object
  ///          was finished. unsupported: OpenSSL does not encrypt
  Result<ConstBytes> finish(const ChunkIdentity& identity);
  Result<ConstBytes> finish(const ChunkIdentity& identity, std::uint32_t held);
  /// Of the object that finish() returned last: what verify_object() would return for it.
  std::uint32_t seal() const { return seal_; }

 private:
  friend class detail::WriterForTests;
  Result<ConstBytes> finish(const ChunkIdentity& identity, std::uint32_t held,
                            const std::optional<Sha256Digest>& random);
  Status encrypt(wire::Header& header, const ChunkIdentity& identity, std::uint32_t held,
                 const std::optional<Sha256Digest>& random);
  void digest_layer(std::uint32_t position, detail::Gcm* gcm);
  void write_tables(std::uint32_t held, Tokens tokens, std::uint32_t digested, detail::Gcm* gcm);

  ChunkGeometry geometry_;
  AlignedBuffer own_;
  MutableBytes object_;
  std::uint32_t digested_ = 0;  // layers of this object, from the first position on
  std::uint32_t seal_ = 0;
  bool encrypted_ = false;  // the payload is, since finish()
};

}  // namespace cake::inline CAKE_ABI
