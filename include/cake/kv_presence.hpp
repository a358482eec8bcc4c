// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Records which KV of one sequence was written, for each token and layer. An engine's extract()
// must refuse KV that was never written: the token that was sampled last has none, and reused
// memory holds the KV of another prompt.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "cake/result.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

/// A member of an engine, beside its KV.
///
///     // in prefill() and insert(), once a layer is written
///     there.add(range, {layer, layer + 1});
///     // in extract()
///     if (auto missing = there.missing(slice.tokens, slice.layers)) return no_kv(*missing);
///     // when a sequence ends
///     there.clear();
///
/// Shape:   one bit for each layer of each token, in blocks that are allocated with their first bit
/// Thread:  Safe for concurrent use, also on the same tokens
class KvPresence {
 public:
  struct Missing {
    std::uint32_t token = 0;
    std::uint32_t layer = 0;
  };

  /// Of tokens [0, n_tokens); nothing is there.
  KvPresence(std::uint32_t n_tokens, std::uint32_t n_layers)
      : n_tokens_(n_tokens),
        n_layers_(n_layers),
        words_((n_layers + 63) / 64),
        blocks_((n_tokens + kBlock - 1) / kBlock) {}

  /// Records that KV of these layers of these tokens was written.
  ///
  /// Errors:  throws std::bad_alloc; earlier records stay
  void add(TokenRange tokens, LayerRange layers) {
    std::uint32_t end = end_.load(std::memory_order_relaxed);
    while (end < tokens.end && !end_.compare_exchange_weak(end, tokens.end)) {
    }
    for (std::uint32_t t = tokens.begin; t < tokens.end; ++t) {
      Word* const words = block_of(t) + t % kBlock * words_;
      for (std::size_t w = 0; w < words_; ++w) {
        if (const std::uint64_t bits = mask(w, layers)) {
          words[w].fetch_or(bits, std::memory_order_release);
        }
      }
    }
  }
  void add(TokenRange tokens) { add(tokens, all_layers()); }

  /// Forgets these layers of these tokens.
  void forget(TokenRange tokens, LayerRange layers) {
    const std::uint32_t end = std::min(tokens.end, n_tokens_);
    for (std::uint32_t t = tokens.begin; t < end;) {
      Word* const block = blocks_[t / kBlock].load(std::memory_order_acquire);
      const std::uint32_t block_end = std::min(end, (t / kBlock + 1) * kBlock);
      for (; block != nullptr && t < block_end; ++t) {
        for (std::size_t w = 0; w < words_; ++w) {
          block[t % kBlock * words_ + w].fetch_and(~mask(w, layers), std::memory_order_acq_rel);
        }
      }
      t = block_end;
    }
  }
  void forget(TokenRange tokens) { forget(tokens, all_layers()); }
  /// Forgets all tokens from this one on. Returns at once if none of them was ever added.
  ///
  /// Needs:   nobody adds such tokens meanwhile
  void forget_from(std::uint32_t token) {
    const std::uint32_t end = end_.load();
    if (token >= end) return;
    forget({token, end});
    end_ = token;
  }

  /// The first token of the range without KV in one of the layers; none: all is there.
  ///
  /// Needs:   both ranges lie inside those of the constructor
  std::optional<Missing> missing(TokenRange tokens, LayerRange layers) const {
    for (std::uint32_t t = tokens.begin; t < tokens.end; ++t) {
      const Word* const block = blocks_[t / kBlock].load(std::memory_order_acquire);
      for (std::size_t w = 0; w < words_; ++w) {
        const std::uint64_t there =
            block == nullptr ? 0 : block[t % kBlock * words_ + w].load(std::memory_order_acquire);
        if (const std::uint64_t lacking = mask(w, layers) & ~there) {
          return Missing{t, static_cast<std::uint32_t>(64 * w) +
                                static_cast<std::uint32_t>(__builtin_ctzll(lacking))};
        }
      }
    }
    return std::nullopt;
  }
  std::optional<Missing> missing(TokenRange tokens) const { return missing(tokens, all_layers()); }

  /// Forgets everything.
  void clear() { forget_from(0); }

 private:
  using Word = std::atomic<std::uint64_t>;
  static constexpr std::uint32_t kBlock = 256;  // tokens

  LayerRange all_layers() const { return {0, n_layers_}; }

  /// Bits of one word that stand for these layers.
  static std::uint64_t mask(std::size_t word, LayerRange layers) {
    const std::uint64_t first = 64 * std::uint64_t{word};
    const std::uint64_t begin = std::max<std::uint64_t>(layers.begin, first);
    const std::uint64_t end = std::min<std::uint64_t>(layers.end, first + 64);
    if (begin >= end) return 0;
    const std::uint64_t ones = ~std::uint64_t{0} >> (64 - (end - begin));
    return ones << (begin - first);
  }

  Word* block_of(std::uint32_t token) {
    std::atomic<Word*>& entry = blocks_[token / kBlock];
    if (Word* const block = entry.load(std::memory_order_acquire)) return block;
    const std::lock_guard lock(mutex_);
    if (Word* const block = entry.load(std::memory_order_acquire)) return block;
    owned_.reserve(owned_.size() + 1);
    owned_.push_back(std::make_unique<Word[]>(kBlock * words_));  // all zero
    entry.store(owned_.back().get(), std::memory_order_release);
    return owned_.back().get();
  }

  const std::uint32_t n_tokens_;
  const std::uint32_t n_layers_;
  const std::size_t words_;            // of a token
  std::atomic<std::uint32_t> end_{0};  // no token from here on was added
  std::vector<std::atomic<Word*>> blocks_;
  std::mutex mutex_;  // of owned_, and of new blocks
  std::vector<std::unique_ptr<Word[]>> owned_;
};

/// The error of extracting KV that was not written: "KV of token 31 is not there ...".
inline Error no_kv(const KvPresence::Missing& missing) {
  return {Errc::invalid_argument, 0,
          "KV of token " + std::to_string(missing.token) + " is not there (layer " +
              std::to_string(missing.layer) +
              "): it was neither computed nor inserted. A token that was sampled gets its KV when "
              "it is decoded; until then, save without it"};
}

/// The error of a step whose KV below is missing.
inline Error no_kv_below(std::uint32_t begin, const KvPresence::Missing& missing) {
  return {Errc::invalid_argument, 0,
          "a step from token " + std::to_string(begin) + " on needs the KV of all tokens before; " +
              "token " + std::to_string(missing.token) + " has none (layer " +
              std::to_string(missing.layer) + "): compute or insert it first"};
}

}  // namespace cake::inline CAKE_ABI
