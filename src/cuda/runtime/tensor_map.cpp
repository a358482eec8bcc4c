// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "tensor_map.hpp"

#include <cuda_runtime_api.h>

#include <string>

namespace cake::inline CAKE_ABI::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

/// The driver's function, found at run time so that nothing has to be linked; null: it has none.
Encode encoder() {
  static const Encode function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                         &result) != cudaSuccess ||
        result != cudaDriverEntryPointSuccess) {
      (void)cudaGetLastError();
      found = nullptr;
    }
    return reinterpret_cast<Encode>(found);
  }();
  return function;
}

}  // namespace

Result<CUtensorMap> map_of_matrix(const void* base, std::uint64_t rows, std::uint64_t columns,
                                  std::uint32_t box_rows) {
  if (encoder() == nullptr) {
    return Error{Errc::unsupported, 0, "the driver has no cuTensorMapEncodeTiled"};
  }
  CUtensorMap map{};
  const cuuint64_t extents[2] = {columns, rows};
  const cuuint64_t stride = columns * 2;
  const cuuint32_t box[2] = {64, box_rows};
  const cuuint32_t every[2] = {1, 1};
  const CUresult code =
      encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(base), extents,
                &stride, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (code == CUDA_SUCCESS) return map;
  return Error{Errc::invalid_argument, static_cast<int>(code),
               "no tensor map of a matrix of " + std::to_string(rows) + " rows and " +
                   std::to_string(columns) + " columns"};
}

}  // namespace cake::inline CAKE_ABI::cuda
