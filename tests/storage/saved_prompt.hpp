// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A prompt that is saved in a store behind a network, and the KV that belongs to it.
#pragma once

#include <chrono>
#include <vector>

#include "cake/loader.hpp"
#include "catch.hpp"
#include "tests/stored_prompt.hpp"
#include "tests/toy_engine.hpp"

namespace cake::inline CAKE_ABI::sample {

template <StorageBackend Store>
class SavedPrompt {
 public:
  explicit SavedPrompt(Store& store) : store_(store) {
    for (std::uint32_t t = 0; t < testing::kTokens; ++t) {
      prompt_.push_back(static_cast<TokenId>(7 * t % 97));
    }
    testing::ToyEngine engine(testing::kTokens);
    Loader loader(engine, store, options());
    REQUIRE(loader.prefill(prompt_).status);
    expected_ = engine.kv();
    const SaveReport saved = loader.save(prompt_);
    REQUIRE(saved.status);
    REQUIRE(saved.written == testing::kChunks);
  }
  static LoaderOptions options() {
    LoaderOptions options;
    options.chunks.chunk_tokens = testing::kChunk;
    options.session = testing::kPatient;
    options.session.lookup_timeout = std::chrono::seconds(10);
    return options;
  }
  /// The prompt again, by an engine that has nothing; its KV must be right.
  PrefillReport run(const LoaderOptions& with = options()) {
    testing::ToyEngine engine(testing::kTokens);
    engine.clear();
    Loader loader(engine, store_, with, LoadOnlyScheduler());
    PrefillReport report = loader.prefill(prompt_);
    CHECK(report.status);
    CHECK(engine.has_logits());
    CHECK(engine.kv() == expected_);
    return report;
  }

 private:
  Store& store_;
  std::vector<TokenId> prompt_;
  std::vector<std::byte> expected_;
};

}  // namespace cake::inline CAKE_ABI::sample
