// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A model of an engine's KV memory during a run: who writes which chunk, and which layers are
// valid. It decides whether a claim, an insert or a read was allowed, and that no step reads a
// window or a state that is not there. It shares no data with the session, whose bookkeeping it
// checks. Requires external synchronization.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "cake/report.hpp"
#include "cake/scheduler.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

class KvInvariantChecker {
 public:
  void begin(const PrefillSpec& spec) {
    spec_ = spec;
    always_ = 0;
    while (always_ < spec.n_layers && (spec.reaches.empty() || spec.reaches[always_] == ~0u)) {
      ++always_;
    }
    if (!spec.reaches.empty() && spec.payload_bytes({0, always_}) == 0) always_ = 0;
    chunks_.assign(spec.end_chunk, {});
    ran_to_ = spec.resident_tokens;
    for (std::uint32_t c = 0; c < spec.end_chunk; ++c) {
      const TokenRange range = spec.chunk_range(c);
      Chunk& chunk = chunks_[c];
      chunk.layers.assign(spec.n_layers, Kv::none);
      chunk.computed_to = std::clamp(spec.resident_tokens, range.begin, range.end);
      chunk.claimed_to = chunk.computed_to;
      chunk.computes = range.begin < spec.resident_tokens;
      if (range.end > spec.resident_tokens) continue;
      std::fill(chunk.layers.begin(), chunk.layers.end(), Kv::right);
      chunk.whole = 1;
    }
    suffix_computed_ = suffix_claimed_ = std::max(spec.prefix_end(), spec.resident_tokens);
  }

  /// The first rule that was broken; empty while all is well.
  const std::string& violation() const { return violation_; }
  void fail(const char* what) {
    if (violation_.empty()) violation_ = what;
  }

  // ---- loads ----

