// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// KV between host memory and pages, one copy for each page.
#pragma once

#include <mutex>

#include "cake/concepts.hpp"
#include "cake/cuda/paged_kv.hpp"
#include "cake/cuda/runtime.hpp"

namespace cake::llama::gpu {

/// Blocks until the bytes are there.
///
/// Errors:  invalid_argument when sizes do not fit, device
/// Thread:  any
class Transfer {
 public:
  Status insert(const cuda::PagedKv& kv, const Slice& slice, const KvView& from);
  Status extract(const cuda::PagedKv& kv, const Slice& slice, const MutableKvView& to);

 private:
  template <class View>
  Status copy(const cuda::PagedKv& kv, const Slice& slice, const View& view);

  std::mutex mutex_;
  cuda::Stream stream_;
};

}  // namespace cake::llama::gpu
