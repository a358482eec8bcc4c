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
  r.plan.n_tokens = 72;
  r.plan.chunk_tokens = 16;
  r.plan.n_chunks = r.plan.end_chunk = 4;
  r.plan.n_layers = 2;
  r.plan.n_lanes = 1;
  r.plan.layer_bytes = 1000;
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
  CHECK(r.holes == 1);
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
