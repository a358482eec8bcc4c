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
/// ended. Of objects that the store trusts alone: others are left to whoever owns them.
///
/// Thread:  Requires external synchronization
class DirectoryLook {
 public:
  /// From the folder `first` on.
  explicit DirectoryLook(StoreDirectory& store, std::uint8_t first = 0)
      : store_(store), folder_(first) {}
  /// One for eviction. It also asks for priorities, and makes times in the future the present ones:
  /// whoever wrote the file had a clock that was ahead, and would keep it for ever.
  static DirectoryLook to_evict(StoreDirectory& store) {
    DirectoryLook look(store);
    look.to_evict_ = true;
    return look;
  }

  /// What a part of the look found.
  struct Part {
    std::vector<ObjectIndex::Entry> objects;
    std::vector<std::uint8_t> folders;  // that it is through with
    bool all = false;                   // the look is over
    std::uint64_t others = 0;           // entries that are no objects
    Status problem;                     // why the last folder could not be looked at
  };
  /// Looks at `entries` files and folders at most, and ends when `until` is over.
  Part go_on(std::size_t entries, std::chrono::steady_clock::time_point until);
  /// Looks at all that is left of one folder.
  Part folder();

 private:
  /// Looks at one entry, or ends a folder: false.
  bool step(Part& part);
  /// Opens the folder. False: nothing is known of it.
  bool open_folder(Part& part);
  /// False: the folder has no more entries.
  bool next_entry(Part& part);

  StoreDirectory& store_;
  unsigned folder_;
  bool to_evict_ = false;
  std::unique_ptr<DIR, int (*)(DIR*)> open_{nullptr, &::closedir};
};

}  // namespace cake::inline CAKE_ABI::detail
