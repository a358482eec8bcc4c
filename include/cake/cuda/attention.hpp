// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Attention of new tokens over everything before them, in the engine's own memory: queries of a
// chunk over prefix and chunk, paged or contiguous KV, grouped query heads, ragged batches.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "cake/cuda/paged_kv.hpp"
#include "cake/export.hpp"
#include "cake/kv_layout.hpp"
#include "cake/result.hpp"

namespace cake::inline CAKE_ABI::cuda {

/// What decides which kernel runs and how much workspace it takes; known on the host.
struct AttentionShape {
  std::uint32_t n_heads = 0;  // query heads; a multiple of n_kv_heads
  std::uint32_t n_kv_heads = 0;
  std::uint32_t head_dim = 0;      // 64 or 128
  DType dtype = DType::bf16;       // bf16 or f16, of q, k, v and out
  std::uint32_t n_sequences = 1;   // of the batch
  std::uint32_t n_queries = 0;     // of all sequences together
  std::uint32_t max_seqlen_q = 0;  // of any one sequence
  /// Number of KV splits per sequence (split-KV), so that a short chunk over a long prefix fills
  /// the device. 0: chosen from the other fields; for up to 64 query heads that share their keys
  /// (max_seqlen_q * n_heads / n_kv_heads) the kernel chooses by the numbers of keys on the device.
  std::uint32_t num_splits = 0;
};

/// One launch. Addresses are the device's; the scalars in device memory are read when the kernel
/// runs, so that a captured graph serves every prefix length.
///
/// Shape:   q: [n_queries][n_heads][head_dim] by the strides, out likewise; query i of a sequence
///          with m queries and n keys attends to keys 0 .. n - m + i (causal, aligned to the end)
/// Units:   strides in elements, multiples of 8; q, k, v, out and workspace lie at multiples of 16
///          bytes
struct AttentionArgs {
  AttentionShape shape;
  const void* q = nullptr;
  std::int64_t q_token_stride = 0;
  std::int64_t q_head_stride = 0;
  void* out = nullptr;
  std::int64_t out_token_stride = 0;
  std::int64_t out_head_stride = 0;
  float* softmax_lse =
      nullptr;  // optional, [n_heads][n_queries]: natural logarithm of the sum of exponents
  const void* k = nullptr;
  const void* v = nullptr;
  PageStrides strides;
  std::uint32_t page_tokens = 0;             // 0: contiguous, sequences lie strides.page apart
  const std::int32_t* page_table = nullptr;  // [n_sequences][table_stride]
  std::int64_t table_stride = 0;
  const std::int32_t* cu_seqlens_q = nullptr;  // [n_sequences + 1] rows of q; null: one sequence
  const std::int32_t* seqlens_k = nullptr;     // [n_sequences] keys, those of the queries included
  float softmax_scale = 0;                     // of the scores; 0: 1 / sqrt(head_dim)
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
};

/// Bytes of workspace that a launch of this shape needs on the current device; 0 when none.
///
/// Errors:  unsupported (head_dim, dtype), invalid_argument; device as device_info()
CAKE_API Result<std::size_t> attention_workspace_bytes(const AttentionShape& shape);

/// Enqueues the kernel that suits device and shape. Keys beyond seqlens_k are never read as numbers:
/// unused rows of a page may hold anything. The result does not depend on which pages are used, and
/// is the same bit for bit from run to run. A sequence without keys gives zeros.
///
/// Errors:  as attention_workspace_bytes(); invalid_argument for missing pointers, strides or
///          workspace
/// Thread:  Safe for concurrent use
CAKE_API Status attention(const AttentionArgs& args, cudaStream_t stream);

/// The same in the plainest way, fp32 throughout, one block for each query and head: what tests of
/// large shapes compare with. Takes f32 as well, and any head_dim up to 256.
CAKE_API Status attention_reference(const AttentionArgs& args, cudaStream_t stream);

}  // namespace cake::inline CAKE_ABI::cuda
