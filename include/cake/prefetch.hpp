// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Prompts that wait: their chunks are brought from slower tiers into the fastest one, with what running
// prompts leave of the lanes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>

#include "cake/export.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"

namespace cake::inline CAKE_ABI {

struct PrefetchOptions {
  /// Of this prompt; none: the session's.
  std::optional<ChunkOptions> chunks = {};
  /// That are read at most: the last chunks of the prompt, which save the most compute. The fastest tier should
  /// hold what is prefetched for all prompts that wait. Units: bytes
  std::uint64_t most_bytes = ~std::uint64_t{0};
  /// Of each lane. A prompt that begins finds so many reads in its way. 0 counts as 1.
  std::uint32_t reads_at_once = 2;
  /// As PrefetchTicket::request_stop().
  std::stop_token stop = {};
};

/// Units: chunks, bytes. Every stored chunk counts once: as there, read, by_others, failed or left.
struct PrefetchReport {
  /// canceled: it was stopped. unsupported: there is nothing to prefetch into, and what to do about it.
  Status status;
  /// Error of the lookup, if it failed: nothing is then taken to be stored.
  Status lookup;
  /// The first failure of a read.
  Status load_error;
  std::uint32_t stored = 0;     // of the prompt
  std::uint32_t there = 0;      // in the fastest tier, or in memory that a slower one lends
  std::uint32_t read = 0;       // verified, and offered to the store
  std::uint32_t by_others = 0;  // a prompt that ran meanwhile has read it whole
  std::uint32_t failed = 0;     // to be read, or damaged: not offered, and not erased
  std::uint32_t left = 0;  // so far, or for good once it has ended: stopped, or beyond most_bytes
  std::uint64_t bytes_read = 0;
};

namespace detail {
class Prefetch;
}

/// A prefetch that goes on beside other work. Its destructor stops it and waits for nothing.
///
/// Needs:   the lanes outlive it
/// Thread:  Safe for concurrent use, but for moves. In a child process after fork() wait() returns at once
class CAKE_API PrefetchTicket {
 public:
  PrefetchTicket(PrefetchTicket&&) noexcept;
  PrefetchTicket& operator=(PrefetchTicket&&) noexcept;
  ~PrefetchTicket();

  /// All is read, or is not going to be. Copies into the fastest tier may still be under way:
  /// TieredStorage::flush() waits for those that the lanes have handed over.
  bool ready() const;
  /// Blocks until it is. It may take as long as running prompts leave nothing of the lanes.
  PrefetchReport wait() const;
  /// As it stands.
  PrefetchReport report() const;
  /// No read begins any more, and nobody waits for those under way.
  void request_stop() noexcept;

 private:
  struct Inside;
  friend class detail::Prefetch;
  explicit PrefetchTicket(std::unique_ptr<Inside> inside);
  std::unique_ptr<Inside> inside_;
};

}  // namespace cake::inline CAKE_ABI
