// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a session is told: of one prompt, and of how long it may wait.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <stop_token>

#include "cake/identity.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

/// One prompt.
struct PrefillOptions {
  std::uint32_t resident = 0;  // tokens whose KV the engine holds already, from position 0
  /// Of this prompt and of the save() that follows it; none: the session's.
  std::optional<ChunkOptions> chunks = {};
  /// Asks for the end: next() then says finished, the report's status canceled. A step in progress
  /// is waited for; an engine that is given the same token may break it off.
  std::stop_token stop = {};
  /// The first token is wanted so long after begin(), where several prompts share the lanes: loads of a
  /// prompt that would miss its target if the others went first, and can still meet it, go before
  /// theirs. Nothing is given up for it. kNever: as soon as its turn comes.
  Time ttft_target = kNever;
};

/// All prompts of a session: its steps, and how long it waits for others.
struct SessionOptions {
  std::uint32_t max_step_tokens = 512;  // most tokens of one compute pass
  /// Let the suffix begin behind the last loads, layer by layer, where the engine takes gated steps.
  bool gated_steps = true;
  /// How long compute waits with nothing in flight and nothing offered before it goes on by itself. While
  /// the lanes carry reads of other prompts first, that begins when they should have carried them.
  Time idle_timeout = std::chrono::milliseconds(20);
  /// Longest wait for one read, whatever deadline the scheduler gives it. Its chunk is then
  /// computed.
  Time read_timeout = std::chrono::seconds(30);
  /// Longest wait for the store's answer what it holds. Then the prompt runs without the store.
  Time lookup_timeout = std::chrono::seconds(1);
};

}  // namespace cake::inline CAKE_ABI
