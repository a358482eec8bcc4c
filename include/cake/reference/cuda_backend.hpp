// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The reference model on a GPU: bf16 weights and KV, fp32 accumulation, KV in pages behind a block
// table. A step is enqueued as one CUDA graph and returns at once; nothing inside it waits for the
// host.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>

#include "cake/cuda/paged_kv.hpp"
#include "cake/engine.hpp"
#include "cake/export.hpp"
#include "cake/reference/cuda_weights.hpp"
#include "cake/scheduler.hpp"

namespace cake::inline CAKE_ABI::reference {

struct CudaOptions {
  KvOrder kv_order = KvOrder::nhd;
  std::uint32_t page_tokens = 64;  // 1 to 256
  /// Longest prompt plus answer; 0: the model's context length. All pages are taken at once.
  std::uint32_t max_tokens = 0;
  /// Most tokens of one pass over the weights, for which there is scratch; longer ranges take
  /// several. Behind a gate they go through each layer one after the other, which gives the same
  /// bits.
  std::uint32_t max_step_tokens = 2048;
  /// What sums along the residual connection are kept as: bf16, as models are served, or f32, which
  /// about halves the error of logits and moves more bytes.
  DType residual = DType::bf16;
  /// Assigns pages in random order from this seed, like an engine that is in use; 0: in order.
  std::uint64_t shuffle_pages = 0;
  /// Step sizes whose graphs are kept, the latest ones used; 0: steps are launched kernel by kernel
  std::uint32_t max_graphs = 16;
};

/// How the device's time in one range was spent.
///
/// Units:   seconds
struct CudaProfile {
  double total_seconds = 0;
  double gemm_seconds = 0;
  double attention_seconds = 0;
  double elementwise_seconds = 0;  // embedding, norms, RoPE and KV write, SwiGLU
};

/// A step that may still run. Call wait() before the backend is destroyed; without it there are no
/// logits.
///
/// Thread:  the one that called prefill()
class CAKE_API CudaPass {
 public:
  struct Work;
  CudaPass(Error error);  // failed already
  explicit CudaPass(std::shared_ptr<Work> work);
  CudaPass(CudaPass&&) noexcept;
  CudaPass& operator=(CudaPass&&) noexcept;
  ~CudaPass();

  bool ready() const;
  bool wait_for(std::chrono::nanoseconds span) const;
  Status wait();

 private:
  Status status_;
  std::shared_ptr<Work> work_;  // null: status_ is the answer
};

/// A copy into the pages that may still run; an AsyncCompletion. What it inserts counts as there once
/// wait() has returned, which the destructor calls; it has to be so before the backend is destroyed.
///
/// Thread:  any one thread at a time
class CAKE_API CudaInsert {
 public:
  struct Work;
  CudaInsert(Error error);  // failed already
  explicit CudaInsert(std::unique_ptr<Work> work);
  CudaInsert(CudaInsert&&) noexcept;
  CudaInsert& operator=(CudaInsert&&) noexcept;
  ~CudaInsert();

  bool ready();
  bool wait_for(std::chrono::nanoseconds span);
  Status wait();

 private:
  Status status_;
  std::unique_ptr<Work> work_;  // null: status_ is the answer
};

/// A Llama model and the KV of one sequence, on the device that was current when it was made.
///
///     auto weights = cake::reference::CudaWeights::upload(*cpu_weights).value();
///     cake::reference::CudaBackend engine(weights);
///     auto first = engine.prefill(prompt, {0, 2048});      // two steps in flight
///     auto second = engine.prefill(prompt, {2048, prompt_size});
///     first.wait().value();
///     second.wait().value();
///     engine.decode(engine.argmax()).value();
///
/// The first step of a size is launched kernel by kernel, the second one is captured as a graph;
/// prepare() does both beforehand, and chooses the fastest matrix products as well. The same
/// backend gives the same bits for the same steps, whether launched or captured.
///
/// Thread:  Requires external synchronization. insert and extract may run on other threads beside
///          prefill and each other, on tokens that nobody else writes meanwhile
class CAKE_API CudaBackend {
 public:
  /// A gated step of up to so many tokens goes through each layer in micro-batches of
  /// max_step_tokens. There is room for that from the start: the residual stream of 8,192 tokens.
  static constexpr EngineAbilities abilities{.staging_memory = true,
                                             .inserts_from_device = true,
                                             .parallel_extracts = 4,
                                             .inserts_parts = true,
                                             .max_overlap_tokens = 8192,
                                             .wide_gated_steps = true};

