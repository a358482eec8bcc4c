// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Page-locked staging memory, which a device copies from at full speed. Blocks are kept for reuse,
// because locking pages is slow and may stop the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "cake/export.hpp"
#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::cuda {

/// Allocates blocks for PinnedStaging; tests replace it.
///
/// Thread:  Requires external synchronization
struct PinnedSource {
  /// At any alignment; null when there is no more.
  void* (*allocate)(std::size_t bytes, int device);
  void (*release)(void* block, int device) noexcept;
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
  /// For the device that is current. `keep_bytes`: most that is kept for reuse; the longest unused
  /// goes first.
  explicit PinnedStaging(std::size_t keep_bytes = std::size_t{512} << 20,
                         PinnedSource source = cuda_pinned_source());
  ~PinnedStaging() override;
  PinnedStaging(const PinnedStaging&) = delete;
  PinnedStaging& operator=(const PinnedStaging&) = delete;

  std::byte* allocate(std::size_t bytes) override;
  void release(std::byte* data, std::size_t bytes) noexcept override;

  /// Units:   bytes
  std::size_t kept() const;
  std::size_t in_use() const;

 private:
  struct Block {
    std::byte* data = nullptr;   // aligned
    void* block = nullptr;       // as the source gave it
    std::size_t bytes = 0;       // from `data` on
    std::uint64_t released = 0;  // 0: in use; else when, by count
  };
  Block take(std::size_t bytes);
  std::byte* take_kept(std::size_t bytes);
  void shrink(std::size_t keep) noexcept;

  const std::size_t keep_bytes_;
  const PinnedSource source_;
  const int device_;
  mutable std::mutex mutex_;
  std::vector<Block> blocks_;
  std::size_t kept_ = 0;
  std::size_t in_use_ = 0;
  std::uint64_t releases_ = 0;
};

}  // namespace cake::inline CAKE_ABI::cuda
