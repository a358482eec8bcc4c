// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A look at all files of a store, a few at a time.
#pragma once

#include <dirent.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "directory.hpp"
#include "index.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Goes through the 256 folders of a store. Each call of go_on() continues where the last one
/// ended.
///
/// Thread:  Requires external synchronization
class DirectoryLook {
 public:
  explicit DirectoryLook(StoreDirectory& store) : store_(store) {}

  /// What a part of the look found.
  struct Part {
    std::vector<ObjectIndex::Entry> objects;
    std::vector<std::uint8_t> folders;  // that it is through with
    bool all = false;                   // the look is over
  };
  /// Looks at `entries` files and folders at most, and ends when `until` is over.
  Part go_on(std::size_t entries, std::chrono::steady_clock::time_point until);

 private:
  /// False: the folder has no more entries.
  bool next_entry(Part& part);

  StoreDirectory& store_;
  unsigned folder_ = 0;
  std::unique_ptr<DIR, int (*)(DIR*)> open_{nullptr, &::closedir};
};

}  // namespace cake::inline CAKE_ABI::detail
