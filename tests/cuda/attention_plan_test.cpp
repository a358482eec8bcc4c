// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// How attention is split into tiles and assigned to multiprocessors; needs no GPU.
#include "src/cuda/attention/attention_plan.hpp"

#include <algorithm>
#include <set>
#include <tuple>
#include <vector>

#include "src/cuda/attention/scheduler/attention_tiles.hpp"
#include "src/cuda/attention/sm90_attention.hpp"
#include "tests/catch.hpp"

using namespace cake;
using namespace cake::cuda;

namespace {

constexpr AttentionDevice kHopper{132, true};
constexpr AttentionDevice kAmpere{108, false};

AttentionShape shape(std::uint32_t queries, std::uint32_t dim = 128) {
  AttentionShape s;
  s.n_heads = 32;
  s.n_kv_heads = 8;
  s.head_dim = dim;
  s.n_queries = s.max_seqlen_q = queries;
  return s;
}

/// Blocks of keys of a tile, where a prompt has no prefix and a tile has as many rows as keys.
std::uint64_t length(const AttentionTile& tile) { return tile.row_tile + 1; }

}  // namespace

TEST_CASE("every tile is assigned once, whatever the sections") {
  for (const std::uint32_t row_tiles : {1u, 2u, 7u, 64u}) {
    for (const std::uint32_t pairs : {1u, 3u, 8u, 24u}) {
      for (const std::uint32_t num_splits : {1u, 2u, 5u}) {
        for (const std::uint32_t section : {0u, 1u, 2u, 5u, 8u, 1000u, 1005u}) {
          const bool alike = section % 5 == 0;
          const AttentionTiles tiles(row_tiles, pairs, num_splits, section, alike);
          REQUIRE(tiles.count() == row_tiles * pairs * num_splits);
          std::set<std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>> seen;
          for (std::uint32_t i = 0; i < tiles.count(); ++i) {
            const AttentionTile t = tiles.at(i);
            REQUIRE(t.row_tile < row_tiles);
            REQUIRE(t.pair < pairs);
            REQUIRE(t.split < num_splits);
            seen.insert({t.row_tile, t.pair, t.split});
          }
          CHECK(seen.size() == tiles.count());
        }
      }
    }
  }
}

TEST_CASE("blocks of a grid take every index once") {
  for (const std::uint32_t blocks : {1u, 3u, 132u}) {
    for (const std::uint32_t count : {1u, 2u, 131u, 132u, 133u, 1000u}) {
      std::vector<int> taken(count, 0);
      for (std::uint32_t block = 0; block < blocks; ++block) {
        for (std::uint32_t turn = 0;; ++turn) {
          const std::uint32_t index = AttentionTiles::turn_of(block, blocks, turn);
          if (index >= count) break;
          ++taken[index];
        }
      }
      CHECK(std::all_of(taken.begin(), taken.end(), [](int n) { return n == 1; }));
    }
  }
}

TEST_CASE("the last tiles to be assigned are the shortest") {
  for (const std::uint32_t section : {1u, 2u, 3u, 8u}) {
    const AttentionTiles tiles(64, 8, 1, section);
    CHECK(length(tiles.at(tiles.count() - 1)) == 1);
  }
}

TEST_CASE("the tiles of a causal prompt are assigned evenly, in sections as well") {
  constexpr std::uint32_t kBlocks = 132;
  for (const std::uint32_t section : {1u, 2u, 4u, 8u}) {
    for (const std::uint32_t row_tiles : {256u, 512u, 1024u}) {
      const AttentionTiles tiles(row_tiles, 8, 1, section);
      std::uint64_t total = 0;
      std::uint64_t most = 0;
      for (std::uint32_t block = 0; block < kBlocks; ++block) {
        std::uint64_t work = 0;
        for (std::uint32_t turn = 0;; ++turn) {
          const std::uint32_t index = AttentionTiles::turn_of(block, kBlocks, turn);
          if (index >= tiles.count()) break;
          work += length(tiles.at(index));
        }
        total += work;
        most = std::max(most, work);
      }
      INFO("sections of " << section << ", " << row_tiles << " row tiles: " << most << " of "
                          << total / kBlocks);
      CHECK(static_cast<double>(most) * kBlocks < 1.03 * static_cast<double>(total));
    }
  }
}

TEST_CASE("tiles of queries behind a long prefix are shared out equally among fewer blocks") {
  constexpr std::uint32_t kBlocks = 132;
  for (const std::uint32_t section : {1u, 2u, 4u, 5u, 8u}) {
    for (const std::uint32_t row_tiles : {32u, 64u, 128u, 256u}) {
      const AttentionTiles tiles(row_tiles, 8, 1, section, true);
      const std::uint32_t busy = tiles.busy_blocks(kBlocks);
      CHECK(busy == 128);  // there are 256, 512, 1,024, 2,048 tiles
      std::uint64_t least = ~std::uint64_t{0};
      std::uint64_t most = 0;
      for (std::uint32_t block = 0; block < busy; ++block) {
        std::uint64_t work = 0;
        for (std::uint32_t turn = 0;; ++turn) {
          const std::uint32_t index = AttentionTiles::turn_of(block, busy, turn);
          if (index >= tiles.count()) break;
          work += 4 * row_tiles + length(tiles.at(index));
        }
        least = std::min(least, work);
        most = std::max(most, work);
      }
      INFO("sections of " << section << ", " << row_tiles << " row tiles: " << least << " to "
                          << most);
      CHECK(static_cast<double>(most) < 1.01 * static_cast<double>(least));
    }
  }
}

