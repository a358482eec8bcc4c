// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The reference model on the CPU: fp32 mathematics over a BLAS, KV in pages behind a block table.
// Small and exact: faster backends are compared with it, and the examples run it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "cake/engine.hpp"
#include "cake/export.hpp"
#include "cake/reference/weights.hpp"

namespace cake::inline CAKE_ABI::reference {

struct CpuOptions {
  /// Threads that compute, the caller's among them; 0: one per core that this process may use.
  unsigned threads = 0;
  /// What KV is kept and transferred as. Attention reads what was kept, so KV that was loaded and
  /// KV that was computed give the same answer, bit for bit.
  DType kv_dtype = DType::f32;
  KvOrder kv_order = KvOrder::nhd;
  std::uint32_t page_tokens = 16;
  /// Longest prompt plus answer; 0: the model's context length. Memory is taken page by page.
  std::uint32_t max_tokens = 0;
  /// Tokens that go through a layer together. A longer step goes through each layer in so many
  /// micro-batches, with the same result as steps of that length have, bit for bit.
  std::uint32_t micro_batch_tokens = 512;
};

/// How the time of prefill() and decode() was spent, summed since the last reset.
///
/// Units:   seconds of the calling thread; floating point operations
struct CpuProfile {
  double total_seconds = 0;
  double gemm_seconds = 0;       // matrix products with weights
  double attention_seconds = 0;  // gathering KV, scores, softmax, weighted sums
  double gemm_flops = 0;
};

/// A Llama model and the KV of one sequence.
///
///     auto weights = cake::reference::Weights::load("model.gguf").value();
///     cake::reference::CpuBackend engine(weights, {.threads = 2});
///     engine.prefill(prompt, {0, 300}).value();
///     engine.prefill(prompt, {300, prompt_size}).value();
///     cake::TokenId next = engine.argmax();
///     engine.decode(next).value();
///
/// Products of the BLAS run one per thread: each backend tells OpenBLAS, BLIS or MKL, for the whole
/// process, to start no threads of its own. OpenBLAS obeys OPENBLAS_CORETYPE; blas_description()
/// says which kernels run.
///
/// Thread:  Requires external synchronization. insert and extract may run on other threads beside
///          prefill and each other, on tokens that nobody else writes meanwhile
class CAKE_API CpuBackend {
 public:
  static constexpr EngineAbilities abilities{.parallel_extracts = ~std::uint32_t{0},
                                             .wide_gated_steps = true};

  /// Errors:  throws Exception(invalid_argument) for options that make no sense
  explicit CpuBackend(std::shared_ptr<const Weights> weights, CpuOptions options = {});
  CpuBackend(CpuBackend&&) noexcept;
  CpuBackend& operator=(CpuBackend&&) noexcept;
  ~CpuBackend();

  const Config& config() const;
  const CpuOptions& options() const;  // with the defaults filled in
  UniformKvLayout layout() const;
  ModelFingerprint fingerprint() const;

  /// Takes pages for the first `n_tokens` tokens now. insert, prefill and decode take what they
  /// need by themselves; this only makes sure beforehand that there is room.
  ///
  /// Errors:  invalid_argument beyond max_tokens, out_of_memory
  /// Thread:  Safe for concurrent use
  Status reserve(std::uint32_t n_tokens);

  /// Computes KV of prompt[range]; KV below range.begin is there already, or comes layer by layer
  /// behind the gate. Where the range ends the prompt, logits() follow. KV behind the prompt's end,
  /// of a longer one before, is forgotten.
  ///
  /// Errors:  invalid_argument (empty range, longer than max_tokens, no such token id, a token
  ///          below the range has no KV), superseded (the gate said so: of the range only the
  ///          layers before are there then), out_of_memory
  Status prefill(Tokens prompt, TokenRange range, LayerGate gate = {});

  /// Appends one token to what prefill() completed, or decode() appended last; logits() follow.
  ///
  /// Errors:  invalid_argument (nothing to append to, no such token, context full), out_of_memory
  Status decode(TokenId token);

  /// Copies a slice into the pages, or out of them; bit-exact, any range of tokens. What is there
  /// is known for each layer of each token: extract refuses a slice of which anything was neither
  /// computed nor inserted, the token that was sampled last and not decoded among them.
  ///
  /// Errors:  invalid_argument (out of range, sizes that do not fit; for extract, naming the first
  ///          token without KV), out_of_memory
  /// Thread:  Safe for concurrent use
  Status insert(const Slice& slice, const KvView& from);
  Status extract(const Slice& slice, const MutableKvView& to) const;

  /// Of the last token of the prompt, or the one decoded last; empty before.
  ///
  /// Shape:   [n_vocab]
  std::span<const float> logits() const;
  /// The token with the largest logit, the lowest id among equals; -1 before there are logits.
  TokenId argmax() const;
  /// Tokens whose KV a completed prompt and its continuation hold; 0 before.
  std::uint32_t position() const;

  /// Forgets KV, logits and position; pages are kept for the next prompt. Not beside insert or
  /// extract.
  void clear();

  CpuProfile profile() const;
  void reset_profile();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

static_assert(ComputeBackend<CpuBackend>);

/// Name of the BLAS and of its kernels, for reports: "OpenBLAS, SkylakeX kernels".
CAKE_API const char* blas_description();

}  // namespace cake::inline CAKE_ABI::reference
