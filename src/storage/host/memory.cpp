// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "src/storage/host/memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <iterator>
#include <new>
#include <string>
#include <utility>

namespace cake::inline CAKE_ABI::detail {
namespace {

/// Plain memory, in large pages where the system has them.
AlignedBuffer plain_memory(std::uint64_t bytes, std::uint64_t capacity) {
  try {
    AlignedBuffer memory(bytes);
    (void)::madvise(memory.data(), bytes, MADV_HUGEPAGE);
    return memory;
  } catch (const std::bad_alloc&) {
    throw Exception({Errc::out_of_memory, 0,
                     "HostStorage: there is no host memory for a capacity of " +
                         std::to_string(capacity) + " bytes; lower capacity_bytes"});
  }
}

}  // namespace

HostMemory::HostMemory(std::uint64_t capacity_bytes, std::uint64_t arena_bytes,
                       StagingMemory* memory)
    : capacity_(capacity_bytes / kIoAlignment * kIoAlignment) {
  arena_bytes =
      std::clamp<std::uint64_t>(arena_bytes / kIoAlignment * kIoAlignment, kIoAlignment, capacity_);
  largest_ = arena_bytes;
  for (std::uint64_t left = capacity_; left != 0;) {
    const std::uint64_t bytes = std::min(left, arena_bytes);
    left -= bytes;
    if (memory != nullptr && problem_) {
      try {
        arenas_.emplace_back(AlignedBuffer(bytes, memory));
        continue;
      } catch (const std::bad_alloc&) {
        problem_ = Error{
            Errc::out_of_memory, 0,
            "HostStorage: " + std::to_string(bytes + left) + " of " + std::to_string(capacity_) +
                " bytes are plain memory, since HostOptions::memory has no more; loads from them "
                "are slower. Lower capacity_bytes, or raise the limit of locked memory"};
      }
    }
    arenas_.emplace_back(plain_memory(bytes, capacity_));
    plain_ += memory != nullptr ? bytes : 0;
  }
}

std::byte* HostMemory::take(std::uint64_t bytes, const ChunkKey& key) {
  bytes = align_up(bytes);
  const std::lock_guard lock(mutex_);
  for (Arena& arena : arenas_) {
    if (arena.memory.size() - arena.used < bytes || arena.map.largest_gap() < bytes) continue;
    std::byte* const data = arena.map.take(bytes);
    try {
      arena.taken.emplace(data, Taken{bytes, key});
    } catch (...) {
      arena.map.give_back(data, bytes);
      throw;
    }
    arena.used += bytes;
    return data;
  }
  return nullptr;
}

void HostMemory::give_back(std::byte* data, std::uint64_t bytes) noexcept {
  bytes = align_up(bytes);
  const std::lock_guard lock(mutex_);
  Arena& arena = arena_of(arenas_, data);
  arena.taken.erase(data);
  arena.map.give_back(data, bytes);
  arena.used -= bytes;
}

void HostMemory::shrink(std::byte* data, std::uint64_t from, std::uint64_t to) noexcept {
  const std::uint64_t kept = align_up(to);
  const std::uint64_t gone = align_up(from) - kept;
  if (gone == 0) return;
  const std::lock_guard lock(mutex_);
  Arena& arena = arena_of(arenas_, data);
  arena.taken.find(data)->second.bytes = kept;
  arena.map.give_back(data + kept, gone);
  arena.used -= gone;
}

HostMemory::Space HostMemory::space_around(const std::byte* begin, const std::byte* end) const {
  const std::lock_guard lock(mutex_);
  const Arena& arena = arena_of(arenas_, begin);
  Space space{arena.memory.data(), arena.memory.data() + arena.memory.size(), {}, {}};
  const auto behind = arena.taken.lower_bound(end);
  if (behind != arena.taken.end()) {
    space.end = behind->first;
    space.behind = behind->second.key;
  }
  const auto first = arena.taken.lower_bound(begin);
  if (first != arena.taken.begin()) {
    const auto before = std::prev(first);
    space.begin = before->first + before->second.bytes;
    space.before = before->second.key;
  }
  return space;
}

std::uint64_t HostMemory::used() const {
  const std::lock_guard lock(mutex_);
  std::uint64_t sum = 0;
  for (const Arena& arena : arenas_) sum += arena.used;
  return sum;
}

}  // namespace cake::inline CAKE_ABI::detail
