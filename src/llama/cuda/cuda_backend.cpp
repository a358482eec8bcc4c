// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/llama/cuda_backend.hpp"

#include <algorithm>
#include <deque>
#include <exception>
#include <mutex>
#include <new>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backend_options.hpp"
#include "cake/cuda/kv_transfer.hpp"
#include "cake/cuda/pinned_staging.hpp"
#include "kv_pool.hpp"
#include "model.hpp"
#include "recent_cache.hpp"
#include "step_graphs.hpp"

namespace cake::llama {
namespace {

Error refused(std::string what) { return Error{Errc::invalid_argument, 0, std::move(what)}; }

/// What the latest prompt came to; set by the pass that was waited for.
struct Outcome {
  std::uint64_t step = 0;  // that was enqueued last
  bool has_logits = false;
  std::uint32_t position = 0;
};

CudaOptions checked(const CudaOptions& options, const CudaWeights* weights) {
  cuda::usable().value();
  if (weights == nullptr) throw Exception(refused("no weights were given"));
  return gpu::complete(options, weights->config()).value();
}

KvLayout layout_of(const Config& c, const CudaOptions& options) {
  return {c.n_layers, c.n_kv_heads, c.head_dim, DType::bf16, options.kv_order};
}

int current_device() {
  int device = 0;
  cuda::throw_unless_ok(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

}  // namespace

struct CudaPass::Work {
  explicit Work(TokenRange tokens) : range(tokens) {}
  cuda::Event event;
  TokenRange range;
  Status status;  // of enqueueing
  std::uint64_t step = 0;
  bool ends = false;
  std::shared_ptr<Outcome> outcome;
  std::vector<std::shared_ptr<gpu::StepGraphs>> graphs;  // kept while they may run
};

CudaPass::CudaPass(Error error) : status_(std::move(error)) {}
CudaPass::CudaPass(std::shared_ptr<Work> work) : work_(std::move(work)) {}
CudaPass::CudaPass(CudaPass&&) noexcept = default;
CudaPass& CudaPass::operator=(CudaPass&&) noexcept = default;
CudaPass::~CudaPass() = default;

bool CudaPass::ready() const { return work_ == nullptr || work_->event.ready(); }

bool CudaPass::wait_for(std::chrono::nanoseconds span) const {
  const auto end = std::chrono::steady_clock::now() + span;
  while (!ready()) {
    if (std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  return true;
}

Status CudaPass::wait() {
  if (work_ == nullptr) return status_;
  const std::shared_ptr<Work> work = std::move(work_);
  const Status device = work->event.wait();
  status_ = work->status ? device : work->status;
  Outcome& outcome = *work->outcome;
  if (status_ && work->ends && outcome.step == work->step) {
    outcome.has_logits = true;
    outcome.position = work->range.end;
  }
  return status_;
}

struct CudaBackend::State {
  State(std::shared_ptr<const CudaWeights> w, const CudaOptions& given)
      : options(checked(given, w.get())),
        weights(std::move(w)),
        device(current_device()),
        pool(layout_of(weights->config(), options), options.page_tokens, options.max_tokens,
             options.shuffle_pages, stream.get()),
        model(*weights, pool, options, stream.get()),
        graphs(options.max_graphs) {}
  ~State() { (void)stream.wait(); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  using Work = CudaPass::Work;
  struct GraphKey {
    gpu::StepShape shape;
    bool gated = false;
    friend bool operator==(const GraphKey&, const GraphKey&) = default;
  };

  Status use_device() const { return cuda::to_status(cudaSetDevice(device), "cudaSetDevice"); }

  Status check(Tokens prompt, TokenRange range, bool gated) const {
    if (prompt.size() > options.max_tokens) {
      return refused("a prompt of " + std::to_string(prompt.size()) +
                     " tokens; there is room for " + std::to_string(options.max_tokens));
    }
    if (range.empty() || range.end > prompt.size()) {
      return refused("tokens " + std::to_string(range.begin) + " to " + std::to_string(range.end) +
                     " of a prompt of " + std::to_string(prompt.size()));
    }
    // A gate may still be waiting for KV below the range.
    if (!gated && !pool.written().all({0, range.begin})) {
      return refused("KV below token " + std::to_string(range.begin) + " was never written");
    }
    return check_tokens(prompt.subspan(range.begin, range.size()));
  }

  Status check_tokens(Tokens tokens) const {
    const std::uint32_t n_vocab = weights->config().n_vocab;
    for (const TokenId token : tokens) {
      if (token < 0 || static_cast<std::uint32_t>(token) >= n_vocab) {
        return refused("token id " + std::to_string(token) + " of a vocabulary of " +
                       std::to_string(n_vocab));
      }
    }
    return {};
  }

  /// Puts tokens where the device reads them, when no step in flight reads that place any more.
  Status write_tokens(Tokens tokens, TokenRange range) {
    while (!in_flight.empty() && in_flight.front()->event.ready()) in_flight.pop_front();
    for (const std::shared_ptr<Work>& work : in_flight) {
      if (work->range.end <= range.begin || range.end <= work->range.begin) continue;
      if (auto status = work->event.wait(); !status) return status;
    }
    std::copy(tokens.begin(), tokens.end(), model.tokens() + range.begin);
    return {};
  }

  /// Enqueues a step and remembers it until it is done. Fails only when nothing was enqueued.
  Result<std::shared_ptr<Work>> start(Tokens tokens, TokenRange range, bool ends,
                                      const LayerGate& gate) {
    try {
      auto work = std::make_shared<Work>(range);
      if (auto status = write_tokens(tokens, range); !status) return status.error();
      outcome->has_logits = false;
      outcome->position = 0;
      work->outcome = outcome;
      work->step = ++outcome->step;
      work->ends = ends;
      in_flight.push_back(work);
      work->status = enqueue(*work, gate);
      if (work->status) pool.written().add(range);
      // Also behind a step that was given up: what was enqueued of it still runs.
      if (auto status = work->event.record(stream.get()); !status) {
        (void)stream.wait();
        return status.error();
      }
      const std::lock_guard lock(latest_mutex);
      latest = work;
      return work;
    } catch (const Exception& e) {
      return e.error();
    } catch (const std::bad_alloc&) {
      return Error{Errc::out_of_memory, 0, "a step"};
    }
  }

  Status enqueue(Work& work, const LayerGate& gate) {
    const auto passes = gpu::passes_of(work.range, options.max_step_tokens);
    for (std::size_t i = 0; i < passes.size(); ++i) {
      const gpu::StepShape shape{passes[i].size(), work.ends && i + 1 == passes.size()};
      if (auto status = model.place(passes[i].begin, shape.rows, stream.get()); !status) {
        return status;
      }
      // Once every layer was open for the first pass, they are for the others.
      const bool gated = !gate.always_open() && i == 0;
      auto status = gated ? run_gated(work, shape, gate) : run(work, shape);
      if (!status) return status;
    }
    return {};
  }

  Status run(Work& work, const gpu::StepShape& shape) {
    gpu::StepGraphs* const known = graphs_for(work, {shape, false}, 1);
    if (known == nullptr) {
      auto status = model.run(shape, stream.get());
      if (status) seen.insert(shape);
      return status;
    }
    if (auto status = capture(known->front(), shape); !status) return status;
    return known->front().launch(stream.get());
  }

  Status capture(gpu::GraphExec& graph, const gpu::StepShape& shape) {
    if (graph) return {};
    return graph.capture(stream.get(), [&](cudaStream_t s) { return model.run(shape, s); });
  }

  Status run_gated(Work& work, const gpu::StepShape& shape, const LayerGate& gate) {
    const std::uint32_t n_layers = weights->config().n_layers;
    gpu::StepGraphs* const known = graphs_for(work, {shape, true}, n_layers);
    for (std::uint32_t layer = 0; layer < n_layers; ++layer) {
      const auto launch = [&](cudaStream_t s) -> Status {
        if (layer == 0) {
          if (auto status = model.embed(shape, s); !status) return status;
        }
        if (auto status = model.layer(layer, shape, s); !status) return status;
        return layer + 1 == n_layers && shape.ends ? model.output(shape, s) : Status();
      };
      // Captured before the gate, where there is time.
      if (known != nullptr && !(*known)[layer]) {
        if (auto status = (*known)[layer].capture(stream.get(), launch); !status) return status;
      }
      if (!gate.wait(layer)) {
        return Error{Errc::superseded, 0, "the step was void at layer " + std::to_string(layer)};
      }
      const auto status =
          known != nullptr ? (*known)[layer].launch(stream.get()) : launch(stream.get());
      if (!status) return status;
    }
    seen.insert(shape);
    return {};
  }

  /// Graphs of a size that has run to its end before; null otherwise and where none are kept.
  gpu::StepGraphs* graphs_for(Work& work, const GraphKey& key, std::size_t count) {
    if (options.max_graphs == 0 || !seen.contains(key.shape)) return nullptr;
    std::shared_ptr<gpu::StepGraphs>* known = graphs.find(key);
    if (known == nullptr) known = graphs.add(key, std::make_shared<gpu::StepGraphs>(count));
    work.graphs.push_back(*known);
    return known->get();
  }

  Status wait_for_latest() const {
    std::shared_ptr<Work> work;
    {
      const std::lock_guard lock(latest_mutex);
      work = latest;
    }
    return work ? work->event.wait() : Status();
  }

  /// All sizes are tuned before any is captured: they share the products of single rows, and a
  /// graph keeps what was chosen when it was captured.
  Status prepare(std::span<const std::uint32_t> sizes) {
    std::fill_n(model.tokens(), options.max_step_tokens, 0);
    for (const std::uint32_t rows : sizes) {
      for (const bool ends : {false, true}) {
        if (auto s = model.tune({rows, ends}, stream.get()); !s) return s;
      }
    }
    for (const std::uint32_t rows : sizes) {
      for (const bool ends : {false, true}) {
        if (auto s = warm_up({rows, ends}); !s) return s;
      }
    }
    return stream.wait();
  }

  Status warm_up(const gpu::StepShape& shape) {
    if (auto s = model.place(0, shape.rows, stream.get()); !s) return s;
    if (auto s = model.run(shape, stream.get()); !s) return s;
    if (auto s = stream.wait(); !s) return s;
    seen.insert(shape);
    if (options.max_graphs == 0 || graphs.find({shape, false}) != nullptr) return {};
    const auto fresh = std::make_shared<gpu::StepGraphs>(1);
    if (auto s = capture(fresh->front(), shape); !s) return s;
    if (auto s = fresh->front().upload(stream.get()); !s) return s;
    graphs.add({shape, false}, fresh);
    return {};
  }

  const CudaOptions options;
  const std::shared_ptr<const CudaWeights> weights;
  const int device;
  const cuda::Stream stream;
  gpu::KvPool pool;
  gpu::Model model;
  mutable cuda::KvTransfer transfer;
  cuda::PinnedStaging staging;
  std::set<gpu::StepShape> seen;  // sizes whose kernels are loaded and whose products are chosen
  gpu::RecentCache<GraphKey, std::shared_ptr<gpu::StepGraphs>> graphs;
  std::deque<std::shared_ptr<Work>> in_flight;  // oldest first
  std::shared_ptr<Outcome> outcome = std::make_shared<Outcome>();
  mutable std::mutex latest_mutex;  // guards latest
  std::shared_ptr<Work> latest;
};

CudaBackend::CudaBackend(std::shared_ptr<const CudaWeights> weights, CudaOptions options)
    : state_(std::make_unique<State>(std::move(weights), options)) {}
CudaBackend::CudaBackend(CudaBackend&&) noexcept = default;
CudaBackend& CudaBackend::operator=(CudaBackend&&) noexcept = default;
CudaBackend::~CudaBackend() = default;

const Config& CudaBackend::config() const { return state_->weights->config(); }
const CudaOptions& CudaBackend::options() const { return state_->options; }
KvLayout CudaBackend::layout() const { return state_->pool.description().layout; }
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
  if (auto status = state_->use_device(); !status) return status;
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
    return Error{Errc::out_of_memory, 0, "graphs of a step"};
  }
}

Status CudaBackend::reserve(std::uint32_t n_tokens) {
  if (n_tokens <= state_->options.max_tokens) return {};
  return refused(std::to_string(n_tokens) + " tokens do not fit into " +
                 std::to_string(state_->options.max_tokens));
}

CudaPass CudaBackend::prefill(Tokens prompt, TokenRange range, LayerGate gate) {
  if (auto status = state_->use_device(); !status) return status.error();
  if (auto status = state_->check(prompt, range, !gate.always_open()); !status) {
    return status.error();
  }
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
  if (auto status = state_->use_device(); !status) return status;
  auto work = state_->start({&token, 1}, {position, position + 1}, true, {});
  if (!work) return work.error();
  return CudaPass(std::move(*work)).wait();
}

Status CudaBackend::insert(const Slice& slice, const KvView& from) {
  if (auto status = state_->pool.check(slice); !status) return status;
  if (auto status = state_->use_device(); !status) return status;
  auto status = state_->transfer.insert(kv(), slice, from).wait();
  if (status) state_->pool.written().add(slice.tokens);
  return status;
}

Status CudaBackend::extract(const Slice& slice, const MutableKvView& to) const {
  if (auto status = state_->pool.check(slice); !status) return status;
  if (!state_->pool.written().all(slice.tokens)) {
    return refused("tokens " + std::to_string(slice.tokens.begin) + " to " +
                   std::to_string(slice.tokens.end) + " were never written");
  }
  if (auto status = state_->use_device(); !status) return status;
  if (auto status = state_->wait_for_latest(); !status) return status;
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
  state_->pool.written().clear();
  state_->outcome->has_logits = false;
  state_->outcome->position = 0;
}

Result<CudaProfile> CudaBackend::profile(Tokens prompt, TokenRange range) {
  State& s = *state_;
  if (auto status = s.use_device(); !status) return status.error();
  if (auto status = s.check(prompt, range, false); !status) return status.error();
  if (auto status = s.stream.wait(); !status) return status.error();
  if (auto status = s.write_tokens(prompt.subspan(range.begin, range.size()), range); !status) {
    return status.error();
  }
  s.outcome->has_logits = false;
  s.outcome->position = 0;
  CudaProfile profile;
  try {
    const cuda::Event start(true);
    std::vector<gpu::Model::Mark> marks;
    Status status = start.record(s.stream.get());
    s.model.marks = &marks;
    for (const TokenRange pass : gpu::passes_of(range, s.options.max_step_tokens)) {
      const gpu::StepShape shape{pass.size(), pass.end == prompt.size()};
      if (status) status = s.model.place(pass.begin, shape.rows, s.stream.get());
      if (status) status = s.model.run(shape, s.stream.get());
    }
    s.model.marks = nullptr;
    const Status done = s.stream.wait();
    if (status) status = done;
    if (!status) return status.error();
    s.pool.written().add(range);
    const cuda::Event* before = &start;
    for (const gpu::Model::Mark& mark : marks) {
      const auto seconds = cuda::Event::seconds_between(*before, mark.event);
      if (!seconds) return seconds.error();
      double& sum = mark.part == gpu::Part::gemm        ? profile.gemm_seconds
                    : mark.part == gpu::Part::attention ? profile.attention_seconds
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

}  // namespace cake::llama
