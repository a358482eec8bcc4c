// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a test makes the FUSE file system of faulty_mount.cpp do. Both processes map the same file.
#pragma once

#include <atomic>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::fault {

/// All are off when zero. Errno values are positive.
///
/// Thread:  Safe for concurrent use, also by several processes
struct MountFaults {
  std::atomic<int> link_error, rename_error, rename_flags_error, write_error, sync_error,
      sync_folder_error, allocate_error, lock_error, change_error, open_error;
  std::atomic<int> direct_open_error;  // of an open with O_DIRECT
  std::atomic<int> shown_mode;         // added to the mode of everything
  std::atomic<int> shown_owner;        // 0: the real one; else one more than the user id
  // Calls wait for as long as it is set, those of files whose name contains the letters in `only`.
  std::atomic<int> hang_read, hang_open, hang_look;
  std::atomic<int> hanging;  // calls that wait now
  char only[80];             // empty: all; set while nothing hangs
};

}  // namespace cake::inline CAKE_ABI::fault