  /// Errors:  throws Exception(unsupported) as cuda::usable(), and for a head_dim that attention
  ///          does not take; Exception(invalid_argument) for options that make no sense;
  ///          Exception(out_of_memory) naming what was asked for
  explicit CudaBackend(std::shared_ptr<const CudaWeights> weights, CudaOptions options = {});
  CudaBackend(CudaBackend&&) noexcept;
  CudaBackend& operator=(CudaBackend&&) noexcept;
  ~CudaBackend();  // waits for what is enqueued

  const Config& config() const;
  const CudaOptions& options() const;  // with the defaults filled in
  UniformKvLayout layout() const;      // dtype bf16
  ModelFingerprint fingerprint() const;
  /// The engine's pages, for transfers and kernels of one's own.
  const cuda::PagedKv& kv() const;
  /// Page-locked memory, from which insert copies fastest.
  StagingMemory* staging_memory();

  /// Chooses the matrix products for steps of so many tokens by trying them out, and captures their
  /// graphs: for the step sizes that an engine uses all the time, 1 for decode() among them. Takes
  /// some 100 ms a size, and forgets KV as clear() does; nothing may be in flight.
  ///
  /// Errors:  invalid_argument beyond max_step_tokens, device
  Status prepare(std::span<const std::uint32_t> step_tokens);

  /// There is room for max_tokens from the start; this only says whether they are enough.
  ///
  /// Errors:  invalid_argument
  Status reserve(std::uint32_t n_tokens);

  /// Enqueues a step that computes KV of prompt[range]; KV below range.begin is there already, was
  /// enqueued before, or comes layer by layer behind the gate, for which the call waits. Where the
  /// range ends the prompt, logits() follow once the pass was waited for. KV behind the prompt's
  /// end, of a longer one before, is forgotten. `prompt` may go when the call returns.
  ///
  /// Errors:  of the pass: invalid_argument (empty range, longer than max_tokens, no such token id,
  ///          a token below the range has no KV), superseded (the gate said so), device
  CudaPass prefill(Tokens prompt, TokenRange range, LayerGate gate = {});

  /// Appends one token to what prefill() completed, or decode() appended last; logits() follow.
  ///
  /// Errors:  invalid_argument (nothing to append to, no such token, context full), device
  Status decode(TokenId token);

  /// Copies a slice into the pages, or out of them; bit-exact, any range of tokens. insert returns when
  /// the copy is enqueued, and `from` must stay as it is until it has ended. extract waits for steps that were enqueued before. What is there is known for each layer of each token:
  /// extract refuses a slice of which anything was neither computed nor inserted, the token that
  /// was sampled last and not decoded among them.
  ///
  /// Errors:  invalid_argument (out of range, sizes that do not fit; for extract, naming the first
  ///          token without KV), out_of_memory, device
  /// Thread:  Safe for concurrent use
  CudaInsert insert(const Slice& slice, const KvView& from);
  Status extract(const Slice& slice, const MutableKvView& to) const;

  /// Of the last token of the prompt, or the one decoded last; empty before. In host memory.
  ///
  /// Shape:   [n_vocab]
  std::span<const float> logits() const;
  /// The token with the largest logit, the lowest id among equals; -1 before there are logits.
  TokenId argmax() const;
  /// Tokens whose KV a completed prompt and its continuation hold; 0 before.
  std::uint32_t position() const;

  /// Forgets KV, logits and position. Waits for what is enqueued; not beside insert or extract.
  void clear();

  /// Computes prompt[range], launched kernel by kernel with time stamps between, and waits.
  ///
  /// Errors:  as prefill()
  Result<CudaProfile> profile(Tokens prompt, TokenRange range);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

static_assert(ComputeBackend<CudaBackend>);

}  // namespace cake::inline CAKE_ABI::reference
