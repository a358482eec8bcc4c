// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// An engine of a hybrid model: a layer with a recurrent state, a layer with a sliding window, a layer
// that looks back at all tokens. Pages outside the window are freed, states are kept at the ends of
// some chunks, and what another engine loads is the window and one state.
//
//     ./hybrid_engine     prints what was loaded and what was not read; exit code 0: equal logits
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"

namespace {

using namespace cake;

constexpr std::uint32_t kChunk = 64;        // tokens
constexpr std::uint32_t kWindow = 100;      // tokens; need not be a multiple of a chunk
constexpr std::uint32_t kCheckpoint = 256;  // tokens between two states that are kept
constexpr std::uint32_t kWidth = 16;        // numbers of a row, and of the state

using Row = std::array<float, kWidth>;

// [layout]
/// Layer 0 has a state, layer 1 a window, layer 2 looks back at everything.
KvLayout hybrid_layout() {
  const KvPlane row{1, sizeof(Row), KvOrder::nhd,
                    DType::f32};  // of a token; of the state: all of it
  KvLayerKind state{.planes = {row}, .state = true};
  KvLayerKind window{.planes = {row}, .window = kWindow};
  KvLayerKind full{.planes = {row}};
  return {.n_layers = 3, .kinds = {state, window, full}, .kind_of = {0, 1, 2}};
}
// [/layout]

class HybridEngine {
 public:
  static KvLayout layout() { return hybrid_layout(); }
  static ModelFingerprint fingerprint() {
    return FingerprintBuilder().add("weights", "an example").add("kv", "f32").finish();
  }

  // [state]
  /// Goes on from the last step, or from the state that was inserted where this one begins.
  Status prefill(Tokens prompt, TokenRange range) {
    const std::lock_guard lock(mutex_);
    if (range.begin == 0) {
      state_ = {};
    } else if (range.begin != ran_to_) {
      const auto kept = states_.find(range.begin);
      if (kept == states_.end()) return not_there("a state", range.begin);
      state_ = kept->second;
    }
    for (std::uint32_t t = range.begin; t < range.end; ++t) {
      compute(prompt[t], t);
      if ((t + 1) % kCheckpoint == 0) states_[t + 1] = state_;
    }
    ran_to_ = range.end;
    free_pages(range.end);
    return {};
  }
  // [/state]

  // [extract]
  Status insert(const Slice& slice, const KvView& from) {
    const std::lock_guard lock(mutex_);
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      const auto run = from.plane(l, 0);
      if (l == 0) {
        std::memcpy(states_[slice.tokens.end].data(), run.data(), run.size());
      } else {
        std::vector<Row>& page = pages_[l - 1][slice.tokens.begin / kChunk];
        page.resize(kChunk);  // kept apart from the pages that steps work on
        std::memcpy(page.data(), run.data(), run.size());
      }
    }
    return {};
  }
  Status extract(const Slice& slice, const MutableKvView& to) {
    const std::lock_guard lock(mutex_);
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      const auto run = to.plane(l, 0);
      if (l == 0) {
        const auto kept = states_.find(slice.tokens.end);
        if (kept == states_.end()) return not_there("a state", slice.tokens.end);
        std::memcpy(run.data(), kept->second.data(), run.size());
      } else {
        const auto page = pages_[l - 1].find(slice.tokens.begin / kChunk);
        if (page == pages_[l - 1].end() || page->second.size() < kChunk) {
          return not_there("a page", slice.tokens.begin);
        }
        std::memcpy(run.data(), page->second.data(), run.size());
      }
    }
    return {};
  }
  // [/extract]

  const Row& logits() const { return logits_; }

 private:
  using Pages = std::map<std::uint32_t, std::vector<Row>>;  // chunk -> rows of its tokens

  static Error not_there(const char* what, std::uint32_t token) {
    return {Errc::not_found, 0, std::string(what) + " at token " + std::to_string(token)};
  }
  void compute(TokenId token, std::uint32_t t) {
    Row x;
    for (std::uint32_t i = 0; i < kWidth; ++i) {
      x[i] = static_cast<float>((static_cast<std::uint32_t>(token) * (i + 3) * 2654435761u) >> 20) /
             4096;
      state_[i] = state_[i] * 0.9F + x[i];
      x[i] += state_[i];
    }
    x = attend(pages_[0], x, t, t + 1 < kWindow ? 0 : t + 1 - kWindow);
    logits_ = attend(pages_[1], x, t, 0);
  }
  /// Keeps the row, and adds the mean of those from `first` on.
  static Row attend(Pages& pages, Row x, std::uint32_t t, std::uint32_t first) {
    std::vector<Row>& page = pages[t / kChunk];
    page.resize(std::max<std::size_t>(page.size(), t % kChunk + 1));
    page[t % kChunk] = x;
    Row sum{};
    for (std::uint32_t s = first; s <= t; ++s) {
      const Row& row = pages.at(s / kChunk).at(s % kChunk);
      for (std::uint32_t i = 0; i < kWidth; ++i) sum[i] += row[i];
    }
    for (std::uint32_t i = 0; i < kWidth; ++i) x[i] += sum[i] / static_cast<float>(t + 1 - first);
    return x;
  }
  // [evict]
  /// Pages that neither the next step nor a hit at the last chunk's end looks back at.
  void free_pages(std::uint32_t end) {
    const std::uint32_t last = end / kChunk * kChunk;
    if (last < kWindow) return;
    Pages& pages = pages_[0];
    pages.erase(pages.begin(), pages.lower_bound((last - kWindow) / kChunk));
  }
  // [/evict]

  std::mutex mutex_;                     // inserts come from other threads
  std::array<Pages, 2> pages_;           // of layers 1 and 2
  std::map<std::uint32_t, Row> states_;  // token -> state before it
  Row state_{};                          // at ran_to_
  std::uint32_t ran_to_ = 0;             // token at which the last step ended
  Row logits_{};
};
static_assert(ComputeBackend<HybridEngine>);

}  // namespace

int main() {
  std::vector<TokenId> prompt(16 * kChunk + 20);
  for (std::uint32_t t = 0; t < prompt.size(); ++t)
    prompt[t] = static_cast<TokenId>(t * 7919 % 997);

  MemoryStorage storage;
  HybridEngine first;
  Loader saver(first, storage, {.chunks = {.chunk_tokens = kChunk}});
  if (!saver.prefill(prompt).status) return 1;
  const SaveReport saved = saver.save(prompt);
  std::printf("saved %u chunks, %u of them without their window or state\n", saved.written,
              saved.partial);

  HybridEngine second;
  Loader loader(second, storage, {.chunks = {.chunk_tokens = kChunk}}, LoadOnlyScheduler());
  const PrefillReport report = loader.prefill(prompt);
  std::printf(
      "loaded %u tokens, computed %u; read %llu bytes, %llu of windows and states were not "
      "needed\n",
      report.tokens_loaded, report.tokens_computed,
      static_cast<unsigned long long>(report.bytes_read),
      static_cast<unsigned long long>(report.bytes_out_of_window));
  const bool equal = second.logits() == first.logits();
  std::printf("logits %s\n", equal ? "equal" : "differ");
  return saved.status && report.status && report.tokens_loaded != 0 && equal ? 0 : 1;
}
