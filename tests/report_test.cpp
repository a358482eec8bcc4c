// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/report.hpp"

#include "catch.hpp"

using namespace cake;
using namespace std::chrono_literals;

namespace {

/// 4 chunks of 16 tokens, 2 computed in one step, 2 loaded, one load dropped; 8 tokens of suffix.
PrefillReport sample() {
  PrefillReport r;
  r.spec.n_tokens = 72;
  r.spec.chunk_tokens = 16;
  r.spec.n_chunks = r.spec.end_chunk = 4;
  r.spec.n_layers = 2;
  r.spec.n_lanes = 1;
  r.spec.layer_bytes = 1000;
  r.ttft = 10ms;
  r.chunks.resize(4);
  for (std::uint32_t c = 0; c < 4; ++c) {
    r.chunks[c].source = c < 2 ? Source::computed : Source::loaded;
    r.chunks[c].bytes = c == 0 ? 0 : 2000;
  }
  r.chunks[1].load_error = Errc::corrupt;
  r.steps = {{{0, 32}, 0ms, 6ms, false, false},
             {{64, 72}, 6ms, 7ms, true, true},
             {{64, 72}, 7ms, 10ms, true, false}};
  r.loads = {{{3, {48, 64}, {0, 2}}, 0, 2000, 0ms, 2ms, 3ms, Errc::ok},
             {{2, {32, 48}, {0, 2}}, 0, 2000, 0ms, 4ms, 5ms, Errc::ok},
             {{1, {16, 32}, {0, 2}}, 0, 2000, 4ms, 5ms, 0ms, Errc::corrupt}};
  return r;
}

/// Brackets and quotes match, and nothing follows the outermost object.
bool balanced(const std::string& json) {
  std::string open;
  bool text = false;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (text) {
      if (c == '\\') ++i;
      if (c == '"') text = false;
    } else if (c == '"') {
      text = true;
    } else if (c == '{' || c == '[') {
      open.push_back(c);
    } else if (c == '}' || c == ']') {
      if (open.empty() || open.back() != (c == '}' ? '{' : '[')) return false;
      open.pop_back();
    } else if (c == ',' && i + 1 < json.size() && (json[i + 1] == ',' || json[i + 1] == ']')) {
      return false;
    }
  }
  return open.empty() && !text;
}

}  // namespace

TEST_CASE("sums of a report") {
  PrefillReport r = sample();
  r.summarize();
  CHECK(r.tokens_computed == 40);
  CHECK(r.tokens_loaded == 32);
  CHECK(r.bytes_read == 6000);
  CHECK(r.meet_token == 32);
  CHECK(r.chunks_recomputed == 1);
}

TEST_CASE("the bound comes from measured rates") {
  PrefillReport r = sample();
  r.set_bound();
  // 6000 bytes in the 5 ms in which the lane was busy, 2000 bytes per 16 tokens.
  CHECK(r.rates.load_per_token == Approx(5e-3 / 6000 * 2000 / 16));
  CHECK(r.rates.per_token == Approx(6e-3 / 32));
  CHECK(r.bound_s == Approx(ttft_bounds(r.rates, 64, 8).lower));
  CHECK(r.bound_ratio() == Approx(10e-3 / r.bound_s));
}

TEST_CASE("a step that never ended and a read that never came count for nothing") {
  PrefillReport r = sample();
  r.set_bound();
  const double bound = r.bound_s;
  r.steps.push_back({{72, 80}, 9ms, 0ms, false, false});
  r.loads.push_back({{0, {0, 16}, {0, 2}}, 0, 2000, 1ms, 9ms, 0ms, Errc::timeout});
  r.loads.push_back({{0, {0, 16}, {0, 2}}, 0, 2000, 1ms, 0ms, 0ms, Errc::superseded});
  r.loads.push_back({{0, {0, 16}, {0, 2}}, 0, 2000, 1ms, 90ms, 0ms, Errc::ok});  // after the end
  r.set_bound();
  CHECK(r.bound_s == Approx(bound));
  CHECK(r.rates.per_token > 0);
}

