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
    if (!file_) file_ = store_.open_shared(kName, 0);
    if (!file_) return Taken::unsupported;
    if (lock(store_, file_, LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) return Taken::no;
      file_ = Fd();
      return Taken::unsupported;
    }
    if (store_.is_shared(file_, kName)) {
      holders_ = 1;
      return Taken::yes;
    }
    file_ = Fd();
  }
  return Taken::unsupported;
}

void EvictionTurn::give_back() {
  const std::lock_guard only_one(mutex_);
  if (--holders_ == 0) static_cast<void>(lock(store_, file_, LOCK_UN));
}

}  // namespace cake::inline CAKE_ABI::detail
