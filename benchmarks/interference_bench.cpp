// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What inserts cost the prefill beside them, next to what a plain copy of the same rate costs it:
// prompts of 8,192 tokens in steps of 2,048, the shape of Llama-3.1-8B, while two of the loader's
// lanes insert chunks into pages of another pool.
//
//     interference_bench
//
// Medians of some prefills; "slower by" is beside prefills alone, measured right before and after.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <deque>
#include <exception>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "cake/reference/cuda_backend.hpp"
#include "insert_target.hpp"

namespace {

using namespace cake;
using namespace cake::benchmarks;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kTokens = 8192;
constexpr std::uint32_t kStep = 2048;
constexpr int kTimes = 7;

double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Seconds of one prompt, two steps in flight.
double prefill(reference::CudaBackend& engine, Tokens prompt) {
  const auto begin = Clock::now();
  std::deque<reference::CudaPass> running;
  for (std::uint32_t at = 0; at < kTokens; at += kStep) {
    running.push_back(engine.prefill(prompt, {at, at + kStep}));
    if (running.size() == 2) {
      running.front().wait().value();
      running.pop_front();
    }
  }
  for (reference::CudaPass& pass : running) pass.wait().value();
  return since(begin);
}

struct Beside {
  double prefill = 0;  // seconds, median
  double rate = 0;     // GB/s that were moved meanwhile
};

/// Prefills while `move` goes on in a thread of its own until it is stopped; it returns its bytes.
using Move = std::function<double(const std::atomic<bool>& stop)>;
Beside beside(reference::CudaBackend& engine, Tokens prompt, const Move& move) {
  std::vector<double> times;
  std::atomic<bool> stop{false};
  double rate = 0;
  {
    const std::jthread mover([&] {
      const auto begin = Clock::now();
      const double bytes = move ? move(stop) : 0;
      rate = bytes / since(begin) * 1e-9;
    });
    (void)prefill(engine, prompt);
    for (int i = 0; i < kTimes; ++i) times.push_back(prefill(engine, prompt));
    stop = true;
  }
  std::nth_element(times.begin(), times.begin() + kTimes / 2, times.end());
  return {times[kTimes / 2], rate};
}

/// Copies of 8 MiB, two enqueued, at no more than `limit` GB/s (0: as fast as it goes).
Move plain_copies(const cuda::PinnedBuffer& source, const cuda::DeviceBuffer& target,
                  double limit) {
  return [&source, &target, limit](const std::atomic<bool>& stop) {
    constexpr std::size_t kPiece = std::size_t{8} << 20;
    const cuda::Stream stream;
    const cuda::Event events[2];
    const auto begin = Clock::now();
    double bytes = 0;
    for (unsigned turn = 0; !stop; ++turn) {
      events[turn % 2].wait().value();
      cuda::throw_unless_ok(cudaMemcpyAsync(target.data(), source.data() + turn % 8 * kPiece,
                                            kPiece, cudaMemcpyHostToDevice, stream.get()),
                            "copy");
      events[turn % 2].record(stream.get()).value();
      bytes += double{kPiece};
      if (limit > 0) {
        std::this_thread::sleep_until(begin +
                                      std::chrono::duration_cast<Clock::duration>(
                                          std::chrono::duration<double>(bytes / (limit * 1e9))));
      }
    }
    stream.wait().value();
    return bytes;
  };
}

void run() {
  const auto weights = reference::CudaWeights::random(reference::llama_3_1_8b(), 1).value();
  reference::CudaBackend engine(weights, {.max_tokens = kTokens, .max_step_tokens = kStep});
  std::vector<TokenId> prompt(kTokens);
  for (std::size_t i = 0; i < prompt.size(); ++i) {
    prompt[i] = static_cast<TokenId>(i * 7919 % engine.config().n_vocab);
  }
  const cuda::PinnedBuffer source = make_sources();
  const cuda::DeviceBuffer target(std::size_t{8} << 20);
  const auto alone = [&] { return beside(engine, prompt, {}).prefill; };
  const double first = alone();
  std::printf("prefill of %u tokens in steps of %u, alone: %.1f ms\n", kTokens, kStep, first * 1e3);
  std::printf("%-28s %8s %12s %32s %8s\n", "beside it", "GB/s", "slower by",
              "plain copies of the same rate", "points");
  const Beside full = beside(engine, prompt, plain_copies(source, target, 0));
  const double again = alone();
  const auto slower = [](const Beside& b, double base) { return 100 * (b.prefill / base - 1); };
  std::printf("%-28s %8.1f %10.1f %%\n", "plain copies of 8 MiB", full.rate,
              slower(full, (first + again) / 2));
  struct Kind {
    KvOrder order;
    std::uint32_t page;
  };
  for (const Kind& kind : {Kind{KvOrder::nhd, 16}, Kind{KvOrder::nhd, 64}, Kind{KvOrder::hnd, 16},
                           Kind{KvOrder::hnd, 64}}) {
    const InsertTarget pool(kind.order, kind.page);
    cuda::KvTransfer transfer;
    const double before = alone();
    const Beside inserts = beside(engine, prompt, [&](const std::atomic<bool>& stop) {
      const auto more = [&](std::uint32_t) { return !stop; };
      const std::size_t chunks = insert_by_lanes(transfer, pool, source, 2, more);
      return static_cast<double>(chunks * pool.chunk_bytes());
    });
    const Beside plain = beside(engine, prompt, plain_copies(source, target, inserts.rate));
    const double base = (before + alone()) / 2;
    const std::string name = "inserts, " + std::string(to_string(kind.order)) + ", pages of " +
                             std::to_string(kind.page);
    std::printf("%-28s %8.1f %10.1f %% %16.1f %% (%4.1f GB/s) %8.1f\n", name.c_str(), inserts.rate,
                slower(inserts, base), slower(plain, base), plain.rate,
                slower(inserts, base) - slower(plain, base));
    std::fflush(stdout);
  }
}

}  // namespace

int main() try {
  if (const Status status = cuda::usable(); !status) {
    std::printf("interference_bench needs a GPU: %s\n", status.error().message().c_str());
    return 77;
  }
  run();
} catch (const std::exception& e) {
  std::fprintf(stderr, "interference_bench: %s\n", e.what());
  return 1;
}
