// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What objects with threads of their own need to survive fork(): a child process has a copy of the
// object and of its locked mutexes, and none of its threads.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "cake/result.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Records the process that created it. The owner checks it before it takes a lock, waits or joins
/// a thread: in a child process all three can block for ever.
///
///     Status Pool::submit(...) {
///       if (auto status = made_here_.check("a Pool"); !status) return status;
///     Pool::~Pool() { if (!made_here_.in_child()) stop(); else abandon(std::move(threads_)); }
///
/// Cost:    one system call, about 0.1 us
/// Thread:  Safe for concurrent use
class ForkGuard {
 public:
  /// True in a child process that got the object by fork().
  bool in_child() const noexcept { return ::getpid() != process_; }
  /// Errors:  unsupported: this is a child process; `what` names the object with its article
  Status check(const char* what) const {
    if (!in_child()) return {};
    return Error{Errc::unsupported, 0,
                 std::string(what) + " of the parent process is used after fork(), where its " +
                     "threads do not exist; make a new one in the child process"};
  }

 private:
  pid_t process_ = ::getpid();
};

/// Keeps `value` for ever without running its destructor. For members that a child process may
/// neither use nor destroy, such as joinable threads. It stays reachable, so that leak checkers see
/// that it was meant.
template <class T>
void abandon(T value) noexcept {
  struct Kept {
    T value;
    Kept* next;
  };
  static std::atomic<Kept*> all{nullptr};
  // Without memory the value cannot be kept, and destroying it is what must not happen.
  auto* const kept = static_cast<Kept*>(::operator new(sizeof(Kept), std::nothrow));
  if (kept == nullptr) ::_exit(70);
  ::new (kept) Kept{std::move(value), all.load()};
  while (!all.compare_exchange_weak(kept->next, kept)) {
  }
}

}  // namespace cake::inline CAKE_ABI::detail
