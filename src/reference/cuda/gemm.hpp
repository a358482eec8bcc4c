// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Matrix products with weights, by cuBLASLt: bf16 in, fp32 accumulated, the algorithm of each shape
// chosen once.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>

#include "cake/cuda/runtime.hpp"
#include "cake/result.hpp"

namespace cake::inline CAKE_ABI::reference::cuda_impl {

/// out[row][output] = sum over inputs of in[row][input] * weight[output][input], added to what is
/// there when `add`.
///
/// Units:   strides in elements, between rows
/// Needs:   strides and addresses are multiples of 16 bytes
struct Product {
  std::uint32_t rows = 0;
  std::uint32_t outputs = 0;
  std::uint32_t inputs = 0;
  const void* in = nullptr;  // bf16
  std::int64_t in_stride = 0;
  const void* weight = nullptr;  // bf16 [outputs][inputs], dense
  void* out = nullptr;
  std::int64_t out_stride = 0;
  bool f32_out = false;  // else bf16
  bool add = false;
};

/// Algorithms that add partial sums up in an order of the moment are left out, so the same product
/// gives the same bits every time.
///
/// Thread:  Requires external synchronization; products of one object run in one stream, which owns
///          the workspace
class Gemm {
 public:
  /// Errors:  throws Exception(device, out_of_memory)
  explicit Gemm(std::size_t workspace_bytes = std::size_t{32} << 20);
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  /// Enqueues a product. The first one of a shape asks cuBLASLt which algorithm suits it.
  ///
  /// Errors:  device, naming the shape
  Status run(const Product& product, cudaStream_t stream);

  /// Times algorithms that cuBLASLt proposes, at most so many, and keeps the fastest for this
  /// shape. Waits for the stream and overwrites the product's output; not inside a capture.
  Status tune(const Product& product, cudaStream_t stream, std::size_t candidates = 8);

  /// Shapes that an algorithm was chosen for.
  std::size_t shapes() const { return choices_.size(); }

 private:
  struct Shape {
    std::uint32_t rows, outputs, inputs;
    std::int64_t in_stride, out_stride;
    bool f32_out, add;
    std::uint32_t alignment;  // bytes, of all addresses
    friend auto operator<=>(const Shape&, const Shape&) = default;
  };
  struct Choice;
  static Shape shape_of(const Product& product);
  Result<Choice*> choice_for(const Product& product);
  Result<std::unique_ptr<Choice>> describe(const Product& product) const;
  /// Fills `found` with algorithms, the most promising first; how many there are.
  Result<int> propose(const Product& product, const Choice& choice,
                      std::span<cublasLtMatmulHeuristicResult_t> found) const;
  /// Of one launch, behind a write over `other`.
  Result<double> seconds_of(const Product& product, const Choice& choice,
                            const cublasLtMatmulAlgo_t& algorithm, const cuda::DeviceBuffer& other,
                            cudaStream_t stream) const;
  cublasStatus_t launch(const Product& product, const Choice& choice,
                        const cublasLtMatmulAlgo_t& algorithm, cudaStream_t stream) const;

  cublasLtHandle_t handle_ = nullptr;
  cuda::DeviceBuffer workspace_;
  std::map<Shape, std::unique_ptr<Choice>> choices_;
};

}  // namespace cake::inline CAKE_ABI::reference::cuda_impl
