// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A queue of prompts over the lanes of one Loader: questions about a few documents whose KV a remote store
// has. Two of them run at a time on one device. The others wait: what is stored of them is prefetched into
// RAM with what the running ones leave of the link, and each begins when admit() says so.
//
//     ./many_prompts      prints TTFT of each prompt, and how often a byte of the link was used; exit code
//                         0: each prompt has the logits that it has when it is computed alone
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <exception>
#include <memory>
#include <optional>
#include <vector>

#include "cake/cake.hpp"
#include "cake/storage/host.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/throttled.hpp"
#include "cake/storage/tiered.hpp"
#include "custom_engine.hpp"

namespace {

using namespace cake;
using examples::TinyEngine;
using Clock = std::chrono::steady_clock;
using Link = ThrottledStorage<MemoryStorage>;
using Store = TieredStorage<HostStorage, Link>;
using Session = PrefillSession<TinyEngine, Store>;

constexpr std::uint32_t kDocuments = 3;
constexpr std::uint32_t kQuestions = 4;  // about each
constexpr std::uint32_t kDocumentTokens = 640;
constexpr std::uint32_t kQuestionTokens = 40;
constexpr std::uint32_t kMost = kDocumentTokens + kQuestionTokens;
const ChunkOptions kChunks{.chunk_tokens = 64};
const SessionOptions kSteps{.max_step_tokens = 128};

struct Prompt {
  std::uint32_t number = 0;
  std::vector<TokenId> tokens;
  Clock::time_point came = Clock::now();
  Time waited{0};  // in the queue
  std::optional<PrefetchTicket> prefetch = {};
};

/// A place for one running prompt: an engine object, and a session over the lanes of all.
struct Slot {
  explicit Slot(IoLanes<Store>& lanes)
      : session(engine, lanes, kChunks, MeetInTheMiddleScheduler(), kSteps) {}
  TinyEngine engine{kMost};
  Session session;
  std::optional<Prompt> prompt;
};

Time since(Clock::time_point then) { return Clock::now() - then; }

std::vector<TokenId> text(std::uint32_t n, std::uint32_t seed) {
  std::vector<TokenId> tokens(n);
  for (TokenId& token : tokens) {
    seed = seed * 1664525 + 1013904223;
    token = static_cast<TokenId>((seed >> 8) % 32);
  }
  return tokens;
}

/// The questions about all documents, in turn.
std::deque<Prompt> make_queue() {
  std::deque<Prompt> queue;
  for (std::uint32_t i = 0; i < kDocuments * kQuestions; ++i) {
    Prompt prompt{i, text(kDocumentTokens, i % kDocuments)};
    const std::vector<TokenId> question = text(kQuestionTokens, 100 + i);
    prompt.tokens.insert(prompt.tokens.end(), question.begin(), question.end());
    queue.push_back(std::move(prompt));
  }
  return queue;
}

/// Somebody has computed the documents before. Returns what one of them took.
Time save_documents(MemoryStorage& remote) {
  Time took{0};
  for (std::uint32_t d = 0; d < kDocuments; ++d) {
    TinyEngine engine(kMost);
    Loader loader(engine, remote, {.chunks = kChunks, .session = kSteps});
    const std::vector<TokenId> document = text(kDocumentTokens, d);
    const PrefillReport report = loader.prefill(document);
    report.status.value();
    took = report.ttft;
    loader.save(document).status.value();
  }
  return took;
}

std::size_t running(const std::vector<std::unique_ptr<Slot>>& slots) {
  return static_cast<std::size_t>(std::count_if(
      slots.begin(), slots.end(), [](const auto& s) { return s->prompt.has_value(); }));
}

// [queue]
/// Begins with the first prompt of the queue that is to begin now. False: none is.
template <class Loader>
bool begin_next(Loader& loader, Slot& slot, std::deque<Prompt>& queue, Time device_busy) {
  for (auto next = queue.begin(); next != queue.end(); ++next) {
    PromptNeeds needs = loader.needs(next->tokens);
    needs.waited = since(next->came);
    needs.device_busy = device_busy;
    if (!admit(needs, loader.lanes().state()).now()) continue;
    next->waited = needs.waited;
    slot.prompt = std::move(*next);
    queue.erase(next);
    slot.session.begin(slot.prompt->tokens);  // it joins what is being prefetched for it just now
    slot.prompt->prefetch.reset();
    return true;
  }
  return false;
}

/// One step of the prompt, or none: then the time until which it waits. With others beside it nobody may
/// be held up by a gate.
Time step(Slot& slot, bool alone) {
  const Step step = slot.session.next(kSteps.max_step_tokens, alone);
  if (step.kind == Step::Kind::wait) return step.until;
  if (step.kind == Step::Kind::compute) {
    slot.session.done(
        step, step.tokens.size(),
        slot.engine.prefill(slot.prompt->tokens, step.tokens, slot.session.gate(step)));
  }
  return Time{0};
}
// [/queue]

/// What the prompts came to.
struct Sums {
  std::uint64_t bytes = 0;  // that prompts had of loads
  double ttft_s = 0;
  std::vector<std::vector<TokenId>> prompts;
  std::vector<std::vector<float>> logits;  // [prompt]
};

/// Each prompt computed alone, by another engine, has the same logits.
bool all_right(const Sums& sums) {
  bool right = true;
  for (std::size_t i = 0; i < sums.prompts.size(); ++i) {
    TinyEngine alone(kMost);
    alone.prefill(sums.prompts[i], {0, kMost}).value();
    right = right && alone.logits() == sums.logits[i];
  }
  return right && sums.prompts.size() == std::size_t{kDocuments} * kQuestions;
}

void finish(Slot& slot, Sums& sums) {
  const PrefillReport report = slot.session.finish();
  report.status.value();
  const Prompt prompt = std::move(*slot.prompt);
  slot.prompt.reset();
  const double ttft = PrefillReport::seconds_of(prompt.waited + report.ttft);
  std::printf(
      "prompt %2u, document %u: TTFT %6.1f ms, %6.1f of it in the queue; %3u tokens loaded, %3u "
      "computed\n",
      prompt.number, prompt.number % kDocuments, 1e3 * ttft,
      1e3 * PrefillReport::seconds_of(prompt.waited), report.tokens_loaded, report.tokens_computed);
  sums.bytes += report.bytes_read;
  sums.ttft_s += ttft;
  sums.prompts.push_back(prompt.tokens);
  sums.logits.push_back(slot.engine.logits());
}

/// Until all prompts have their first token: prompts begin, and those that run get a step in turn.
template <class Loader>
Sums serve(Loader& loader, std::deque<Prompt> queue, Time one_prompt) {
  std::vector<std::unique_ptr<Slot>> slots;
  slots.reserve(2);
  for (int i = 0; i < 2; ++i) slots.push_back(std::make_unique<Slot>(loader.lanes()));
  for (Prompt& prompt : queue) prompt.prefetch = loader.prefetch(prompt.tokens);
  Sums sums;
  while (!queue.empty() || running(slots) != 0) {
    bool moved = false;
    Slot* waits = nullptr;
    Time until{0};
    for (const auto& slot : slots) {
      if (!slot->prompt) {
        const Time busy = one_prompt * static_cast<std::int64_t>(running(slots)) / 2;
        moved = begin_next(loader, *slot, queue, busy) || moved;
        continue;
      }
      const Step now =
          slot->session.next(0);  // a wait that is over at once, unless it has finished
      if (now.kind == Step::Kind::finished) {
        finish(*slot, sums);
        moved = true;
        continue;
      }
      until = step(*slot, running(slots) == 1 && queue.empty());
      if (until == Time{0})
        moved = true;
      else
        waits = slot.get();
    }
    if (!moved && waits != nullptr) {
      waits->session.wait(std::min(until, waits->session.now() + std::chrono::milliseconds(1)));
    }
  }
  return sums;
}

}  // namespace

