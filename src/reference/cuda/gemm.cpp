// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "gemm.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <new>
#include <string>
#include <vector>

#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::reference::cuda_impl {
namespace {

constexpr int kRounds = 5;
constexpr std::size_t kCacheBytes = std::size_t{64} << 20;  // more than the device's L2 cache
// What cuBLASLt proposes first is kept unless another one takes at most this part of its time.
constexpr double kClearlyFaster = 0.97;
// Shapes that are remembered; engines that meet more sizes than this start anew.
constexpr std::size_t kMaxShapes = 8192;

Status failed(cublasStatus_t code, const std::string& doing) {
  return Error{code == CUBLAS_STATUS_ALLOC_FAILED ? Errc::out_of_memory : Errc::device,
               static_cast<int>(code), doing + ": " + cublasLtGetStatusString(code)};
}

std::string text(const Product& p) {
  return "matrix product of " + std::to_string(p.rows) + " rows, " + std::to_string(p.inputs) +
         " inputs, " + std::to_string(p.outputs) + " outputs";
}

/// Largest power of two, up to 256, that divides an address.
std::uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<std::uintptr_t>(address);
  return static_cast<std::uint32_t>(std::min<std::uintptr_t>(256, bits & (~bits + 1)));
}

}  // namespace

/// What cuBLASLt wants to be told of a shape. It counts in columns: weights are its A, transposed,
/// activations its B.
struct Gemm::Choice {
  ~Choice() {
    for (cublasLtMatrixLayout_t layout : {a, b, c}) {
      if (layout != nullptr) (void)cublasLtMatrixLayoutDestroy(layout);
    }
    if (operation != nullptr) (void)cublasLtMatmulDescDestroy(operation);
  }
  Choice() = default;
  Choice(const Choice&) = delete;
  Choice& operator=(const Choice&) = delete;

  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr;
  cublasLtMatrixLayout_t b = nullptr;
  cublasLtMatrixLayout_t c = nullptr;  // and D
  cublasLtMatmulAlgo_t algorithm{};
};

Gemm::Gemm(std::size_t workspace_bytes) : workspace_(workspace_bytes) {
  if (const cublasStatus_t code = cublasLtCreate(&handle_); code != CUBLAS_STATUS_SUCCESS) {
    throw Exception(failed(code, "cublasLtCreate").error());
  }
}
Gemm::~Gemm() {
  choices_.clear();
  (void)cublasLtDestroy(handle_);
}

Gemm::Shape Gemm::shape_of(const Product& p) {
  return {
      p.rows,       p.outputs,
      p.inputs,     p.in_stride,
      p.out_stride, p.f32_out,
      p.add,        std::min({alignment_of(p.in), alignment_of(p.weight), alignment_of(p.out)})};
}

Result<std::unique_ptr<Gemm::Choice>> Gemm::describe(const Product& p) const {
  auto choice = std::make_unique<Choice>();
  const cublasOperation_t transposed = CUBLAS_OP_T;
  cublasStatus_t code =
      cublasLtMatmulDescCreate(&choice->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  const auto then = [&](auto&& call) {
    if (code == CUBLAS_STATUS_SUCCESS) code = call();
  };
  then([&] {
    return cublasLtMatmulDescSetAttribute(choice->operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                          &transposed, sizeof transposed);
  });
  then([&] {
    return cublasLtMatrixLayoutCreate(&choice->a, CUDA_R_16BF, p.inputs, p.outputs, p.inputs);
  });
  then([&] {
    return cublasLtMatrixLayoutCreate(&choice->b, CUDA_R_16BF, p.inputs, p.rows, p.in_stride);
  });
  then([&] {
    return cublasLtMatrixLayoutCreate(&choice->c, p.f32_out ? CUDA_R_32F : CUDA_R_16BF, p.outputs,
                                      p.rows, p.out_stride);
  });
  if (code != CUBLAS_STATUS_SUCCESS) return failed(code, text(p)).error();
  return choice;
}

Result<int> Gemm::propose(const Product& p, const Choice& choice,
                          std::span<cublasLtMatmulHeuristicResult_t> found) const {
  cublasLtMatmulPreference_t preference = nullptr;
  cublasStatus_t code = cublasLtMatmulPreferenceCreate(&preference);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    if (code == CUBLAS_STATUS_SUCCESS) {
      code = cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value);
    }
  };
  const auto workspace = std::uint64_t{workspace_.size()};
  const std::uint32_t alignment = shape_of(p).alignment;
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace);
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment);
  int count = 0;
  if (code == CUBLAS_STATUS_SUCCESS) {
    code = cublasLtMatmulAlgoGetHeuristic(handle_, choice.operation, choice.a, choice.b, choice.c,
                                          choice.c, preference, static_cast<int>(found.size()),
                                          found.data(), &count);
  }
  if (preference != nullptr) (void)cublasLtMatmulPreferenceDestroy(preference);
  if (code != CUBLAS_STATUS_SUCCESS) return failed(code, text(p)).error();
  // Those that turned out not to be possible are at the end, if anywhere.
  const auto good = std::stable_partition(
      found.begin(), found.begin() + count,
      [](const auto& result) { return result.state == CUBLAS_STATUS_SUCCESS; });
  if (good == found.begin()) return failed(CUBLAS_STATUS_NOT_SUPPORTED, text(p)).error();
  return static_cast<int>(good - found.begin());
}

