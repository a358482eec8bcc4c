// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// For tests: makes the device refuse work in the middle of a transfer.
#pragma once

#include "cake/cuda/kv_transfer.hpp"

namespace cake::inline CAKE_ABI::cuda {

struct KvTransferProbe {
  /// The call after `calls` good ones that enqueues a copy or a kernel fails, once. Negative: none.
  static void fail_after(KvTransfer& transfer, int calls);
  /// Pieces of staging memory that no transfer holds.
  static std::size_t idle_pieces(KvTransfer& transfer);
};

}  // namespace cake::inline CAKE_ABI::cuda
