// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/cuda/pinned_staging.hpp"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>
#include <vector>

#include "tests/cuda/gpu.hpp"

using namespace cake;
using namespace cake::cuda;

namespace {

/// Plain memory in place of pinned memory, counted; aligned to 4 KiB or never.
struct Fake {
  static inline std::atomic<int> live{0}, taken{0};
  static inline std::atomic<std::size_t> most{SIZE_MAX};  // of one block
  static inline std::atomic<int> refuse{0};               // so many calls
  static inline std::size_t shift = 0;

  static void* allocate(std::size_t bytes, int device) {
    if (device != 3 || bytes > most || refuse.fetch_sub(1) > 0) return nullptr;
    ++live;
    ++taken;
    auto* const block = static_cast<std::byte*>(
        std::aligned_alloc(kIoAlignment, detail::align_up(bytes + 2 * kIoAlignment)));
    std::memcpy(block, &shift, sizeof shift);
    return block + (shift == 0 ? kIoAlignment : shift);
  }
  static void release(void* block, int device) noexcept {
    if (device != 3) std::abort();
    --live;
    std::free(static_cast<std::byte*>(block) - (shift == 0 ? kIoAlignment : shift));
  }
  static int device() { return 3; }
  static PinnedSource source() {
    live = taken = refuse = 0;
    most = SIZE_MAX;
    shift = 0;
    return {allocate, release, device};
  }
};

bool aligned(const std::byte* p) { return reinterpret_cast<std::uintptr_t>(p) % kIoAlignment == 0; }

}  // namespace

