// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One forward pass over pages of KV, as launches into a stream: the same calls run a step, are
// captured into graphs, and are timed.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cake/cuda/runtime.hpp"
#include "cake/reference/cuda_backend.hpp"
#include "gemm.hpp"
#include "kernels.hpp"
#include "kv_pool.hpp"

namespace cake::inline CAKE_ABI::reference::cuda_impl {

/// What a launch belongs to, for the profile.
enum class Part { gemm, attention, elementwise };

/// A step's size, or that of a micro-batch; position and keys are in device memory.
struct StepShape {
  std::uint32_t rows = 0;
  bool ends = false;        // the last row ends the prompt: logits follow
  std::uint32_t first = 0;  // row of the residual stream that is its first: rows below it are those
                            // of the micro-batches before
  friend auto operator<=>(const StepShape&, const StepShape&) = default;
};

/// Thread:  Requires external synchronization, one stream
class Model {
 public:
  /// Errors:  throws Exception(unsupported, out_of_memory, device)
  Model(const CudaWeights& weights, const KvPool& pool, const CudaOptions& options,
        cudaStream_t stream);

  /// Enqueues the write of what changes from step to step. Not part of a graph.
  Status place(std::uint32_t begin, std::uint32_t rows, cudaStream_t stream);
  /// Enqueue the parts of a pass; the order is embed, layer 0, 1 ..., output where the step ends
  /// the prompt. Other micro-batches, which are placed anew each time, may come between them.
  Status embed(const StepShape& step, cudaStream_t stream);
  Status layer(std::uint32_t index, const StepShape& step, cudaStream_t stream);
  Status output(const StepShape& step, cudaStream_t stream);
  /// All of them.
  Status run(const StepShape& step, cudaStream_t stream);

  /// Tries algorithms for all products of a step's size out. Overwrites scratch; waits.
  Status tune(const StepShape& step, cudaStream_t stream);

  /// Where a step finds its tokens, by position: written by the host, read by the device.
  std::int32_t* tokens() { return tokens_.as<std::int32_t>(); }
  /// Shape:   [n_vocab]; in host memory, written by output()
  const float* logits() const { return host_logits_.as<float>(); }

  /// While set, a time stamp is recorded behind every launch.
  struct Mark {
    Part part;
    cuda::Event event;
  };
  std::vector<Mark>* marks = nullptr;

 private:
  Status norm(const float* weight, std::uint32_t first, std::uint32_t rows, cudaStream_t stream);
  Status attend(std::uint32_t layer, std::uint32_t first, std::uint32_t rows, cudaStream_t stream);
  Status product(const Product& product, cudaStream_t stream);
  Status swiglu(const void* gate_up, std::uint32_t rows, cudaStream_t stream);
  Status did(Part part, Status status, cudaStream_t stream);
  void* x_row(std::uint32_t row) const;
  void* qkv_at(std::uint32_t row, std::size_t column) const;

  const CudaWeights& weights_;
  const Config& config_;
  const KvPool& pool_;
  const bool f32_residual_;
  const std::uint32_t max_rows_;
  const std::uint32_t sm90_processors_;  // 0: this device is another one
  const std::size_t q_size_;
  const std::size_t kv_size_;
  const std::size_t qkv_stride_;
  bool tuning_ = false;

  Gemm gemm_;
  cuda::PinnedBuffer tokens_;       // [max_tokens]
  cuda::PinnedBuffer host_logits_;  // [n_vocab]
  cuda::DeviceBuffer step_;         // StepState
  cuda::DeviceBuffer rope_table_;   // float2 [max_tokens][rope.dimensions / 2]
  // Scratch of one step; steps follow each other in the stream.
  cuda::DeviceBuffer x_;          // [residual_tokens()][n_embd], the residual stream
  cuda::DeviceBuffer normed_;     // bf16 [rows][n_embd]
  cuda::DeviceBuffer qkv_;        // bf16 [rows][qkv_stride]
  cuda::DeviceBuffer attended_;   // bf16 [rows][q_size]
  cuda::DeviceBuffer gate_up_;    // bf16 [rows][2 n_ff]
  cuda::DeviceBuffer product_;    // bf16 [rows][n_ff]
  cuda::DeviceBuffer logits_;     // fp32 [n_vocab]
  cuda::DeviceBuffer workspace_;  // of attention
};

}  // namespace cake::inline CAKE_ABI::reference::cuda_impl
