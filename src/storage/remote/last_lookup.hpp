// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A lookup that asks a server for each key, and why the last one could not look up all of them.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Thread:  Safe for concurrent use
class LastLookup {
 public:
  /// Asks for each key once, however often it is named: `make(key)` is the request, `ask(requests)`
  /// waits for their answers, `size_of(answer)` is the size of an object (0: absent), none where the
  /// key could not be looked up. `problems` counts these.
  ///
  /// Errors:  the first one, where no key could be looked up
  template <class Make, class Ask, class SizeOf>
  Result<std::vector<StoredChunk>> run(std::span<const ChunkKey> keys, Make&& make, Ask&& ask,
                                       SizeOf&& size_of, std::atomic<std::uint64_t>& problems) {
    std::map<ChunkKey, std::size_t> asked;  // and by which request
    std::vector<decltype(make(keys[0]))> requests;
    for (const ChunkKey& key : keys) {
      if (asked.try_emplace(key, requests.size()).second) requests.push_back(make(key));
    }
    const auto answers = ask(std::move(requests));
    std::vector<std::uint64_t> sizes(answers.size());
    Status problem;
    bool any = answers.empty();
    for (std::size_t i = 0; i < answers.size(); ++i) {
      const std::optional<std::uint64_t> size = size_of(*answers[i]);
      any = any || size.has_value();
      sizes[i] = size.value_or(0);
      if (!size && problem) problem = answers[i]->status();
      if (!size) ++problems;
    }
    note(problem);
    if (!any) return problem.error();
    std::vector<StoredChunk> found(keys.size());
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const std::uint64_t size = sizes[asked.at(keys[i])];
      if (size != 0) found[i] = {size, 1};
    }
    return found;
  }
  /// ok: it could.
  Status problem() const {
    const std::lock_guard lock(mutex_);
    return problem_;
  }

 private:
  void note(Status outcome) {
    const std::lock_guard lock(mutex_);
    problem_ = std::move(outcome);
  }
  mutable std::mutex mutex_;
  Status problem_;
};

}  // namespace cake::inline CAKE_ABI::detail
