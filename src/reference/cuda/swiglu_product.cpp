// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "swiglu_product.hpp"

#include <string>

#include "cake/cuda/runtime.hpp"
#include "src/cuda/runtime/tensor_map.hpp"

namespace cake::inline CAKE_ABI::reference::cuda_impl {

Result<std::uint32_t> sm90_processors() {
  int device = 0;
  int major = 0;
  int minor = 0;
  int processors = 0;
  cudaError_t code = cudaGetDevice(&device);
  const auto ask = [&](int& value, cudaDeviceAttr which) {
    if (code == cudaSuccess) code = cudaDeviceGetAttribute(&value, which, device);
  };
  ask(major, cudaDevAttrComputeCapabilityMajor);
  ask(minor, cudaDevAttrComputeCapabilityMinor);
  ask(processors, cudaDevAttrMultiProcessorCount);
  if (code != cudaSuccess) return cuda::to_status(code, "SwiGLU within products").error();
  if (major == 9 && minor == 0) return static_cast<std::uint32_t>(processors);
  return Error{Errc::unsupported, 0,
               "SwiGLU within products needs compute capability 9.0; this is " +
                   std::to_string(major) + "." + std::to_string(minor)};
}

Status swiglu_product(const SwigluProduct& p, cudaStream_t stream) {
  if (!swiglu_product_takes(p.n_ff, p.n_embd)) {
    return Error{Errc::unsupported, 0,
                 "SwiGLU within products: n_ff is " + std::to_string(p.n_ff) + " and n_embd " +
                     std::to_string(p.n_embd) + "; they have to be multiples of 128 and 64"};
  }
  const auto processors = sm90_processors();
  if (!processors) return processors.error();
  if (p.rows == 0) return {};
  const std::uint32_t columns = swiglu_tile_columns(p.rows, p.n_ff, *processors);
  const auto in = cuda::map_of_matrix(p.in, p.rows, p.n_embd, 128);
  if (!in) return in.error();
  const auto weight = cuda::map_of_matrix(p.weight, std::uint64_t{2} * p.n_ff, p.n_embd, columns);
  if (!weight) return weight.error();
  const auto out = cuda::map_of_matrix(p.out, p.rows, p.n_ff, 64);
  if (!out) return out.error();
  return cuda::to_status(
      launch_swiglu_product({*in, *weight, *out}, p, columns, *processors, stream),
      "SwiGLU within products");
}

}  // namespace cake::inline CAKE_ABI::reference::cuda_impl
