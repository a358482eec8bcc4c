// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "kv_pages.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <string>

#include "kernels.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::reference {
namespace {

// Tokens that one slab holds, roughly: few enough that the last slab wastes little.
constexpr std::uint32_t kSlabTokens = 256;

Error refused(std::string what) { return Error{Errc::invalid_argument, 0, std::move(what)}; }

std::string text(TokenRange range) {
  return "tokens " + std::to_string(range.begin) + " to " + std::to_string(range.end);
}

void widen(DType dtype, const std::byte* in, float* out, std::size_t n) {
  if (dtype == DType::f32) {
    std::memcpy(out, in, n * sizeof(float));
  } else if (dtype == DType::f16) {
    kernels().from_f16(out, reinterpret_cast<const std::uint16_t*>(in), n);
  } else {
    kernels().from_bf16(out, reinterpret_cast<const std::uint16_t*>(in), n);
  }
}

void narrow(DType dtype, const float* in, std::byte* out, std::size_t n) {
  if (dtype == DType::f32) {
    std::memcpy(out, in, n * sizeof(float));
  } else if (dtype == DType::f16) {
    kernels().to_f16(reinterpret_cast<std::uint16_t*>(out), in, n);
  } else {
    kernels().to_bf16(reinterpret_cast<std::uint16_t*>(out), in, n);
  }
}

}  // namespace

KvPages::KvPages(const KvLayout& layout, std::uint32_t page_tokens, std::uint32_t max_tokens)
    : layout_(layout),
      page_tokens_(page_tokens),
      max_tokens_(max_tokens),
      token_stride_(layout.order == KvOrder::nhd ? std::size_t{layout.n_kv_heads} * layout.head_dim
                                                 : layout.head_dim),
      head_stride_(layout.order == KvOrder::nhd ? layout.head_dim
                                                : std::size_t{page_tokens} * layout.head_dim),
      run_bytes_(layout.run_bytes(page_tokens)),
      page_bytes_(layout.bytes_per_token() * page_tokens),
      table_((max_tokens + page_tokens - 1) / page_tokens),
      presence_(max_tokens, layout.n_layers) {}

bool KvPages::has_pages(TokenRange range) const {
  if (range.empty()) return true;
  const auto first = table_.begin() + range.begin / page_tokens_;
  const auto last = table_.begin() + (range.end - 1) / page_tokens_ + 1;
  return std::all_of(first, last, [](const std::atomic<std::byte*>& page) {
    return page.load(std::memory_order_acquire) != nullptr;
  });
}

Status KvPages::ensure(TokenRange range) {
  if (range.end > max_tokens_) {
    return refused(text(range) + " do not fit into " + std::to_string(max_tokens_));
  }
  if (range.empty() || has_pages(range)) return {};
  const std::lock_guard lock(mutex_);
  try {
    for (std::uint32_t i = range.begin / page_tokens_; i <= (range.end - 1) / page_tokens_; ++i) {
      if (table_[i].load(std::memory_order_relaxed) != nullptr) continue;
      if (free_.empty()) {
        const std::size_t pages = std::max(1u, kSlabTokens / page_tokens_);
        free_.reserve(free_.size() + (slabs_.size() + 1) * pages);  // so that clear() cannot fail
        slabs_.emplace_back(pages * page_bytes_);
        for (std::size_t p = pages; p-- > 0;) {
          free_.push_back(slabs_.back().data() + p * page_bytes_);
        }
      }
      table_[i].store(free_.back(), std::memory_order_release);
      free_.pop_back();
    }
  } catch (const std::bad_alloc&) {
    return Error{Errc::out_of_memory, 0, "KV pages for " + text(range)};
  }
  return {};
}

void KvPages::clear() {
  const std::lock_guard lock(mutex_);
  for (std::atomic<std::byte*>& entry : table_) {
    std::byte* const page = entry.exchange(nullptr, std::memory_order_relaxed);
    if (page != nullptr) free_.push_back(page);
  }
  presence_.clear();
}

Status KvPages::check(const Slice& slice) const {
  if (slice.tokens.empty() || slice.tokens.end > max_tokens_) {
    return refused(text(slice.tokens) + " do not fit into " + std::to_string(max_tokens_));
  }
  if (slice.layers.empty() || slice.layers.end > layout_.n_layers) {
    return refused("layers " + std::to_string(slice.layers.begin) + " to " +
                   std::to_string(slice.layers.end) + " of " + std::to_string(layout_.n_layers));
  }
  return {};
}

