// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A ring of reads that the kernel carries out (io_uring), as far as PosixStorage needs it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "cake/result.hpp"
#include "cake/types.hpp"
#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::detail {

class PosixCalls;

/// A read that is over: the bytes that it gave, or a negative errno.
struct RingCompletion {
  std::uint64_t tag = 0;
  int result = 0;
};

/// Belongs to the thread that opened it: the kernel finishes reads in the context of the thread that
/// handed them over, so none must be in flight while that thread does what may block.
///
/// Thread:  Requires external synchronization, except wake()
class Ring {
 public:
  Ring() = default;
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  /// Nothing is in flight. What was not handed over is dropped.
  virtual ~Ring() = default;
  /// False: there is no room before the next submit().
  virtual bool prepare_read(int file, void* out, std::size_t size, std::uint64_t offset,
                            std::uint64_t tag) = 0;
  /// Hands over what was prepared, or a part of it. 0 or a negative errno.
  virtual int submit() = 0;
  /// Reads that were prepared and not handed over yet.
  virtual unsigned unsubmitted() const = 0;
  /// The next read that is over. False: none is.
  virtual bool peek(RingCompletion& over) = 0;
  /// Returns once a read is over, somebody called wake(), or so much time has passed; also early.
  virtual void wait(std::chrono::milliseconds most) = 0;
  /// Ends the present wait() or the next one.
  virtual void wake() noexcept = 0;
};

/// Whether this build can open one at all.
bool rings_built_in();

/// Opens one for the calling thread. Null: errno says why.
///
/// Errors:  throws std::bad_alloc
std::unique_ptr<Ring> open_ring(unsigned entries);

/// Why no ring can be opened, from the errno, and what to do about it.
Error ring_refusal(int number);

/// Opens a ring, reads the beginning of `file` with it and compares.
///
/// Errors:  unsupported, io, out_of_memory: the reason and the remedy
Status probe_ring(PosixCalls& calls, int file, ConstBytes expected);
/// The same with a file in memory, for a store in which nothing may be written.
Status probe_ring_in_memory(PosixCalls& calls);

}  // namespace cake::inline CAKE_ABI::detail
