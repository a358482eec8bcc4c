// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/cuda/pinned_staging.hpp"

#include <cuda_runtime_api.h>

#include <new>

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
  void* block = nullptr;
  on(device, [&] {
    if (cudaHostAlloc(&block, bytes, cudaHostAllocMapped | cudaHostAllocPortable) != cudaSuccess) {
      (void)cudaGetLastError();
      block = nullptr;
    }
  });
  return block;
}

void free_pages(void* block, int device) noexcept {
  on(device, [&] { (void)cudaFreeHost(block); });
}

}  // namespace

PinnedSource cuda_pinned_source() { return {lock_pages, free_pages, current_device}; }

PinnedStaging::PinnedStaging(std::size_t keep_bytes, PinnedSource source)
    : keep_bytes_(keep_bytes), source_(source), device_(source.device()) {}

PinnedStaging::~PinnedStaging() { shrink(0); }

PinnedStaging::Block PinnedStaging::take(std::size_t bytes) {
  Block block{nullptr, source_.allocate(bytes, device_), bytes, 0};
  if (block.block != nullptr && !aligned(block.block)) {  // the source promises no alignment
    source_.release(block.block, device_);
    block.block = source_.allocate(bytes + kIoAlignment, device_);
  }
  const auto at = reinterpret_cast<std::uintptr_t>(block.block);
  block.data = static_cast<std::byte*>(block.block);
  if (block.data != nullptr) block.data += detail::align_up(at) - at;
  return block;
}

std::byte* PinnedStaging::allocate(std::size_t bytes) {
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  bytes = detail::align_up(bytes != 0 ? bytes : 1);
  if (std::byte* const kept = take_kept(bytes)) return kept;
  // Locking pages takes long: nobody else waits for it.
  Block block = take(bytes);
  if (block.data == nullptr) {
    {
      const std::lock_guard lock(mutex_);
      shrink(0);
    }
    block = take(bytes);
  }
  if (block.data == nullptr) throw std::bad_alloc();
  try {
    const std::lock_guard lock(mutex_);
    blocks_.push_back(block);
    in_use_ += block.bytes;
  } catch (const std::bad_alloc&) {
    source_.release(block.block, device_);
    throw;
  }
  return block.data;
}

std::byte* PinnedStaging::take_kept(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  Block* best = nullptr;
  for (Block& block : blocks_) {  // the tightest of those that waste at most a quarter
    if (block.released == 0 || block.bytes < bytes || block.bytes - bytes > bytes / 4) continue;
    if (best == nullptr || block.bytes < best->bytes) best = &block;
  }
  if (best == nullptr) return nullptr;
  best->released = 0;
  kept_ -= best->bytes;
  in_use_ += best->bytes;
  return best->data;
}

void PinnedStaging::release(std::byte* data, std::size_t) noexcept {
  if (data == nullptr) return;
  const std::lock_guard lock(mutex_);
  for (Block& block : blocks_) {
    if (block.data != data || block.released != 0) continue;
    block.released = ++releases_;
    in_use_ -= block.bytes;
    kept_ += block.bytes;
    break;
  }
  shrink(keep_bytes_);
}

void PinnedStaging::shrink(std::size_t keep) noexcept {
  while (kept_ > keep) {
    std::size_t oldest = blocks_.size();
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      if (blocks_[i].released == 0) continue;
      if (oldest == blocks_.size() || blocks_[i].released < blocks_[oldest].released) oldest = i;
    }
    if (oldest == blocks_.size()) return;
    kept_ -= blocks_[oldest].bytes;
    source_.release(blocks_[oldest].block, device_);
    blocks_[oldest] = blocks_.back();
    blocks_.pop_back();
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
