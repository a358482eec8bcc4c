// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Tensor maps for the bulk copy engine: how boxes of queries, keys and values lie in global memory.
#include "sm90_attention.hpp"

#include <array>
#include <numeric>

namespace cake::inline CAKE_ABI::cuda {
namespace {

constexpr std::uint32_t kPanelColumns = 64;  // 128 bytes, the widest box with a swizzle

using Encode = decltype(&cuTensorMapEncodeTiled);

/// The driver's function, found at run time so that nothing has to be linked; null: it has none.
Encode encoder() {
  static const Encode function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const cudaError_t code = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found,
                                                              12000, cudaEnableDefault, &result);
    if (code != cudaSuccess || result != cudaDriverEntryPointSuccess) {
      (void)cudaGetLastError();
      found = nullptr;
    }
    return reinterpret_cast<Encode>(found);
  }();
  return function;
}

struct Dimension {
  std::uint64_t extent;
  std::int64_t stride;  // elements
  std::uint32_t box;
};

/// Three dimensions around rows of head_dim adjacent elements. False: they have no map.
bool encode(CUtensorMap& map, DType dtype, const void* base, std::uint32_t head_dim,
            std::array<Dimension, 3> outer) {
  cuuint64_t extents[4] = {head_dim};
  cuuint64_t strides[3];
  cuuint32_t box[4] = {kPanelColumns};
  const cuuint32_t every[4] = {1, 1, 1, 1};
  for (std::size_t i = 0; i < 3; ++i) {
    const Dimension& d = outer[i];
    const bool alone = d.extent == 1;  // its stride means nothing
    if (!alone && (d.stride <= 0 || d.stride >= std::int64_t{1} << 39)) return false;
    extents[i + 1] = d.extent;
    strides[i] = (alone ? head_dim : static_cast<cuuint64_t>(d.stride)) * 2;
    box[i + 1] = d.box;
  }
  return encoder() != nullptr &&
         encoder()(&map,
                   dtype == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                        : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                   4, const_cast<void*>(base), extents, strides, box, every,
                   CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/// Keys and values: rows, heads, pages. How many keys or pages there are is not known here; only
/// rows that hold keys are asked for.
bool encode_side(CUtensorMap& map, DType dtype, const void* base, const AttentionParams& p,
                 std::uint32_t rows) {
  constexpr std::uint64_t kMany = 0x7fff'ffff;
  const bool paged = p.page_tokens != 0;
  return encode(map, dtype, base, p.head_dim,
                {{{paged ? p.page_tokens : kMany, p.token_stride, rows},
                  {p.n_kv_heads, p.head_stride, 1},
                  {paged ? kMany : p.n_sequences, p.page_stride, 1}}});
}

}  // namespace

std::uint32_t sm90_box_rows(std::uint32_t page_tokens) {
  if (page_tokens == 0) return kSm90KeysOfBlock;
  const std::uint32_t rows = std::gcd(page_tokens, kSm90KeysOfBlock);
  return rows >= 8 ? rows : 0;
}

Sm90Boxes sm90_boxes(const AttentionParams& p, DType dtype, std::uint32_t rows_of_tile) {
  Sm90Boxes boxes{};
  const std::uint32_t rows = sm90_box_rows(p.page_tokens);
  if (rows != 0 && encode_side(boxes.k, dtype, p.k, p, rows) &&
      encode_side(boxes.v, dtype, p.v, p, rows)) {
    boxes.key_rows = static_cast<std::int32_t>(rows);
  }
  boxes.queries_by_box = rows_of_tile % p.group == 0 &&
                         encode(boxes.q, dtype, p.q, p.head_dim,
                                {{{p.group, p.q_head_stride, p.group},
                                  {p.n_kv_heads, p.q_head_stride * p.group, 1},
                                  {p.n_queries, p.q_token_stride, rows_of_tile / p.group}}});
  return boxes;
}

cudaError_t launch_sm90_attention(const AttentionParams& params, DType dtype,
                                  std::uint32_t rows_of_tile, std::uint32_t processors,
                                  cudaStream_t stream) {
  return launch_sm90_kernel(params, sm90_boxes(params, dtype, rows_of_tile), dtype, rows_of_tile,
                            processors, stream);
}

}  // namespace cake::inline CAKE_ABI::cuda
