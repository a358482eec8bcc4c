// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The recipes of docs/engines.md: KV that is not two planes of floating-point numbers, adapters,
// images. Each comes back bit for bit through a store.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cake/kv_presence.hpp"
#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "cake/testing/check_engine.hpp"
#include "catch.hpp"

using namespace cake;

namespace {

constexpr std::uint32_t kChunk = 16;
constexpr std::uint32_t kMaxTokens = 512;

// [mla]
/// One row of bytes for each token and layer, whatever they mean: here the compressed KV of MLA,
/// 512 latent values and 64 of the rotary key, bf16.
class LatentKv {
 public:
  static constexpr std::uint32_t kLayers = 4;
  static constexpr std::uint32_t kRow = 2 * (512 + 64);  // bytes

  // Every layer keeps one plane: one row of kRow bytes for each token.
  static KvLayout layout() {
    return {.n_layers = kLayers, .kinds = {{{{1, kRow, KvOrder::nhd, DType::bf16}}}}};
  }

  Status insert(const Slice& slice, const KvView& from) {
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      const auto run = from.plane(l, 0);  // the slice's tokens, row by row
      std::memcpy(row(l, slice.tokens.begin), run.data(), run.size());
    }
    written_.add(slice.tokens, slice.layers);
    return {};
  }
  Status extract(const Slice& slice, const MutableKvView& to) {
    if (auto missing = written_.missing(slice.tokens, slice.layers)) return no_kv(*missing);
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      const auto run = to.plane(l, 0);
      std::memcpy(run.data(), row(l, slice.tokens.begin), run.size());
    }
    return {};
  }

  std::byte* row(std::uint32_t layer, std::uint32_t token) {
    return bytes_.data() + (std::size_t{layer} * kMaxTokens + token) * kRow;
  }
  void wrote(TokenRange range) { written_.add(range, {0, kLayers}); }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_ = std::vector<std::byte>(std::size_t{kLayers} * kMaxTokens * kRow);
  KvPresence written_{kMaxTokens, kLayers};
};
// [/mla]

/// An engine over that memory: each row depends on all tokens up to its own, on the adapter and on
/// the image.
class LatentEngine {
 public:
  KvLayout layout() const { return LatentKv::layout(); }
  // [lora]
  ModelFingerprint fingerprint() const {
    return FingerprintBuilder()
        .add("weights", weights_digest_)
        .add("lora", adapter_digest_)  // of the adapter in force; empty: none
        .add("kv", "mla, bf16")        // what a row holds
        .finish();
  }
  // [/lora]
  Status prefill(Tokens prompt, TokenRange range) {
    std::uint64_t state = 0;
    for (std::uint32_t t = 0; t < range.end; ++t) {
      state = (state + static_cast<std::uint64_t>(prompt[t]) + image * (t == kImage.begin)) *
                  0x9e3779b97f4a7c15u +
              adapter_digest_.size();
      for (std::uint32_t l = 0; t >= range.begin && l < LatentKv::kLayers; ++l) {
        for (std::size_t b = 0; b < LatentKv::kRow; ++b) {
          kv_.row(l, t)[b] = static_cast<std::byte>((state >> (b % 57)) + 31 * l + b);
        }
      }
    }
    kv_.wrote(range);
    return {};
  }
  Status insert(const Slice& slice, const KvView& from) { return kv_.insert(slice, from); }
  Status extract(const Slice& slice, const MutableKvView& to) { return kv_.extract(slice, to); }

  const std::vector<std::byte>& bytes() const { return kv_.bytes(); }
  void set_adapter(std::string digest) { adapter_digest_ = std::move(digest); }

  static constexpr TokenRange kImage{40, 72};
  std::uint64_t image = 0;

 private:
  std::string weights_digest_ = "of the file";
  std::string adapter_digest_;
  LatentKv kv_;
};
static_assert(ComputeBackend<LatentEngine>);