TEST_CASE("all blocks take tiles where these differ much or make no whole waves") {
  CHECK(AttentionTiles(128, 8, 1, 8, false).busy_blocks(132) == 132);
  CHECK(AttentionTiles(125, 8, 1, 8, true).busy_blocks(132) == 125);
  CHECK(AttentionTiles(127, 9, 1, 9, true).busy_blocks(132) == 127);
  CHECK(AttentionTiles(131, 7, 1, 7, true).busy_blocks(132) == 131);
  CHECK(AttentionTiles(133, 1, 1, 1, true).busy_blocks(132) == 132);  // 67 twice, less one
  CHECK(AttentionTiles(3, 1, 1, 1, true).busy_blocks(132) == 3);
  CHECK(AttentionTiles(0, 8, 1, 1, true).busy_blocks(132) == 132);
}

TEST_CASE("pairs of a section are worked on together") {
  const AttentionTiles tiles(16, 8, 1, 2);
  for (std::uint32_t i = 0; i < tiles.count(); ++i) CHECK(tiles.at(i).pair / 2 == i / 32);
}

TEST_CASE("sections have equally many pairs") {
  const AttentionTiles tiles(16, 8, 1, 5);
  for (std::uint32_t i = 0; i < tiles.count(); ++i) CHECK(tiles.at(i).pair / 4 == i / 64);
}

TEST_CASE("the kernel for sm_90a runs where the device has it") {
  CHECK(plan_attention(shape(2048), kHopper).kernel == AttentionKernel::sm90);
  CHECK(plan_attention(shape(2048), kAmpere).kernel == AttentionKernel::mma);
  CHECK(plan_attention(shape(2048, 64), kAmpere).rows_of_tile == kAttentionRows);
}

TEST_CASE("keys are split only where few query tiles leave the device idle") {
  for (const std::uint32_t queries : {512u, 1024u, 2048u, 8192u}) {
    CHECK(plan_attention(shape(queries), kHopper).num_splits == 1);
  }
  CHECK(plan_attention(shape(128), kHopper).num_splits == 4);  // 32 tiles for 132 multiprocessors
  CHECK(plan_attention(shape(256), kHopper).num_splits == 2);
  CHECK(plan_attention(shape(1), kHopper).num_splits > 8);
  AttentionShape given = shape(2048);
  given.num_splits = 3;
  CHECK(plan_attention(given, kHopper).num_splits == 3);
  CHECK(plan_attention(shape(0), kHopper).num_splits == 1);
}

TEST_CASE("keys are split where the last wave of whole tiles would leave most of the device idle") {
  const AttentionPlan tall = plan_attention(shape(2048, 64), kHopper);
  CHECK(tall.rows_of_tile == 192);
  CHECK(tall.num_splits == 3);  // 344 tiles are 2.6 waves
  CHECK(tall.split_from_keys == kKeysWorthSplitting);
  AttentionShape few = shape(1408);
  few.n_heads = 16;
  few.n_kv_heads = 16;
  CHECK(plan_attention(few, kHopper).num_splits == 3);  // 176 tiles are 1.3
  CHECK(plan_attention(few, kHopper).split_from_keys == kKeysWorthSplitting);
  CHECK(plan_attention(few, kAmpere).num_splits == 1);
  CHECK(plan_attention(shape(8192, 64), kHopper).num_splits == 1);  // 10.4, whose last are short
  CHECK(plan_attention(shape(128), kHopper).split_from_keys == 0);
  few.num_splits = 2;
  CHECK(plan_attention(few, kHopper).split_from_keys == 0);
}

TEST_CASE("a batch fills the device as more queries do") {
  AttentionShape batch = shape(128);
  batch.n_sequences = 4;
  batch.n_queries = 512;
  CHECK(plan_attention(batch, kHopper).num_splits == 1);
}

TEST_CASE("splits stay within what a launch takes, on devices of any size") {
  for (const std::uint32_t processors : {1u, 4u, 78u, 114u, 132u, 1000u}) {
    for (const std::uint32_t queries : {1u, 5u, 64u, 500u}) {
      for (const bool sm90 : {false, true}) {
        const AttentionPlan plan = plan_attention(shape(queries), {processors, sm90});
        CHECK(plan.num_splits >= 1);
        CHECK(plan.num_splits <= kMaxAttentionSplits);
      }
    }
  }
}

TEST_CASE("head_dim 64 takes the taller tile where that fills the device") {
  CHECK(plan_attention(shape(8192, 64), kHopper).rows_of_tile == 192);
  CHECK(plan_attention(shape(32768, 64), kHopper).rows_of_tile == 192);
  CHECK(plan_attention(shape(2048, 64), kHopper).rows_of_tile == 192);
  CHECK(plan_attention(shape(512, 64), kHopper).rows_of_tile == 128);   // 128 tiles, not 88
  CHECK(plan_attention(shape(1024, 64), kHopper).rows_of_tile == 128);  // 256, not 176
  CHECK(plan_attention(shape(8192, 128), kHopper).rows_of_tile == 128);
}

TEST_CASE("a box of keys lies in one page and in whole groups of eight rows") {
  CHECK(sm90_box_rows(0) == 128);  // contiguous
  for (const std::uint32_t page : {8u, 16u, 32u, 64u, 128u}) CHECK(sm90_box_rows(page) == page);
  CHECK(sm90_box_rows(256) == 128);
  CHECK(sm90_box_rows(24) == 8);
  CHECK(sm90_box_rows(48) == 16);
  CHECK(sm90_box_rows(192) == 64);
  for (const std::uint32_t page : {1u, 2u, 3u, 4u, 7u, 12u, 20u, 100u}) {
    CHECK(sm90_box_rows(page) == 0);
  }
}
