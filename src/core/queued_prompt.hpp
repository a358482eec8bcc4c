// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A prompt that waits: what is stored of it, and what it would need.
#pragma once

#include <optional>

#include "cake/calibration.hpp"
#include "cake/detail/lane_client.hpp"
#include "cake/detail/lookup.hpp"
#include "cake/detail/session_engine.hpp"
#include "cake/identity.hpp"
#include "cake/queued.hpp"
#include "cake/session_options.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

struct QueuedPrompt {
  PrefillLookup lookup;  // its status says whether the store answered
  ModelFingerprint fingerprint;
};

/// Looks the prompt up, as the session does when it begins.
///
/// Errors:  throws Exception as PrefillSession::begin()
QueuedPrompt look_up(SessionEngine& engine, LaneHost& lanes, Tokens tokens,
                     const ChunkOptions& chunks, const PrefillOptions& prompt,
                     const SessionOptions& options);

/// The lane that a chunk is best read from; none: it is not stored.
std::optional<LaneId> fastest_lane(const StoredChunk& chunk);

PromptNeeds needs_of(const QueuedPrompt& prompt, const LaneHost& lanes,
                     const Calibration& calibration);

}  // namespace cake::inline CAKE_ABI::detail
