// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a model file says of itself: understood, known to change nothing, or refused by name.
#include "cake/reference/config.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "cake/reference/weights.hpp"
#include "catch.hpp"
#include "tiny_model.hpp"

namespace {

using namespace cake;
using namespace cake::reference;
using tiny::Writer;
using Change = std::function<void(Writer&)>;

Result<Config> config_with(const Change& change) {
  tiny::Model model = tiny::make();
  change(model.file);
  return read_config(tiny::parse(model.file.finish()));
}
/// A file of metadata alone, as small as a model's can be, less the keys that are left out.
Writer metadata(const std::vector<std::string>& without = {}) {
  Writer file;
  const auto wanted = [&](const std::string& key) {
    return std::find(without.begin(), without.end(), key) == without.end();
  };
  file.string("general.architecture", "llama");
  const std::pair<const char*, std::uint32_t> numbers[] = {
      {"block_count", 4},          {"embedding_length", 64},
      {"attention.head_count", 4}, {"attention.head_count_kv", 2},
      {"feed_forward_length", 96}, {"context_length", 512}};
  for (const auto& [key, value] : numbers) {
    if (wanted(key)) file.u32(std::string("llama.") + key, value);
  }
  file.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  return file;
}
Result<Config> config_of(const Writer& file) { return read_config(tiny::parse(file.finish())); }

std::string refusal(const Result<Config>& config, Errc code = Errc::unsupported) {
  if (config.has_value()) {
    FAIL_CHECK("it was accepted");
    return "";
  }
  CHECK(config.error().code == code);
  CHECK(config.error().context.starts_with("tiny.gguf: "));
  return config.error().context;
}
bool says(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("keys that change nothing with the value they have are accepted") {
  // What files of Llama 2 and 3, TinyLlama, Mistral and SmolLM carry.
  const auto config = config_with([](Writer& f) {
    f.string("general.type", "model").u32("general.file_type", 15);
    f.u32("general.quantization_version", 2).strings("general.tags", {"chat"});
    f.string("general.basename", "tiny").u32("general.base_model.count", 1);
    f.u32("llama.vocab_size", 80).string("llama.tensor_data_layout", "Meta AI original pth");
    f.u32("llama.expert_count", 0).u32("llama.expert_used_count", 0);
    f.boolean("llama.attention.causal", true).f32("llama.attention.scale", 0.25f);
    f.u32("llama.attention.sliding_window", 512).u32("llama.pooling_type", 3);
    f.u32("llama.rope.scaling.original_context_length", 128);
    f.boolean("llama.rope.scaling.finetuned", true).f32("llama.rope.scaling.attn_factor", 1);
    f.f32("llama.logit_scale", 1).f32("llama.embedding_scale", 1).f32("llama.residual_scale", 0);
    f.f32("llama.final_logit_softcapping", 0).f32("llama.attn_logit_softcapping", 0);
    f.f32("llama.attention.clamp_kqv", 0).boolean("llama.use_parallel_residual", false);
    f.array("llama.rope.dimension_sections", 5, std::vector<std::int32_t>{0, 0, 0, 0});
    f.u32("split.count", 0).u32("quantize.imatrix.entries_count", 224);
    f.string("tokenizer.ggml.model", "llama").u32("mistral.attention.sliding_window", 7);
  });
  INFO((config ? "" : config.error().context));
  CHECK(config.has_value());
  CHECK(config_of(metadata()).has_value());
}

namespace {

const std::vector<std::pair<std::string, Change>> kRefusedKeys = {
    {"llama.attention.sliding_window is 4",
     [](Writer& f) { f.u32("llama.attention.sliding_window", 4); }},
    {"llama.attention.sliding_window is",
     [](Writer& f) { f.u32("llama.attention.sliding_window", 511); }},
    {"llama.attention.sliding_window_pattern",
     [](Writer& f) {
       f.array("llama.attention.sliding_window_pattern", 7, std::vector<std::uint8_t>{0, 1, 0});
     }},
    {"llama.attention.causal is false",
     [](Writer& f) { f.boolean("llama.attention.causal", false); }},
    {"llama.attention.scale is 0.0156",
     [](Writer& f) { f.f32("llama.attention.scale", 1 / 64.f); }},
    {"llama.attention.scale is", [](Writer& f) { f.f32("llama.attention.scale", NAN); }},
    {"llama.logit_scale is 0.0625", [](Writer& f) { f.f32("llama.logit_scale", 0.0625f); }},
    {"llama.logit_scale is nan", [](Writer& f) { f.f32("llama.logit_scale", NAN); }},
    {"llama.logit_scale is 1e-08", [](Writer& f) { f.f32("llama.logit_scale", 1e-8f); }},
    {"llama.embedding_scale is 12", [](Writer& f) { f.f32("llama.embedding_scale", 12); }},
    {"llama.residual_scale is 0.22", [](Writer& f) { f.f32("llama.residual_scale", 0.22f); }},
    {"llama.final_logit_softcapping is 30",
     [](Writer& f) { f.f32("llama.final_logit_softcapping", 30); }},
    {"llama.attn_logit_softcapping is 50",
     [](Writer& f) { f.f32("llama.attn_logit_softcapping", 50); }},
    {"llama.attention.clamp_kqv is 8", [](Writer& f) { f.f32("llama.attention.clamp_kqv", 8); }},
    {"llama.attention.max_alibi_bias is 8",
     [](Writer& f) { f.f32("llama.attention.max_alibi_bias", 8); }},
    {"llama.use_parallel_residual is 1",
     [](Writer& f) { f.boolean("llama.use_parallel_residual", true); }},
    {"llama.expert_count is 8: mixtures of experts",
     [](Writer& f) { f.u32("llama.expert_count", 8); }},
    {"llama.expert_used_count is 2", [](Writer& f) { f.u32("llama.expert_used_count", 2); }},
    {"\"llama.expert_shared_count\" is not known",
     [](Writer& f) { f.u32("llama.expert_shared_count", 0); }},
    {"\"llama.attention.key_length_mla\" is not known",
     [](Writer& f) { f.u32("llama.attention.key_length_mla", 8); }},
    {"llama.embedding_length_out", [](Writer& f) { f.u32("llama.embedding_length_out", 32); }},
    {"llama.rope.scaling.type is \"yarn\"",
     [](Writer& f) { f.string("llama.rope.scaling.type", "yarn"); }},
    {"llama.rope.scaling.type is \"longrope\"",
     [](Writer& f) { f.string("llama.rope.scaling.type", "longrope"); }},
    {"llama.rope.scaling.attn_factor is 1.19",
     [](Writer& f) { f.f32("llama.rope.scaling.attn_factor", 1.19f); }},
    {"\"llama.rope.scaling.yarn_log_multiplier\" is not known",
     [](Writer& f) { f.f32("llama.rope.scaling.yarn_log_multiplier", 0.1f); }},
    {"\"llama.rope.freq_base_swa\" is not known",
     [](Writer& f) { f.f32("llama.rope.freq_base_swa", 1e4f); }},
    {"llama.rope.dimension_sections is 16",
     [](Writer& f) {
       f.array("llama.rope.dimension_sections", 5, std::vector<std::int32_t>{0, 16});
     }},
    {"llama.tensor_data_layout is \"transposed\"",
     [](Writer& f) { f.string("llama.tensor_data_layout", "transposed"); }},
    {"\"llama.attention.temperature_length\" is not known",
     [](Writer& f) { f.u32("llama.attention.temperature_length", 1); }},
    {"\"llama.nobody.knows\\x0a\" is not known",
     [](Writer& f) { f.string("llama.nobody.knows\n", "what"); }},
    {"general.type is \"adapter\"", [](Writer& f) { f.string("general.type", "adapter"); }},
    {"general.quantization_version is 3",
     [](Writer& f) { f.u32("general.quantization_version", 3); }},
};

}  // namespace

TEST_CASE("every key that changes answers is refused by its name") {
  for (const auto& [text, change] : kRefusedKeys) {
    INFO(text);
    const std::string what = refusal(config_with(change));
    CHECK(says(what, text));
  }
}

TEST_CASE("a key of the wrong type is refused by its name") {
  for (const char* key : {"llama.logit_scale", "llama.expert_count", "llama.attention.causal",
                          "llama.attention.scale", "llama.vocab_size",
                          "llama.attention.sliding_window", "split.count"}) {
    INFO(key);
    CHECK(says(refusal(config_with([&](Writer& f) { f.string(key, "1"); }), Errc::invalid_argument),
               key));
  }
  for (const char* key : {"general.type", "llama.tensor_data_layout", "llama.rope.scaling.type"}) {
    INFO(key);
    CHECK(
        says(refusal(config_with([&](Writer& f) { f.u32(key, 1); }), Errc::invalid_argument), key));
  }
  CHECK(says(refusal(config_with([](Writer& f) { f.u32("llama.vocab_size", 81); }), Errc::corrupt),
             "token_embd.weight, 80"));
}

TEST_CASE("a rope factor without a type is a linear one, and 0 is none") {
  const auto factor = [](const Change& change) {
    Writer file = metadata();
    change(file);
    return config_of(file).value().rope.linear_factor;
  };
  CHECK(factor([](Writer&) {}) == 1);
  CHECK(factor([](Writer& f) { f.f32("llama.rope.scaling.factor", 4); }) == 4);
  CHECK(factor([](Writer& f) { f.f32("llama.rope.scale_linear", 2); }) == 2);
  CHECK(factor([](Writer& f) { f.f32("llama.rope.scaling.factor", 0); }) == 1);
  CHECK(factor([](Writer& f) {
          f.string("llama.rope.scaling.type", "none").f32("llama.rope.scaling.factor", 4);
        }) == 1);
  CHECK(factor([](Writer& f) {
          f.string("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 8);
        }) == 8);
  CHECK(factor([](Writer& f) {
          f.f32("llama.rope.scale_linear", 2).f32("llama.rope.scaling.factor", 8);
        }) == 8);
  for (const float bad : {-1.0f, NAN, HUGE_VALF}) {
    Writer file = metadata();
    file.f32("llama.rope.scaling.factor", bad);
    CHECK(says(refusal(config_of(file), Errc::corrupt), "llama.rope.scaling.factor"));
  }
  Writer bare = metadata();
  bare.string("llama.rope.scaling.type", "linear");
  CHECK(says(refusal(config_of(bare), Errc::not_found), "llama.rope.scaling.factor"));
}

TEST_CASE("arrays of one value for all layers are that value") {
  for (const char* key :
       {"attention.head_count", "attention.head_count_kv", "feed_forward_length",
        "attention.key_length", "attention.value_length", "rope.dimension_count"}) {
    CAPTURE(key);
    const std::string full = std::string("llama.") + key;
    const std::uint32_t value = full.ends_with("forward_length") ? 96
                                : full.ends_with("kv")           ? 2
                                : full.ends_with("count")        ? 4
                                                                 : 16;
    const auto with = [&](std::uint32_t type, auto values) {
      Writer file = metadata({key});
      file.array(full, type, values);
      return config_of(file);
    };
    const auto same = with(4, std::vector<std::uint32_t>(4, value));
    REQUIRE(same.has_value());
    CHECK(same->n_heads == 4);
    CHECK(same->n_kv_heads == 2);
    CHECK(same->n_ff == 96);
    CHECK(with(5, std::vector<std::int32_t>(4, static_cast<std::int32_t>(value))).has_value());
    auto other = std::vector<std::uint32_t>(4, value);
    other[2] = value / 2;
    const std::string differs = refusal(with(4, other));
    CHECK(says(differs, full + " differs from layer to layer"));
    CHECK(says(differs, std::to_string(value) + " in layer 1"));
    CHECK(says(refusal(with(4, std::vector<std::uint32_t>(3, value)), Errc::corrupt),
               full + " has 3 values for 4 layers"));
    CHECK(says(refusal(with(4, std::vector<std::uint32_t>{}), Errc::corrupt), full));
    CHECK(says(refusal(with(4, std::vector<std::uint32_t>(4, 0)), Errc::corrupt), full));
    CHECK(says(refusal(with(5, std::vector<std::int32_t>(4, -4)), Errc::corrupt), full));
    CHECK(says(refusal(with(6, std::vector<float>(4, 4.0f)), Errc::invalid_argument), full));
  }
  Writer windows = metadata();
  windows.array("llama.attention.sliding_window", 4, std::vector<std::uint32_t>(4, 512));
  CHECK(config_of(windows).has_value());
  windows = metadata();
  windows.array("llama.attention.sliding_window", 4, std::vector<std::uint32_t>{512, 512, 0, 0});
  CHECK(says(refusal(config_of(windows)), "llama.attention.sliding_window differs"));
  // Other keys hold one value.
  Writer file = metadata({"context_length"});
  file.array("llama.context_length", 4, std::vector<std::uint32_t>(4, 512));
  CHECK(says(refusal(config_of(file), Errc::invalid_argument), "llama.context_length"));
}

TEST_CASE("missing and impossible values are refused by name") {
  for (const char* key : {"block_count", "embedding_length", "attention.head_count",
                          "feed_forward_length", "context_length"}) {
    CHECK(says(refusal(config_of(metadata({key})), Errc::not_found), std::string("llama.") + key));
  }
  const auto value = [](const char* key, auto change) {
    Writer file = metadata({key});
    change(file, std::string("llama.") + key);
    return refusal(config_of(file), Errc::corrupt);
  };
  for (const char* key : {"block_count", "embedding_length", "attention.head_count",
                          "attention.head_count_kv", "feed_forward_length", "context_length"}) {
    for (const std::uint64_t bad : {std::uint64_t{0}, std::uint64_t{1} << 40}) {
      INFO(key << " " << bad);
      CHECK(says(value(key, [&](Writer& f, const std::string& k) { f.value(k, 10, bad); }), key));
    }
  }
  Writer base = metadata();
  base.f32("llama.rope.freq_base", -1);
  CHECK(says(refusal(config_of(base), Errc::corrupt), "llama.rope.freq_base"));
}

TEST_CASE("one part of a split model says which it is and what to do") {
  for (const auto& [number, text] :
       {std::pair<std::uint16_t, const char*>{0, "part 1 of 3"}, {1, "part 2 of 3"}}) {
    Writer part;
    part.value("split.no", 2, number).value("split.count", 2, std::uint16_t{3});
    part.value("split.tensors.count", 5, std::int32_t{30});
    if (number == 0) part.string("general.architecture", "llama");
    const auto file = tiny::parse(part.finish());
    const auto weights = Weights::load(file);
    REQUIRE(!weights.has_value());
    CHECK(weights.error().code == Errc::unsupported);
    CHECK(says(weights.error().context, text));
    CHECK(says(weights.error().context, "split.count"));
    CHECK(says(weights.error().context, "llama-gguf-split --merge"));
  }
  CHECK(config_with([](Writer& f) {
          f.value("split.no", 2, std::uint16_t{0}).value("split.count", 2, std::uint16_t{1});
        }).has_value());
}

TEST_CASE("a file of another architecture is told before anything else that it lacks") {
  for (const char* name : {"qwen2", "gemma3", "mistral3", "phi3", "llama4", "clip", ""}) {
    Writer file;
    file.string("general.architecture", name);
    file.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "qwen2");
    CHECK(says(refusal(config_of(file)),
               "architecture \"" + std::string(name) + "\" is not supported; there is llama"));
  }
  CHECK(says(refusal(config_of(Writer().string("general.name", "x")), Errc::corrupt),
             "general.architecture"));
}
