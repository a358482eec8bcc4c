// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What inserts and saves cost the prefill and the decoding beside them, next to what a plain copy of
// the same rate costs it: prompts of 8,192 tokens in steps of 2,048, the shape of Llama-3.1-8B, while
// two of the loader's lanes insert chunks into pages of another pool, or a saver saves chunks from
// there into host memory that is full.
//
//     interference_bench [saves]
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

#include "cake/cuda/pinned_staging.hpp"
#include "cake/reference/cuda_backend.hpp"
#include "cake/saver.hpp"
#include "cake/storage/host.hpp"
#include "insert_target.hpp"

namespace {

using namespace cake;
using namespace cake::benchmarks;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kTokens = 8192;
constexpr std::uint32_t kStep = 2048;
constexpr int kTimes = 7;
constexpr std::uint32_t kDecoded = 32;

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
  double seconds = 0;  // median
  double rate = 0;     // GB/s that were moved meanwhile
};

/// Works while `move` goes on in a thread of its own until it is stopped; it returns its bytes.
using Move = std::function<double(const std::atomic<bool>& stop)>;
Beside beside(const std::function<double()>& work, const Move& move) {
  std::vector<double> times;
  std::atomic<bool> stop{false};
  double rate = 0;
  {
    const std::jthread mover([&] {
      const auto begin = Clock::now();
      const double bytes = move ? move(stop) : 0;
      rate = bytes / since(begin) * 1e-9;
    });
    (void)work();
    for (int i = 0; i < kTimes; ++i) times.push_back(work());
    stop = true;
  }
  std::nth_element(times.begin(), times.begin() + kTimes / 2, times.end());
  return {times[kTimes / 2], rate};
}

