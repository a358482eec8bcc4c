// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Page-locked staging memory, which a device copies from at full speed. It is handed out in parts of
// slabs, and slabs are kept for reuse: locking and unlocking pages is slow, and stops the copies of
// the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cake/export.hpp"
#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::cuda {

/// Allocates slabs for PinnedStaging; tests replace it.
///
/// Thread:  Requires external synchronization
struct PinnedSource {
  /// At any alignment; null when there is no more.
  void* (*allocate)(std::size_t bytes, int device);
  void (*release)(void* slab, int device) noexcept;
  /// The calling thread's; negative: there is none.
  int (*device)();
};
/// cudaHostAlloc.
CAKE_API PinnedSource cuda_pinned_source();

/// Page-locked memory at 4 KiB boundaries. An engine returns one from staging_memory(), so that a
/// Loader reads into it:
///
///     cake::StagingMemory* staging_memory() { return &staging_; }     // a PinnedStaging
///
/// Needs:   outlives what was allocated from it
/// Thread:  Safe for concurrent use
class CAKE_API PinnedStaging final : public StagingMemory {
 public:
  /// For the device that is current. `keep_bytes`: most that is kept locked while nobody uses it, in
  /// slabs of which no part is in use; the longest unused goes first. A new slab has a 16th of it, or
  /// what is asked for where that is more.
  explicit PinnedStaging(std::size_t keep_bytes = std::size_t{512} << 20,
                         PinnedSource source = cuda_pinned_source());
  ~PinnedStaging() override;
  PinnedStaging(const PinnedStaging&) = delete;
  PinnedStaging& operator=(const PinnedStaging&) = delete;

  std::byte* allocate(std::size_t bytes) override;
  void release(std::byte* data, std::size_t bytes) noexcept override;
  /// Locks pages until so many bytes are there that nobody uses, in as few slabs as can be had, and
  /// keeps as many from now on.
  void reserve(std::size_t bytes) noexcept override;

  /// Bytes that are locked, and that nobody uses.
  std::size_t kept() const;
  std::size_t in_use() const;

 private:
  struct Slab;
  std::unique_ptr<Slab> lock_slab(std::size_t bytes) const noexcept;
  bool add(std::unique_ptr<Slab> slab) noexcept;
  std::byte* take_part(std::size_t bytes);
  void shrink(std::size_t keep) noexcept;

  const PinnedSource source_;
  const int device_;
  const std::size_t slab_bytes_;
  mutable std::mutex mutex_;
  std::size_t keep_bytes_;
  std::vector<std::unique_ptr<Slab>> slabs_;
  std::size_t kept_ = 0;
  std::size_t in_use_ = 0;
  std::uint64_t releases_ = 0;
};

}  // namespace cake::inline CAKE_ABI::cuda
