// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "failing_new.hpp"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

#include "cake/version.hpp"

namespace {

std::atomic<long> g_left{-1};  // negative: none fails
std::atomic<bool> g_keep{false};
std::atomic<int> g_failed{0};
std::atomic<bool (*)()> g_refuse{nullptr};

bool refuse_now() {
  if (bool (*const refuse)() = g_refuse.load(); refuse != nullptr && refuse()) return true;
  if (g_left.load() < 0 || g_left.fetch_sub(1) > 0) return false;
  if (g_keep) g_left = 0;
  ++g_failed;
  return true;
}

void* allocate(std::size_t size, std::size_t alignment) {
  if (refuse_now()) throw std::bad_alloc();
  const std::size_t whole = (size + alignment) / alignment * alignment;
  if (void* p = std::aligned_alloc(alignment, whole)) return p;
  throw std::bad_alloc();
}

}  // namespace

namespace cake::inline CAKE_ABI::failing_new {
void start(long after, bool keep) {
  g_failed = 0;
  g_keep = keep;
  g_left = after;
}
int stop() {
  g_left = -1;
  return g_failed;
}
void when(bool (*refuse)()) { g_refuse = refuse; }
}  // namespace cake::inline CAKE_ABI::failing_new

void* operator new(std::size_t size) { return allocate(size, alignof(std::max_align_t)); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate(size, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  try {
    return operator new(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