/// Calls copy(byte of a page, byte of the view, count) for every piece that is contiguous in both.
template <class View, class Copy>
Status KvPages::transfer(const Slice& slice, const View& view, Copy copy) const {
  const std::size_t tokens = slice.tokens.size();
  const std::size_t head_bytes = layout_.head_dim * size_of(layout_.dtype);
  for (std::uint32_t layer = slice.layers.begin; layer < slice.layers.end; ++layer) {
    for (unsigned side = 0; side < 2; ++side) {
      const auto bytes = side == 0 ? view.k(layer) : view.v(layer);
      if (bytes.size() != layout_.run_bytes(tokens)) {
        return refused("a run of " + std::to_string(bytes.size()) + " bytes for " +
                       std::to_string(tokens) + " tokens of " +
                       std::to_string(layout_.row_bytes()) + " bytes");
      }
      for (std::uint32_t t = slice.tokens.begin; t < slice.tokens.end;) {
        const std::uint32_t in_page = t % page_tokens_;
        const std::uint32_t count = std::min(page_tokens_ - in_page, slice.tokens.end - t);
        const std::size_t done = t - slice.tokens.begin;
        std::byte* const page = run(t, layer, side);
        if (layout_.order == KvOrder::nhd) {
          copy(page + element_offset(in_page, 0), bytes.data() + layout_.run_bytes(done),
               layout_.run_bytes(count));
        } else {
          for (std::uint32_t head = 0; head < layout_.n_kv_heads; ++head) {
            copy(page + element_offset(in_page, head),
                 bytes.data() + (head * tokens + done) * head_bytes, count * head_bytes);
          }
        }
        t += count;
      }
    }
  }
  return {};
}

Status KvPages::insert(const Slice& slice, const KvView& from) {
  CAKE_TRY(check(slice));
  CAKE_TRY(ensure(slice.tokens));
  auto status =
      transfer(slice, from, [](std::byte* page, const std::byte* view, std::size_t count) {
        std::memcpy(page, view, count);
      });
  if (!status) return status;
  try {
    presence_.add(slice.tokens, slice.layers);
  } catch (const std::bad_alloc&) {
    return Error{Errc::out_of_memory, 0, "record which KV is there of " + text(slice.tokens)};
  }
  return {};
}

Status KvPages::extract(const Slice& slice, const MutableKvView& to) const {
  CAKE_TRY(check(slice));
  if (const auto missing = presence_.missing(slice.tokens, slice.layers)) return no_kv(*missing);
  return transfer(slice, to, [](const std::byte* page, std::byte* view, std::size_t count) {
    std::memcpy(view, page, count);
  });
}

void KvPages::store(std::uint32_t layer, std::uint32_t token, const float* k, const float* v) {
  const std::uint32_t in_page = token % page_tokens_;
  std::byte* const k_run = run(token, layer, 0);
  std::byte* const v_run = run(token, layer, 1);
  for (std::uint32_t head = 0; head < layout_.n_kv_heads; ++head) {
    const std::size_t at = element_offset(in_page, head);
    const std::size_t from = std::size_t{head} * layout_.head_dim;
    narrow(layout_.dtype, k + from, k_run + at, layout_.head_dim);
    narrow(layout_.dtype, v + from, v_run + at, layout_.head_dim);
  }
}

void KvPages::gather(std::uint32_t layer, std::uint32_t head, TokenRange range, float* k,
                     float* v) const {
  for (std::uint32_t t = range.begin; t < range.end;) {
    const std::uint32_t in_page = t % page_tokens_;
    const std::uint32_t count = std::min(page_tokens_ - in_page, range.end - t);
    const std::byte* const k_run = run(t, layer, 0);
    const std::byte* const v_run = run(t, layer, 1);
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::size_t at = element_offset(in_page + i, head);
      const std::size_t to = std::size_t{t - range.begin + i} * layout_.head_dim;
      widen(layout_.dtype, k_run + at, k + to, layout_.head_dim);
      widen(layout_.dtype, v_run + at, v + to, layout_.head_dim);
    }
    t += count;
  }
}

}  // namespace cake::inline CAKE_ABI::reference
