// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Checks what it is given, decides how to deal the work out, and launches.
#include "cake/cuda/attention.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "attention_decode.hpp"
#include "attention_kernels.hpp"
#include "attention_plan.hpp"
#include "cake/cuda/runtime.hpp"
#include "sm90_attention.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::cuda {
namespace {

Error refused(std::string what) {
  return Error{Errc::invalid_argument, 0, "attention: " + std::move(what)};
}

Status check(const AttentionShape& s) {
  if (s.n_heads == 0 || s.n_kv_heads == 0 || s.n_heads % s.n_kv_heads != 0) {
    return refused(std::to_string(s.n_heads) + " query heads over " + std::to_string(s.n_kv_heads) +
                   " KV heads");
  }
  if (s.n_sequences == 0) return refused("no sequences");
  if (s.max_seqlen_q > s.n_queries) return refused("max_seqlen_q is above n_queries");
  if (std::uint64_t{s.n_queries} * s.n_heads > 0x7fff'ffffu) return refused("too many queries");
  if (s.num_splits > kMaxAttentionSplits) {
    return refused("at most " + std::to_string(kMaxAttentionSplits) + " splits");
  }
  return {};
}

Status check_tensor_cores(const AttentionShape& s) {
  if (s.head_dim != 64 && s.head_dim != 128) {
    return Error{Errc::unsupported, 0,
                 "attention: head_dim is " + std::to_string(s.head_dim) + "; there are 64 and 128"};
  }
  if (s.dtype == DType::f32) {
    return Error{Errc::unsupported, 0, "attention: dtype is f32; there are bf16 and f16"};
  }
  return {};
}

Status attribute(int& value, cudaDeviceAttr which, int device) {
  return to_status(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
}

Result<AttentionDevice> current_device() {
  int device = 0;
  int processors = 0;
  int major = 0;
  int minor = 0;
  CAKE_TRY(to_status(cudaGetDevice(&device), "cudaGetDevice"));
  for (const Status& status : {attribute(processors, cudaDevAttrMultiProcessorCount, device),
                               attribute(major, cudaDevAttrComputeCapabilityMajor, device),
                               attribute(minor, cudaDevAttrComputeCapabilityMinor, device)}) {
    if (!status) return status.error();
  }
  return AttentionDevice{static_cast<std::uint32_t>(processors), major == 9 && minor == 0};
}

std::size_t workspace_of(const AttentionShape& s, std::uint32_t num_splits) {
  return num_splits == 1 ? 0
                         : std::size_t{num_splits} * s.n_queries * s.n_heads *
                               (std::size_t{s.head_dim} + 1) * sizeof(float);
}

Status check(const AttentionArgs& a) {
  if (a.q == nullptr || a.out == nullptr || a.k == nullptr || a.v == nullptr) {
    return refused("q, k, v or out is null");
  }
  if (a.seqlens_k == nullptr) return refused("seqlens_k is null");
  if (a.cu_seqlens_q == nullptr && a.shape.n_sequences != 1) {
    return refused("cu_seqlens_q is null for more than one sequence");
  }
  if (a.page_tokens != 0 && a.page_table == nullptr) return refused("page_table is null");
  for (const std::int64_t stride :
       {a.q_token_stride, a.q_head_stride, a.out_token_stride, a.out_head_stride, a.strides.page,
        a.strides.token, a.strides.head}) {
    if (stride % 8 != 0) return refused("strides must be multiples of 8 elements");
  }
  for (const void* address :
       {a.q, static_cast<const void*>(a.out), a.k, a.v, static_cast<const void*>(a.workspace)}) {
    if (reinterpret_cast<std::uintptr_t>(address) % 16 != 0) {
      return refused("q, k, v, out and workspace must lie at multiples of 16 bytes");
    }
  }
  return {};
}

/// Division by a constant, for 31-bit numbers: x / by is (high half of x * multiplier + x) >> shift.
void divide(std::uint32_t by, std::uint32_t& multiplier, std::uint32_t& shift) {
  shift = static_cast<std::uint32_t>(std::bit_width(by - 1));
  const std::uint64_t excess = (std::uint64_t{1} << shift) - by;
  multiplier = static_cast<std::uint32_t>((excess << 32) / by + 1);
}

AttentionParams params_of(const AttentionArgs& a, const AttentionPlan& plan) {
  const AttentionShape& s = a.shape;
  AttentionParams p{};
  p.q = a.q;
  p.k = a.k;
  p.v = a.v;
  p.out = a.out;
  p.softmax_lse = a.softmax_lse;
  p.partial_out = static_cast<float*>(a.workspace);
  if (p.partial_out != nullptr) {
    p.partial_lse =
        p.partial_out + std::size_t{plan.num_splits} * s.n_queries * s.n_heads * s.head_dim;
  }
  p.q_token_stride = a.q_token_stride;
  p.q_head_stride = a.q_head_stride;
  p.out_token_stride = a.out_token_stride;
  p.out_head_stride = a.out_head_stride;
  p.page_stride = a.strides.page;
  p.token_stride = a.strides.token;
  p.head_stride = a.strides.head;
  p.page_table = a.page_table;
  p.table_stride = a.table_stride;
  p.cu_seqlens_q = a.cu_seqlens_q;
  p.seqlens_k = a.seqlens_k;
  p.page_tokens = a.page_tokens;
  if (a.page_tokens != 0) divide(a.page_tokens, p.page_multiplier, p.page_shift);
  p.n_heads = s.n_heads;
  p.n_kv_heads = s.n_kv_heads;
  p.group = s.n_heads / s.n_kv_heads;
  divide(p.group, p.group_multiplier, p.group_shift);
  p.n_queries = s.n_queries;
  p.max_seqlen_q = s.max_seqlen_q;
  p.n_sequences = s.n_sequences;
  p.head_dim = s.head_dim;
  p.num_splits = plan.num_splits;
  p.split_from_keys = plan.split_from_keys;
  p.softmax_scale =
      a.softmax_scale != 0 ? a.softmax_scale : 1.0f / std::sqrt(static_cast<float>(s.head_dim));
  p.scale_log2 = p.softmax_scale * 1.44269504f;
  return p;
}

}  // namespace

Result<std::size_t> attention_workspace_bytes(const AttentionShape& shape) {
  CAKE_TRY(check(shape));
  CAKE_TRY(check_tensor_cores(shape));
  const auto device = current_device();
  if (!device) return device.error();
  const decode::Plan few = decode::plan(shape, device->processors);
  return std::max(few ? decode::workspace_bytes(few, shape.head_dim) : 0,
                  workspace_of(shape, plan_attention(shape, *device).num_splits));
}

Status attention(const AttentionArgs& args, cudaStream_t stream) {
  return attention_by(AttentionKernel::chosen, args, stream);
}

Status attention_by(AttentionKernel kernel, const AttentionArgs& args, cudaStream_t stream) {
  CAKE_TRY(check(args.shape));
  CAKE_TRY(check_tensor_cores(args.shape));
  CAKE_TRY(check(args));
  if (args.shape.max_seqlen_q == 0) return {};
  const auto device = current_device();
  if (!device) return device.error();
  const decode::Plan few = kernel == AttentionKernel::chosen
                               ? decode::plan(args.shape, device->processors)
                               : decode::Plan();
  const AttentionPlan plan = plan_attention(args.shape, *device);
  const std::size_t needed = few ? decode::workspace_bytes(few, args.shape.head_dim)
                                 : workspace_of(args.shape, plan.num_splits);
  if (needed != 0 && (args.workspace == nullptr || args.workspace_bytes < needed)) {
    return refused("workspace of " + std::to_string(args.workspace_bytes) + " bytes; it takes " +
                   std::to_string(needed));
  }
  AttentionParams params = params_of(args, plan);
  const DType dtype = args.shape.dtype;
  if (few) {
    return to_status(launch_attention_decode(params, few, dtype, stream),
                     "launch the attention of few queries");
  }
  cudaError_t code = cudaSuccess;
  switch (kernel == AttentionKernel::chosen ? plan.kernel : kernel) {
    case AttentionKernel::sm90:
      code = launch_sm90_attention(params, dtype, plan.rows_of_tile, device->processors, stream);
      break;
    default:
      params.split_from_keys = 0;  // it splits all sequences
      code = dtype == DType::bf16 ? launch_attention_bf16(params, stream)
                                  : launch_attention_f16(params, stream);
  }
  if (code != cudaSuccess) return to_status(code, "launch the attention");
  if (plan.num_splits == 1) return {};
  return to_status(launch_attention_combine(params, dtype, stream),
                   "launch the kernel that combines the splits of attention");
}

Status attention_reference(const AttentionArgs& args, cudaStream_t stream) {
  CAKE_TRY(check(args.shape));
  CAKE_TRY(check(args));
  if (args.shape.head_dim == 0 || args.shape.head_dim > 256) {
    return Error{Errc::unsupported, 0, "attention_reference: head_dim of 1 to 256"};
  }
  if (args.shape.n_queries == 0) return {};
  return to_status(
      launch_attention_reference(params_of(args, AttentionPlan()), args.shape.dtype, stream),
      "attention_reference");
}

}  // namespace cake::inline CAKE_ABI::cuda
