// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "eviction_turn.hpp"

#include <sys/file.h>

#include <cerrno>

namespace cake::inline CAKE_ABI::detail {
namespace {

constexpr const char* kName = ".evict.lock";

int lock(StoreDirectory& store, const Fd& file, int operation) {
  int result;
  do {
    result = store.calls().lock(file.get(), operation);
  } while (result != 0 && errno == EINTR);
  return result;
}

}  // namespace

EvictionTurn::EvictionTurn(StoreDirectory& store) : store_(store) {
  supported_ = take() != Taken::unsupported;
  if (holders_ != 0) give_back();
}

EvictionTurn::Taken EvictionTurn::take() {
  const std::lock_guard only_one(mutex_);
  if (holders_ > 0) {
    ++holders_;
    return Taken::yes;
  }
  // A file that was deleted by hand, or with its directory, is nobody's any more.
  for (int attempt = 0; attempt < 3; ++attempt) {
    // For writing, without which some file systems give no lock of one's own.
    file_ = store_.open_shared(kName, O_RDWR);
    if (!file_) return Taken::unsupported;
    if (lock(store_, file_, LOCK_EX | LOCK_NB) != 0) {
      const bool taken = errno == EWOULDBLOCK;
      file_ = Fd();
      return taken ? Taken::no : Taken::unsupported;
    }
    if (store_.is_shared(file_, kName)) {
      holders_ = 1;
      return Taken::yes;
    }
  }
  file_ = Fd();
  return Taken::unsupported;
}

void EvictionTurn::give_back() {
  const std::lock_guard only_one(mutex_);
  if (--holders_ != 0) return;
  static_cast<void>(lock(store_, file_, LOCK_UN));  // a forked child may have the file, too
  file_ = Fd();  // a file system with a file that is open for writing cannot be remounted read-only
}

}  // namespace cake::inline CAKE_ABI::detail