/// Copies of 8 MiB, two enqueued, at no more than `limit` GB/s (0: as fast as it goes).
Move plain_copies(const cuda::PinnedBuffer& host, const cuda::DeviceBuffer& device, double limit,
                  bool to_device = true) {
  return [&host, &device, limit, to_device](const std::atomic<bool>& stop) {
    constexpr std::size_t kPiece = std::size_t{8} << 20;
    const cuda::Stream stream;
    const cuda::Event events[2];
    const auto begin = Clock::now();
    double bytes = 0;
    for (unsigned turn = 0; !stop; ++turn) {
      events[turn % 2].wait().value();
      std::byte* const near = host.data() + turn % 8 * kPiece;
      void* const far = device.data();
      cuda::throw_unless_ok(
          to_device ? cudaMemcpyAsync(far, near, kPiece, cudaMemcpyHostToDevice, stream.get())
                    : cudaMemcpyAsync(near, far, kPiece, cudaMemcpyDeviceToHost, stream.get()),
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

/// KV in the places of a few chunks, to be saved.
struct SavedPages {
  explicit SavedPages(std::uint32_t page) : target(KvOrder::nhd, page) {}
  static constexpr EngineAbilities abilities{.parallel_extracts = 4};
  UniformKvLayout layout() const { return target.layout; }
  ModelFingerprint fingerprint() const { return {}; }
  Status insert(const Slice&, const KvView&) { return {}; }
  cuda::Transfer extract(const Slice& slice, const MutableKvView& to) {
    Slice place = target.slice(slice.chunk % kChunks);
    place.layers = slice.layers;
    return transfer.extract(target.paged(), place, to);
  }
  InsertTarget target;
  cuda::KvTransfer transfer;
};
static_assert(KvMemory<SavedPages>);

/// Saves of 1 GiB, one behind the other, each evicting an older one.
Move saves(SavedPages& pages, HostStorage& storage, std::atomic<std::int64_t>& count) {
  return [&](const std::atomic<bool>& stop) {
    const std::vector<TokenId> prompt(2 * kChunks * kChunkTokens);
    Saver saver(storage);
    while (!stop) {
      SaveTicket ticket = saver.save(
          pages, prompt, {.chunk_tokens = kChunkTokens, .salt = std::to_string(++count)});
      while (!ticket.ready() && !stop) std::this_thread::sleep_for(std::chrono::microseconds(200));
      if (stop) ticket.request_stop();
      const SaveReport& report = ticket.wait();
      if (!stop) report.status.value();
    }
    return static_cast<double>(saver.stats().written_bytes);
  };
}

/// Seconds of so many tokens, one after the other, behind a prompt.
double decode(reference::CudaBackend& engine, std::vector<TokenId>& tokens) {
  const auto begin = Clock::now();
  for (std::uint32_t at = kTokens - kDecoded; at < kTokens; ++at) {
    engine.prefill(Tokens(tokens).first(at + 1), {at, at + 1}).wait().value();
  }
  return since(begin);
}

void run_saves(reference::CudaBackend& engine, std::vector<TokenId>& prompt) {
  cuda::PinnedStaging pinned(0);
  std::atomic<std::int64_t> count{0};
  HostStorage storage({.capacity_bytes = std::uint64_t{1500} << 20,
                       .memory = &pinned,
                       .clock = [&] { return count.load() * 86400; }});
  const cuda::PinnedBuffer host(std::size_t{64} << 20);
  const cuda::DeviceBuffer device(std::size_t{8} << 20);
  const auto slower = [](double t, double base) { return 100 * (t / base - 1); };
  struct Work {
    const char* what;
    std::function<double()> once;
  };
  for (const Work& work : {Work{"prefill", [&] { return prefill(engine, prompt); }},
                           Work{"decoding", [&] { return decode(engine, prompt); }}}) {
    for (const std::uint32_t page : {16u, 64u}) {
      SavedPages pages(page);
      const auto alone = [&] { return beside(work.once, {}).seconds; };
      const double before = alone();
      const Beside saving = beside(work.once, saves(pages, storage, count));
      const double between = alone();
      const Beside plain = beside(work.once, plain_copies(host, device, saving.rate, false));
      const double after = alone();
      std::printf(
          "%-9s beside saves out of pages of %u, %.1f GB/s: %.1f ms, slower by %.1f %% (alone "
          "%.1f; twice "
          "alone: %.1f %%); beside plain copies of %.1f GB/s by %.1f %%\n",
          work.what, page, saving.rate, saving.seconds * 1e3,
          slower(saving.seconds, (before + between) / 2), before * 1e3, slower(after, between),
          plain.rate, slower(plain.seconds, (between + after) / 2));
      std::fflush(stdout);
    }
  }
}

void run(bool saves_only) {
  const auto weights = reference::CudaWeights::random(reference::llama_3_1_8b(), 1).value();
  reference::CudaBackend engine(weights, {.max_tokens = kTokens, .max_step_tokens = kStep});
  std::vector<TokenId> prompt(kTokens);
  for (std::size_t i = 0; i < prompt.size(); ++i) {
    prompt[i] = static_cast<TokenId>(i * 7919 % engine.config().n_vocab);
  }
  const cuda::PinnedBuffer source = make_sources();
  const cuda::DeviceBuffer target(std::size_t{8} << 20);
  if (saves_only) return run_saves(engine, prompt);
  const auto work = [&] { return prefill(engine, prompt); };
  const auto alone = [&] { return beside(work, {}).seconds; };
  const double first = alone();
  std::printf("prefill of %u tokens in steps of %u, alone: %.1f ms\n", kTokens, kStep, first * 1e3);
  std::printf("%-28s %8s %12s %32s %8s\n", "beside it", "GB/s", "slower by",
              "plain copies of the same rate", "points");
  const Beside full = beside(work, plain_copies(source, target, 0));
  const double again = alone();
  const auto slower = [](const Beside& b, double base) { return 100 * (b.seconds / base - 1); };
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
    const Beside inserts = beside(work, [&](const std::atomic<bool>& stop) {
      const auto more = [&](std::uint32_t) { return !stop; };
      const std::size_t chunks = insert_by_lanes(transfer, pool, source, 2, more);
      return static_cast<double>(chunks * pool.chunk_bytes());
    });
    const Beside plain = beside(work, plain_copies(source, target, inserts.rate));
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

int main(int argc, char** argv) try {
  if (const Status status = cuda::usable(); !status) {
    std::printf("interference_bench needs a GPU: %s\n", status.error().message().c_str());
    return 77;
  }
  run(argc > 1 && std::string(argv[1]) == "saves");
} catch (const std::exception& e) {
  std::fprintf(stderr, "interference_bench: %s\n", e.what());
  return 1;
}