TEST_CASE("memory that was given back is handed out again, in parts of any size") {
  {
    PinnedStaging staging(1 << 20, Fake::source());  // slabs of 64 KiB, or of what is asked for
    std::byte* const a = staging.allocate(100'000);
    CHECK(aligned(a));
    CHECK(staging.in_use() == 102'400);
    std::memset(a, 1, 100'000);
    staging.release(a, 100'000);
    CHECK(staging.kept() == 102'400);
    CHECK(staging.allocate(90'000) == a);
    std::byte* const rest = staging.allocate(8192);  // behind it
    CHECK(rest == a + 90'112);
    CHECK(staging.kept() == 4096);
    CHECK(Fake::taken == 1);
    std::byte* const small = staging.allocate(10'000);
    CHECK(staging.allocate(20'000) == small + 12'288);
    CHECK(Fake::taken == 2);
    staging.release(small + 12'288, 20'000);
    staging.release(a, 90'000);
    CHECK(staging.allocate(94'208) != a);  // its neighbour is in use
    CHECK(Fake::taken == 3);
    staging.release(rest, 8192);
    CHECK(staging.allocate(102'400) == a);
    CHECK(Fake::live == 3);
  }
  CHECK(Fake::live == 0);
}

TEST_CASE("what is reserved is locked at once, in one piece where that can be had") {
  {
    PinnedStaging staging(1 << 20, Fake::source());
    staging.reserve(4 << 20);
    CHECK(Fake::taken == 1);
    CHECK(staging.kept() == 4 << 20);
    std::vector<std::byte*> parts;
    for (std::size_t bytes = 4096; staging.in_use() + bytes <= 4 << 20; bytes += 4096) {
      parts.push_back(staging.allocate(bytes));
    }
    CHECK(Fake::taken == 1);
    for (std::byte* const part : parts) staging.release(part, 0);
    CHECK(staging.kept() == 4 << 20);  // more than the megabyte that it was to keep
    staging.reserve(4 << 20);          // is there
    CHECK(Fake::taken == 1);
    std::byte* const used = staging.allocate(1 << 20);
    staging.reserve(4 << 20);  // beside what others use
    CHECK(staging.kept() == 4 << 20);
    staging.release(used, 0);
  }
  CHECK(Fake::live == 0);
}

TEST_CASE("what is reserved comes in pieces, or not at all, where the system has no more") {
  PinnedStaging staging(1 << 20, Fake::source());
  Fake::most = 1 << 20;
  staging.reserve(3 << 20);
  CHECK(staging.kept() == 3 << 20);
  CHECK(Fake::live == 4);  // 768 KiB each: 3 MiB was halved twice
  Fake::most = 0;
  staging.reserve(30 << 20);
  CHECK(staging.kept() == 3 << 20);
  std::byte* const there = staging.allocate(500'000);
  CHECK(there != nullptr);
  CHECK_THROWS_AS(staging.allocate(1 << 20), std::bad_alloc);
  staging.release(there, 0);
  staging.reserve(0);
  staging.reserve(SIZE_MAX);
}

TEST_CASE("the slab that fits best is taken") {
  PinnedStaging staging(1 << 20, Fake::source());
  std::byte* const large = staging.allocate(120 << 10);
  std::byte* const fitting = staging.allocate(100 << 10);
  staging.release(large, 120 << 10);
  staging.release(fitting, 100 << 10);
  CHECK(staging.allocate(100 << 10) == fitting);
  CHECK(staging.allocate(100 << 10) == large);
  staging.release(large, 0);
  staging.release(fitting, 0);
}

TEST_CASE("no more is kept than was asked for, and the longest unused goes first") {
  PinnedStaging staging(64 << 10, Fake::source());
  std::byte* blocks[4];
  for (std::byte*& b : blocks) b = staging.allocate(32 << 10);
  for (std::byte* b : blocks) staging.release(b, 32 << 10);
  CHECK(staging.kept() == 64 << 10);
  CHECK(Fake::live == 2);
  std::byte* const x = staging.allocate(32 << 10);
  std::byte* const y = staging.allocate(32 << 10);
  CHECK(((x == blocks[2] && y == blocks[3]) || (x == blocks[3] && y == blocks[2])));
  CHECK(Fake::taken == 4);
  staging.release(x, 0);
  staging.release(y, 0);
  std::byte* const big = staging.allocate(1 << 20);
  staging.release(big, 1 << 20);  // more than all that may be kept
  CHECK(staging.kept() == 0);
  CHECK(Fake::live == 0);
}

TEST_CASE("memory that the source aligns badly is aligned") {
  {
    const PinnedSource source = Fake::source();
    Fake::shift = 512;
    PinnedStaging staging(1 << 20, source);
    for (const std::size_t bytes : {1ul, 4096ul, 4097ul, 70'000ul}) {
      std::byte* const p = staging.allocate(bytes);
      CHECK(aligned(p));
      std::memset(p, 7, detail::align_up(bytes));
      staging.release(p, bytes);
      CHECK(staging.allocate(bytes) == p);
      staging.release(p, bytes);
    }
  }
  CHECK(Fake::live == 0);
  Fake::shift = 0;
}

TEST_CASE("want of memory gives up what is kept before it is an error") {
  PinnedStaging staging(1 << 20, Fake::source());
  staging.release(staging.allocate(8192), 8192);
  Fake::refuse = 1;
  std::byte* const p = staging.allocate(100'000);
  CHECK(p != nullptr);
  CHECK(staging.kept() == 0);
  CHECK(Fake::live == 1);
  Fake::refuse = 100;
  CHECK_THROWS_AS(staging.allocate(100'000), std::bad_alloc);
  CHECK_THROWS_AS(staging.allocate(SIZE_MAX), std::bad_alloc);
  Fake::refuse = 0;
  CHECK(staging.in_use() == 102'400);
  staging.release(p, 100'000);
  staging.release(nullptr, 0);
  CHECK(staging.in_use() == 0);
}

TEST_CASE("four threads allocate and release at once, none the memory of another") {
  std::atomic<int> wrong{0};
  {
    PinnedStaging staging(256 << 10, Fake::source());
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (std::size_t i = 0; i < 500; ++i) {
          const std::size_t bytes = 4096 * (1 + (i * 7 + static_cast<std::size_t>(t)) % 20);
          AlignedBuffer buffer(bytes, &staging);
          std::memset(buffer.data(), t, bytes);
          std::this_thread::yield();
          for (const std::byte b : buffer.bytes()) {
            if (b != static_cast<std::byte>(t)) {
              ++wrong;
              break;
            }
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(staging.in_use() == 0);
    CHECK(staging.kept() <= 256 << 10);
  }
  CHECK(wrong == 0);
  CHECK(Fake::live == 0);
}

TEST_CASE("without a device there is no pinned memory, and it says so") {
  if (usable()) return;
  PinnedStaging staging;
  CHECK_THROWS_AS(staging.allocate(4096), std::bad_alloc);
  CHECK(staging.in_use() == 0);
}

TEST_CASE("pinned staging is memory that the device knows") {
  CAKE_NEEDS_GPU();
  PinnedStaging staging;
  for (const std::size_t bytes : {100ul, 4096ul, 5000ul, 3ul << 20}) {
    AlignedBuffer buffer(bytes, &staging);
    CHECK(aligned(buffer.data()));
    std::memset(buffer.data(), 9, bytes);
    for (const std::size_t at : {std::size_t{0}, bytes - 1}) {
      cudaPointerAttributes attributes{};
      REQUIRE(cudaPointerGetAttributes(&attributes, buffer.data() + at) == cudaSuccess);
      CHECK(attributes.type == cudaMemoryTypeHost);
    }
  }
  CHECK(staging.in_use() == 0);
  CHECK(staging.kept() > 3 << 20);
  std::thread([&] {
    AlignedBuffer buffer(3 << 20, &staging);
  }).join();  // a thread without a device
  CHECK(cudaGetLastError() == cudaSuccess);
}
