// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/save.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <tuple>
#include <vector>

namespace cake::inline CAKE_ABI::detail {

Error lost_chunks(std::size_t written, std::uint32_t there) {
  return Error{Errc::not_found, 0,
               "save: the store took " + std::to_string(written) + " chunks and holds " +
                   std::to_string(there) +
                   " of them now; its capacity may be too small, or something removes its objects"};
}

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

Error no_staging(bool whole_chunks, std::uint64_t least, std::uint64_t staging) {
  return Error{
      Errc::out_of_memory, 0,
      (whole_chunks ? "a whole chunk takes " : "one layer of a chunk takes ") +
          std::to_string(least) + " bytes of staging memory and there are " +
          std::to_string(staging) +
          ", so no chunk can be loaded; raise LaneOptions::staging_bytes or lower chunk_tokens"};
}

SaveReport save_refused(const Error& why, Tokens tokens, const ChunkOptions& chunks) {
  SaveReport report;
  report.status = why;
  if (chunks.chunk_tokens != 0) {
    report.failed = static_cast<std::uint32_t>(tokens.size() / chunks.chunk_tokens);
  }
  return report;
}

}  // namespace cake::inline CAKE_ABI::detail
