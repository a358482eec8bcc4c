// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Random engines, stores and schedulers over real threads, several prefills at once over the same
// lanes. Each good prefill is compared, byte by byte, with computing alone.
//
//     chaos_test [--prefills N] [--seed N] [--rounds N]
//
// N prefills (1500; CAKE_CHAOS_PREFILLS in the environment), in rounds of some prefills over one
// store, from a seed on. Ends with 134 and a line that names the seed when a rule is broken.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include "cake/io_lanes.hpp"
#include "chaos/prefill.hpp"
#include "chaos/storage.hpp"

using namespace cake;
using namespace cake::chaos;

namespace {

/// Ends the program when no prefill does.
class Watchdog {
 public:
  Watchdog() : thread_([](const std::stop_token& stop) { watch(stop); }) {}

 private:
  static void watch(const std::stop_token& stop) {
    constexpr int kLimit = 1200;  // tenths of a second
    std::uint64_t last = 0;
    for (int same = 0; !stop.stop_requested(); ++same) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      if (totals.prefills != last) same = 0;
      last = totals.prefills;
      if (same < kLimit) continue;
      print_seats();
      broken("no prefill ended for two minutes");
    }
  }
  std::jthread thread_;
};

template <class S>
void own_loop(const World& world, IoLanes<S>& lanes, std::uint64_t seed, Seat& seat) {
  switch (seed % 7) {
    case 0:
      return OwnLoop<GatedBlockingEngine<false>, S>(world, lanes, seed, seat).run();
    case 1:
      return OwnLoop<GatedBlockingEngine<true>, S>(world, lanes, seed, seat).run();
    case 2:
      return OwnLoop<BlockingEngine<false>, S>(world, lanes, seed, seat).run();
    case 3:
      return OwnLoop<DeviceEngine<true>, S>(world, lanes, seed, seat).run();
    case 4:
      return OwnLoop<GatedDeviceEngine<true>, S>(world, lanes, seed, seat).run();
    default:
      return OwnLoop<GatedDeviceEngine<false>, S>(world, lanes, seed, seat).run();
  }
}

template <class S>
void share_lanes(const World& world, S& storage, const LaneOptions& options, Random& random) {
  const std::uint64_t seed = random.next();
  IoLanes<S> lanes(storage, options);
  std::vector<std::jthread> threads;
  const std::uint32_t n = random.between(1, static_cast<std::uint32_t>(seats.size()));
  for (std::uint32_t i = 0; i < n; ++i) {
    threads.emplace_back([&, i] {
      for (std::uint64_t k = 0; k < 4; ++k) own_loop(world, lanes, seed + 10 * i + k, seats[i]);
      seats[i].stage = "idle";
    });
  }
  threads.clear();
  seats[0].stage = "staging memory comes back";
  while (lanes.free_staging_bytes() != lanes.staging_bytes() || lanes.quarantined() != 0) {
    nap(500);
  }
  seats[0].stage = "~IoLanes";
}

template <class S>
void with_store(const World& world, S& storage, const LaneOptions& options, Random& random) {
  if (random.chance(0.7)) return share_lanes(world, storage, options, random);
  const std::uint64_t seed = random.next();
  switch (seed % 4) {
    case 0:
      return load<GatedBlockingEngine<false>>(world, storage, options, seed, seats[0]);
    case 1:
      return load<GatedDeviceEngine<false>>(world, storage, options, seed, seats[0]);
    case 2:
      return load<GatedDeviceEngine<true>>(world, storage, options, seed, seats[0]);
    default:
      return load<DeviceEngine<true>>(world, storage, options, seed, seats[0]);
  }
}

void round(std::uint64_t seed) {
  current_seed = seed;
  Random random(seed);
  World world(random);
  ChaosStorage storage(world.stored, random_store(random), random.next());
  const ChunkGeometry geometry(world.layout, world.chunk_tokens);
  LaneOptions options;
  options.threads = random.between(1, 4);
  options.staging_bytes =
      random.chance(0.2)
          ? detail::align_up(random.below(static_cast<std::uint32_t>(geometry.object_bytes()))) +
                kIoAlignment
          : geometry.object_bytes() * random.between(1, 12);
  options.calibration = std::make_shared<Calibration>(LinkEstimate{1e9, Time{0}, Time{0}});
  ExactStaging staging(options.staging_bytes, random.chance(0.2) ? 0.1 : 0.0, random.next());
  options.staging = &staging;
  if (random.chance(0.5)) {
    with_store(world, storage, options, random);
  } else {
    BlockingChaosStorage blocking(storage);
    with_store(world, blocking, options, random);
  }
  seats[0].stage = "idle";
}

std::uint64_t number(const char* text, std::uint64_t otherwise) {
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

/// A test that met nothing would show nothing.
void require_variety() {
  require(totals.met > 0 && totals.gated > 0 && totals.voided > 0, "no run met or was gated");
  require(totals.canceled > 0 && totals.failed > 0 && totals.dropped > 0, "no run ended early");
  require(totals.failed_loads > 0 && totals.reads_superseded > 0 && totals.faults > 0,
          "no load failed");
  require(totals.lookups_lost > 0 && totals.saved > 0 && totals.refused_saves > 0, "no save");
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t prefills = number(std::getenv("CAKE_CHAOS_PREFILLS"), 1500);
  std::uint64_t seed = 1;
  std::uint64_t rounds = ~std::uint64_t{0};
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view option = argv[i];
    if (option == "--prefills") prefills = number(argv[i + 1], prefills);
    if (option == "--seed") seed = number(argv[i + 1], seed);
    if (option == "--rounds") rounds = number(argv[i + 1], rounds);
  }
  const Watchdog watchdog;
  const std::uint64_t first = seed;
  while (totals.prefills < prefills && seed - first < rounds) round(seed++);
  std::printf("seeds %llu to %llu, ", static_cast<unsigned long long>(first),
              static_cast<unsigned long long>(seed - 1));
  totals.print();
  if (totals.prefills >= 1000) require_variety();
  return 0;
}
