// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What the prefills of one round share: prompts, the KV that each must have, the objects stored of
// them, staging memory that holds no more than it should; and what came of all prefills.
#pragma once

#include <array>
#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "cake/save.hpp"
#include "cake/staging.hpp"
#include "cake/storage/memory.hpp"
#include "chaos/engine.hpp"
#include "chaos/fate.hpp"

namespace cake::inline CAKE_ABI::chaos {

struct Totals {
  std::atomic<std::uint64_t> prefills{0}, good{0}, canceled{0}, failed{0}, dropped{0}, met{0},
      loaded{0}, computed{0}, gated{0}, voided{0}, failed_loads{0}, reads_superseded{0}, faults{0},
      lookups_lost{0}, saved{0}, refused_saves{0};
  void print() const {
    const auto n = [](const std::atomic<std::uint64_t>& value) {
      return static_cast<unsigned long long>(value.load());
    };
    std::printf(
        "%llu prefills: %llu good (%llu met in the middle), %llu canceled, %llu failed, %llu "
        "dropped\n%llu tokens loaded, %llu computed; %llu gated steps, %llu void steps\n%llu "
        "failed loads, %llu taken over, %llu orders refused, %llu lookups lost, %llu chunks "
        "saved, %llu saves refused\n",
        n(prefills), n(good), n(met), n(canceled), n(failed), n(dropped), n(loaded), n(computed),
        n(gated), n(voided), n(failed_loads), n(reads_superseded), n(faults), n(lookups_lost),
        n(saved), n(refused_saves));
  }
};
inline Totals totals;

/// What one thread does now, for whoever looks at a program that hangs.
struct Seat {
  std::atomic<const char*> stage{"idle"};
  std::atomic<std::uint64_t> seed{0};
  std::atomic<int> scheduler{0};
  std::atomic<std::uint64_t> steps{0};
};
inline std::array<Seat, 4> seats;

inline void print_seats() {
  for (const Seat& seat : seats) {
    std::fprintf(stderr, "  seed %llu, scheduler %d, step %llu: %s\n",
                 static_cast<unsigned long long>(seat.seed.load()), seat.scheduler.load(),
                 static_cast<unsigned long long>(seat.steps.load()), seat.stage.load());
  }
}

/// Exactly as much memory as the lanes were given, which now and then is not there.
class ExactStaging final : public StagingMemory {
 public:
  ExactStaging(std::uint64_t budget, double fails, std::uint64_t seed)
      : budget_(budget), fails_(fails), calls_(seed) {}
  ~ExactStaging() override { require(used_ == 0, "staging memory was not given back"); }
  std::byte* allocate(std::size_t bytes) override {
    Random random(calls_++);
    if (random.chance(fails_)) throw std::bad_alloc();
    require((used_ += bytes) <= budget_, "more staging memory than the budget");
    return static_cast<std::byte*>(std::aligned_alloc(kIoAlignment, bytes));
  }
  void release(std::byte* data, std::size_t bytes) noexcept override {
    std::free(data);
    used_ -= bytes;
  }

 private:
  std::uint64_t budget_;
  double fails_;
  std::atomic<std::uint64_t> calls_;
  std::atomic<std::uint64_t> used_{0};
};

struct World {
  struct Prompt {
    std::vector<TokenId> tokens;
    std::vector<std::byte> kv;  // as computing alone gives it
  };

  explicit World(Random& random) {
    layout = {random.between(1, 6), random.between(1, 2), 8, DType::f32, KvOrder::nhd};
    constexpr std::uint32_t kSizes[] = {1, 2, 7, 16, 32, 64};
    chunk_tokens = kSizes[random.below(6)];
    for (std::uint32_t i = 0; i < prompts.size(); ++i) {
      std::uint32_t n = random.between(1, chunk_tokens * 24);
      if (random.chance(0.5)) n = chunk_tokens * random.between(1, 12) + random.below(3) - 1;
      add(prompts[i], std::max(1u, n), i + 1, random);
    }
  }

  UniformKvLayout layout;
  std::uint32_t chunk_tokens = 16;
  std::array<Prompt, 3> prompts;
  MemoryStorage stored;

 private:
  void add(Prompt& prompt, std::uint32_t n, std::uint32_t seed, Random& random) {
    prompt.tokens = testing::toy_prompt(n, static_cast<TokenId>(seed));
    testing::ToyEngine alone(n, {.layout = layout});
    alone.clear();
    require(alone.prefill(prompt.tokens, {0, n}).has_value(), "computing alone");
    prompt.kv = alone.kv();
    const std::uint32_t part = random.chance(0.7) ? n : random.below(n + 1);
    const SaveReport saved =
        save(alone, stored, Tokens(prompt.tokens).first(part), {.chunk_tokens = chunk_tokens});
    require(saved.status.has_value(), "saving without faults");
  }
};

}  // namespace cake::inline CAKE_ABI::chaos
