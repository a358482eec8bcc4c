// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/reference/cuda_backend.hpp"

#include <algorithm>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "backend_options.hpp"
#include "backend_state.hpp"
#include "cuda_insert.hpp"
#include "model.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::reference {

using cuda_impl::refused;

CudaBackend::CudaBackend(std::shared_ptr<const CudaWeights> weights, CudaOptions options)
    : state_(std::make_unique<State>(std::move(weights), options)) {}
CudaBackend::CudaBackend(CudaBackend&&) noexcept = default;
CudaBackend& CudaBackend::operator=(CudaBackend&&) noexcept = default;
CudaBackend::~CudaBackend() = default;

const Config& CudaBackend::config() const { return state_->weights->config(); }
const CudaOptions& CudaBackend::options() const { return state_->options; }
UniformKvLayout CudaBackend::layout() const { return state_->pool.description().layout; }
const cuda::PagedKv& CudaBackend::kv() const { return state_->pool.description(); }
StagingMemory* CudaBackend::staging_memory() { return &state_->staging; }

ModelFingerprint CudaBackend::fingerprint() const {
  return FingerprintBuilder()
      .add("weights", state_->weights->digest())
      .add("rope", "pairs 2i and 2i+1, fp32 angles")
      .add("numerics", state_->options.residual == DType::f32 ? "bf16, residual and sums fp32"
                                                              : "bf16, sums fp32")
      .finish();
}

Status CudaBackend::prepare(std::span<const std::uint32_t> step_tokens) {
  CAKE_TRY(state_->use_device());
  for (const std::uint32_t rows : step_tokens) {
    if (rows == 0 || rows > state_->options.max_step_tokens) {
      return refused("steps of " + std::to_string(rows) + " tokens; max_step_tokens is " +
                     std::to_string(state_->options.max_step_tokens));
    }
  }
  clear();
  state_->graphs.clear();  // they hold the products that were chosen before
  try {
    return state_->prepare(step_tokens);
  } catch (const Exception& e) {
    return e.error();
  } catch (const std::bad_alloc&) {
    return Error{Errc::out_of_memory, 0, "keep the graphs of a step: no host memory"};
  }
}

Status CudaBackend::reserve(std::uint32_t n_tokens) {
  if (n_tokens <= state_->options.max_tokens) return {};
  return refused(std::to_string(n_tokens) + " tokens do not fit into " +
                 std::to_string(state_->options.max_tokens));
}

CudaPass CudaBackend::prefill(Tokens prompt, TokenRange range, LayerGate gate) {
  CAKE_TRY(state_->use_device());
  CAKE_TRY(state_->check(prompt, range, !gate.always_open()));
  state_->pool.presence()->forget_from(static_cast<std::uint32_t>(prompt.size()));
  auto work = state_->start(prompt.subspan(range.begin, range.size()), range,
                            range.end == prompt.size(), gate);
  if (!work) return work.error();
  return CudaPass(std::move(*work));
}

Status CudaBackend::decode(TokenId token) {
  const std::uint32_t position = state_->outcome->position;
  if (position == 0) return refused("there is no completed prompt to append to");
  if (position >= state_->options.max_tokens) {
    return refused("the context is full: " + std::to_string(state_->options.max_tokens) +
                   " tokens");
  }
  if (auto status = state_->check_tokens({&token, 1}); !status) return status;
  CAKE_TRY(state_->use_device());
  state_->pool.presence()->forget_from(position + 1);
  auto work = state_->start({&token, 1}, {position, position + 1}, true, {});
  if (!work) return work.error();
  return CudaPass(std::move(*work)).wait();
}

CudaInsert CudaBackend::insert(const Slice& slice, const KvView& from) {
  CAKE_TRY(state_->pool.check(slice));
  CAKE_TRY(state_->use_device());
  try {
    auto work = std::make_unique<CudaInsert::Work>();
    work->slice = slice;
    work->presence = state_->pool.presence();
    work->copy = state_->transfer.insert(kv(), slice, from);
    return CudaInsert(std::move(work));
  } catch (const std::bad_alloc&) {
    return Error{Errc::out_of_memory, 0, "insert: no host memory"};
  }
}

Status CudaBackend::extract(const Slice& slice, const MutableKvView& to) const {
  CAKE_TRY(state_->pool.check(slice));
  const KvPresence& presence = *state_->pool.presence();
  if (const auto missing = presence.missing(slice.tokens, slice.layers)) return no_kv(*missing);
  CAKE_TRY(state_->use_device());
  CAKE_TRY(state_->wait_for_latest());
  return state_->transfer.extract(kv(), slice, to).wait();
}

std::span<const float> CudaBackend::logits() const {
  if (!state_->outcome->has_logits) return {};
  return {state_->model.logits(), config().n_vocab};
}

TokenId CudaBackend::argmax() const {
  const auto all = logits();
  if (all.empty()) return -1;
  return static_cast<TokenId>(std::max_element(all.begin(), all.end()) - all.begin());
}

std::uint32_t CudaBackend::position() const { return state_->outcome->position; }

void CudaBackend::clear() {
  (void)state_->stream.wait();
  state_->in_flight.clear();
  state_->pool.presence()->clear();
  state_->outcome->has_logits = false;
  state_->outcome->position = 0;
}

Result<CudaProfile> CudaBackend::profile(Tokens prompt, TokenRange range) {
  State& s = *state_;
  CAKE_TRY(s.use_device());
  CAKE_TRY(s.check(prompt, range, false));
  CAKE_TRY(s.stream.wait());
  CAKE_TRY(s.write_tokens(prompt.subspan(range.begin, range.size()), range));
  s.outcome->has_logits = false;
  s.outcome->position = 0;
  s.pool.presence()->forget_from(static_cast<std::uint32_t>(prompt.size()));
  s.pool.presence()->forget(range);
  CudaProfile profile;
  try {
    const cuda::Event start(true);
    std::vector<cuda_impl::Model::Mark> marks;
    Status status = start.record(s.stream.get());
    s.model.marks = &marks;
    for (const TokenRange pass : cuda_impl::passes_of(range, s.options.max_step_tokens)) {
      const cuda_impl::StepShape shape{pass.size(), pass.end == prompt.size()};
      if (status) status = s.model.place(pass.begin, shape.rows, s.stream.get());
      if (status) status = s.model.run(shape, s.stream.get());
    }
    s.model.marks = nullptr;
    const Status done = s.stream.wait();
    if (status) status = done;
    if (!status) return status.error();
    s.pool.presence()->add(range);
    const cuda::Event* before = &start;
    for (const cuda_impl::Model::Mark& mark : marks) {
      const auto seconds = cuda::Event::seconds_between(*before, mark.event);
      if (!seconds) return seconds.error();
      double& sum = mark.part == cuda_impl::Part::gemm        ? profile.gemm_seconds
                    : mark.part == cuda_impl::Part::attention ? profile.attention_seconds
                                                              : profile.elementwise_seconds;
      sum += *seconds;
      profile.total_seconds += *seconds;
      before = &mark.event;
    }
  } catch (const Exception& e) {
    s.model.marks = nullptr;
    return e.error();
  }
  return profile;
}

}  // namespace cake::inline CAKE_ABI::reference
