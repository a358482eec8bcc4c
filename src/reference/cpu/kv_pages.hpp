// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// KV of one sequence in pages of some tokens, behind a block table.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cake/engine.hpp"
#include "cake/kv_presence.hpp"
#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::reference {

/// Shape:   a page is [layer][K|V] runs of page_tokens tokens, each run in the layout's order, as
/// in
///          a transferred chunk; entry i of the block table is the page of tokens i * page_tokens
///          onwards. Pages come from slabs, and a page that was given back is the next one taken,
///          so that neighbours in a sequence need not be neighbours in memory
/// Thread:  Safe for concurrent use, except clear(); only one may touch the bytes of a token that is
///          being written
class KvPages {
 public:
  KvPages(const KvLayout& layout, std::uint32_t page_tokens, std::uint32_t max_tokens);

  const KvLayout& layout() const { return layout_; }
  std::uint32_t max_tokens() const { return max_tokens_; }

  /// Sees to it that every token of the range has a page, whatever lies in it.
  Status ensure(TokenRange range);
  /// What was written of each token. insert() and clear() note it by themselves, store() does not.
  KvPresence& presence() { return presence_; }
  const KvPresence& presence() const { return presence_; }

  Status insert(const Slice& slice, const KvView& from);
  /// Errors:  invalid_argument, naming the first token of which a layer was never written
  Status extract(const Slice& slice, const MutableKvView& to) const;

  /// Writes one token's K and V of one layer, rounded to the layout's dtype.
  ///
  /// Shape:   k, v: [n_kv_heads][head_dim]
  void store(std::uint32_t layer, std::uint32_t token, const float* k, const float* v);
  /// Reads one head's K and V of a range of tokens.
  ///
  /// Shape:   k, v: [range.size()][head_dim]
  void gather(std::uint32_t layer, std::uint32_t head, TokenRange range, float* k, float* v) const;

  void clear();

 private:
  /// Bytes from the start of a run to the element (token in page, head, 0).
  std::size_t element_offset(std::uint32_t token, std::uint32_t head) const {
    return (token * token_stride_ + head * head_stride_) * size_of(layout_.dtype);
  }
  std::byte* run(std::uint32_t token, std::uint32_t layer, unsigned side) const {
    return table_[token / page_tokens_].load(std::memory_order_acquire) +
           (std::size_t{2} * layer + side) * run_bytes_;
  }
  bool has_pages(TokenRange range) const;
  Status check(const Slice& slice) const;
  template <class View, class Copy>
  Status transfer(const Slice& slice, const View& view, Copy copy) const;

  const KvLayout layout_;
  const std::uint32_t page_tokens_;
  const std::uint32_t max_tokens_;
  const std::size_t token_stride_, head_stride_;  // elements, inside a run of a page
  const std::size_t run_bytes_, page_bytes_;
  std::vector<std::atomic<std::byte*>> table_;
  std::mutex mutex_;  // of the two below, and of changes to the table
  std::vector<AlignedBuffer> slabs_;
  std::vector<std::byte*> free_;
  KvPresence presence_;
};

}  // namespace cake::inline CAKE_ABI::reference
