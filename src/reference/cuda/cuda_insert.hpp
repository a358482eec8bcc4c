// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// An insert in flight: its copy, and whose KV is there when it has ended.
#pragma once

#include <memory>

#include "cake/cuda/kv_transfer.hpp"
#include "cake/kv_presence.hpp"
#include "cake/reference/cuda_backend.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::reference {

struct CudaInsert::Work {
  cuda::Transfer copy;
  Slice slice;
  std::shared_ptr<KvPresence> presence;
};

}  // namespace cake::inline CAKE_ABI::reference
