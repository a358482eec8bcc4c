// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What stands between the matrix products: embedding, norms, RoPE with the write of KV, SwiGLU.
// Launchers; every address is the device's, every matrix of activations is row-major.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cake/cuda/paged_kv.hpp"

namespace cake::inline CAKE_ABI::reference::cuda_impl {

/// What changes from step to step of one size. In device memory, so that a captured graph serves
/// all of them.
struct StepState {
  std::int32_t begin = 0;   // position of the step's first token
  std::int32_t n_keys = 0;  // of the sequence, the step's own included
};

/// Writes *to in stream order; the value travels with the launch.
cudaError_t set_step(StepState* to, StepState value, cudaStream_t stream);

/// x[row] = table[tokens[begin + row]]. `f32`: x is fp32, else bf16.
///
/// Shape:   x: [rows][n_embd]; table: bf16 [n_vocab][n_embd]; n_embd a multiple of 8
cudaError_t embed(const std::int32_t* tokens, const StepState* step, const void* table, void* x,
                  bool f32, std::uint32_t rows, std::uint32_t n_embd, cudaStream_t stream);

/// out[row] = x[row] / rms(x[row]) * weight, in fp32 throughout and rounded once.
///
/// Shape:   x: [rows][n_embd] fp32 or bf16; out: bf16 [rows][n_embd]
/// Needs:   n_embd is a multiple of 8, at most kMaxNormWidth
inline constexpr std::uint32_t kMaxNormWidth = 16384;
cudaError_t rms_norm(void* out, const void* x, bool f32, const float* weight, std::uint32_t rows,
                     std::uint32_t n_embd, float epsilon, cudaStream_t stream);

/// cos and sin of position * inverse_frequency[i], the angle being a product of fp32 numbers.
///
/// Shape:   table: [positions][half]
cudaError_t rope_table(float2* table, const float* inverse_frequency, std::uint32_t positions,
                       std::uint32_t half, cudaStream_t stream);

/// Turns the pairs (2i, 2i+1) of Q and K by their positions; Q stays where it is, K and V go into
/// their pages.
struct RopeArgs {
  void* qkv = nullptr;  // bf16 [rows][(n_heads + 2 n_kv_heads) * head_dim]
  const StepState* step = nullptr;
  const float2* table = nullptr;  // [positions][rope_dimensions / 2]
  void* k = nullptr;              // pools of this layer
  void* v = nullptr;              //
  cuda::PageStrides strides;
  const std::int32_t* page_table = nullptr;
  std::uint32_t page_tokens = 0;
  std::uint32_t rows = 0;
  std::uint32_t first_query = 0;  // rows before it have no Q
  std::uint32_t n_heads = 0;
  std::uint32_t n_kv_heads = 0;
  std::uint32_t head_dim = 0;         // a multiple of 8
  std::uint32_t rope_dimensions = 0;  // even
};
cudaError_t rope_and_store(const RopeArgs& args, cudaStream_t stream);

/// out = silu(gate) * up.
///
/// Shape:   gate_up: bf16 [rows][2 n_ff], gate first; out: bf16 [rows][n_ff]; n_ff a multiple of 8
cudaError_t silu_product(void* out, const void* gate_up, std::uint32_t rows, std::uint32_t n_ff,
                         cudaStream_t stream);

/// Copies numbers by kernel, so that they wait for no copy engine; `to` may be mapped host memory.
cudaError_t copy_floats(float* to, const float* from, std::size_t count, cudaStream_t stream);

/// fp32 to bf16, to nearest, ties to even.
cudaError_t round_to_bf16(void* to, const float* from, std::size_t count, cudaStream_t stream);

/// Normal random numbers of a counter-based generator: element i depends on seed and i alone.
cudaError_t fill_normal_bf16(void* to, std::size_t count, float deviation, std::uint64_t seed,
                             cudaStream_t stream);
cudaError_t fill(float* to, std::size_t count, float value, cudaStream_t stream);

}  // namespace cake::inline CAKE_ABI::reference::cuda_impl
