// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A read that the threads of a lane carry out in parts: what they and its session know of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "cake/chunk/reader.hpp"
#include "cake/detail/session_engine.hpp"
#include "cake/result.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Some whole layers of a read, neighbours in the object and in the model.
///
/// Units: bytes; `offset` is in the stored object
struct ReadPart {
  LayerRange layers;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

/// One read whose parts are read, verified and inserted each by itself, by any threads. The slice is
/// resident when all parts are in, and failed when one of them is; the session learns of the end of
/// the read at the latest when this object ends, on whatever thread.
///
/// Thread:  Safe for concurrent use; not with a lock of the lanes
class PartedRead {
 public:
  PartedRead() = default;
  PartedRead(const PartedRead&) = delete;
  PartedRead& operator=(const PartedRead&) = delete;
  virtual ~PartedRead() = default;

  /// In the order of the layers; at least one.
  virtual std::span<const ReadPart> parts() const noexcept = 0;
  /// Bytes of the object, from its first one on, that open() needs; 0: it needs none.
  virtual std::uint64_t head_bytes() const noexcept = 0;
  /// Before all parts. False: the read has failed.
  virtual bool open(ConstBytes head) noexcept = 0;
  /// What digests a part's bytes while they arrive; null: they are digested when all have.
  virtual std::optional<SliceDigests> digests(std::size_t part,
                                              ConstBytes bytes) const noexcept = 0;
  /// A part has landed and is verified, or decrypted where it lies; its insert has begun. Null: there is
  /// nothing to insert. The bytes stay as they are until inserted() was called.
  virtual std::unique_ptr<PendingInsert> landed(std::size_t part, MutableBytes bytes,
                                                const SliceDigests* digests) noexcept = 0;
  /// The insert of a part is over, and its PendingInsert has ended. True: it was the last one of a
  /// whole object that is now resident.
  virtual bool inserted(const Status& status) noexcept = 0;
  /// A part cannot be read, and so the whole.
  virtual void failed(const Error& why) noexcept = 0;
};

}  // namespace cake::inline CAKE_ABI::detail
