// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/detail/chunk_table.hpp"

#include <algorithm>
#include <bit>
#include <utility>

namespace cake::inline CAKE_ABI::detail {

void ChunkTable::begin(const PrefillSpec& spec, std::vector<StoredChunk> stored,
                       std::span<const LinkEstimate> priors) {
  *this = ChunkTable();
  stored_ = std::make_shared<const std::vector<StoredChunk>>(std::move(stored));
  t_.spec = spec;
  t_.spec.stored = *stored_;
  t_.may_gate = spec.may_gate;
  const std::uint32_t n = spec.end_chunk;
  t_.late_holes.reserve(n);  // so that no change during the run needs memory
  t_.running.reserve(2);
  t_.state.assign(n, ChunkState::open);
  t_.parsed.assign(n, 0);
  t_.unloadable.assign(n, 0);
  t_.issued.assign(n, 0);
  t_.needed.assign(n, 0);
  inserting_.assign(n, 0);
  late_.assign(n, 0);
  computed_.assign(n, 0);
  is_touched_.assign(n, 0);
  touched_.reserve(n);
  t_.layer_words = (spec.n_layers + 63) / 64;
  t_.layers_resident.assign(std::size_t{n} * t_.layer_words, 0);
  t_.next_absent.resize(n);
  t_.next_stored.resize(n);
  widest_ = spec.widest_window();
  std::uint32_t above = spec.prefix_end();
  for (std::uint32_t i = n; i-- > 0;) begin_chunk(i, above);
  for (const LinkEstimate& prior : priors) {
    t_.lanes.emplace_back(prior);
    if (spec.lateness == Time{0}) continue;
    t_.lanes.back().set_noise(spec.lateness, spec.read_bytes({0, spec.n_layers}));
  }
  t_.suffix_front = std::max(spec.prefix_end(), spec.resident_tokens);
  t_.front = spec.resident_tokens;
  if (t_.front < spec.prefix_end() && t_.front % spec.chunk_tokens != 0) {
    // The rest of a chunk that the engine holds in part belongs to compute from the start.
    set_state(spec.chunk_of(t_.front), ChunkState::computing);
    partial_end_ = t_.front;
  }
  advance();
}

/// `above`: where the next step begins that does not follow a computed chunk.
void ChunkTable::begin_chunk(std::uint32_t chunk, std::uint32_t& above) {
  const PrefillSpec& spec = t_.spec;
  const auto n = static_cast<std::uint32_t>(t_.state.size());
  const TokenRange range = spec.chunk_range(chunk);
  const std::uint32_t needed = spec.layers_needed(spec.object_range(chunk).end, above);
  const bool usable = spec.layers_held(chunk) >= needed && range.begin >= spec.resident_tokens;
  t_.needed[chunk] = static_cast<std::uint16_t>(needed);
  t_.next_absent[chunk] = usable ? (chunk + 1 < n ? t_.next_absent[chunk + 1] : n) : chunk;
  t_.next_stored[chunk] = usable ? chunk : (chunk + 1 < n ? t_.next_stored[chunk + 1] : n);
  if (range.end <= spec.resident_tokens) {
    t_.state[chunk] = ChunkState::resident;
    computed_[chunk] = 1;
  } else if (usable) {
    count_open(chunk, 1);
    if (needed == 0) {
      t_.state[chunk] = ChunkState::resident;
    } else {
      ++t_.open_chunks;
    }
  } else {
    t_.state[chunk] = ChunkState::hole;
    t_.unloadable[chunk] = 1;
    ++t_.holes;
    above = range.begin;
  }
}

void ChunkTable::touch(std::uint32_t chunk) {
  if (is_touched_[chunk] != 0) return;
  is_touched_[chunk] = 1;
  touched_.push_back(chunk);
}

void ChunkTable::update(RunTables& copy) {
  if (lanes_changed_) copy.lanes = t_.lanes;  // what needs memory comes first
  copy.open_bytes = t_.open_bytes;
  copy.running = t_.running;
  if (copy.late_holes.size() != t_.late_holes.size()) copy.late_holes = t_.late_holes;
  for (const std::uint32_t c : touched_) {
    is_touched_[c] = 0;
    copy.state[c] = t_.state[c];
    copy.parsed[c] = t_.parsed[c];
    copy.unloadable[c] = t_.unloadable[c];
    copy.issued[c] = t_.issued[c];
    copy.needed[c] = t_.needed[c];
    const std::size_t word = std::size_t{c} * t_.layer_words;
    std::copy_n(&t_.layers_resident[word], t_.layer_words, &copy.layers_resident[word]);
  }
  touched_.clear();
  lanes_changed_ = false;
  copy.finished = t_.finished;
  copy.n_finished = t_.n_finished;
  copy.front = t_.front;
  copy.suffix_front = t_.suffix_front;
  copy.context_from = t_.context_from;
  copy.open_chunks = t_.open_chunks;
  copy.loaded_chunks = t_.loaded_chunks;
  copy.inserting_chunks = t_.inserting_chunks;
  copy.holes = t_.holes;
  copy.may_gate = t_.may_gate;
}

bool ChunkTable::loadable(ChunkState state) {
  return state == ChunkState::open || state == ChunkState::loading ||
         state == ChunkState::inserting;
}

/// Bytes of a chunk that have not been asked for.
std::uint64_t ChunkTable::unissued(std::uint32_t chunk) const {
  const std::uint32_t issued = t_.issued[chunk];
  const std::uint32_t needed = t_.needed[chunk];
  return issued >= needed ? 0 : t_.spec.read_bytes({issued, needed});
}

void ChunkTable::count_open(std::uint32_t chunk, int sign) {
  const std::uint32_t tiers = t_.spec.stored[chunk].tiers;
  auto entry = std::find_if(t_.open_bytes.begin(), t_.open_bytes.end(),
                            [&](const OpenBytes& o) { return o.tiers == tiers; });
  if (entry == t_.open_bytes.end()) entry = t_.open_bytes.insert(entry, {tiers, 0});
  entry->bytes = sign > 0 ? entry->bytes + unissued(chunk) : entry->bytes - unissued(chunk);
}

void ChunkTable::set_state(std::uint32_t chunk, ChunkState to) {
  const ChunkState from = t_.state[chunk];
  if (from == to) return;
  touch(chunk);
  if (loadable(from) && !loadable(to)) count_open(chunk, -1);
  if (from == ChunkState::open) --t_.open_chunks;
  if (from == ChunkState::inserting) --t_.inserting_chunks;
  if (to == ChunkState::inserting) ++t_.inserting_chunks;
  if (from == ChunkState::inserting && to == ChunkState::resident) ++t_.loaded_chunks;
  if (from == ChunkState::computing && to == ChunkState::resident) computed_[chunk] = 1;
  if (from == ChunkState::resident) leaves_resident(chunk);
  if (from == ChunkState::hole) --t_.holes;
  if (to == ChunkState::hole) {
    ++t_.holes;
    if (t_.next_absent[chunk] != chunk && late_[chunk] == 0) {
      late_[chunk] = 1;
      std::vector<std::uint32_t>& late = t_.late_holes;
      late.insert(std::lower_bound(late.begin(), late.end(), chunk), chunk);
    }
  }
  t_.state[chunk] = to;
  if (!loadable(from) && loadable(to)) count_open(chunk, 1);
  if (to == ChunkState::open) ++t_.open_chunks;
}

/// Only what was loaded does: it lacks layers, or becomes compute's.
void ChunkTable::leaves_resident(std::uint32_t chunk) {
  if (t_.issued[chunk] != 0) --t_.loaded_chunks;
  t_.front = std::min(t_.front, t_.spec.chunk_range(chunk).begin);
}

void ChunkTable::grow(std::uint32_t chunk, std::uint32_t needed) {
  touch(chunk);
  const bool counts = loadable(t_.state[chunk]);
  if (counts) count_open(chunk, -1);
  t_.needed[chunk] = static_cast<std::uint16_t>(needed);
  if (counts) count_open(chunk, 1);
  if (t_.state[chunk] != ChunkState::resident) return;
  set_state(chunk, t_.issued[chunk] == 0 ? ChunkState::open : ChunkState::loading);
}

bool ChunkTable::computes(std::uint32_t chunk) const {
  const ChunkState state = t_.state[chunk];
  return state == ChunkState::hole || state == ChunkState::computing || computed_[chunk] != 0 ||
         (state != ChunkState::resident && t_.unloadable[chunk] != 0);
}

void ChunkTable::set_parsed(std::uint32_t chunk) {
  touch(chunk);
  t_.parsed[chunk] = 1;
}

void ChunkTable::set_unloadable(std::uint32_t chunk) {
  touch(chunk);
  t_.unloadable[chunk] = 1;
}

void ChunkTable::issue(std::uint32_t chunk, LayerRange layers) {
  touch(chunk);
  count_open(chunk, -1);
  t_.issued[chunk] = static_cast<std::uint16_t>(layers.end);
  count_open(chunk, 1);
}

void ChunkTable::begin_insert(std::uint32_t chunk) {
  ++inserting_[chunk];
  set_state(chunk, ChunkState::inserting);
}

bool ChunkTable::add_layers(std::uint32_t chunk, LayerRange layers) {
  touch(chunk);
  std::uint64_t* words = &t_.layers_resident[std::size_t{chunk} * t_.layer_words];
  for (std::uint32_t l = layers.begin; l < layers.end; ++l) words[l / 64] |= 1ull << (l % 64);
  int set = 0;
  for (std::uint32_t w = 0; w < t_.layer_words; ++w) set += std::popcount(words[w]);
  return static_cast<std::uint32_t>(set) == t_.needed[chunk];
}

void ChunkTable::drop_layers(std::uint32_t chunk) {
  touch(chunk);
  std::fill_n(&t_.layers_resident[std::size_t{chunk} * t_.layer_words], t_.layer_words, 0);
}

void ChunkTable::claim(const RunningStep& step) {
  const PrefillSpec& spec = t_.spec;
  for (std::uint32_t c = spec.chunk_of(step.tokens.begin);
       c < spec.end_chunk && spec.chunk_range(c).begin < step.tokens.end; ++c) {
    set_state(c, ChunkState::computing);
    partial_end_ = step.tokens.end;
  }
  if (step.tokens.end > spec.prefix_end()) t_.suffix_front = step.tokens.end;
  advance();
  t_.running.push_back(step);
}

RunningStep ChunkTable::end_step(std::uint64_t id, Time now) {
  const auto step = std::find_if(t_.running.begin(), t_.running.end(),
                                 [&](const RunningStep& r) { return r.id == id; });
  if (step == t_.running.end()) return {};
  const RunningStep ran = *step;
  t_.running.erase(step);
  if (!t_.running.empty()) t_.running.front().begins = now;
  return ran;
}

void ChunkTable::set_finished(TokenRange tokens, Time busy, bool gated) {
  const std::uint64_t sequence = ++t_.n_finished;
  t_.finished[sequence % 4] = {sequence, tokens, busy, gated};
}

void ChunkTable::release(TokenRange tokens) {
  const PrefillSpec& spec = t_.spec;
  for (std::uint32_t c = spec.chunk_of(tokens.begin);
       c < spec.end_chunk && spec.chunk_range(c).begin < tokens.end; ++c) {
    if (spec.chunk_range(c).begin < tokens.begin) {
      partial_end_ = tokens.begin;  // its first tokens were computed by an earlier step
      continue;
    }
    if (t_.state[c] != ChunkState::computing) continue;
    set_state(c, t_.unloadable[c] != 0 ? ChunkState::hole : ChunkState::open);
  }
  if (tokens.end > spec.prefix_end()) t_.suffix_front = std::max(tokens.begin, spec.prefix_end());
  t_.front = std::min(t_.front, tokens.begin);
  advance();
}

void ChunkTable::advance() {
  const PrefillSpec& spec = t_.spec;
  while (t_.front < spec.prefix_end()) {
    const std::uint32_t chunk = spec.chunk_of(t_.front);
    const TokenRange tokens = spec.chunk_range(chunk);
    if (t_.state[chunk] == ChunkState::computing) {
      if (partial_end_ > tokens.begin && partial_end_ < tokens.end) {
        t_.front = partial_end_;
        break;
      }
    } else if (t_.state[chunk] != ChunkState::resident) {
      break;
    }
    t_.front = tokens.end;
  }
  if (t_.front >= spec.prefix_end()) t_.front = std::max(t_.front, t_.suffix_front);
  find_context();
}

/// Behind computed tokens all is there, and what the suffix needs is always loaded.
void ChunkTable::find_context() {
  const PrefillSpec& spec = t_.spec;
  t_.context_from = t_.front;
  if (widest_ == 0 || t_.front >= spec.prefix_end()) return;
  if (t_.front % spec.chunk_tokens != 0) return;
  bool lacks = false;
  for (std::uint32_t c = spec.chunk_of(t_.front); c-- > 0;) {
    const std::uint32_t end = spec.object_range(c).end;
    if (computes(c)) {
      if (lacks) t_.context_from = end;
      return;
    }
    if (!lacks && t_.front - end >= widest_) return;
    lacks = lacks || t_.needed[c] < spec.layers_needed(end, t_.front);
  }
  if (lacks) t_.context_from = 0;
}

}  // namespace cake::inline CAKE_ABI::detail
