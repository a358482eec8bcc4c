// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The small models are what the tests of cake's loads rest on: that how a prompt is cut changes
// nothing, that what a layer says it keeps is all it needs, and that it does need it.
#include <cstring>
#include <limits>

#include "catch.hpp"
#include "model.hpp"

namespace {

using models::Kept;
using models::Model;
using models::Sequence;
using models::Vector;

constexpr std::uint32_t kChunk = 8;    // tokens
constexpr std::uint32_t kPrefix = 40;  // tokens, whole chunks
constexpr std::uint32_t kTokens = 47;

std::vector<std::int32_t> prompt() {
  std::vector<std::int32_t> tokens;
  for (std::uint32_t t = 0; t < kTokens; ++t) {
    tokens.push_back(static_cast<std::int32_t>((t * 2654435761u) >> 7 & 63));
  }
  return tokens;
}

bool same_bits(const Vector& a, const Vector& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

Sequence computed(const Model& model, const std::vector<std::uint32_t>& cuts) {
  Sequence sequence(model, kTokens + 1, kChunk);
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    REQUIRE(sequence.prefill(prompt(), cuts[i], cuts[i + 1]));
  }
  return sequence;
}
Sequence computed(const Model& model) { return computed(model, {0, kTokens}); }

/// First token of the prefix that is needed of a layer to go on behind it.
std::uint32_t first_needed(const Kept& kept) {
  return kept.window == 0 ? 0 : models::first_seen(kPrefix, kept.window);
}

/// A sequence whose memory is all ones (NaN), with the prefix's KV and last state brought in.
Sequence restored(const Model& model, Sequence& from) {
  Sequence to(model, kTokens + 1, kChunk);
  for (std::uint32_t l = 0; l < model.n_layers(); ++l) {
    const Kept kept = model.mixer(l).kept();
    for (std::size_t p = 0; p < kept.planes.size(); ++p) {
      const auto source = from.memory(l).plane(p), target = to.memory(l).plane(p);
      std::memset(target.data(), 0xff, target.size());
      const std::size_t begin = std::size_t{first_needed(kept)} * kept.planes[p];
      const std::size_t end = std::size_t{kPrefix} * kept.planes[p];
      std::memcpy(target.data() + begin, source.data() + begin, end - begin);
    }
    const auto state = from.checkpoint(l, kPrefix / kChunk - 1);
    std::copy(state.begin(), state.end(), to.checkpoint(l, kPrefix / kChunk - 1).begin());
  }
  to.resume(kPrefix);
  return to;
}

TEST_CASE("how a prompt is cut into passes changes no bit of logits or memory") {
  for (const auto& [name, model] : models::all_models()) {
    INFO(name);
    Sequence whole = computed(model);
    for (const std::vector<std::uint32_t>& cuts : {std::vector<std::uint32_t>{0, 1, 2, 3, kTokens},
                                                   {0, 8, 16, 24, 32, 40, kTokens},
                                                   {0, 23, 46, kTokens}}) {
      Sequence parts = computed(model, cuts);
      CHECK(same_bits(parts.logits(), whole.logits()));
      for (std::uint32_t l = 0; l < model.n_layers(); ++l) {
        for (std::size_t p = 0; p < model.mixer(l).kept().planes.size(); ++p) {
          const auto a = parts.memory(l).plane(p), b = whole.memory(l).plane(p);
          CHECK(std::memcmp(a.data(), b.data(), a.size()) == 0);
        }
        const auto a = parts.memory(l).state(), b = whole.memory(l).state();
        CHECK(std::equal(a.begin(), a.end(), b.begin()));
      }
    }
  }
}

TEST_CASE("what the layers say they keep is all that the rest of a prompt needs") {
  for (const auto& [name, model] : models::all_models()) {
    INFO(name);
    Sequence from = computed(model);
    Sequence to = restored(model, from);
    REQUIRE(to.prefill(prompt(), kPrefix, kTokens));
    CHECK(same_bits(to.logits(), from.logits()));
  }
}

TEST_CASE("every plane and state is needed, at the first and the last token that is said to be") {
  for (const auto& [name, model] : models::all_models()) {
    INFO(name);
    Sequence from = computed(model);
    for (std::uint32_t l = 0; l < model.n_layers(); ++l) {
      const Kept kept = model.mixer(l).kept();
      for (std::size_t p = 0; p < kept.planes.size(); ++p) {
        // Of the last layer only what the last token sees is seen in the logits.
        const bool last = l + 1 == model.n_layers() && kept.window != 0;
        const std::uint32_t first =
            last ? models::first_seen(kTokens - 1, kept.window) : first_needed(kept);
        for (const std::uint32_t token : {first, kPrefix - 1}) {
          INFO("layer " << l << ", plane " << p << ", token " << token);
          Sequence to = restored(model, from);
          const auto plane = to.memory(l).plane(p);
          std::memset(plane.data() + std::size_t{token} * kept.planes[p], 0x3c, kept.planes[p]);
          REQUIRE(to.prefill(prompt(), kPrefix, kTokens));
          CHECK_FALSE(same_bits(to.logits(), from.logits()));
        }
      }
      if (kept.state_bytes != 0) {
        INFO("layer " << l << ", state");
        Sequence to = restored(model, from);
        to.memory(l).state()[1] ^= std::byte{0x40};
        REQUIRE(to.prefill(prompt(), kPrefix, kTokens));
        CHECK_FALSE(same_bits(to.logits(), from.logits()));
      }
    }
  }
}

TEST_CASE("a gate is asked before each layer, and ends the pass") {
  for (const auto& [name, model] : models::all_models()) {
    INFO(name);
    Sequence sequence(model, kTokens + 1, kChunk);
    std::vector<std::uint32_t> asked;
    const auto shut_at = [&](std::uint32_t shut) {
      return [&asked, shut](std::uint32_t layer) {
        asked.push_back(layer);
        return layer != shut;
      };
    };
    CHECK_FALSE(sequence.prefill(prompt(), 0, kTokens, shut_at(1)));
    CHECK(asked == std::vector<std::uint32_t>{0, 1});
    CHECK(sequence.logits().empty());
  }
}

}  // namespace
