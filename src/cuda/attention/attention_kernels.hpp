// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What the launcher hands to a kernel, and the kernels that there are. Each takes everything; which
// one runs is the launcher's choice.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cake/cuda/attention.hpp"

namespace cake::inline CAKE_ABI::cuda {

enum class AttentionKernel {
  chosen,  // by plan_attention()
  mma,     // from compute capability 8.0 on
  sm90,    // compute capability 9.0
};

/// attention() by a kernel of the caller's choice: one is a second opinion on the other.
///
/// Needs:   a device that the kernel runs on
Status attention_by(AttentionKernel kernel, const AttentionArgs& args, cudaStream_t stream);

/// Strides in elements, as in AttentionArgs.
struct AttentionParams {
  const void* q;
  const void* k;
  const void* v;
  void* out;
  float* softmax_lse;  // [n_heads][n_queries], may be null
  float* partial_out;  // [num_splits][n_queries][n_heads][head_dim], when there are splits
  float* partial_lse;  // [num_splits][n_queries][n_heads]
  std::int64_t q_token_stride, q_head_stride;
  std::int64_t out_token_stride, out_head_stride;
  std::int64_t page_stride, token_stride, head_stride;
  const std::int32_t* page_table;
  std::int64_t table_stride;
  const std::int32_t* cu_seqlens_q;
  const std::int32_t* seqlens_k;
  std::uint32_t page_tokens;      // 0: contiguous
  std::uint32_t page_multiplier;  // key / page_tokens is (high half of key * this + key) >> shift
  std::uint32_t page_shift;
  std::uint32_t n_heads, n_kv_heads, group;
  std::uint32_t group_multiplier, group_shift;  // the same for row / group
  std::uint32_t n_queries, max_seqlen_q, n_sequences, head_dim;
  std::uint32_t num_splits;
  std::uint32_t split_from_keys;  // sequences of fewer keys have only split 0, which writes out
  float softmax_scale;            // of the scores,
  float scale_log2;               // and the same in powers of two
};

/// Query rows of one block: (query, head of a group) pairs that share their keys.
inline constexpr std::uint32_t kAttentionRows = 128;
/// Blocks that run side by side on one multiprocessor.
inline constexpr std::uint32_t kAttentionBlocksPerProcessor = 2;

/// Tensor cores by mma.sync, from compute capability 8.0 on; head_dim 64 or 128.
cudaError_t launch_attention_bf16(const AttentionParams& params, cudaStream_t stream);
cudaError_t launch_attention_f16(const AttentionParams& params, cudaStream_t stream);
/// Puts the parts of all splits together.
cudaError_t launch_attention_combine(const AttentionParams& params, DType dtype,
                                     cudaStream_t stream);
/// fp32 throughout; f32, bf16 or f16, any head_dim up to 256.
cudaError_t launch_attention_reference(const AttentionParams& params, DType dtype,
                                       cudaStream_t stream);

}  // namespace cake::inline CAKE_ABI::cuda
