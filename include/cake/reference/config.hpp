// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The shape of a Llama model, as its GGUF file states it.
#pragma once

#include <cstdint>
#include <string>

#include "cake/export.hpp"
#include "cake/reference/gguf.hpp"
#include "cake/result.hpp"

namespace cake::inline CAKE_ABI::reference {

/// Rotary position embedding. The pair (2i, 2i+1) of each head turns by
/// position * base^(-2i/dimensions) / linear_factor, divided further by the file's rope_freqs
/// tensor where there is one (that is how Llama 3.1's scaling is stored).
struct RopeConfig {
  std::uint32_t dimensions = 0;  // of head_dim; the rest of a head does not turn
  double base = 10000.0;
  double linear_factor = 1.0;
};

/// Units: counts of elements, heads, layers, tokens.
struct Config {
  std::string name;  // general.name, for people
  std::uint32_t n_layers = 0;
  std::uint32_t n_heads = 0;
  std::uint32_t n_kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t n_embd = 0;
  std::uint32_t n_ff = 0;
  std::uint32_t n_vocab = 0;
  std::uint32_t n_context = 0;
  float rms_epsilon = 0;
  RopeConfig rope;
};

/// Checks that the file holds one complete Llama model. Call it before anything else.
///
/// Errors:  unsupported (one part of a split file, an adapter, another architecture or quantisation
///          version), corrupt (no architecture); the context says what to do
CAKE_API Status check_model(const GgufFile& file);

/// Reads and checks the configuration. A value that may differ from layer to layer may be an array
/// of equal ones. Every `llama.` key is understood, or known to change nothing with the value that
/// it has; any other is refused by name, as ignoring it could give wrong answers.
///
/// Errors:  those of check_model(); unsupported (mixture of experts, sliding windows, YaRN and
///          other scaling that is not implemented, layers that differ, unknown keys), corrupt
///          (missing or impossible values); the context names file and key
CAKE_API Result<Config> read_config(const GgufFile& file);

}  // namespace cake::inline CAKE_ABI::reference
