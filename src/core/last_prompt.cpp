// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "src/core/last_prompt.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <tuple>
#include <vector>

namespace cake::inline CAKE_ABI::detail {

Status may_save(const LastPrompt& last, Tokens tokens, std::span<const ExtraKey> extra,
                const ModelFingerprint& fingerprint) {
  const auto refuse = [](const std::string& why) {
    return Error{
        Errc::invalid_argument, 0,
        "save: " + why +
            "; run prefill() of these tokens first, or set SaveOptions::assume_resident if "
            "the engine does hold their KV"};
  };
  if (!last.ran) return {};
  if (!last.complete) return refuse("the last prefill did not complete, so KV is missing");
  if (last.fingerprint != fingerprint) {
    return refuse("the engine's fingerprint is another one than at the last prefill");
  }
  const std::size_t both = std::min(tokens.size(), last.tokens->size());
  const auto differ = std::mismatch(
      tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(both), last.tokens->begin());
  if (differ.first != tokens.begin() + static_cast<std::ptrdiff_t>(both)) {
    return refuse("token " + std::to_string(differ.first - tokens.begin()) +
                  " is another one than in the last prefill");
  }
  const auto touching = [&](std::span<const ExtraKey> list) {
    std::vector<ExtraKey> kept;
    for (const ExtraKey& e : list) {
      if (e.range.begin < both) kept.push_back(e);
    }
    std::sort(kept.begin(), kept.end(), [](const ExtraKey& a, const ExtraKey& b) {
      return std::tie(a.range.begin, a.range.end, a.digest) <
             std::tie(b.range.begin, b.range.end, b.digest);
    });
    return kept;
  };
  if (touching(extra) != touching(last.chunks.extra)) {
    return refuse("the extra keys are not those of the last prefill");
  }
  return {};
}

}  // namespace cake::inline CAKE_ABI::detail