std::vector<TokenId> prompt_of(std::uint32_t n) {
  std::vector<TokenId> prompt(n);
  for (std::uint32_t t = 0; t < n; ++t) prompt[t] = static_cast<TokenId>(t * 7919 % 1000);
  return prompt;
}

auto loader_of(LatentEngine& engine, MemoryStorage& storage) {
  return Loader(engine, storage, {.chunks = {.chunk_tokens = kChunk}}, LoadOnlyScheduler());
}

}  // namespace

TEST_CASE("recipe: KV of one plane travels in halves and comes back bit for bit") {
  const auto prompt = prompt_of(200);
  MemoryStorage storage;
  LatentEngine first;
  auto loader = loader_of(first, storage);
  REQUIRE(loader.prefill(prompt).status);
  const SaveReport saved = loader.save(prompt);
  REQUIRE(saved.status);
  CHECK(saved.written == 12);

  LatentEngine second;
  const PrefillReport report = loader_of(second, storage).prefill(prompt);
  REQUIRE(report.status);
  CHECK(report.tokens_loaded == 12 * kChunk);
  CHECK(second.bytes() == first.bytes());

  LatentEngine checked;
  for (const std::string& broken : testing::check(checked, prompt)) FAIL_CHECK(broken);
}

TEST_CASE("recipe: 8-bit KV with a scale for each head and token takes four planes") {
  // [quantised]
  constexpr std::uint32_t kHeads = 8;
  constexpr std::uint32_t kHeadDim = 128;
  // Four planes: K, its scales, V, its scales. One scale for each head and token.
  const KvPlane values{kHeads, kHeadDim, KvOrder::nhd, DType::i8};
  const KvPlane scales{1, kHeads * sizeof(float), KvOrder::nhd, DType::f32};
  const KvLayout layout{.n_layers = 32, .kinds = {{{values, scales, values, scales}}}};
  // [/quantised]
  CHECK(ChunkGeometry::fits(layout, 256));
  CHECK(layout.bytes_per_token() == 2 * 32 * 8 * 132);
}

TEST_CASE("recipe: prompts under two adapters share nothing, under one adapter everything") {
  const auto prompt = prompt_of(100);
  MemoryStorage storage;
  LatentEngine engine;
  engine.set_adapter("one");
  auto loader = loader_of(engine, storage);
  REQUIRE(loader.prefill(prompt).status);
  REQUIRE(loader.save(prompt).status);
  LatentEngine other;
  other.set_adapter("another");
  CHECK(loader_of(other, storage).prefill(prompt).tokens_loaded == 0);
  other.set_adapter("one");
  CHECK(loader_of(other, storage).prefill(prompt).tokens_loaded == 6 * kChunk);
  CHECK(other.bytes() == engine.bytes());
}

TEST_CASE("recipe: images behind equal token ids are told apart, text before them is shared") {
  std::vector<TokenId> prompt = prompt_of(160);
  const TokenRange image = LatentEngine::kImage;
  std::fill(prompt.begin() + image.begin, prompt.begin() + image.end, 42);
  MemoryStorage storage;
  LatentEngine engine;
  auto loader = loader_of(engine, storage);
  engine.image = 1;
  const std::string digest_of_pixels = "image 1";
  // [image]
  ChunkOptions chunks = loader.chunks();
  chunks.extra = {{image, digest_of_pixels}};  // image: its tokens
  const PrefillReport report = loader.prefill(prompt, {.chunks = chunks});
  const SaveReport saved = loader.save(prompt);  // as they were prefilled
  // [/image]
  REQUIRE(report.status);
  REQUIRE(saved.status);

  LatentEngine second;
  second.image = 2;
  ChunkOptions other = chunks;
  other.extra = {{image, "image 2"}};
  const PrefillReport shared = loader_of(second, storage).prefill(prompt, {.chunks = other});
  CHECK(shared.tokens_loaded == image.begin / kChunk * kChunk);
  LatentEngine again;
  again.image = 1;
  CHECK(loader_of(again, storage).prefill(prompt, {.chunks = chunks}).tokens_loaded >= 144);
  CHECK(again.bytes() == engine.bytes());
}
