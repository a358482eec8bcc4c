// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Conformance kit for engines: tests the rules that a concept cannot express. Needs no test
// framework.
//
//     for (const std::string& failure : cake::testing::check(my_engine, prompt))
//       std::puts(failure.c_str());
//
// An empty list means that no tested rule was broken.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cake/chunk/format.hpp"
#include "cake/chunk/writer.hpp"
#include "cake/detail/check_support.hpp"
#include "cake/engine.hpp"
#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"

namespace cake::inline CAKE_ABI::detail::kit {

/// Inserts each layer of a slice by itself, the last one first, on four threads; each thread begins
/// all its inserts before another one waits for them.
template <KvMemory M>
bool insert_parts(M& memory, const Slice& slice, Runs& runs) {
  using Completion = decltype(memory.insert(slice, runs.const_view()));
  constexpr std::uint32_t kThreads = 4;
  std::vector<std::vector<Completion>> pending(kThreads);
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (std::uint32_t l = slice.layers.end; l-- > slice.layers.begin;) {
        if (l % kThreads != t) continue;
        const Slice layer{slice.chunk, slice.tokens, {l, l + 1}};
        pending[t].push_back(memory.insert(layer, runs.const_view()));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  bool good = true;
  for (std::vector<Completion>& of_thread : pending) {
    for (Completion& insert : of_thread) {
      good = await_completion(std::move(insert)).has_value() && good;
    }
  }
  return good;
}

}  // namespace cake::inline CAKE_ABI::detail::kit

namespace cake::inline CAKE_ABI::testing {

/// Tries an engine's KV memory on the tokens [0, n_tokens), which must be allocated; what was there
/// is overwritten.
///
/// Needs:   n_tokens of at least 8
template <KvMemory M>
Failures check_memory(M& memory, std::uint32_t n_tokens, std::uint64_t seed = 1) {
  Failures failures;
  const auto expect = [&](bool good, const std::string& what) {
    if (!good) failures.push_back("memory: " + what);
  };
  const KvLayout layout = memory.layout();
  expect(layout.valid(), "layout() has layers, heads and a head size");
  expect(layout == memory.layout() && memory.fingerprint() == memory.fingerprint(),
         "layout() and fingerprint() do not change");
  if (!layout.valid() || n_tokens < 8) return failures;
  if (detail::kit::is_limited(layout)) return {detail::kit::kLimited};
  const std::uint32_t third = n_tokens / 3;
  const Slice whole{0, {0, n_tokens}, {0, layout.n_layers}};
  const auto insert = [&](const Slice& slice, detail::kit::Runs& runs) {
    return await_completion(memory.insert(slice, runs.const_view())).has_value();
  };
  const auto holds = [&](const Slice& slice, detail::kit::Runs& runs) {
    detail::kit::Runs back(layout, slice);
    std::memset(back.bytes().data(), 0x5a, back.bytes().size());
    return await_completion(memory.extract(slice, back.view())).has_value() &&
           detail::kit::same(back.bytes(), runs.bytes());
  };
  detail::kit::Runs ground(layout, whole);
  detail::kit::fill(ground.bytes(), seed);
  expect(insert(whole, ground) && holds(whole, ground),
         "extract gives the bytes that insert put there");

  constexpr bool kWhole = engine_traits<M>::abilities.whole_chunks;
  const Slice middle{1, {third, 2 * third}, {kWhole ? 0 : layout.n_layers / 2, layout.n_layers}};
  detail::kit::Runs patch(layout, middle);
  detail::kit::fill(patch.bytes(), seed + 1);
  const Slice before{0, {0, third}, {0, layout.n_layers}};
  const Slice after{2, {2 * third, n_tokens}, {0, layout.n_layers}};
  detail::kit::Runs left(layout, before);
  detail::kit::Runs right(layout, after);
  expect(await_completion(memory.extract(before, left.view())).has_value() &&
             await_completion(memory.extract(after, right.view())).has_value(),
         "parts can be extracted");
  expect(insert(middle, patch) && holds(middle, patch),
         "some layers of some tokens can be replaced");
  expect(holds(before, left) && holds(after, right), "an insert leaves other tokens alone");
  if (layout.n_layers > 1 && !kWhole) {
    const Slice low{1, middle.tokens, {0, layout.n_layers / 2}};
    detail::kit::Runs lower(layout, low);
    expect(insert(whole, ground) &&
               await_completion(memory.extract(low, lower.view())).has_value() &&
               insert(middle, patch) && holds(low, lower),
           "an insert leaves other layers alone");
  }
  if constexpr (!engine_traits<M>::abilities.insert_on_caller) {
    std::atomic<bool> good{true};
    std::vector<std::thread> threads;
    for (std::uint32_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        const Slice own{t, {n_tokens * t / 4, n_tokens * (t + 1) / 4}, {0, layout.n_layers}};
        detail::kit::Runs runs(layout, own);
        for (std::uint64_t i = 0; i < 20; ++i) {
          detail::kit::fill(runs.bytes(), seed + std::uint64_t{10} * t + i);
          if (!insert(own, runs) || !holds(own, runs)) good = false;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    expect(good, "four threads insert and extract tokens of their own at once");
  }
  if constexpr (engine_traits<M>::abilities.inserts_parts) {
    detail::kit::fill(ground.bytes(), seed + 2);
    expect(detail::kit::insert_parts(memory, whole, ground) && holds(whole, ground),
           "layers of the same tokens are inserted by several threads at once, the last one first");
  }
  return failures;
}

}  // namespace cake::inline CAKE_ABI::testing

namespace cake::inline CAKE_ABI::detail::kit {

/// Computes all behind `front` in one gated step. KV of the front is garbage before; each layer of
/// `kv` is inserted when the step waits for it, if that is for lanes to do.
template <ComputeBackend C>
Status gated_step(C& engine, Tokens prompt, const Slice& front, Runs& kv, ManualGate& gate,
                  bool& inserted) {
  constexpr bool kInserts = !engine_traits<C>::abilities.insert_on_caller;
  const KvLayout layout = engine.layout();
  const auto insert = [&](const Slice& slice, Runs& runs) {
    if constexpr (kInserts) {
      const Status status = await_completion(engine.insert(slice, runs.const_view()));
      inserted = inserted && status.has_value();
    }
  };
  Runs garbage(layout, front);  // whoever reads ahead of the gate reads this
  std::memset(garbage.bytes().data(), 0x11, garbage.bytes().size());
  insert(front, garbage);
  Status status;
  std::atomic<bool> ended{false};
  std::thread step([&] {
    const TokenRange range{front.tokens.end, static_cast<std::uint32_t>(prompt.size())};
    status = await_completion(engine_traits<C>::prefill(engine, prompt, range, LayerGate(gate, 2)));
    ended = true;
  });
  for (std::uint32_t l = 0; l < layout.n_layers; ++l) {
    while (gate.entered() <= l && !ended) std::this_thread::yield();
    const Slice layer{0, front.tokens, {l, l + 1}};
    Runs one(layout, layer);
    one.copy_layer(l, kv);
    insert(layer, one);
    gate.open(l + 1);
  }
  step.join();
  return status;
}

}  // namespace cake::inline CAKE_ABI::detail::kit

namespace cake::inline CAKE_ABI::testing {

/// Tries an engine: its memory as above, then that a prompt computed in steps, behind a gate or
/// with a part of its KV inserted, leaves the same KV, and that KV of tokens that were neither
/// computed nor inserted is not given out. Nothing may have been computed on the engine yet, and it
/// must be able to prefill `prompt` (at least 8 tokens) again and again. `same_bytes`: it gives
/// equal bytes for equal steps, as deterministic kernels do.
template <ComputeBackend C>
Failures check(C& engine, Tokens prompt, bool same_bytes = true) {
  const auto n = static_cast<std::uint32_t>(prompt.size());
  Failures failures;
  const auto expect = [&](bool good, const std::string& what) {
    if (!good) failures.push_back("compute: " + what);
  };
  if (n < 8) return {"compute: the prompt to check with has fewer than 8 tokens"};
  const KvLayout layout = engine.layout();
  if (layout.valid() && detail::kit::is_limited(layout)) return {detail::kit::kLimited};
  const auto prefill = [&](TokenRange range, LayerGate gate) -> Status {
    return await_completion(engine_traits<C>::prefill(engine, prompt, range, std::move(gate)));
  };
  const std::uint32_t cut = n / 2;
  const Slice front{0, {0, cut}, {0, layout.n_layers}};
  const Slice back{1, {cut, n}, {0, layout.n_layers}};
  detail::kit::Runs front_kv(layout, front);
  detail::kit::Runs back_kv(layout, back);
  const bool first_step = prefill({0, cut}, {}).has_value();
  const Slice across{0, {cut - 1, cut + 1}, {0, layout.n_layers}};
  detail::kit::Runs across_kv(layout, across);
  expect(
      !await_completion(engine.extract(across, across_kv.view())) &&
          !await_completion(engine.extract(back, back_kv.view())),
      "extract of tokens that were never computed is refused; save() would store what lies in "
      "their memory. Note for each token when its KV is computed or inserted (cake::KvPresence "
      "does), and return invalid_argument for others. The token that was sampled last has no KV "
      "until it is decoded. If other prompts were computed on this engine before the check, hand "
      "it a new one");
  expect(first_step && prefill({cut, n}, {}).has_value(), "a prompt is computed in two steps");
  expect(await_completion(engine.extract(front, front_kv.view())).has_value() &&
             await_completion(engine.extract(back, back_kv.view())).has_value(),
         "KV that was computed can be extracted");
  const auto equal = [&](const Slice& slice, detail::kit::Runs& expected) {
    detail::kit::Runs now(layout, slice);
    return await_completion(engine.extract(slice, now.view())).has_value() &&
           (!same_bytes || detail::kit::same(now.bytes(), expected.bytes()));
  };
  expect(prefill({0, cut}, {}).has_value() && equal(front, front_kv),
         "computing a range again gives the same KV");
  expect(await_completion(engine.insert(front, front_kv.const_view())).has_value() &&
             prefill({cut, n}, {}).has_value() && equal(back, back_kv),
         "a step behind inserted KV gives what it gives behind computed KV");
  if constexpr ((engine_traits<C>::gates())) {
    detail::kit::ManualGate shut(layout.n_layers);
    shut.make_void();
    const Status voided = prefill({cut, n}, LayerGate(shut, 1));
    expect(voided.code() == Errc::superseded, "a step whose gate says false returns superseded");
    expect(shut.asked() == 0, "nothing of a layer is done before its gate is open");
    detail::kit::ManualGate gate(layout.n_layers);
    bool inserted = true;
    const Status status = detail::kit::gated_step(engine, prompt, front, front_kv, gate, inserted);
    expect(inserted, "a layer is inserted while a step waits for it");
    expect(status.has_value() && equal(back, back_kv),
           "a gated step gives what an ungated one gives");
    expect(!gate.wrong() && gate.asked() == layout.n_layers,
           "a gated step asks for every layer, in order");
  }
  for (std::string& failure : check_memory(engine, n)) failures.push_back(std::move(failure));
  return failures;
}

/// Tries an engine that takes wide steps: that one gated step of several micro-batches leaves the KV
/// that steps of `micro_batch` tokens leave, whatever lies below it before its layers' gates are
/// open, and that it can be done again when a gate in the middle was void. It must be able to prefill
/// `prompt` again and again. `same_bytes`: as check(), where micro-batches have `micro_batch` tokens.
///
/// Needs:   prompt of more than twice `micro_batch` tokens behind a first eighth of it
template <ComputeBackend C>
requires(engine_traits<C>::gates()) Failures
    check_wide_steps(C& engine, Tokens prompt, std::uint32_t micro_batch, bool same_bytes = true) {
  const auto n = static_cast<std::uint32_t>(prompt.size());
  const std::uint32_t cut = n / 8;
  if (!engine_traits<C>::abilities.wide_gated_steps) {
    return {"wide steps: the engine does not declare them (EngineAbilities::wide_gated_steps)"};
  }
  if (cut == 0 || micro_batch == 0 || n - cut <= 2 * micro_batch) {
    return {"wide steps: the prompt to check with has fewer than three micro-batches"};
  }
  Failures failures;
  const auto expect = [&](bool good, const char* what) {
    if (!good) failures.push_back(std::string("wide steps: ") + what);
  };
  const KvLayout layout = engine.layout();
  const Slice front{0, {0, cut}, {0, layout.n_layers}};
  const Slice back{1, {cut, n}, {0, layout.n_layers}};
  detail::kit::Runs front_kv(layout, front);
  detail::kit::Runs steps_kv(layout, back);
  const auto prefill = [&](TokenRange range, LayerGate gate) {
    return await_completion(engine_traits<C>::prefill(engine, prompt, range, std::move(gate)));
  };
  bool computed = prefill({0, cut}, {}).has_value();
  for (std::uint32_t at = cut; at < n && computed; at += micro_batch) {
    computed = prefill({at, std::min(at + micro_batch, n)}, {}).has_value();
  }
  expect(computed && await_completion(engine.extract(front, front_kv.view())).has_value() &&
             await_completion(engine.extract(back, steps_kv.view())).has_value(),
         "a prompt is computed in steps of a micro-batch, and extracted");
  detail::kit::ManualGate shut(layout.n_layers);
  shut.open(layout.n_layers / 2);
  shut.make_void();
  expect(prefill({cut, n}, LayerGate(shut, 1)).code() == Errc::superseded,
         "a wide step whose gate says false half-way returns superseded");
  bool inserted = true;
  detail::kit::ManualGate gate(layout.n_layers);
  const Status status = detail::kit::gated_step(engine, prompt, front, front_kv, gate, inserted);
  detail::kit::Runs wide_kv(layout, back);
  expect(status.has_value() && inserted && !gate.wrong() && gate.asked() == layout.n_layers &&
             await_completion(engine.extract(back, wide_kv.view())).has_value(),
         "a wide step asks for every layer once it has done the one before, and ends");
  expect(!same_bytes || detail::kit::same(wide_kv.bytes(), steps_kv.bytes()),
         "a wide step gives what steps of a micro-batch give");
  return failures;
}

}  // namespace cake::inline CAKE_ABI::testing

namespace cake::inline CAKE_ABI::detail::kit {

/// The stored bytes; none when there are none.
inline AlignedBuffer object_of(MemoryStorage& store, const ChunkKey& key) {
  const auto found = store.lookup(std::span(&key, 1));
  AlignedBuffer bytes(found ? found->front().size : 0);
  if (bytes.size() != 0) (void)await_completion(store.read(0, key, 0, bytes.bytes()));
  return bytes;
}

/// Computes all whole chunks, and saves each before the next one is computed.
template <ComputeBackend C>
bool save_chunk_by_chunk(C& engine, Tokens tokens, MemoryStorage& store,
                         std::uint32_t chunk_tokens) {
  for (std::uint32_t end = chunk_tokens; end <= tokens.size(); end += chunk_tokens) {
    const TokenRange range{end - chunk_tokens, end};
    Status status;
    if constexpr (PrefillsWhole<C>) {
      status = await_completion(engine.prefill(tokens, range));
    } else {
      status = await_completion(engine.prefill(tokens, range, LayerGate()));
    }
    const SaveReport saved = save(engine, store, tokens.first(end), {.chunk_tokens = chunk_tokens});
    if (!status || !saved.status || saved.written == 0) return false;
  }
  return true;
}

}  // namespace cake::inline CAKE_ABI::detail::kit

namespace cake::inline CAKE_ABI::testing {

/// Tries an engine whose layout has windows or states: that each chunk can be stored while it is
/// fresh, that a suffix computed behind what was loaded is what it is behind what was computed, and
/// that tokens which were neither computed nor inserted are not given out. Nothing may have been
/// computed on the engine yet, and it must be able to prefill `prompt` again and again, in steps of
/// `chunk_tokens`.
///
/// Needs:   prompt of at least three chunks and a token
template <ComputeBackend C>
Failures check_windows_and_states(C& engine, Tokens prompt, std::uint32_t chunk_tokens = 16) {
  const auto n = static_cast<std::uint32_t>(prompt.size());
  const std::uint32_t n_chunks = n / chunk_tokens;
  if (n_chunks < 3 || n == n_chunks * chunk_tokens) {
    return {"windows: the prompt to check with has fewer than three chunks and a token"};
  }
  Failures failures;
  const auto expect = [&](bool good, const char* what) {
    if (!good) failures.push_back(std::string("windows: ") + what);
    return good;
  };
  const KvLayout layout = engine.layout();
  const std::vector<ChunkKey> keys =
      prefix_chain(root_key(engine.fingerprint(), layout, chunk_tokens, {}), prompt, chunk_tokens);
  const Slice nothing{0, {0, chunk_tokens}, {0, layout.n_layers}};
  detail::kit::Runs unused(layout, nothing);
  expect(!await_completion(engine.extract(nothing, unused.view())),
         "extract of tokens that were never computed is refused");
  const auto in_chunks = [&](Tokens tokens, MemoryStorage& store) {
    return detail::kit::save_chunk_by_chunk(engine, tokens, store, chunk_tokens);
  };
  MemoryStorage store;
  if (!expect(in_chunks(prompt, store), "each chunk can be saved right after it was computed")) {
    return failures;
  }
  const AlignedBuffer computed = detail::kit::object_of(store, keys.back());
  // Other tokens take the place of these.
  MemoryStorage other_store;
  std::vector<TokenId> other(prompt.rbegin(), prompt.rend());
  expect(in_chunks(other, other_store), "another prompt is computed after the first");
  (void)store.erase(keys.back());
  Loader loader(engine, store,
                {.chunks = {.chunk_tokens = chunk_tokens},
                 .session = {.idle_timeout = std::chrono::minutes(1)}},
                LoadOnlyScheduler());
  const PrefillReport report = loader.prefill(prompt);
  expect(report.status.has_value(), "a prompt whose beginning is stored is prefilled");
  expect(report.tokens_loaded != 0,
         "what was saved while it was fresh serves the next prompt: extract() must give windows "
         "and the state of the last chunk");
  expect(loader.save(prompt).status.has_value(), "a prompt that was loaded in part is saved");
  const AlignedBuffer loaded = detail::kit::object_of(store, keys.back());
  expect(detail::kit::same(computed.bytes(), loaded.bytes()),
         "a step behind inserted windows and states gives what it gives behind computed ones; it "
         "must go on from the state that was inserted at its first token");
  return failures;
}

/// Tries that two inputs that give other KV for the same token ids (two images, soft prompts or
/// adapters) share none of it. `select(0)` and `select(1)` make the engine take one of them for
/// `prompt`, and return the extra keys that the application passes for it.
///
/// Needs:   prompt of at least two chunks, so that there is something to share
template <ComputeBackend C, class Select>
Failures check_inputs(C& engine, Tokens prompt, Select&& select, std::uint32_t chunk_tokens = 16) {
  const auto n = static_cast<std::uint32_t>(prompt.size());
  if (n < 2 * chunk_tokens) return {"inputs: the prompt to check with has fewer than two chunks"};
  const KvLayout layout = engine.layout();
  const Slice all{0, {0, n}, {0, layout.n_layers}};
  MemoryStorage store;
  const auto run = [&](int which, auto scheduler, bool save, detail::kit::Runs& kv) {
    const ChunkOptions chunks{.chunk_tokens = chunk_tokens, .extra = select(which)};
    Loader loader(engine, store,
                  {.chunks = chunks, .session = {.idle_timeout = std::chrono::minutes(1)}},
                  std::move(scheduler));
    return loader.prefill(prompt).status.has_value() &&
           await_completion(engine.extract(all, kv.view())).has_value() &&
           (!save || loader.save(prompt).status.has_value());
  };
  detail::kit::Runs first(layout, all);
  detail::kit::Runs second(layout, all);
  detail::kit::Runs served(layout, all);
  if (!run(1, ComputeOnlyScheduler(), false, second) ||
      !run(0, ComputeOnlyScheduler(), true, first)) {
    return {"inputs: a prompt is computed, extracted and saved"};
  }
  if (detail::kit::same(first.bytes(), second.bytes())) {
    return {"inputs: the two inputs give the same KV; choose two that do not"};
  }
  if (!run(1, LoadOnlyScheduler(), false, served) ||
      !detail::kit::same(served.bytes(), second.bytes())) {
    return {
        "inputs: KV of one input is not served to another one; tell them apart by ExtraKey (an "
        "image, a soft prompt) or in fingerprint() (an adapter)"};
  }
  return {};
}

}  // namespace cake::inline CAKE_ABI::testing
