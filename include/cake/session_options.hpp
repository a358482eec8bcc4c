// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a session is told: of one prompt, and of how long it may wait.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "cake/identity.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

/// One prompt. Units: tokens.
struct PrefillRequest {
  Tokens tokens = {};                   // the whole prompt; copied
  std::uint32_t resident = 0;           // KV that the engine holds already, from position 0
  std::string salt = {};                // of the tenant: two salts share nothing
  std::vector<ExtraKey> extra = {};     // what token ids do not say: images, soft prompts
  std::uint32_t chunk_tokens = 256;     // as when it was saved
  std::uint32_t max_step_tokens = 512;  // most tokens of one compute pass
  /// The engine takes gated steps; not set: whether it has the prefill() that takes a gate.
  std::optional<bool> may_gate = {};
  /// Asks for the end: next() then says finished, the report's status canceled.
  std::stop_token stop = {};
};

/// How long a session waits for others.
struct SessionOptions {
  /// How long compute waits with nothing in flight and nothing offered before it goes on by itself.
  Time idle_timeout = std::chrono::milliseconds(20);
  /// Longest wait for one read, whatever deadline the scheduler gives it. Its chunk is then
  /// computed.
  Time read_timeout = std::chrono::seconds(30);
  /// Longest wait for the store's answer what it holds. Then the prompt runs without the store.
  Time lookup_timeout = std::chrono::seconds(1);
};

}  // namespace cake::inline CAKE_ABI