TEST_CASE("there is no bound when nothing is known of a rate") {
  PrefillReport r = sample();
  CHECK_FALSE(r.has_bound());
  CHECK(r.bound_ratio() == 0);
  r.loads.clear();
  r.set_bound();
  CHECK_FALSE(r.has_bound());  // chunks are stored, and nobody knows how fast they can be read
  for (ChunkReport& chunk : r.chunks) chunk.load_error = Errc::not_found;
  r.set_bound();
  CHECK(r.has_bound());  // computing everything
  r = sample();
  for (StepReport& step : r.steps) step.issued = step.ended;
  r.steps[0].ended = r.steps[0].issued = 0ms;
  r.set_bound();
  CHECK_FALSE(r.has_bound());
  r = sample();
  r.status = Error{Errc::canceled, 0, "prefill"};
  r.set_bound();
  CHECK_FALSE(r.has_bound());
}

TEST_CASE("what a scheduler believes of compute does not make a bound absurd") {
  for (const double per_token : {0.0, 1e-12, 6e-6, 1.0, 1e9}) {
    for (const double per_position : {0.0, 1e-15, 4e-7, 1.0}) {
      PrefillReport r = sample();
      r.rates.per_token = per_token;
      r.rates.per_position = per_position;
      r.set_bound();
      CAPTURE(per_token, per_position);
      CHECK(r.bound_ratio() >= 1);
      CHECK(r.bound_ratio() < 4);
    }
  }
}

TEST_CASE("a bound has the overhead of passes where they were of several sizes") {
  PrefillReport r;
  r.spec.n_tokens = 100;
  r.spec.max_step_tokens = 50;
  r.ttft = 30ms;
  // 5 ms and 0.1 ms a token.
  r.steps = {{{0, 50}, 0ms, 10ms, false, false},
             {{50, 90}, 10ms, 19ms, false, false},
             {{90, 100}, 19ms, 25ms, false, false}};
  r.set_bound();
  CHECK(r.rates.overhead == Approx(5e-3));
  CHECK(r.rates.per_token == Approx(1e-4));
  CHECK(r.bound_s == Approx(2 * 5e-3 + 100 * 1e-4));
}

TEST_CASE("a wide step that costs less than the passes it stands for lowers the bound") {
  PrefillReport r;
  r.spec.n_tokens = 300;
  r.spec.max_step_tokens = 50;
  r.ttft = 50ms;
  r.steps = {{{0, 50}, 0ms, 10ms, false, false},
             {{50, 90}, 10ms, 19ms, false, false},
             {{90, 100}, 19ms, 25ms, false, false},
             {{100, 300}, 25ms, 50ms, true, false}};  // as one pass
  r.set_bound();
  REQUIRE(r.has_bound());
  CHECK(r.bound_ratio() >= 1);
}

TEST_CASE("steps that were enqueued behind each other count once") {
  PrefillReport r;
  r.spec.n_tokens = 100;
  r.spec.max_step_tokens = 50;
  r.ttft = 20ms;
  r.steps = {{{0, 50}, 0ms, 10ms, false, false}, {{50, 100}, 1ms, 20ms, false, false}};
  r.set_bound();
  CHECK(r.bound_ratio() == Approx(1));
}

TEST_CASE("the timeline shows who worked when, and where tokens came from") {
  PrefillReport r = sample();
  const std::string text = r.timeline(40);
  CHECK(text.find("compute |########################xxxx++++++++++++|") != std::string::npos);
  CHECK(text.find("lane 0  |================xxxx....") != std::string::npos);
  CHECK(text.find("10") != std::string::npos);
  CHECK(text.find("0.010 s") != std::string::npos);
}

TEST_CASE("the trace is one JSON object with an event per step, read and insert") {
  const std::string json = sample().chrome_trace();
  CHECK(balanced(json));
  const auto count = [&](const std::string& what) {
    std::size_t n = 0;
    for (std::size_t at = json.find(what); at != std::string::npos; at = json.find(what, at + 1)) {
      ++n;
    }
    return n;
  };
  CHECK(count("\"name\":\"step\"") == 2);
  CHECK(count("\"name\":\"void step\"") == 1);
  CHECK(count("\"name\":\"read\"") == 3);
  CHECK(count("\"name\":\"insert\"") == 2);
  CHECK(count("\"outcome\":\"corrupt\"") == 1);
  CHECK(count("\"ph\":\"M\"") == 2);
}