int main() try {
  MemoryStorage remote;
  const Time computed = save_documents(remote);
  // A link over which a document takes half as long as computing it does.
  const double document = static_cast<double>(remote.bytes()) / kDocuments;
  Link link(remote,
            LinkOptions{.bytes_per_second = 2 * document / PrefillReport::seconds_of(computed)});
  HostStorage ram({.capacity_bytes = 64 << 20});
  Store store({.promote = Promotion::on_hit}, ram, link);
  TinyEngine engine(kMost);  // of no prompt: it says what the model is
  Loader loader(engine, store, {.chunks = kChunks, .session = kSteps});

  std::printf("%u prompts come at once; each takes %.1f ms to compute\n", kDocuments * kQuestions,
              1e3 * PrefillReport::seconds_of(computed));
  const Sums sums = serve(loader, make_queue(), computed);
  const double over_link = static_cast<double>(store.stats()[1].read_bytes);
  std::printf(
      "mean TTFT %.1f ms; the link carried %.2f MB (the documents have %.2f), the prompts had "
      "%.2f MB of loads: each byte of the link was used %.1f times\n",
      1e3 * sums.ttft_s / (kDocuments * kQuestions), over_link * 1e-6,
      static_cast<double>(remote.bytes()) * 1e-6, static_cast<double>(sums.bytes) * 1e-6,
      over_link > 0 ? static_cast<double>(sums.bytes) / over_link : 0.0);
  const bool right = all_right(sums);
  std::printf("%s\n", right ? "all logits are right" : "some logits are wrong");
  return right ? 0 : 1;
} catch (const std::exception& e) {
  std::fprintf(stderr, "many_prompts: %s\n", e.what());
  return 1;
}
