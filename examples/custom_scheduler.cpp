// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A scheduler of your own in 40 lines: compute from the front, load from the back, and meet where it
// happens. Tried in virtual time first, then behind real threads.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "cake/cake.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/throttled.hpp"
#include "cake/testing/check_scheduler.hpp"
#include "custom_engine.hpp"

namespace {

using cake::ChunkState;

// [scheduler]
class FromBothEnds {
 public:
  void begin(const cake::PrefillSpec& spec) { back_ = spec.end_chunk; }

  // Tokens from the front on that no lane is loading, at most `budget`; else wait for a change.
  cake::Step next_step(const cake::RunView& view, std::uint32_t budget, cake::Time /*now*/) {
    const cake::PrefillSpec& spec = view.spec();
    cake::TokenRange tokens{view.front(), view.front()};
    while (tokens.size() < budget && tokens.end < spec.n_tokens) {
      const std::uint32_t chunk = spec.chunk_of(tokens.end);
      if (chunk < spec.end_chunk && !is_free(view.state(chunk), tokens.empty())) break;
      const std::uint32_t end =
          chunk < spec.end_chunk ? spec.chunk_range(chunk).end : spec.n_tokens;
      tokens.end = std::min(end, tokens.begin + budget);
    }
    cake::Step step;
    step.kind = tokens.empty() ? cake::Step::Kind::wait : cake::Step::Kind::compute;
    step.tokens = tokens;
    return step;
  }

  // The last chunk that is still open and lies in this lane's tier. A read that takes longer than
  // ten seconds is given up, and its chunk computed.
  std::optional<cake::LoadRequest> next_load(const cake::RunView& view, cake::LaneId lane,
                                             cake::Time now) {
    while (back_ > 0 && view.state(back_ - 1) != ChunkState::open) --back_;
    for (std::uint32_t chunk = back_; chunk-- > view.front_chunk();) {
      if (view.state(chunk) == ChunkState::open && view.on_lane(chunk, lane)) {
        return cake::LoadRequest{view.spec().whole(chunk), now + std::chrono::seconds(10)};
      }
    }
    return std::nullopt;
  }

 private:
  // Nobody loads it, or the step before has begun it.
  static bool is_free(ChunkState state, bool first) {
    return state == ChunkState::open || state == ChunkState::hole ||
           (first && state == ChunkState::computing);
  }

  std::uint32_t back_ = 0;  // all chunks from here on are somebody's
};
static_assert(cake::Scheduler<FromBothEnds>);
// [/scheduler]

}  // namespace

int main() try {
  using cake::examples::TinyEngine;
  // [check]
  const std::vector<std::string> broken =
      cake::testing::check_scheduler<FromBothEnds>([] { return FromBothEnds(); });
  for (const std::string& rule : broken) std::puts(rule.c_str());
  // [/check]
  std::printf("%zu rules of a Scheduler broken\n", broken.size());

  constexpr std::uint32_t kTokens = 1500;
  std::vector<cake::TokenId> prompt(kTokens);
  for (std::size_t i = 0; i < kTokens; ++i) prompt[i] = static_cast<cake::TokenId>(i * i % 31);
  cake::MemoryStorage storage;
  const cake::ChunkOptions chunks{.chunk_tokens = 64};
  TinyEngine engine(kTokens);
  cake::Loader saver(engine, storage, {.chunks = chunks});
  const cake::PrefillReport computed = saver.prefill(prompt);
  computed.status.value();
  saver.save(prompt).status.value();

  // A link that takes about as long as computing all of it.
  const double seconds = cake::PrefillReport::seconds_of(computed.ttft);
  cake::ThrottledStorage link(
      storage,
      cake::LinkOptions{.bytes_per_second = static_cast<double>(storage.bytes()) / seconds});
  cake::IoLanes lanes(link);
  TinyEngine restarted(kTokens);
  cake::Loader loader(restarted, lanes, chunks, FromBothEnds());
  const cake::PrefillReport report = loader.prefill(prompt);
  report.status.value();
  std::printf("%u tokens computed, %u loaded, %.2f of the time of computing all\n%s",
              report.tokens_computed, report.tokens_loaded,
              cake::PrefillReport::seconds_of(report.ttft) / seconds, report.timeline().c_str());
  const bool same = restarted.logits() == engine.logits();
  std::printf("the logits are %s\n", same ? "the same, bit for bit" : "NOT the same");
  return same && broken.empty() ? 0 : 1;
} catch (const std::exception& e) {
  std::fprintf(stderr, "custom_scheduler: %s\n", e.what());
  return 1;
}
