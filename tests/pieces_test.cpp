// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Lanes over a store that tells of the parts of a read as they arrive: who digests them, and what a
// store that tells nonsense can do.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "cake/detail/landing.hpp"
#include "cake/io_lanes.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "cake/testing/check_storage.hpp"
#include "catch.hpp"
#include "fault/layer_by_layer.hpp"
#include "stored_prompt.hpp"

using namespace cake;
using fault::LayerByLayer;
using testing::kChunk;
using testing::kChunks;
using testing::run_stored;

namespace {

/// How a store tells of what it has read.
enum class Telling {
  in_order,
  backwards,
  by_threads,
  nothing,
  half,  // of each read
  twice,
  too_early,     // before the bytes are there
  elsewhere,     // parts that are none of the read
  after_the_end  // of a read that failed
};

struct PieceStore {
  static constexpr StorageAbilities abilities{.lookup_never_blocks = true, .read_pieces = true};
  static constexpr std::size_t kPiece = 3 * kIoAlignment;  // cuts blocks anywhere

  MemoryStorage memory;
  Telling telling = Telling::in_order;
  std::atomic<int> flip{-1};  // damages this byte of each read, before it is told of
  std::atomic<int> told{0};   // parts

  std::size_t size() const { return memory.size(); }
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return memory.lookup(keys);
  }
  Status write(const ChunkKey& key, ConstBytes bytes) { return memory.write(key, bytes); }
  Status erase(const ChunkKey& key) { return memory.erase(key); }
  Status read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    return memory.read(tier, key, offset, out);
  }
  Status read_pieces(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                     MutableBytes out, std::shared_ptr<PieceSink> sink) {
    std::fill(out.begin(), out.end(), std::byte{0xa5});
    const auto tell = [&](ConstBytes part) {
      ++told;
      sink->arrived(part);
    };
    if (telling == Telling::too_early) tell(out);
    Status status = memory.read(tier, key, offset, out);
    if (status && flip >= 0)
      out[static_cast<std::size_t>(flip.load()) % out.size()] ^= std::byte{8};
    if (!status && telling == Telling::after_the_end) tell(out);
    if (!status) return status;
    std::vector<ConstBytes> parts;
    for (std::size_t at = 0; at < out.size(); at += kPiece) {
      parts.emplace_back(out.subspan(at, std::min(kPiece, out.size() - at)));
    }
    switch (telling) {
      case Telling::nothing:
      case Telling::too_early:
      case Telling::after_the_end:
        return {};
      case Telling::half:
        parts.resize(parts.size() / 2);
        break;
      case Telling::backwards:
        std::reverse(parts.begin(), parts.end());
        break;
      case Telling::elsewhere:
        parts = {ConstBytes(out.data() - kPiece, kPiece),
                 ConstBytes(out.data() + out.size(), kPiece), ConstBytes(),
                 ConstBytes(out.data() + 1, 17)};
        break;
      case Telling::by_threads: {
        std::vector<std::jthread> threads;
        for (std::size_t t = 0; t < 3; ++t) {
          threads.emplace_back([&, t] {
            for (std::size_t i = t; i < parts.size(); i += 3) tell(parts[i]);
          });
        }
        return {};
      }
      case Telling::twice:
        std::for_each(parts.begin(), parts.end(), tell);
        break;
      case Telling::in_order:
        break;
    }
    std::for_each(parts.begin(), parts.end(), tell);
    return {};
  }
};
static_assert(StorageBackend<PieceStore>);

using Stored = testing::StoredPrompt<PieceStore>;

}  // namespace

TEST_CASE("however a store tells of parts, the KV is right and no chunk is lost") {
  Stored stored;
  stored.store.telling =
      GENERATE(Telling::in_order, Telling::backwards, Telling::by_threads, Telling::nothing,
               Telling::half, Telling::twice, Telling::too_early, Telling::elsewhere);
  CAPTURE(static_cast<int>(stored.store.telling));
  IoLanes lanes(stored.store, {.threads = 3});
  CHECK(run_stored(stored, lanes, LoadOnlyScheduler()).tokens_loaded == kChunk * kChunks);
  CHECK(run_stored(stored, lanes, LayerByLayer()).tokens_loaded == kChunk * kChunks);
  CHECK((stored.store.told > 0) == (stored.store.telling != Telling::nothing));
}

TEST_CASE("a damaged byte is found, whoever digested it, and its chunk is computed") {
  Stored stored;
  stored.store.telling = GENERATE(Telling::in_order, Telling::by_threads, Telling::nothing,
                                  Telling::half, Telling::twice, Telling::too_early);
  // In the header, in the payload (a block that two parts share, the last one), in the footer.
  const auto bytes = static_cast<int>(stored.object_bytes);
  stored.store.flip = GENERATE_COPY(100, 3 * 4096 - 1, bytes / 2, bytes - 4096 - 1, bytes - 4000);
  CAPTURE(static_cast<int>(stored.store.telling), stored.store.flip);
  IoLanes lanes(stored.store, {.threads = 3});
  const PrefillReport report = run_stored(stored, lanes, LoadOnlyScheduler());
  CHECK(report.tokens_loaded == 0);
  CHECK(report.load_error.code() == Errc::corrupt);
  CHECK(stored.store.size() == 0);  // for the next save
}

TEST_CASE("a read that fails after it was told of is computed instead") {
  Stored stored;
  IoLanes lanes(stored.store);
  stored.store.telling = Telling::after_the_end;
  stored.store.memory.clear();
  CHECK(run_stored(stored, lanes, LoadOnlyScheduler()).tokens_loaded == 0);
}

TEST_CASE("the kit finds a store that tells of parts wrongly") {
  PieceStore store;
  store.telling =
      GENERATE(Telling::in_order, Telling::backwards, Telling::by_threads, Telling::nothing,
               Telling::half, Telling::twice, Telling::too_early, Telling::elsewhere);
  CAPTURE(static_cast<int>(store.telling));
  const bool wrong = store.telling == Telling::twice || store.telling == Telling::too_early ||
                     store.telling == Telling::elsewhere;
  const testing::Failures failures = testing::check(store);
  CHECK(failures.empty() != wrong);
  CHECK(store.size() == 0);
}
