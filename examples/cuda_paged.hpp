// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The toy model of cuda_paged: each layer's KV of a token is a hash of all tokens so far, read from
// the KV of those before this pass, and takes long to compute.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cake::examples {

inline constexpr std::uint32_t kHeads = 4, kHeadDim = 64, kPageTokens = 16;
inline constexpr std::uint32_t kTokenBytes = kHeads * kHeadDim * 2;  // bf16, one layer, K or V

/// One layer of a pass over the tokens [begin, end).
struct ToyLayer {
  void* k;                     // pages [page][kPageTokens][kHeads][kHeadDim]
  void* v;                     // the same
  const std::int32_t* table;   // page of each kPageTokens tokens
  const std::int32_t* tokens;  // the prompt
  std::uint32_t layer, begin, end;
};
cudaError_t toy_layer(const ToyLayer& pass, cudaStream_t stream);

}  // namespace cake::examples
