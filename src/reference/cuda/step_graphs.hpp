// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A step captured as CUDA graphs: one for the whole pass, or one for each layer behind a gate.
#pragma once

#include <cuda_runtime_api.h>

#include <utility>
#include <vector>

#include "cake/cuda/runtime.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::reference::cuda_impl {

/// Owns an executable graph, or none.
class GraphExec {
 public:
  GraphExec() = default;
  ~GraphExec() {
    if (exec_ != nullptr) (void)cudaGraphExecDestroy(exec_);
  }
  GraphExec(GraphExec&& other) noexcept : exec_(std::exchange(other.exec_, nullptr)) {}
  GraphExec& operator=(GraphExec&& other) noexcept {
    std::swap(exec_, other.exec_);
    return *this;
  }
  explicit operator bool() const { return exec_ != nullptr; }

  /// Captures what `enqueue(stream)` launches. Other threads may use the device meanwhile.
  template <class Enqueue>
  Status capture(cudaStream_t stream, Enqueue enqueue) {
    cudaGraph_t graph = nullptr;
    CAKE_TRY(cuda::to_status(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                             "capture the graph of a step"));
    Status status = enqueue(stream);
    Status ended =
        cuda::to_status(cudaStreamEndCapture(stream, &graph), "capture the graph of a step");
    if (status) status = std::move(ended);
    if (status) {
      status = cuda::to_status(cudaGraphInstantiate(&exec_, graph, 0),
                               "instantiate the graph of a step");
    }
    if (graph != nullptr) (void)cudaGraphDestroy(graph);
    return status;
  }
  Status upload(cudaStream_t stream) const {
    return cuda::to_status(cudaGraphUpload(exec_, stream), "upload the graph of a step");
  }
  Status launch(cudaStream_t stream) const {
    return cuda::to_status(cudaGraphLaunch(exec_, stream), "launch the graph of a step");
  }

 private:
  cudaGraphExec_t exec_ = nullptr;
};

/// One graph, or one for each layer; captured when they are first needed.
using StepGraphs = std::vector<GraphExec>;

}  // namespace cake::inline CAKE_ABI::reference::cuda_impl
