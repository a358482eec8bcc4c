// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Copies that wait to be enqueued: neighbours become one, and many go to the driver in one call.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <vector>

#include "kv_transfer_impl.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::cuda::transfer {

/// Copies for one stream, enqueued in batches.
class Copies {
 public:
  Copies(Impl& impl, const Stream& stream, cudaMemcpySrcAccessOrder order)
      : impl_(impl), stream_(stream), order_(order) {}

  Status add(std::byte* to, std::byte* from, std::size_t bytes) {
    const std::size_t most = impl_.options.batch_bytes;
    if (bytes_ + bytes > most) {
      CAKE_TRY(flush());
    }
    bytes_ += bytes;
    if (!sizes_.empty() && static_cast<std::byte*>(to_.back()) + sizes_.back() == to &&
        static_cast<std::byte*>(from_.back()) + sizes_.back() == from) {
      sizes_.back() += bytes;
    } else {
      to_.push_back(to);
      from_.push_back(from);
      sizes_.push_back(bytes);
    }
    return {};
  }

  Status flush() {
    if (sizes_.empty()) return {};
    CAKE_TRY(impl_.may_enqueue());
    cudaError_t code = cudaSuccess;
    if (sizes_.size() == 1) {
      code = cudaMemcpyAsync(to_[0], from_[0], sizes_[0], cudaMemcpyDefault, stream_.get());
    } else {
      cudaMemcpyAttributes attributes{};
      attributes.srcAccessOrder = order_;
      attributes.flags = cudaMemcpyFlagDefault;
      std::size_t first = 0;
      code = cudaMemcpyBatchAsync(to_.data(), from_.data(), sizes_.data(), sizes_.size(),
                                  &attributes, &first, 1, stream_.get());
    }
    to_.clear();
    from_.clear();
    sizes_.clear();
    bytes_ = 0;
    return to_status(code, "copy of KV");
  }

 private:
  Impl& impl_;
  const Stream& stream_;
  cudaMemcpySrcAccessOrder order_;
  std::vector<void*> to_;
  std::vector<void*> from_;
  std::vector<std::size_t> sizes_;
  std::size_t bytes_ = 0;
};

}  // namespace cake::inline CAKE_ABI::cuda::transfer
