// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A prompt whose chunks are files of a directory, and runs of it that must give the KV that is computed,
// whatever has become of the files. Usable in a child process, too: what fails is an exception.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cake/loader.hpp"
#include "cake/save.hpp"
#include "cake/scheduler/baselines.hpp"
#include "tests/storage/posix_helpers.hpp"
#include "toy_engine.hpp"

namespace cake::inline CAKE_ABI::fault {

class DiskPrompt {
 public:
  static constexpr std::uint32_t kChunk = 64;
  static constexpr std::uint32_t kChunks = 6;
  static constexpr std::uint32_t kTokens = kChunk * kChunks + 20;

  DiskPrompt() : prompt_(testing::toy_prompt(kTokens)) {
    must(right_.prefill(prompt_, {0, kTokens}), "the right KV");
    keys =
        prefix_chain(root_key(right_.fingerprint(), right_.layout(), kChunk, {}), prompt_, kChunk);
    object_bytes = ChunkGeometry(right_.layout(), kChunk).object_bytes();
  }

  template <StorageBackend S>
  SaveReport save(S& store) {
    return cake::save(right_, store, prompt_, {.chunk_tokens = kChunk});
  }
  /// How many chunks were not there yet. Throws when they cannot be saved.
  template <StorageBackend S>
  std::uint32_t save_missing(S& store) {
    const SaveReport saved = save(store);
    must(saved.status, "save");
    return saved.written;
  }
  /// The prompt by an engine that has nothing. Throws when its KV is not the right one.
  template <StorageBackend S>
  PrefillReport load(S& store, const SessionOptions& session = patient()) {
    testing::ToyEngine engine(kTokens);
    engine.clear();
    Loader loader(engine, store, {.chunks = {.chunk_tokens = kChunk}, .session = session},
                  LoadOnlyScheduler());
    PrefillReport report = loader.prefill(prompt_);
    must(report.status, "prefill");
    if (engine.kv() != right_.kv()) throw std::runtime_error("wrong KV");
    if (!engine.has_logits()) throw std::runtime_error("no logits");
    return report;
  }
  static SessionOptions patient() {
    return {.idle_timeout = std::chrono::minutes(1), .lookup_timeout = std::chrono::minutes(1)};
  }
  /// Chunks that were computed instead of loaded.
  static std::vector<std::uint32_t> computed(const PrefillReport& report) {
    std::vector<std::uint32_t> chunks;
    for (std::uint32_t c = 0; c < report.chunks.size(); ++c) {
      if (report.chunks[c].source == Source::computed) chunks.push_back(c);
    }
    return chunks;
  }

  std::vector<ChunkKey> keys;
  std::uint64_t object_bytes = 0;

 private:
  static void must(const Status& status, const char* what) {
    if (!status) throw std::runtime_error(std::string(what) + ": " + status.error().message());
  }
  std::vector<TokenId> prompt_;
  testing::ToyEngine right_{kTokens};
};

}  // namespace cake::inline CAKE_ABI::fault
