// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "kv_pool.hpp"

#include <algorithm>
#include <numeric>
#include <random>
#include <string>

namespace cake::inline CAKE_ABI::reference::cuda_impl {
namespace {

std::uint32_t pages_for(std::uint32_t tokens, std::uint32_t page_tokens) {
  return (tokens + page_tokens - 1) / page_tokens;
}

cuda::DeviceBuffer allocate(std::size_t bytes, const std::string& what) {
  try {
    return cuda::DeviceBuffer(bytes);
  } catch (const Exception& e) {
    throw Exception({e.error().code, e.error().native,
                     std::to_string(bytes) + " bytes for " + what + ": " + e.error().context});
  }
}

}  // namespace

std::vector<std::int32_t> assign_pages(std::uint32_t n_pages, std::uint64_t seed) {
  std::vector<std::int32_t> table(n_pages);
  std::iota(table.begin(), table.end(), 0);
  if (seed != 0) {
    std::mt19937_64 random(seed);
    std::shuffle(table.begin(), table.end(), random);
  }
  return table;
}

KvPool::KvPool(const KvLayout& layout, std::uint32_t page_tokens, std::uint32_t max_tokens,
               std::uint64_t shuffle, cudaStream_t stream)
    : max_tokens_(max_tokens),
      table_(assign_pages(pages_for(max_tokens, page_tokens), shuffle)),
      pages_(
          allocate(2 * std::size_t{layout.n_layers} * table_.size() * layout.run_bytes(page_tokens),
                   "KV of " + std::to_string(max_tokens) + " tokens")),
      device_table_(allocate(table_.size() * sizeof(std::int32_t), "a block table")),
      presence_(std::make_shared<KvPresence>(max_tokens, layout.n_layers)) {
  const std::size_t pool_bytes = table_.size() * layout.run_bytes(page_tokens);
  for (std::size_t layer = 0; layer < layout.n_layers; ++layer) {
    k_.push_back(pages_.as<std::byte>() + 2 * layer * pool_bytes);
    v_.push_back(pages_.as<std::byte>() + (2 * layer + 1) * pool_bytes);
  }
  kv_.layout = layout;
  kv_.page_tokens = page_tokens;
  kv_.n_pages = static_cast<std::uint32_t>(table_.size());
  kv_.strides = cuda::PageStrides::packed(layout, page_tokens);
  kv_.k = k_;
  kv_.v = v_;
  kv_.page_table = table_;
  kv_.check().value();
  // All bits set is a NaN.
  cuda::throw_unless_ok(cudaMemsetAsync(pages_.data(), 0xff, pages_.size(), stream), "KV pages");
  cuda::throw_unless_ok(cudaMemcpyAsync(device_table_.data(), table_.data(), device_table_.size(),
                                        cudaMemcpyHostToDevice, stream),
                        "a block table");
  cuda::throw_unless_ok(cudaStreamSynchronize(stream), "KV pages");
}

Status KvPool::check(const Slice& slice) const {
  const auto refuse = [](std::string what) {
    return Error{Errc::invalid_argument, 0, std::move(what)};
  };
  if (slice.tokens.empty() || slice.tokens.end > max_tokens_) {
    return refuse("tokens " + std::to_string(slice.tokens.begin) + " to " +
                  std::to_string(slice.tokens.end) + " do not fit into " +
                  std::to_string(max_tokens_));
  }
  if (slice.layers.empty() || slice.layers.end > kv_.layout.n_layers) {
    return refuse("layers " + std::to_string(slice.layers.begin) + " to " +
                  std::to_string(slice.layers.end) + " of " + std::to_string(kv_.layout.n_layers));
  }
  return {};
}

}  // namespace cake::inline CAKE_ABI::reference::cuda_impl
