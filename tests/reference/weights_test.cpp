// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/reference/weights.hpp"

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>

#include "catch.hpp"
#include "tiny_model.hpp"

namespace {

using namespace cake;
using namespace cake::reference;

/// Loads a changed model and returns the refusal's text.
std::string refusal(const std::function<void(tiny::Writer&)>& change, Errc code) {
  tiny::Model model = tiny::make();
  change(model.file);
  const auto weights = Weights::load(tiny::parse(model.file.finish()));
  REQUIRE(!weights.has_value());
  CHECK(weights.error().code == code);
  CHECK(weights.error().context.starts_with("tiny.gguf: "));
  return weights.error().context;
}
/// The same for a model whose metadata is built anew with one entry changed.
std::string refusal(const tiny::Shape& shape, Errc code) {
  const auto weights = Weights::load(tiny::parse(tiny::make(shape).file.finish()));
  REQUIRE(!weights.has_value());
  CHECK(weights.error().code == code);
  return weights.error().context;
}
bool says(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("weights are stacked and kept in fp32") {
  for (const std::uint32_t type : {tiny::F32, tiny::F16, tiny::Q4_1}) {
    tiny::Shape shape;
    shape.type = type;
    shape.tied = false;
    const tiny::Model model = tiny::make(shape);
    const auto weights = Weights::load(tiny::parse(model.file.finish())).value();
    const Config& c = weights->config();
    CHECK(c.n_vocab == shape.vocab);
    CHECK(c.n_kv_heads == shape.kv_heads);
    CHECK(c.rope.base == shape.rope_base);
    CHECK(weights->output() != weights->token_embedding());
    const auto same = [&](const float* at, const std::string& name) {
      const auto& expected = model.weights.at(name);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        if (double{at[i]} != Approx(expected[i]).epsilon(1e-6).margin(1e-6)) return false;
      }
      return true;
    };
    const LayerWeights& w = weights->layer(1);
    const std::size_t q = std::size_t{c.n_heads} * c.head_dim,
                      kv = std::size_t{c.n_kv_heads} * c.head_dim;
    CHECK(same(w.qkv, "blk.1.attn_q.weight"));
    CHECK(same(w.qkv + q * c.n_embd, "blk.1.attn_k.weight"));
    CHECK(same(w.qkv + (q + kv) * c.n_embd, "blk.1.attn_v.weight"));
    CHECK(same(w.gate_up, "blk.1.ffn_gate.weight"));
    CHECK(same(w.gate_up + std::size_t{c.n_ff} * c.n_embd, "blk.1.ffn_up.weight"));
    CHECK(same(w.down, "blk.1.ffn_down.weight"));
    CHECK(same(weights->output_norm(), "output_norm.weight"));
    CHECK(same(weights->output(), "output.weight"));
  }
}

TEST_CASE("an output that is tied is the embedding") {
  const auto weights = Weights::load(tiny::parse(tiny::make().file.finish())).value();
  CHECK(weights->output() == weights->token_embedding());
}

TEST_CASE("the digest is that of the whole file") {
  const auto bytes = tiny::make().file.finish();
  const tiny::TemporaryFile file(bytes);
  const auto weights = Weights::load(file.path()).value();
  CHECK(weights->digest() == Sha256().update(bytes).finish());
  auto other = bytes;
  other.back() ^= std::byte{1};
  CHECK(Weights::load(tiny::parse(other)).value()->digest() != weights->digest());
}

TEST_CASE("a missing file is told by its name") {
  const auto weights = Weights::load("/nowhere/model.gguf");
  REQUIRE(!weights.has_value());
  CHECK(weights.error().code == Errc::not_found);
  CHECK(says(weights.error().message(), "/nowhere/model.gguf"));
}

TEST_CASE("models that would give wrong answers are refused") {
  tiny::Writer other;
  other.string("general.architecture", "qwen2");
  const auto architecture = Weights::load(tiny::parse(other.finish()));
  REQUIRE(!architecture.has_value());
  CHECK(architecture.error().code == Errc::unsupported);
  CHECK(says(architecture.error().context, "\"qwen2\""));

  const auto drop = [](const char* name) {
    return [name](tiny::Writer& f) {
      std::erase_if(f.tensors, [&](const auto& t) { return t.name == name; });
    };
  };
  CHECK(says(refusal(drop("blk.2.ffn_up.weight"), Errc::corrupt),
             "\"blk.2.ffn_up.weight\" is missing"));
  CHECK(
      says(refusal(drop("token_embd.weight"), Errc::corrupt), "\"token_embd.weight\" is missing"));
  CHECK(says(refusal(drop("output_norm.weight"), Errc::corrupt),
             "\"output_norm.weight\" is missing"));

  CHECK(says(
      refusal(
          [](tiny::Writer& f) {
            f.tensor("blk.0.attn_k.weight").shape = {32, 64};
          },
          Errc::corrupt),
      "\"blk.0.attn_k.weight\" has the shape [32, 64] where the configuration asks for [64, 32]"));
  CHECK(says(refusal([](tiny::Writer& f) { f.tensor("blk.0.attn_q.weight").type = tiny::Q3_K; },
                     Errc::unsupported),
             "Q3_K is not supported"));
  CHECK(says(refusal(
                 [](tiny::Writer& f) {
                   f.tensors.push_back(
                       {"blk.0.attn_q.bias", {64}, tiny::F32, std::vector<std::byte>(256), 0});
                 },
                 Errc::unsupported),
             "\"blk.0.attn_q.bias\" is not part"));
  CHECK(says(refusal([](tiny::Writer& f) { f.u32("llama.expert_count", 8); }, Errc::unsupported),
             "experts"));
  CHECK(says(refusal([](tiny::Writer& f) { f.string("llama.rope.scaling.type", "yarn"); },
                     Errc::unsupported),
             "\"yarn\""));

  tiny::Shape odd;
  odd.kv_heads = 3;
  CHECK(says(refusal(odd, Errc::corrupt), "head counts"));
  odd = {};
  odd.layers = 0;
  CHECK(says(refusal(odd, Errc::corrupt), "llama.block_count"));
  odd = {};
  odd.rope_dimensions = 15;
  CHECK(says(refusal(odd, Errc::corrupt), "rope.dimension_count"));
  odd = {};
  odd.rope_dimensions = 32;  // more than head_dim
  CHECK(says(refusal(odd, Errc::corrupt), "rope.dimension_count"));
}

TEST_CASE("a model without experts may say so") {
  tiny::Model model = tiny::make();
  model.file.u32("llama.expert_count", 0);
  CHECK(Weights::load(tiny::parse(model.file.finish())).has_value());
}

TEST_CASE("a weight that is no number is refused") {
  for (const float value : {HUGE_VALF, -HUGE_VALF, NAN}) {
    for (const char* name : {"blk.1.ffn_down.weight", "output_norm.weight", "rope_freqs.weight"}) {
      tiny::Shape shape;
      shape.rope_freqs = true;
      tiny::Model model = tiny::make(shape);
      std::memcpy(model.file.tensor(name).data.data() + 4, &value, 4);
      const auto weights = Weights::load(tiny::parse(model.file.finish()));
      REQUIRE(!weights.has_value());
      CHECK(weights.error().code == Errc::corrupt);
      CHECK(says(weights.error().context, name));
    }
  }
}

TEST_CASE("a file that is changed or cut short while it is open is told, and nothing crashes") {
  const auto bytes = tiny::make().file.finish();
  {
    const tiny::TemporaryFile path(bytes);
    const auto file = GgufFile::open(path.path()).value();
    std::filesystem::resize_file(path.path(), bytes.size() / 2);
    const auto weights = Weights::load(file);
    REQUIRE(!weights.has_value());
    CHECK(weights.error().code == Errc::corrupt);
    CHECK(says(weights.error().context, "cut short after it was opened"));
    CHECK(!file.digest());
    CHECK(file.string("general.name").value() == "tiny");
  }
  {
    const tiny::TemporaryFile path(bytes);
    const auto file = GgufFile::open(path.path()).value();
    CHECK(file.unchanged().has_value());
    std::ofstream(path.path(), std::ios::binary | std::ios::in | std::ios::out) << "GGUF";
    std::filesystem::last_write_time(
        path.path(), std::filesystem::last_write_time(path.path()) + std::chrono::seconds(2));
    const auto weights = Weights::load(file);
    REQUIRE(!weights.has_value());
    CHECK(weights.error().code == Errc::corrupt);
    CHECK(says(weights.error().context, "changed while it was read"));
  }
  {
    const tiny::TemporaryFile path(bytes);
    const auto file = GgufFile::open(path.path()).value();
    std::filesystem::remove(path.path());  // stays open
    CHECK(Weights::load(file).value()->digest() == Sha256().update(bytes).finish());
  }
}
