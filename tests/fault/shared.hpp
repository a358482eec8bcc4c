// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Memory that a test and the processes that it starts have in common.
#pragma once

#include <sys/mman.h>

#include <new>
#include <stdexcept>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::fault {

/// A value that a process and its children share.
template <class T>
class Shared {
 public:
  Shared() {
    void* const memory =
        ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("no shared memory");
    value_ = new (memory) T{};
  }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  ~Shared() { ::munmap(value_, sizeof(T)); }
  T& operator*() const { return *value_; }
  T* operator->() const { return value_; }

 private:
  T* value_;
};

}  // namespace cake::inline CAKE_ABI::fault