  void read_begins(const Slice& slice) {
    if (slice.chunk >= spec_.end_chunk) return fail("a load of no chunk");
    Chunk& c = chunks_[slice.chunk];
    if (c.failed) fail("a load of a chunk whose load failed");
    if (c.computes) fail("a load of a chunk that compute has");
    if (slice.layers.begin != 0 && !c.parsed) fail("a second slice before the tables were parsed");
    if (slice.layers.end > spec_.n_layers) fail("a load of layers that are not there");
    c.asked = true;
  }
  /// A read failed, or nobody waits for it any more.
  void read_failed(const Slice& slice) {
    Chunk& c = chunks_[slice.chunk];
    c.failed = c.failed || !c.computes;
  }
  void insert_begins(const Slice& slice) {
    Chunk& c = chunks_[slice.chunk];
    if (c.compute != 0) fail("an insert into a chunk that compute writes");
    if (c.computes) fail("an insert after compute took the chunk over");
    if (c.failed) fail("an insert into a chunk whose load failed");
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      if (c.layers[l] != Kv::none) fail("a layer is written twice");
      c.layers[l] = Kv::writing;
    }
    c.parsed = c.parsed || slice.layers.begin == 0;
    ++c.inserts;
  }
  void insert_ends(const Slice& slice, bool ok) {
    Chunk& c = chunks_[slice.chunk];
    if (c.computes) fail("compute claimed a chunk that was being inserted");
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      c.layers[l] = ok ? Kv::right : Kv::none;
    }
    c.failed = c.failed || !ok;
    --c.inserts;
    if (!ok || has_all(c) == c.loaded) return;
    c.loaded = true;
    ++c.whole;
  }
  bool inserting(std::uint32_t chunk) const { return chunks_[chunk].inserts != 0; }

  // ---- steps ----

  void step_begins(const Step& step) {
    if (step.tokens.empty() || step.tokens.end > spec_.n_tokens) return fail("a step of no tokens");
    for_chunks(step.tokens, [&](Chunk& c, TokenRange range) {
      if (c.inserts != 0) fail("compute claimed a chunk that is being inserted");
      const bool has_windows = always_ < spec_.n_layers;
      if (is_whole(c) && !(c.loaded && has_windows)) fail("compute claimed a chunk that is whole");
      if (c.loaded && has_windows) {  // it, or one beside it, lacks what is needed after all
        c.loaded = false;
        c.whole = 0;
        ++lost_loads_;
      }
      if (c.claimed_to != std::max(range.begin, step.tokens.begin)) {
        fail("two steps for one token, or none");
      }
      c.claimed_to = std::min(range.end, step.tokens.end);
      c.compute = step.id;
      c.computes = true;
      std::fill(c.layers.begin(), c.layers.end(), Kv::none);
    });
    if (step.tokens.end <= spec_.prefix_end()) return;
    if (suffix_claimed_ != std::max(step.tokens.begin, spec_.prefix_end())) {
      fail("two steps for one token of the suffix, or none");
    }
    suffix_claimed_ = step.tokens.end;
  }
  /// A step reads one of the model's layers of all that lies below it, as far as the layer reaches.
  void step_reads(const Step& step, std::uint32_t layer) {
    const std::uint32_t end = spec_.chunk_of(step.tokens.begin);
    const std::uint32_t at = spec_.position(layer);
    for (std::uint32_t c = spec_.resident_tokens / spec_.chunk_tokens; c < end; ++c) {
      if (beyond_reach(c, at, step.tokens.begin)) continue;
      if (chunks_[c].layers[at] != Kv::right) return fail("a step read KV that is not there");
    }
    // Of the states that steps leave only the last one is kept.
    const bool state = always_ < spec_.n_layers && spec_.reaches[at] == 1;
    if (state && end > 0 && step.tokens.begin == end * spec_.chunk_tokens &&
        chunks_[end - 1].computes && step.tokens.begin != ran_to_) {
      return fail("a step goes on from a state that is gone");
    }
    const std::uint32_t computed =
        end < spec_.end_chunk ? chunks_[end].computed_to : suffix_computed_;
    if (computed < step.tokens.begin &&
        step.tokens.begin > std::min(end * spec_.chunk_tokens, spec_.prefix_end())) {
      fail("a step began behind tokens that were not computed");
    }
  }
  /// `tokens`: how many it did; 0 when it was void.
  void step_ends(const Step& step, std::uint32_t tokens) {
    const std::uint32_t end = step.tokens.begin + tokens;
    if (tokens != 0) ran_to_ = end;
    for_chunks(step.tokens, [&](Chunk& c, TokenRange range) {
      const std::uint32_t from = std::max(range.begin, step.tokens.begin);
      if (end > from) c.computed_to = std::max(c.computed_to, std::min(end, range.end));
      if (c.compute == step.id) {  // no other step went on with it
        c.compute = 0;
        c.claimed_to = c.computed_to;
      }
      if (c.computed_to == range.end) {
        std::fill(c.layers.begin(), c.layers.end(), Kv::right);
        ++c.whole;
      } else if (c.claimed_to == range.begin) {
        c.computes = c.asked;  // anybody's again, unless a load of it was dropped
      }
    });
    if (step.tokens.end <= spec_.prefix_end()) return;
    suffix_computed_ = std::max(suffix_computed_, end);
    if (suffix_claimed_ == step.tokens.end) suffix_claimed_ = suffix_computed_;
  }

  // ---- the end ----

  /// Loaded chunks that compute had to have because they lacked windows or states.
  std::uint32_t lost_loads() const { return lost_loads_; }

  void prompt_ends() {
    for (const Chunk& c : chunks_) {
      if (!has_all(c)) return fail("a chunk is missing at the end");
      if (c.whole > 1 || (c.whole == 0 && always_ != 0)) {
        return fail("a chunk became whole more than once");
      }
    }
    if (suffix_computed_ != spec_.n_tokens) fail("the suffix is not whole");
  }
  /// The report against what has been seen; `complete`: the prompt's KV is whole.
  void check(const PrefillReport& r, bool complete) {
    std::uint32_t loaded = 0;
    std::uint32_t out_of_window = 0;
    for (std::uint32_t c = 0; c < spec_.end_chunk; ++c) {
      const Source source = r.chunks[c].source;
      // With windows only the run knows which layers make a chunk whole.
      const bool is_loaded =
          always_ == spec_.n_layers ? chunks_[c].loaded : source == Source::loaded;
      if (is_loaded) loaded += spec_.chunk_range(c).size();
      if ((source == Source::loaded) != is_loaded) fail("the report names a wrong source");
      if (is_loaded && !has_all(chunks_[c])) fail("the report calls loaded what is not there");
      if (source != Source::out_of_window) continue;
      out_of_window += spec_.chunk_range(c).size();
      if (always_ != 0) {
        fail("a chunk with layers that all need is out of every window");
      }
    }
    std::uint32_t failed = 0;
    std::uint64_t bytes = 0;
    for (const LoadReport& load : r.loads) {
      failed += load.outcome != Errc::ok && load.outcome != Errc::superseded;
      bytes += load.bytes;
    }
    if (r.failed_loads != failed) fail("the report counts failed loads wrongly");
    if (r.bytes_read != bytes) fail("the report counts bytes wrongly");
    if (r.tokens_loaded != loaded) fail("the report counts loaded tokens wrongly");
    if (r.tokens_out_of_window != out_of_window) fail("the report counts windows wrongly");
    if (complete &&
        r.tokens_resident + r.tokens_loaded + r.tokens_computed + out_of_window != spec_.n_tokens) {
      fail("the report's tokens do not add up to the prompt");
    }
  }

 private:
  enum class Kv : std::uint8_t { none, writing, right };
  struct Chunk {
    std::vector<Kv> layers;         // [n_layers] by position
    std::uint64_t compute = 0;      // newest step that writes it
    std::uint32_t inserts = 0;      // loads that write it now
    bool computes = false;          // compute has claimed it: no load may write it any more
    bool asked = false;             // a lane was told to read it,
    bool parsed = false;            // its first bytes arrived,
    bool failed = false;            // a read or an insert failed while it was wanted,
    bool loaded = false;            // a load made it whole
    std::uint32_t whole = 0;        // how often it became whole
    std::uint32_t computed_to = 0;  // token up to which compute is done with it
    std::uint32_t claimed_to = 0;   // token up to which steps have it
  };
  template <class F>
  void for_chunks(TokenRange tokens, F&& visit) {
    for (std::uint32_t c = spec_.chunk_of(tokens.begin);
         c < spec_.end_chunk && spec_.chunk_range(c).begin < tokens.end; ++c) {
      visit(chunks_[c], spec_.chunk_range(c));
    }
  }
  static bool is_whole(const Chunk& c) {
    return std::all_of(c.layers.begin(), c.layers.end(), [](Kv kv) { return kv == Kv::right; });
  }

  /// The layers are there that need all tokens.
  bool has_all(const Chunk& c) const {
    return std::all_of(c.layers.begin(), c.layers.begin() + always_,
                       [](Kv kv) { return kv == Kv::right; });
  }
  /// A step that begins at `begin` reads nothing of this layer of the chunk.
  bool beyond_reach(std::uint32_t chunk, std::uint32_t position, std::uint32_t begin) const {
    if (position < always_) return false;
    if (spec_.payload_bytes({position, position + 1}) == 0) return true;
    const std::uint32_t end = (chunk + 1) * spec_.chunk_tokens;
    return begin >= end && begin - end >= spec_.reaches[position];
  }

  PrefillSpec spec_;
  std::vector<Chunk> chunks_;  // [end_chunk]
  std::uint32_t always_ = 0;   // layers that need all tokens
  std::uint32_t ran_to_ = 0;   // token at which the last step ended
  std::uint32_t lost_loads_ = 0;
  std::uint32_t suffix_claimed_ = 0;   // token
  std::uint32_t suffix_computed_ = 0;  // token
  std::string violation_;
};

}  // namespace cake::inline CAKE_ABI
