// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The engines that quickstart runs on, and what differs between them: how one is made and made
// ready for measuring, and what it is called.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cake/reference/cpu_backend.hpp"
#include "cake/scheduler/compute_cost.hpp"
#ifdef CAKE_EXAMPLE_CUDA
#include "cake/reference/cuda_backend.hpp"
#endif
#include "quickstart_options.hpp"

namespace cake::examples {

/// What a pass costs before any was measured: the model's operations at a guessed rate. Only the
/// proportions matter much; the rest is learned from the first passes.
inline ComputeCost guess_cost(const reference::Config& c, double flops) {
  const double linear =
      2.0 * c.n_layers *
      (double{2} * c.n_embd * c.n_heads * c.head_dim +
       double{2} * c.n_embd * c.n_kv_heads * c.head_dim + double{3} * c.n_embd * c.n_ff);
  const double attention = 4.0 * c.n_layers * c.n_heads * c.head_dim;
  return {linear * 8 / flops, linear / flops, attention / 2 / flops};
}

/// What differs between the engines: how one is made, made ready for measuring, and named.
struct OnCpu {
  using Engine = reference::CpuBackend;
  static constexpr const char* kName = "cpu";
  static constexpr bool kExact = true;  // the answer does not depend on the size of steps
  static constexpr double kFlops = 1e11;
  static Result<std::unique_ptr<Engine>> make(std::shared_ptr<const reference::Weights> weights,
                                              const QuickstartOptions& options,
                                              const std::vector<std::uint32_t>&) {
    return std::make_unique<Engine>(std::move(weights),
                                    reference::CpuOptions{.threads = options.threads});
  }
  static std::string describe(const Engine& engine) {
    return std::to_string(engine.options().threads) + " threads (" + reference::blas_description() +
           ")";
  }
};

#ifdef CAKE_EXAMPLE_CUDA
struct OnCuda {
  using Engine = reference::CudaBackend;
  static constexpr const char* kName = "cuda";
  static constexpr bool kExact = false;  // bf16 is rounded in another order for other steps
  static constexpr double kFlops = 1e14;
  static Result<std::unique_ptr<Engine>> make(
      const std::shared_ptr<const reference::Weights>& weights, const QuickstartOptions&,
      const std::vector<std::uint32_t>& steps) {
    auto on_device = reference::CudaWeights::upload(*weights);
    if (!on_device) return on_device.error();
    try {
      auto engine = std::make_unique<Engine>(
          *on_device,
          reference::CudaOptions{.max_step_tokens = steps.back(),
                                 .max_graphs = static_cast<std::uint32_t>(steps.size())});
      if (Status status = engine->prepare(steps); !status) return status.error();
      return engine;
    } catch (const Exception& e) {
      return e.error();
    }
  }
  static std::string describe(const Engine&) {
    const auto device = cuda::device_info();
    return device ? device->name + " (cuda)" : device.error().message();
  }
};
#endif

/// Whether the model can run there at all.
inline Status check_device(Device device) {
  if (device == Device::cpu) return {};
#ifdef CAKE_EXAMPLE_CUDA
  const Status usable = cuda::usable();
  if (usable) return {};
  return Error{usable.error().code, usable.error().native,
               "--device cuda: " + usable.error().context};
#else
  return Error{Errc::unsupported, 0,
               "--device cuda: this build has no CUDA (it needs nvcc 13.0 and cuBLASLt; configure "
               "with -DCAKE_CUDA=ON to see what is missing)"};
#endif
}

}  // namespace cake::examples
