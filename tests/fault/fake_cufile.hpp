// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Orders to, and counts of, the library that stands in for cuFile. It reads real files; its device
// memory is a second mapping of what the addresses name.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::fault {

struct FakeCufile {
  enum Way : int { p2p, nvfs, posix, untold };
  static constexpr std::uint64_t kAlways = ~std::uint64_t{0};

  // Orders.
  std::atomic<int> driver_open{0};           // what the function of that name returns; 0: success
  std::atomic<int> handle_register{0};       //
  std::atomic<int> buf_register{0};          //
  std::atomic<int> get_stats{0};             //
  std::atomic<int> way{p2p};                 // which reads are counted as made
  std::atomic<std::uint64_t> good_reads{0};  // so many reads go well before
  std::atomic<std::uint64_t> bad_reads{0};   // so many that do not:
  std::atomic<std::int64_t> bad_result{0};   //   they return this, transferring nothing,
  std::atomic<int> bad_errno{0};             //   with errno
  std::atomic<std::uint64_t> most_bytes{0};  // a read returns at most so many; 0: all
  std::atomic<std::uint64_t> flip_at{kAlways};  // this byte of every file arrives wrong
  std::atomic<bool> hang_driver{false};         // opening it waits while it is set
  std::atomic<bool> hang{false};                // reads wait while it is set
  std::atomic<std::ptrdiff_t> shadow{0};        // from an address to where its bytes are

  // Counts.
  std::atomic<int> driver_opens{0};
  std::atomic<int> handles{0};  // registered now
  std::atomic<int> buffers{0};
  std::atomic<int> in_flight{0};
  std::atomic<std::uint64_t> registrations{0};  // of handles, ever
  std::atomic<std::uint64_t> reads{0};
  std::atomic<std::uint64_t> most_in_flight{0};
  std::atomic<int> stats_level{1};
  std::atomic<const char*> broken{nullptr};  // the first rule of cuFile's that was broken

  void obey() {  // nothing ordered any more; counts stay
    driver_open = handle_register = buf_register = get_stats = 0;
    way = p2p;
    good_reads = bad_reads = most_bytes = 0;
    bad_result = 0;
    bad_errno = 0;
    flip_at = kAlways;
    hang = hang_driver = false;
  }
};

}  // namespace cake::inline CAKE_ABI::fault
