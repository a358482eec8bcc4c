// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/cuda/pinned_staging.hpp"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <new>

#include "cake/detail/arena.hpp"
#include "src/cuda/runtime/current_device.hpp"

namespace cake::inline CAKE_ABI::cuda {
namespace {

bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % kIoAlignment == 0; }

int current_device() {
  int device = -1;
  if (cudaGetDevice(&device) != cudaSuccess) {
    (void)cudaGetLastError();
    return -1;
  }
  return device;
}

/// Calls what() with `device` current, where there is one.
template <class What>
void on(int device, What what) {
  if (device < 0) return what();
  const CurrentDevice current(device);
  if (current.status()) {
    what();
  } else {
    (void)cudaGetLastError();
  }
}

void* lock_pages(std::size_t bytes, int device) {
  void* slab = nullptr;
  on(device, [&] {
    if (cudaHostAlloc(&slab, bytes, cudaHostAllocMapped | cudaHostAllocPortable) != cudaSuccess) {
      (void)cudaGetLastError();
      slab = nullptr;
    }
  });
  return slab;
}

void free_pages(void* slab, int device) noexcept {
  on(device, [&] { (void)cudaFreeHost(slab); });
}

}  // namespace

PinnedSource cuda_pinned_source() { return {lock_pages, free_pages, current_device}; }

struct PinnedStaging::Slab {
  Slab(const PinnedSource& from, int for_device, void* memory, std::byte* at, std::size_t bytes)
      : source(from), device(for_device), slab(memory), parts({at, bytes}) {}
  ~Slab() { source.release(slab, device); }
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  std::size_t bytes() const { return parts.range().size(); }
  bool has(const std::byte* data) const {
    return std::uintptr_t(data) - std::uintptr_t(parts.range().data()) < bytes();
  }

  const PinnedSource source;
  const int device;
  void* const slab;  // as the source gave it
  detail::ArenaMap parts;
  std::map<const std::byte*, std::size_t> in_use;  // bytes of each part
  std::uint64_t released = 0;                      // when the last part came back, by count
};

PinnedStaging::PinnedStaging(std::size_t keep_bytes, PinnedSource source)
    : source_(source),
      device_(source.device()),
      slab_bytes_(detail::align_up(keep_bytes / 16)),
      keep_bytes_(keep_bytes) {}

PinnedStaging::~PinnedStaging() = default;

/// Null: there is no more.
std::unique_ptr<PinnedStaging::Slab> PinnedStaging::lock_slab(std::size_t bytes) const noexcept {
  void* slab = source_.allocate(bytes, device_);
  if (slab != nullptr && !aligned(slab)) {  // the source promises no alignment
    source_.release(slab, device_);
    slab = source_.allocate(bytes + kIoAlignment, device_);
  }
  if (slab == nullptr) return nullptr;
  const auto at = reinterpret_cast<std::uintptr_t>(slab);
  std::byte* const data = static_cast<std::byte*>(slab) + (detail::align_up(at) - at);
  try {
    return std::make_unique<Slab>(source_, device_, slab, data, bytes);
  } catch (const std::bad_alloc&) {
    source_.release(slab, device_);
    return nullptr;
  }
}

/// False: it is null, or there is no memory to note it in.
bool PinnedStaging::add(std::unique_ptr<Slab> slab) noexcept {
  if (slab == nullptr) return false;
  try {
    slabs_.push_back(std::move(slab));
  } catch (const std::bad_alloc&) {
    return false;
  }
  kept_ += slabs_.back()->bytes();
  return true;
}

std::byte* PinnedStaging::allocate(std::size_t bytes) {
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  bytes = detail::align_up(bytes != 0 ? bytes : 1);
  {
    const std::lock_guard lock(mutex_);
    if (std::byte* const kept = take_part(bytes)) return kept;
  }
  // Locking pages takes long: nobody else waits for it.
  std::unique_ptr<Slab> slab = lock_slab(std::max(bytes, slab_bytes_));
  if (slab == nullptr && slab_bytes_ > bytes) slab = lock_slab(bytes);
  if (slab == nullptr) {
    {
      const std::lock_guard lock(mutex_);
      shrink(0);
    }
    slab = lock_slab(bytes);
  }
  const std::lock_guard lock(mutex_);
  if (!add(std::move(slab))) throw std::bad_alloc();
  return take_part(bytes);
}

/// Out of the slab whose largest gap is the tightest. Null: none is large enough.
std::byte* PinnedStaging::take_part(std::size_t bytes) {
  Slab* best = nullptr;
  std::size_t gap = SIZE_MAX;
  for (const auto& slab : slabs_) {
    const std::size_t largest = slab->parts.largest_gap();
    if (largest < bytes || largest >= gap) continue;
    best = slab.get();
    gap = largest;
  }
  if (best == nullptr) return nullptr;
  std::byte* const data = best->parts.take(bytes);
  try {
    best->in_use.emplace(data, bytes);
  } catch (const std::bad_alloc&) {
    best->parts.give_back(data, bytes);
    throw;
  }
  kept_ -= bytes;
  in_use_ += bytes;
  return data;
}

void PinnedStaging::release(std::byte* data, std::size_t) noexcept {
  if (data == nullptr) return;
  const std::lock_guard lock(mutex_);
  const auto slab =
      std::find_if(slabs_.begin(), slabs_.end(), [&](const auto& s) { return s->has(data); });
  if (slab == slabs_.end()) return;
  const auto part = (*slab)->in_use.find(data);
  if (part == (*slab)->in_use.end()) return;
  const std::size_t bytes = part->second;
  (*slab)->in_use.erase(part);
  (*slab)->parts.give_back(data, bytes);
  (*slab)->released = ++releases_;
  in_use_ -= bytes;
  kept_ += bytes;
  shrink(keep_bytes_);
}

void PinnedStaging::reserve(std::size_t bytes) noexcept {
  bytes = bytes / kIoAlignment * kIoAlignment;
  std::unique_lock lock(mutex_);
  for (std::size_t size = bytes; size != 0 && kept_ < bytes;) {
    size = std::min(size, bytes - kept_);
    lock.unlock();
    std::unique_ptr<Slab> slab = lock_slab(size);
    lock.lock();
    if (add(std::move(slab))) continue;
    size = size <= slab_bytes_ ? 0 : size / 2 / kIoAlignment * kIoAlignment;  // not in one piece
  }
  keep_bytes_ = std::max(keep_bytes_, in_use_ + std::min(bytes, kept_));
}

void PinnedStaging::shrink(std::size_t keep) noexcept {
  while (kept_ > keep) {
    auto oldest = slabs_.end();
    for (auto slab = slabs_.begin(); slab != slabs_.end(); ++slab) {
      if (!(*slab)->in_use.empty()) continue;
      if (oldest == slabs_.end() || (*slab)->released < (*oldest)->released) oldest = slab;
    }
    if (oldest == slabs_.end()) return;
    kept_ -= (*oldest)->bytes();
    slabs_.erase(oldest);
  }
}

std::size_t PinnedStaging::kept() const {
  const std::lock_guard lock(mutex_);
  return kept_;
}
std::size_t PinnedStaging::in_use() const {
  const std::lock_guard lock(mutex_);
  return in_use_;
}

}  // namespace cake::inline CAKE_ABI::cuda
