// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Verifying where the bytes lie, and the arena that they lie in.
#include <map>

#include "cake/detail/arena.hpp"
#include "cake/detail/landing.hpp"
#include "catch.hpp"
#include "gds_helpers.hpp"

namespace {

using namespace cake;
using sample::FakeDevice;

TEST_CASE("a slice in device memory is verified as one on the host is") {
  for (const std::uint32_t tokens : {16u, 600u}) {  // extents of one block, and of two with a rest
    FakeDevice device(std::size_t{8} << 20, nullptr);
    const auto chunk = sample::make(5, {4, 8, 16, DType::bf16, KvOrder::nhd}, tokens);
    const ChunkGeometry geometry = chunk.geometry();
    for (std::uint32_t begin = 0; begin < 4; ++begin) {
      for (std::uint32_t end = begin + 1; end <= 4; ++end) {
        const LayerRange layers{begin, end};
        const ByteRange range = geometry.read_range(layers);
        const AlignedBuffer part(range.size(), &device);
        std::vector<std::byte> bytes(
            chunk.object.begin() + static_cast<std::ptrdiff_t>(range.begin),
            chunk.object.begin() + static_cast<std::ptrdiff_t>(range.end));
        const auto tables = std::make_shared<const ChunkTables>(
            parse_chunk(chunk.head(), chunk.object.size(), chunk.identity).value());
        const auto verify = [&](DeviceStaging* where) {
          std::shared_ptr<const ChunkTables> known = begin == 0 ? nullptr : tables;
          if (where != nullptr) device.from_host(part.data(), bytes.data(), bytes.size()).value();
          return detail::verify_landed(
              {.bytes = where ? ConstBytes(part.bytes()) : ConstBytes(bytes)}, layers,
              chunk.object.size(), chunk.identity, where, known);
        };
        const auto view = verify(&device);
        REQUIRE(view);
        REQUIRE(verify(nullptr));
        for (std::uint32_t layer = begin; layer < end; ++layer) {
          std::vector<std::byte> run(geometry.runs()[1].bytes);
          device.to_host(run.data(), view->v(layer).data(), run.size()).value();
          REQUIRE(std::equal(
              run.begin(), run.end(),
              chunk.object.begin() + static_cast<std::ptrdiff_t>(geometry.extent(layer, 1).begin)));
        }
        // A flipped bit anywhere gives the same answer on both.
        std::uint64_t x = 17 * begin + end;
        for (int i = 0; i < 40; ++i) {
          x = x * 6364136223846793005u + 1442695040888963407u;
          const std::size_t at = i == 0 ? 0 : i == 1 ? bytes.size() - 1 : (x >> 20) % bytes.size();
          bytes[at] ^= std::byte{4};
          const auto there = verify(&device);
          const auto here = verify(nullptr);
          REQUIRE_FALSE(there);
          REQUIRE_FALSE(here);
          REQUIRE(there.error().code == here.error().code);
          bytes[at] ^= std::byte{4};
        }
      }
    }
    CHECK(device.allocated == 0);
  }
}

TEST_CASE("a device that fails while verifying is a device error, not a corrupt chunk") {
  FakeDevice device(1 << 20, nullptr);
  const auto chunk = sample::make(5);
  const AlignedBuffer part(chunk.object.size(), &device);
  REQUIRE(device.from_host(part.data(), chunk.object.data(), chunk.object.size()));
  for (std::atomic<bool>* fault : {&device.fail_copies, &device.fail_digests}) {
    std::shared_ptr<const ChunkTables> tables;
    *fault = true;
    const auto view = detail::verify_landed({.bytes = part.bytes()}, {0, 4}, chunk.object.size(),
                                            chunk.identity, &device, tables);
    REQUIRE_FALSE(view);
    CHECK(view.error().code == Errc::device);
    *fault = false;
  }
}

TEST_CASE("an arena gives parts that do not overlap, and is whole again at the end") {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address that is never touched
  auto* const base = reinterpret_cast<std::byte*>(std::uintptr_t{1} << 30);
  detail::ArenaMap arena({base, 64 * 4096 + 100});
  std::map<std::byte*, std::size_t> parts;
  std::uint64_t x = 7;
  std::size_t refused = 0;
  for (int i = 0; i < 5000; ++i) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    const std::size_t dice = x >> 33;
    if (dice % 2 == 0 && !parts.empty()) {
      auto part = parts.begin();
      std::advance(part, static_cast<std::ptrdiff_t>(dice / 2 % parts.size()));
      arena.give_back(part->first, part->second);
      parts.erase(part);
      continue;
    }
    const std::size_t bytes = 1 + dice / 2 % (20 * 4096);
    const bool fits = detail::align_up(bytes) <= arena.largest_gap();
    try {
      std::byte* const at = arena.take(bytes);
      REQUIRE(fits);
      REQUIRE((at - base) % 4096 == 0);
      REQUIRE(at - base + static_cast<std::ptrdiff_t>(detail::align_up(bytes)) <= 64 * 4096);
      const auto next = parts.lower_bound(at);
      REQUIRE((next == parts.end() || at + detail::align_up(bytes) <= next->first));
      REQUIRE((next == parts.begin() ||
               std::prev(next)->first + detail::align_up(std::prev(next)->second) <= at));
      parts[at] = bytes;
    } catch (const std::bad_alloc&) {
      REQUIRE_FALSE(fits);
      ++refused;
    }
  }
  CHECK(refused > 100);
  for (const auto& [at, bytes] : parts) arena.give_back(at, bytes);
  CHECK(arena.largest_gap() == 64 * 4096);
  CHECK(detail::ArenaMap({base, 100}).largest_gap() == 0);
}

}  // namespace
