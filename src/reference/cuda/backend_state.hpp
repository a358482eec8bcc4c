// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a CudaBackend owns, and its steps: checked, enqueued kernel by kernel or as graphs, and kept
// until they are done.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "cake/cuda/kv_transfer.hpp"
#include "cake/cuda/pinned_staging.hpp"
#include "cake/cuda/runtime.hpp"
#include "cake/reference/cuda_backend.hpp"
#include "cuda_pass.hpp"
#include "kv_pool.hpp"
#include "model.hpp"
#include "recent_cache.hpp"
#include "step_graphs.hpp"

namespace cake::inline CAKE_ABI::reference {
namespace cuda_impl {

inline Error refused(std::string what) { return Error{Errc::invalid_argument, 0, std::move(what)}; }

}  // namespace cuda_impl

struct CudaBackend::State {
  State(std::shared_ptr<const CudaWeights> w, const CudaOptions& given);
  ~State() { (void)stream.wait(); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  using Work = CudaPass::Work;
  struct GraphKey {
    cuda_impl::StepShape shape;
    bool gated = false;
    friend bool operator==(const GraphKey&, const GraphKey&) = default;
  };

  Status use_device() const { return cuda::to_status(cudaSetDevice(device), "cudaSetDevice"); }

  /// Errors:  invalid_argument, naming what is out of range
  Status check(Tokens prompt, TokenRange range, bool gated) const;
  Status check_tokens(Tokens tokens) const;

  /// Puts tokens where the device reads them, when no step in flight reads that place any more.
  Status write_tokens(Tokens tokens, TokenRange range);

  /// Enqueues a step and remembers it until it is done. Fails only when nothing was enqueued.
  Result<std::shared_ptr<Work>> start(Tokens tokens, TokenRange range, bool ends,
                                      const LayerGate& gate);
  /// Waits for whatever was enqueued, of which nothing counts.
  Error give_up(Error error, TokenRange range);
  /// What was there of these tokens is forgotten before the first kernel writes over it.
  void begin_writing(Work& work);

  Status enqueue(Work& work, const LayerGate& gate);
  Status run(Work& work, TokenRange tokens, const cuda_impl::StepShape& shape);
  Status capture(cuda_impl::GraphExec& graph, const cuda_impl::StepShape& shape);
  /// Passes that go through each layer one after the other, once its gate is open.
  struct MicroBatch {
    std::uint32_t begin = 0;  // token
    cuda_impl::StepShape shape;
    cuda_impl::StepGraphs* graphs = nullptr;  // null: its kernels are launched one by one
  };
  Status run_gated(Work& work, TokenRange tokens, std::span<MicroBatch> parts,
                   const LayerGate& gate);
  Status run_layer(std::uint32_t layer, const MicroBatch& part);
  Status launch_layer(std::uint32_t layer, const MicroBatch& part, cudaStream_t s);

  /// Graphs of a size that has run to its end before; null otherwise and where none are kept.
  cuda_impl::StepGraphs* graphs_for(Work& work, const GraphKey& key, std::size_t count);

  Status wait_for_latest() const;

  /// All sizes are tuned before any is captured: they share the products of single rows, and a
  /// graph keeps what was chosen when it was captured.
  Status prepare(std::span<const std::uint32_t> sizes);
  Status warm_up(const cuda_impl::StepShape& shape);

  const CudaOptions options;
  const std::shared_ptr<const CudaWeights> weights;
  const int device;
  const cuda::Stream stream;
  cuda_impl::KvPool pool;
  cuda_impl::Model model;
  mutable cuda::KvTransfer transfer;
  cuda::PinnedStaging staging;
  std::set<cuda_impl::StepShape>
      seen;  // sizes whose kernels are loaded and whose products are chosen
  cuda_impl::RecentCache<GraphKey, std::shared_ptr<cuda_impl::StepGraphs>> graphs;
  std::deque<std::shared_ptr<Work>> in_flight;  // oldest first
  std::shared_ptr<cuda_impl::Outcome> outcome = std::make_shared<cuda_impl::Outcome>();
  mutable std::mutex latest_mutex;  // guards latest
  std::shared_ptr<Work> latest;
};

}  // namespace cake::inline CAKE_ABI::reference
