// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// An engine with a loop of its own and continuous batching. It answers three requests when a long
// prompt arrives, most of whose KV is stored. The prompt's prefill goes on between the decode steps
// of the others, in short steps while there are any, and is driven through PrefillSession.
//
//     engine_driven [--model FILE.gguf]      without a model: the tiny engine of custom_engine.hpp
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "cake/cake.hpp"
#include "cake/storage/memory.hpp"
#include "cake/storage/throttled.hpp"
#include "custom_engine.hpp"
#ifdef CAKE_EXAMPLE_REFERENCE
#include "cake/reference/cpu_backend.hpp"
#endif

namespace {

using namespace cake;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kChunk = 64;
constexpr std::uint32_t kLongStep = 128;  // tokens of a prefill step when nobody else waits
constexpr std::uint32_t kShortStep = 32;  // and when others want their next token

std::vector<TokenId> make_prompt(std::size_t n, std::uint32_t n_vocab, std::uint32_t seed) {
  std::vector<TokenId> prompt(n);
  for (TokenId& token : prompt) {
    seed = seed * 1664525 + 1013904223;
    token = static_cast<TokenId>((seed >> 8) % n_vocab);
  }
  return prompt;
}

/// A request that is being answered: each decode step appends the likeliest token.
template <class Engine>
struct Answering {
  std::unique_ptr<Engine> engine;
  std::vector<TokenId> tokens;
  std::size_t wanted = 0;  // tokens of prompt and answer together

  bool done() const { return tokens.size() >= wanted; }
  Status prefill() {
    return engine->prefill(tokens, {0, static_cast<std::uint32_t>(tokens.size())});
  }
  Status decode() {
    const auto& logits = engine->logits();
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    tokens.push_back(static_cast<TokenId>(best));
    const auto n = static_cast<std::uint32_t>(tokens.size());
    return engine->prefill(tokens, {n - 1, n});
  }
};

/// What the loop did, for people.
struct Log {
  std::uint32_t decoded = 0;   // tokens of the others, during the prefill
  std::uint32_t steps = 0;     // of the prefill
  std::uint32_t gated = 0;     // of these
  double longest_pause_s = 0;  // between two decode steps
};

// [loop]
/// The engine's loop: every turn a token for each request that is being answered, then a step of
/// the new prompt.
template <class Engine, class Session>
PrefillReport prefill_beside(Session& session, Engine& engine, Tokens prompt,
                             std::vector<Answering<Engine>>& others, Log& log) {
  session.begin(prompt);
  for (Clock::time_point last = Clock::now();;) {
    std::uint32_t busy = 0;
    for (Answering<Engine>& other : others) {
      if (other.done()) continue;
      other.decode().value();
      ++busy;
    }
    log.decoded += busy;
    const std::chrono::duration<double> pause = Clock::now() - last;
    if (busy > 0) log.longest_pause_s = std::max(log.longest_pause_s, pause.count());
    last = Clock::now();

    // Nobody may be held up by a gate, which blocks until a layer has been loaded.
    const Step step = session.next(busy > 0 ? kShortStep : kLongStep, /*may_gate=*/busy == 0);
    if (step.kind == Step::Kind::finished) break;
    if (step.kind == Step::Kind::wait) {
      if (busy == 0) session.wait(step.until);  // else the others' next tokens come first
      continue;
    }
    const Status status = engine.prefill(prompt, step.tokens, session.gate(step));
    session.done(step, step.tokens.size(), status);
    ++log.steps;
    if (step.gated) ++log.gated;
  }
  return session.finish();
}
// [/loop]

template <class MakeEngine>
int run(MakeEngine make_engine, std::uint32_t n_vocab, std::uint32_t n_tokens) {
  using Engine = typename decltype(make_engine())::element_type;
  const std::vector<TokenId> prompt = make_prompt(n_tokens, n_vocab, 1);

  // The prompt was seen before: another engine computed it and saved it.
  MemoryStorage store;
  const auto earlier = make_engine();
  const ChunkOptions chunks{.chunk_tokens = kChunk};
  const SessionOptions steps{.max_step_tokens = kLongStep};
  Loader loader(*earlier, store, {.chunks = chunks, .session = steps});
  const PrefillReport computed = loader.prefill(prompt);
  computed.status.value();
  loader.save(prompt).status.value();
  std::printf("the prompt of %u tokens, computed alone: %.3f s\n", n_tokens,
              PrefillReport::seconds_of(computed.ttft));

  // A link that takes about as long to load all of it.
  const double rate = static_cast<double>(store.bytes()) / PrefillReport::seconds_of(computed.ttft);
  ThrottledStorage link(store, LinkOptions{.bytes_per_second = rate});
  // The link is another storage; what the device takes is known.
  const auto calibration = std::make_shared<Calibration>();
  calibration->take_models(*loader.lanes().calibration());
  // One for the engine's lifetime, shared by all its sessions.
  IoLanes lanes(link, {.calibration = calibration});

  std::vector<Answering<Engine>> others;
  for (std::uint32_t i = 0; i < 3; ++i) {
    others.push_back({make_engine(), make_prompt(200 + 50 * i, n_vocab, 2 + i), 0});
    others.back().wanted = others.back().tokens.size() + 12 * (i + 1);
    others.back().prefill().value();
  }

  const auto engine = make_engine();
  PrefillSession session(*engine, lanes, chunks, MeetInTheMiddleScheduler(), steps);
  Log log;
  const PrefillReport report = prefill_beside(session, *engine, prompt, others, log);
  report.status.value();
  std::printf("beside %zu others: %.3f s, %u tokens computed in %u steps (%u gated), %u loaded\n",
              others.size(), PrefillReport::seconds_of(report.ttft), report.tokens_computed,
              log.steps, log.gated, report.tokens_loaded);
  std::printf("meanwhile the others got %u tokens, with pauses of at most %.3f s\n%s", log.decoded,
              log.longest_pause_s, report.timeline().c_str());

  const auto& a = engine->logits();
  const auto& b = earlier->logits();
  const auto likeliest = [](const auto& logits) {
    return std::max_element(logits.begin(), logits.end()) - logits.begin();
  };
  const bool same = a.size() == b.size() && likeliest(a) == likeliest(b);
  std::printf("its first token is %s\n", same ? "the same" : "NOT the same");
  return same && log.decoded > 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc == 1) {
    using examples::TinyEngine;
    constexpr std::uint32_t kTokens = 1500;
    return run([=] { return std::make_unique<TinyEngine>(kTokens); }, examples::TinyModel::kVocab,
               kTokens);
  }
  if (argc != 3 || std::strcmp(argv[1], "--model") != 0) {
    std::fprintf(stderr, "usage: engine_driven [--model FILE.gguf]\n");
    return 2;
  }
#ifdef CAKE_EXAMPLE_REFERENCE
  const auto weights = reference::Weights::load(argv[2]);
  if (!weights) {
    std::fprintf(stderr, "engine_driven: %s\n", weights.error().message().c_str());
    return 2;
  }
  const reference::Config config = reference::CpuBackend(*weights).config();
  return run([&] { return std::make_unique<reference::CpuBackend>(*weights); }, config.n_vocab,
             std::min(config.n_context, 1024u));
#else
  std::fprintf(stderr, "engine_driven: built without cake::reference, so without --model\n");
  return 2;
#endif
} catch (const std::exception& e) {
  std::fprintf(stderr, "engine_driven: %s\n", e.what());
  return 1;
}
