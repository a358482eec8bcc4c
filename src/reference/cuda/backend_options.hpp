// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What needs no device: options checked and completed, a range cut into passes.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "cake/reference/cuda_backend.hpp"

namespace cake::inline CAKE_ABI::reference::cuda_impl {

/// Errors:  invalid_argument, naming the option
inline Result<CudaOptions> complete(CudaOptions options, const Config& config) {
  const auto refuse = [](std::string what) {
    return Error{Errc::invalid_argument, 0, std::move(what)};
  };
  if (options.max_tokens == 0) options.max_tokens = config.n_context;
  if (options.max_tokens == 0 || options.max_tokens > config.n_context) {
    return refuse("max_tokens: the model's context ends at " + std::to_string(config.n_context) +
                  " tokens");
  }
  if (options.page_tokens < 1 || options.page_tokens > 256) return refuse("page_tokens: 1 to 256");
  if (options.max_step_tokens == 0) return refuse("max_step_tokens: 1 at least");
  if (options.residual != DType::bf16 && options.residual != DType::f32) {
    return refuse("residual: bf16 or f32");
  }
  options.max_step_tokens = std::min(options.max_step_tokens, options.max_tokens);
  return options;
}

/// Tokens of which the residual stream is kept: of one pass, or of the longest gated step.
inline std::uint32_t residual_tokens(const CudaOptions& options) {
  const std::uint32_t wide =
      std::min(options.max_tokens, CudaBackend::abilities.max_overlap_tokens);
  return std::max(options.max_step_tokens, wide);
}

/// A range as passes of at most `most` tokens.
inline std::vector<TokenRange> passes_of(TokenRange range, std::uint32_t most) {
  std::vector<TokenRange> passes;
  for (std::uint32_t at = range.begin; at < range.end; at = passes.back().end) {
    passes.push_back({at, at + std::min(most, range.end - at)});
  }
  return passes;
}

}  // namespace cake::inline CAKE_ABI::reference::cuda_impl