cublasStatus_t Gemm::launch(const Product& p, const Choice& choice,
                            const cublasLtMatmulAlgo_t& algorithm, cudaStream_t stream) const {
  const float alpha = 1;
  const float beta = p.add ? 1 : 0;
  return cublasLtMatmul(handle_, choice.operation, &alpha, p.weight, choice.a, p.in, choice.b,
                        &beta, p.out, choice.c, p.out, choice.c, &algorithm, workspace_.data(),
                        workspace_.size(), stream);
}

Result<Gemm::Choice*> Gemm::choice_for(const Product& p) {
  const Shape shape = shape_of(p);
  if (const auto known = choices_.find(shape); known != choices_.end()) return known->second.get();
  auto choice = describe(p);
  if (!choice) return choice.error();
  std::array<cublasLtMatmulHeuristicResult_t, 1> found{};
  CAKE_TRY(propose(p, **choice, found));
  (*choice)->algorithm = found[0].algo;
  if (choices_.size() >= kMaxShapes) choices_.clear();
  return choices_.emplace(shape, std::move(*choice)).first->second.get();
}

Status Gemm::run(const Product& p, cudaStream_t stream) {
  try {
    const auto choice = choice_for(p);
    if (!choice) return choice.error();
    const cublasStatus_t code = launch(p, **choice, (*choice)->algorithm, stream);
    return code == CUBLAS_STATUS_SUCCESS ? Status() : failed(code, text(p));
  } catch (const std::bad_alloc&) {
    return Error{Errc::out_of_memory, 0, text(p)};
  }
}

Result<double> Gemm::seconds_of(const Product& p, const Choice& choice,
                                const cublasLtMatmulAlgo_t& algorithm,
                                const cuda::DeviceBuffer& other, cudaStream_t stream) const {
  const cuda::Event before(true);
  const cuda::Event after(true);
  // In use, other layers' weights went through the cache since the last time.
  const cudaError_t code = cudaMemsetAsync(other.data(), 0x5a, other.size(), stream);
  if (code != cudaSuccess) return cuda::to_status(code, "cudaMemsetAsync").error();
  CAKE_TRY(before.record(stream));
  if (const auto launched = launch(p, choice, algorithm, stream);
      launched != CUBLAS_STATUS_SUCCESS) {
    return failed(launched, text(p)).error();
  }
  CAKE_TRY(after.record(stream));
  CAKE_TRY(after.wait());
  return cuda::Event::seconds_between(before, after);
}

Status Gemm::tune(const Product& p, cudaStream_t stream, std::size_t candidates) {
  const auto choice = choice_for(p);
  if (!choice) return choice.error();
  std::vector<cublasLtMatmulHeuristicResult_t> found(candidates);
  const auto count = propose(p, **choice, found);
  if (!count) return count.error();
  const cuda::DeviceBuffer other(kCacheBytes);
  std::vector<std::vector<double>> times(static_cast<std::size_t>(*count));
  for (int round = 0; round <= kRounds; ++round) {    // the first one only warms up
    for (std::size_t i = 0; i < times.size(); ++i) {  // by turns: the clock changes meanwhile
      const auto seconds = seconds_of(p, **choice, found[i].algo, other, stream);
      if (round != 0 || !seconds) times[i].push_back(seconds ? *seconds : HUGE_VAL);
    }
  }
  const auto median = [](std::vector<double>& of) {
    const auto middle = of.begin() + static_cast<std::ptrdiff_t>(of.size() / 2);
    std::nth_element(of.begin(), middle, of.end());
    return *middle;
  };
  std::size_t best = 0;
  double least = median(times[0]);
  for (std::size_t i = 1; i < times.size(); ++i) {
    const double seconds = median(times[i]);
    if (seconds >= kClearlyFaster * least) continue;
    best = i;
    least = seconds;
  }
  if (std::isinf(least)) return failed(CUBLAS_STATUS_NOT_SUPPORTED, text(p));
  (*choice)->algorithm = found[best].algo;
  return {};
}

}  // namespace cake::inline CAKE_ABI::reference::cuda_impl
