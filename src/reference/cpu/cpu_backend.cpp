// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/reference/cpu_backend.hpp"

#include <algorithm>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif

#include "blas.hpp"
#include "kv_pages.hpp"
#include "src/core/try.hpp"
#include "thread_pool.hpp"
#include "transformer.hpp"

namespace cake::inline CAKE_ABI::reference {
namespace {

constexpr unsigned kMaxThreads = 1024;
constexpr std::uint32_t kMaxPageTokens = 4096;

Error refused(std::string what) { return Error{Errc::invalid_argument, 0, std::move(what)}; }

/// Cores that this process may use, which in a container is fewer than the machine has.
unsigned usable_cores() {
#ifdef __linux__
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof set, &set) == 0) {
    return static_cast<unsigned>(std::max(1, CPU_COUNT(&set)));
  }
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

CpuOptions complete(CpuOptions options, const Weights* weights) {
  if (weights == nullptr) throw Exception(refused("no weights were given"));
  if (options.threads == 0) options.threads = usable_cores();
  if (options.max_tokens == 0) options.max_tokens = weights->config().n_context;
  if (options.threads > kMaxThreads) {
    throw Exception(refused("threads: at most " + std::to_string(kMaxThreads)));
  }
  if (options.page_tokens < 1 || options.page_tokens > kMaxPageTokens) {
    throw Exception(refused("page_tokens: 1 to " + std::to_string(kMaxPageTokens)));
  }
  if (options.micro_batch_tokens == 0) throw Exception(refused("micro_batch_tokens: 1 at least"));
  if (options.max_tokens > weights->config().n_context) {
    throw Exception(refused("max_tokens: the model's context ends at " +
                            std::to_string(weights->config().n_context) + " tokens"));
  }
  return options;
}

UniformKvLayout layout_of(const Config& config, const CpuOptions& options) {
  return {config.n_layers, config.n_kv_heads, config.head_dim, options.kv_dtype, options.kv_order};
}

}  // namespace

struct CpuBackend::State {
  State(std::shared_ptr<const Weights> w, const CpuOptions& given)
      : options(complete(given, w.get())),
        weights(std::move(w)),
        pages(layout_of(weights->config(), options), options.page_tokens, options.max_tokens),
        pool(options.threads),
        model(*weights, pages, pool, options.micro_batch_tokens) {
    blas::use_calling_thread_only();
  }

  /// Runs tokens at `begin` of a sequence of `length` tokens; with logits where they end it.
  Status run(Tokens tokens, std::uint32_t begin, const LayerGate& gate, std::uint32_t length) {
    const std::uint32_t n_vocab = weights->config().n_vocab;
    for (const TokenId token : tokens) {
      if (token < 0 || static_cast<std::uint32_t>(token) >= n_vocab) {
        return refused("token id " + std::to_string(token) + " of a vocabulary of " +
                       std::to_string(n_vocab));
      }
    }
    const TokenRange range{begin, begin + static_cast<std::uint32_t>(tokens.size())};
    const bool ends = range.end == length;
    CAKE_TRY(pages.ensure(range));
    has_logits = false;
    position = 0;
    pages.presence().forget_from(length);  // of a sequence that was longer
    try {
      logits.resize(n_vocab);
      auto status = model.run(tokens, begin, gate, ends ? logits.data() : nullptr);
      if (status && ends) {
        has_logits = true;
        position = range.end;
      }
      return status;
    } catch (const std::bad_alloc&) {
      return Error{Errc::out_of_memory, 0, "allocate scratch memory for a step; use smaller steps"};
    }
  }

  const CpuOptions options;
  const std::shared_ptr<const Weights> weights;
  KvPages pages;
  ThreadPool pool;
  Transformer model;
  std::vector<float> logits;
  bool has_logits = false;
  std::uint32_t position = 0;
};

CpuBackend::CpuBackend(std::shared_ptr<const Weights> weights, CpuOptions options)
    : state_(std::make_unique<State>(std::move(weights), options)) {}
CpuBackend::CpuBackend(CpuBackend&&) noexcept = default;
CpuBackend& CpuBackend::operator=(CpuBackend&&) noexcept = default;
CpuBackend::~CpuBackend() = default;

const Config& CpuBackend::config() const { return state_->weights->config(); }
const CpuOptions& CpuBackend::options() const { return state_->options; }
UniformKvLayout CpuBackend::layout() const { return state_->pages.layout(); }

ModelFingerprint CpuBackend::fingerprint() const {
  // Base, factors and dimensions of the rotation stand in the file, whose digest is here; the
  // second field says how they are applied, the third what everything is computed in.
  return FingerprintBuilder()
      .add("weights", state_->weights->digest())
      .add("rope", "pairs 2i and 2i+1, fp32 angles")
      .add("numerics", "fp32")
      .finish();
}

Status CpuBackend::reserve(std::uint32_t n_tokens) { return state_->pages.ensure({0, n_tokens}); }

Status CpuBackend::prefill(Tokens prompt, TokenRange range, LayerGate gate) {
  const std::uint32_t room = state_->options.max_tokens;
  if (prompt.size() > room) {
    return refused("a prompt of " + std::to_string(prompt.size()) + " tokens; there is room for " +
                   std::to_string(room));
  }
  if (range.empty() || range.end > prompt.size()) {
    return refused("tokens " + std::to_string(range.begin) + " to " + std::to_string(range.end) +
                   " of a prompt of " + std::to_string(prompt.size()));
  }
  // A gate may still be waiting for KV below the range, and so for the pages of it.
  if (gate.always_open()) {
    if (const auto missing = state_->pages.presence().missing({0, range.begin})) {
      return no_kv_below(range.begin, *missing);
    }
  }
  if (auto status = state_->pages.ensure({0, range.end}); !status) return status;
  return state_->run(prompt.subspan(range.begin, range.size()), range.begin, gate,
                     static_cast<std::uint32_t>(prompt.size()));
}

Status CpuBackend::decode(TokenId token) {
  if (state_->position == 0) return refused("there is no completed prompt to append to");
  if (state_->position >= state_->options.max_tokens) {
    return refused("the context is full: " + std::to_string(state_->options.max_tokens) +
                   " tokens");
  }
  return state_->run({&token, 1}, state_->position, {}, state_->position + 1);
}

Status CpuBackend::insert(const Slice& slice, const KvView& from) {
  return state_->pages.insert(slice, from);
}
Status CpuBackend::extract(const Slice& slice, const MutableKvView& to) const {
  return state_->pages.extract(slice, to);
}

std::span<const float> CpuBackend::logits() const {
  if (!state_->has_logits) return {};
  return state_->logits;
}

TokenId CpuBackend::argmax() const {
  const auto all = logits();
  if (all.empty()) return -1;
  return static_cast<TokenId>(std::max_element(all.begin(), all.end()) - all.begin());
}

std::uint32_t CpuBackend::position() const { return state_->position; }

void CpuBackend::clear() {
  state_->pages.clear();
  state_->has_logits = false;
  state_->position = 0;
}

CpuProfile CpuBackend::profile() const { return state_->model.profile; }
void CpuBackend::reset_profile() { state_->model.profile = {}; }

}  // namespace cake::inline CAKE_ABI::reference
