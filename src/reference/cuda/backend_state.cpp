// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "backend_state.hpp"

#include <algorithm>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "backend_options.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::reference {

using cuda_impl::refused;

namespace {

CudaOptions checked(const CudaOptions& options, const CudaWeights* weights) {
  cuda::usable().value();
  if (weights == nullptr) throw Exception(refused("no weights were given"));
  return cuda_impl::complete(options, weights->config()).value();
}

UniformKvLayout layout_of(const Config& c, const CudaOptions& options) {
  return {c.n_layers, c.n_kv_heads, c.head_dim, DType::bf16, options.kv_order};
}

int current_device() {
  int device = 0;
  cuda::throw_unless_ok(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

}  // namespace

CudaBackend::State::State(std::shared_ptr<const CudaWeights> w, const CudaOptions& given)
    : options(checked(given, w.get())),
      weights(std::move(w)),
      device(current_device()),
      pool(layout_of(weights->config(), options), options.page_tokens, options.max_tokens,
           options.shuffle_pages, stream.get()),
      model(*weights, pool, options, stream.get()),
      graphs(std::size_t{3} * options.max_graphs) {}  // inside, at the end of a prompt, gated

Status CudaBackend::State::check(Tokens prompt, TokenRange range, bool gated) const {
  if (prompt.size() > options.max_tokens) {
    return refused("a prompt of " + std::to_string(prompt.size()) + " tokens; there is room for " +
                   std::to_string(options.max_tokens));
  }
  if (range.empty() || range.end > prompt.size()) {
    return refused("tokens " + std::to_string(range.begin) + " to " + std::to_string(range.end) +
                   " of a prompt of " + std::to_string(prompt.size()));
  }
  // A gate may still be waiting for KV below the range.
  if (!gated) {
    if (const auto missing = pool.presence()->missing({0, range.begin})) {
      return no_kv_below(range.begin, *missing);
    }
  }
  return check_tokens(prompt.subspan(range.begin, range.size()));
}

Status CudaBackend::State::check_tokens(Tokens tokens) const {
  const std::uint32_t n_vocab = weights->config().n_vocab;
  for (const TokenId token : tokens) {
    if (token < 0 || static_cast<std::uint32_t>(token) >= n_vocab) {
      return refused("token id " + std::to_string(token) + " of a vocabulary of " +
                     std::to_string(n_vocab));
    }
  }
  return {};
}

Status CudaBackend::State::write_tokens(Tokens tokens, TokenRange range) {
  while (!in_flight.empty() && in_flight.front()->event.ready()) in_flight.pop_front();
  for (const std::shared_ptr<Work>& work : in_flight) {
    if (work->range.end <= range.begin || range.end <= work->range.begin) continue;
    CAKE_TRY(work->event.wait());
  }
  std::copy(tokens.begin(), tokens.end(), model.tokens() + range.begin);
  return {};
}

Result<std::shared_ptr<CudaPass::Work>> CudaBackend::State::start(Tokens tokens, TokenRange range,
                                                                  bool ends,
                                                                  const LayerGate& gate) {
  try {
    auto work = std::make_shared<Work>(range);
    CAKE_TRY(write_tokens(tokens, range));
    outcome->has_logits = false;
    outcome->position = 0;
    work->outcome = outcome;
    work->presence = pool.presence();
    work->step = ++outcome->step;
    work->ends = ends;
    in_flight.push_back(work);
    work->status = enqueue(*work, gate);
    // Also behind a step that was given up: what was enqueued of it still runs.
    if (auto status = work->event.record(stream.get()); !status) {
      pool.presence()->forget(range);
      (void)stream.wait();
      return status.error();
    }
    const std::lock_guard lock(latest_mutex);
    latest = work;
    return work;
  } catch (const Exception& e) {
    return give_up(e.error(), range);
  } catch (const std::bad_alloc&) {
    return give_up({Errc::out_of_memory, 0, "no host memory"}, range);
  }
}

Error CudaBackend::State::give_up(Error error, TokenRange range) {
  pool.presence()->forget(range);
  (void)stream.wait();  // part of the step may have been enqueued
  in_flight.clear();
  return error;
}

void CudaBackend::State::begin_writing(Work& work) {
  if (!work.writes) pool.presence()->forget(work.range);
  work.writes = true;
}

Status CudaBackend::State::enqueue(Work& work, const LayerGate& gate) {
  const auto passes = cuda_impl::passes_of(work.range, options.max_step_tokens);
  const auto shape_of = [&](std::size_t i) {
    return cuda_impl::StepShape{passes[i].size(), work.ends && i + 1 == passes.size()};
  };
  std::size_t next = 0;
  if (!gate.always_open()) {
    const std::uint32_t room = cuda_impl::residual_tokens(options);
    std::vector<MicroBatch> parts;
    for (; next < passes.size() && passes[next].end - work.range.begin <= room; ++next) {
      parts.push_back({passes[next].begin, shape_of(next)});
      parts.back().shape.first = passes[next].begin - work.range.begin;
    }
    CAKE_TRY(run_gated(work, {work.range.begin, passes[next - 1].end}, parts, gate));
  }
  // Once every layer was open for the first passes, they are for the others.
  for (; next < passes.size(); ++next) {
    const cuda_impl::StepShape shape = shape_of(next);
    CAKE_TRY(model.place(passes[next].begin, shape.rows, stream.get()));
    CAKE_TRY(run(work, passes[next], shape));
  }
  return {};
}

Status CudaBackend::State::run(Work& work, TokenRange tokens, const cuda_impl::StepShape& shape) {
  cuda_impl::StepGraphs* const known = graphs_for(work, {shape, false}, 1);
  if (known != nullptr) {
    CAKE_TRY(capture(known->front(), shape));
  }
  begin_writing(work);
  if (known != nullptr) {
    CAKE_TRY(known->front().launch(stream.get()));
  } else {
    CAKE_TRY(model.run(shape, stream.get()));
    seen.insert(shape);
  }
  pool.presence()->add(tokens);
  return {};
}

Status CudaBackend::State::capture(cuda_impl::GraphExec& graph, const cuda_impl::StepShape& shape) {
  if (graph) return {};
  return graph.capture(stream.get(), [&](cudaStream_t s) { return model.run(shape, s); });
}

Status CudaBackend::State::launch_layer(std::uint32_t layer, const MicroBatch& part,
                                        cudaStream_t s) {
  if (layer == 0) {
    CAKE_TRY(model.embed(part.shape, s));
  }
  CAKE_TRY(model.layer(layer, part.shape, s));
  const bool last = layer + 1 == weights->config().n_layers;
  return last && part.shape.ends ? model.output(part.shape, s) : Status();
}

Status CudaBackend::State::run_layer(std::uint32_t layer, const MicroBatch& part) {
  if (part.graphs == nullptr) return launch_layer(layer, part, stream.get());
  return (*part.graphs)[layer].launch(stream.get());
}

Status CudaBackend::State::run_gated(Work& work, TokenRange tokens, std::span<MicroBatch> parts,
                                     const LayerGate& gate) {
  const std::uint32_t n_layers = weights->config().n_layers;
  for (MicroBatch& part : parts) part.graphs = graphs_for(work, {part.shape, true}, n_layers);
  for (std::uint32_t layer = 0; layer < n_layers; ++layer) {
    // Captured before the gate, where there is time.
    for (const MicroBatch& part : parts) {
      if (part.graphs == nullptr || (*part.graphs)[layer]) continue;
      const auto launch = [&](cudaStream_t s) { return launch_layer(layer, part, s); };
      CAKE_TRY((*part.graphs)[layer].capture(stream.get(), launch));
    }
    if (!gate.wait(layer)) {
      return Error{Errc::superseded, 0, "the step was void at layer " + std::to_string(layer)};
    }
    const LayerRange this_layer{layer, layer + 1};
    if (const auto missing = pool.presence()->missing({0, tokens.begin}, this_layer)) {
      return no_kv_below(tokens.begin, *missing);
    }
    begin_writing(work);
    for (const MicroBatch& part : parts) {
      if (layer == 0 || parts.size() > 1) {
        CAKE_TRY(model.place(part.begin, part.shape.rows, stream.get()));
      }
      CAKE_TRY(run_layer(layer, part));
    }
    pool.presence()->add(tokens, this_layer);
  }
  for (const MicroBatch& part : parts) seen.insert({part.shape.rows, part.shape.ends});
  return {};
}

cuda_impl::StepGraphs* CudaBackend::State::graphs_for(Work& work, const GraphKey& key,
                                                      std::size_t count) {
  const cuda_impl::StepShape size{key.shape.rows, key.shape.ends};  // wherever its rows lie
  if (options.max_graphs == 0 || !seen.contains(size)) return nullptr;
  std::shared_ptr<cuda_impl::StepGraphs>* known = graphs.find(key);
  if (known == nullptr) known = graphs.add(key, std::make_shared<cuda_impl::StepGraphs>(count));
  work.graphs.push_back(*known);
  return known->get();
}

Status CudaBackend::State::wait_for_latest() const {
  std::shared_ptr<Work> work;
  {
    const std::lock_guard lock(latest_mutex);
    work = latest;
  }
  return work ? work->event.wait() : Status();
}

Status CudaBackend::State::prepare(std::span<const std::uint32_t> sizes) {
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

Status CudaBackend::State::warm_up(const cuda_impl::StepShape& shape) {
  CAKE_TRY(model.place(0, shape.rows, stream.get()));
  CAKE_TRY(model.run(shape, stream.get()));
  CAKE_TRY(stream.wait());
  seen.insert(shape);
  if (options.max_graphs == 0 || graphs.find({shape, false}) != nullptr) return {};
  const auto fresh = std::make_shared<cuda_impl::StepGraphs>(1);
  CAKE_TRY(capture(fresh->front(), shape));
  CAKE_TRY(fresh->front().upload(stream.get()));
  graphs.add({shape, false}, fresh);
  return {};
}

}  // namespace cake::inline CAKE_ABI::reference
