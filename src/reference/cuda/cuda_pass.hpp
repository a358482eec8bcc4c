// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A step in flight: what its pass waits for, and what it leaves behind.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cake/cuda/runtime.hpp"
#include "cake/kv_presence.hpp"
#include "cake/reference/cuda_backend.hpp"
#include "step_graphs.hpp"

namespace cake::inline CAKE_ABI::reference {
namespace cuda_impl {

/// What the latest prompt came to; set by the pass that was waited for.
struct Outcome {
  std::uint64_t step = 0;  // that was enqueued last
  bool has_logits = false;
  std::uint32_t position = 0;
};

}  // namespace cuda_impl

struct CudaPass::Work {
  explicit Work(TokenRange tokens) : range(tokens) {}
  cuda::Event event;
  TokenRange range;
  Status status;  // of enqueueing
  std::uint64_t step = 0;
  bool ends = false;
  std::shared_ptr<cuda_impl::Outcome> outcome;
  std::shared_ptr<KvPresence> presence;
  bool writes = false;  // something of it may have been enqueued that writes KV
  std::vector<std::shared_ptr<cuda_impl::StepGraphs>> graphs;  // kept while they may run
};

}  // namespace cake::inline CAKE_ABI::reference
