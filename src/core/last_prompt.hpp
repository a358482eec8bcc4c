// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The prompt that a session ran last: what an engine is known to hold.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

struct LastPrompt {
  std::shared_ptr<const std::vector<TokenId>> tokens;  // set once there was one
  ChunkOptions chunks;
  ModelFingerprint fingerprint;
  bool ran = false;       // there was one
  bool complete = false;  // and its KV is whole
};

/// Whether these tokens are the last prompt's, or go on with it, or are its beginning.
///
/// Errors:  invalid_argument, which says what differs
Status may_save(const LastPrompt& last, Tokens tokens, std::span<const ExtraKey> extra,
                const ModelFingerprint& fingerprint);

}  // namespace cake::inline CAKE_ABI::detail
