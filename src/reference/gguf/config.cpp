// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/reference/config.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string_view>
#include <vector>

#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::reference {
namespace {

constexpr std::string_view kPrefix = "llama.";

/// What a key does that read_config() does not read.
enum class Effect {
  understood,  // it does read it
  none,        // for people, or for other programs
  off_at_0,    // none while it is 0 or false
  off_at_1,    // a factor: none while it is 1; 0 means that it is not set
};
struct Key {
  std::string_view name;
  Effect effect;
};

/// Source:  the keys that the ggml project's converters write (facts: names and defaults)
constexpr Key kKeys[] = {
    {"block_count", Effect::understood},
    {"context_length", Effect::understood},
    {"embedding_length", Effect::understood},
    {"embedding_length_out", Effect::understood},
    {"feed_forward_length", Effect::understood},
    {"vocab_size", Effect::understood},
    {"tensor_data_layout", Effect::understood},
    {"attention.causal", Effect::understood},
    {"attention.head_count", Effect::understood},
    {"attention.head_count_kv", Effect::understood},
    {"attention.key_length", Effect::understood},
    {"attention.value_length", Effect::understood},
    {"attention.layer_norm_rms_epsilon", Effect::understood},
    {"attention.scale", Effect::understood},
    {"attention.sliding_window", Effect::understood},
    {"rope.dimension_count", Effect::understood},
    {"rope.freq_base", Effect::understood},
    {"rope.scale_linear", Effect::understood},
    {"rope.scaling.type", Effect::understood},
    {"rope.scaling.factor", Effect::understood},
    // Where the model comes from, and what embeddings are made of its last layer.
    {"rope.scaling.original_context_length", Effect::none},
    {"rope.scaling.finetuned", Effect::none},
    {"pooling_type", Effect::none},
    {"attention.clamp_kqv", Effect::off_at_0},
    {"attention.max_alibi_bias", Effect::off_at_0},
    {"attention.sliding_window_pattern", Effect::off_at_0},
    {"attn_logit_softcapping", Effect::off_at_0},
    {"final_logit_softcapping", Effect::off_at_0},
    {"expert_count", Effect::off_at_0},
    {"expert_used_count", Effect::off_at_0},
    {"leading_dense_block_count", Effect::off_at_0},
    {"nextn_predict_layers", Effect::off_at_0},
    {"rope.dimension_sections", Effect::off_at_0},
    {"use_parallel_residual", Effect::off_at_0},
    {"embedding_scale", Effect::off_at_1},
    {"logit_scale", Effect::off_at_1},
    {"residual_scale", Effect::off_at_1},
    {"rope.scaling.attn_factor", Effect::off_at_1},
};

std::string short_text(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.6g", value);
  return text.data();
}

/// Reads values and keeps the first error, so that the list of keys below reads as a list.
class Reader {
 public:
  explicit Reader(const GgufFile& file) : file_(file) {}

  bool has(std::string_view key) const { return file_.has(full(key)); }

  /// An integer in [1, limit].
  std::uint32_t count(std::string_view key, std::uint64_t limit) {
    const auto value = file_.integer(full(key));
    if (!value) return fail(value.error()), 0;
    return in_range(key, *value, limit);
  }
  std::uint32_t count_or(std::string_view key, std::uint64_t limit, std::uint32_t otherwise) {
    return has(key) ? count(key, limit) : otherwise;
  }

  /// The same for what may stand there once for each layer.
  std::uint32_t layers_count(std::string_view key, std::uint64_t limit) {
    const std::uint64_t value = layers_value(key);
    return status_ ? in_range(key, value, limit) : 0;
  }
  std::uint32_t layers_count_or(std::string_view key, std::uint64_t limit,
                                std::uint32_t otherwise) {
    return has(key) ? layers_count(key, limit) : otherwise;
  }
  /// An integer from 0 on, or an array of as many equal ones as there are layers.
  std::uint64_t layers_value(std::string_view key) {
    if (!file_.is_array(full(key))) {
      const auto value = file_.integer(full(key));
      if (!value) fail(value.error());
      return value.value_or(0);
    }
    const auto values = file_.integers(full(key));
    if (!values) return fail(values.error()), 0;
    if (values->empty() || values->size() != n_layers) {
      refuse(Errc::corrupt, full(key) + " has " + std::to_string(values->size()) + " values for " +
                                std::to_string(n_layers) + " layers");
      return 0;
    }
    const auto other = std::adjacent_find(values->begin(), values->end(), std::not_equal_to<>());
    if (other != values->end()) {
      const auto layer = static_cast<std::size_t>(other - values->begin());
      refuse(Errc::unsupported,
             full(key) + " differs from layer to layer (" + std::to_string((*values)[layer]) +
                 " in layer " + std::to_string(layer) + ", " +
                 std::to_string((*values)[layer + 1]) + " in the next), which is not supported");
      return 0;
    }
    if (values->front() < 0) return refuse(Errc::corrupt, full(key) + " is negative"), 0;
    return static_cast<std::uint64_t>(values->front());
  }

  /// A number above zero and at most `limit`.
  double positive(std::string_view key, double limit) {
    const auto value = file_.number(full(key));
    if (!value) return fail(value.error()), 1;
    if (!(*value > 0 && *value <= limit)) {
      refuse(Errc::corrupt, "impossible " + full(key) + " " + short_text(*value));
    }
    return *value;
  }
  double positive_or(std::string_view key, double limit, double otherwise) {
    return has(key) ? positive(key, limit) : otherwise;
  }
  /// Any number; absent: `otherwise`.
  double number_or(std::string_view key, double otherwise) {
    if (!has(key)) return otherwise;
    const auto value = file_.number(full(key));
    if (!value) return fail(value.error()), otherwise;
    return *value;
  }
  std::string text_or(const std::string& key, std::string otherwise) {
    if (!file_.has(key)) return otherwise;
    const auto value = file_.string(key);
    if (!value) return fail(value.error()), otherwise;
    return std::string(*value);
  }

  /// Keys that read_config() does not read must be off, and known.
  void check_others() {
    for (const std::string& key : file_.keys(kPrefix)) {
      const std::string_view name = std::string_view(key).substr(kPrefix.size());
      const auto* const known = std::find_if(std::begin(kKeys), std::end(kKeys),
                                             [&](const Key& k) { return k.name == name; });
      if (known == std::end(kKeys)) {
        refuse(Errc::unsupported, "metadata \"" + printable(key) +
                                      "\" is not known; ignoring it could give wrong answers");
      } else if (known->effect == Effect::off_at_0) {
        check_off(key, {0});
      } else if (known->effect == Effect::off_at_1) {
        check_off(key, {0, 1});
      }
    }
  }

  void refuse(Errc code, const std::string& what) {
    fail(Error{code, 0, file_.name() + ": " + what});
  }
  void fail(Error error) {
    if (status_) status_ = std::move(error);
  }
  const Status& status() const { return status_; }

  std::uint32_t n_layers = 0;  // how long arrays must be

 private:
  static std::string full(std::string_view key) { return std::string(kPrefix) + std::string(key); }

  std::uint32_t in_range(std::string_view key, std::uint64_t value, std::uint64_t limit) {
    if (value >= 1 && value <= limit) return static_cast<std::uint32_t>(value);
    refuse(Errc::corrupt, "impossible " + full(key) + " " + std::to_string(value));
    return 0;
  }

  void check_off(const std::string& key, std::initializer_list<double> off) {
    std::vector<double> values;
    if (file_.is_array(key)) {
      auto all = file_.numbers(key);
      if (!all) return fail(all.error());
      values = *std::move(all);
    } else {
      const auto one = file_.number(key);
      if (!one) return fail(one.error());
      values.push_back(*one);
    }
    for (const double value : values) {
      if (std::find(off.begin(), off.end(), value) != off.end()) continue;
      std::string what = key;
      what += " is ";
      what += short_text(value);
      what += key.starts_with("llama.expert") ? ": mixtures of experts are not supported"
                                              : ", which changes the answers and is not supported";
      return refuse(Errc::unsupported, what);
    }
  }

  const GgufFile& file_;
  Status status_;
};

/// How positions turn the heads.
RopeConfig read_rope(Reader& read, std::uint32_t head_dim) {
  RopeConfig rope;
  rope.dimensions = read.layers_count_or("rope.dimension_count", 1 << 16, head_dim);
  rope.base = read.positive_or("rope.freq_base", 1e15, 10000.0);
  // A factor without a type is a linear one; an older key holds it in older files. 0: none.
  const char* const key =
      read.has("rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
  const bool factor = read.number_or(key, 0) != 0;
  const std::string scaling = read.text_or("llama.rope.scaling.type", factor ? "linear" : "none");
  if (scaling == "linear") {
    rope.linear_factor =
        factor ? read.positive(key, 1e6) : read.positive("rope.scaling.factor", 1e6);
  } else if (scaling != "none") {
    read.refuse(Errc::unsupported, "llama.rope.scaling.type is \"" + printable(scaling) +
                                       "\", which is not supported; there are none and linear");
  }
  if (rope.dimensions > head_dim || rope.dimensions % 2 != 0) {
    read.refuse(Errc::corrupt,
                "impossible llama.rope.dimension_count " + std::to_string(rope.dimensions));
  }
  return rope;
}

/// What would make attention another one than full and causal, with the usual scale.
void check_attention(Reader& read, const Config& config) {
  if (read.number_or("attention.causal", 1) == 0) {
    read.refuse(Errc::unsupported,
                "llama.attention.causal is false: tokens that see what comes after them have no KV "
                "that could be kept");
  }
  const double scale = read.number_or("attention.scale", 0);
  const double usual = 1 / std::sqrt(static_cast<double>(config.head_dim));
  if (scale != 0 && !(std::abs(scale / usual - 1) < 1e-5)) {
    read.refuse(Errc::unsupported, "llama.attention.scale is " + short_text(scale) + "; only " +
                                       short_text(usual) +
                                       ", one over the root of the head's length, is supported");
  }
  const std::uint64_t window =
      read.has("attention.sliding_window") ? read.layers_value("attention.sliding_window") : 0;
  if (window != 0 && window < config.n_context) {
    read.refuse(Errc::unsupported, "llama.attention.sliding_window is " + std::to_string(window) +
                                       ", less than the context of " +
                                       std::to_string(config.n_context) +
                                       " tokens; sliding windows are not supported");
  }
  if (read.layers_count_or("attention.value_length", 1 << 16, config.head_dim) != config.head_dim) {
    read.refuse(Errc::unsupported,
                "llama.attention.value_length is not llama.attention.key_length: heads whose K and "
                "V differ in length are not supported");
  }
}

/// What the metadata says of tensors.
void check_tensors(Reader& read, const GgufFile& file, const Config& config) {
  if (const GgufTensor* embedding = file.tensor("token_embd.weight")) {
    const std::uint64_t rows = embedding->shape[1];
    if (read.has("vocab_size") && read.count("vocab_size", ~0u) != rows) {
      read.refuse(Errc::corrupt,
                  "llama.vocab_size is not the number of rows of token_embd.weight, " +
                      std::to_string(rows));
    }
  }
  if (read.count_or("embedding_length_out", ~0u, config.n_embd) != config.n_embd) {
    read.refuse(Errc::unsupported,
                "llama.embedding_length_out is not llama.embedding_length, which is not supported");
  }
  const std::string layout = read.text_or("llama.tensor_data_layout", "reference");
  if (layout != "reference" && layout != "Meta AI original pth") {
    read.refuse(Errc::unsupported, "llama.tensor_data_layout is \"" + printable(layout) +
                                       "\", which is not supported");
  }
}

}  // namespace

Status check_model(const GgufFile& file) {
  const auto refuse = [&](Errc code, std::string what) {
    return Error{code, 0, file.name() + ": " + std::move(what)};
  };
  if (file.has("split.count")) {
    const auto count = file.integer("split.count");
    if (!count) return count.error();
    if (*count > 1) {
      const std::uint64_t number = file.integer("split.no").value_or(0) + 1;
      return refuse(Errc::unsupported,
                    "this is part " + std::to_string(number) + " of " + std::to_string(*count) +
                        " of a model that was split (split.count); split files are not read. "
                        "Merge them, with all parts in one folder: llama-gguf-split --merge "
                        "FIRST-PART.gguf MERGED.gguf");
    }
  }
  if (file.has("general.type")) {
    const auto type = file.string("general.type");
    if (!type) return type.error();
    if (*type != "model") {
      return refuse(Errc::unsupported,
                    "general.type is \"" + printable(*type) + "\"; this is no model of its own");
    }
  }
  if (!file.has("general.architecture")) {
    return refuse(Errc::corrupt,
                  "metadata \"general.architecture\" is missing; no model can be read "
                  "without it");
  }
  const auto architecture = file.string("general.architecture");
  if (!architecture) return architecture.error();
  if (*architecture != "llama") {
    return refuse(Errc::unsupported, "architecture \"" + printable(*architecture) +
                                         "\" is not supported; there is llama");
  }
  if (file.has("general.quantization_version")) {
    const auto version = file.integer("general.quantization_version");
    if (!version) return version.error();
    if (*version != 2) {
      return refuse(Errc::unsupported,
                    "general.quantization_version is " + std::to_string(*version) + "; there is 2");
    }
  }
  return {};
}

Result<Config> read_config(const GgufFile& file) {
  CAKE_TRY(check_model(file));
  Reader read(file);
  // Limits are far above any model, and low enough that no product of two of them overflows 64
  // bits.
  constexpr std::uint64_t kMany = std::uint64_t{1} << 24;
  Config config;
  config.name = printable(read.text_or("general.name", "llama"));
  config.n_layers = read.count("block_count", 1 << 16);
  config.n_embd = read.count("embedding_length", kMany);
  read.n_layers = config.n_layers;
  config.n_heads = read.layers_count("attention.head_count", 1 << 16);
  config.n_kv_heads = read.layers_count_or("attention.head_count_kv", 1 << 16, config.n_heads);
  config.n_ff = read.layers_count("feed_forward_length", kMany);
  config.n_context = read.count("context_length", std::uint64_t{1} << 30);
  config.rms_epsilon = static_cast<float>(read.positive("attention.layer_norm_rms_epsilon", 1));
  if (!read.status()) return read.status().error();

  config.head_dim =
      read.layers_count_or("attention.key_length", 1 << 16, config.n_embd / config.n_heads);
  if (config.head_dim == 0 || config.n_heads % config.n_kv_heads != 0) {
    read.refuse(Errc::corrupt, "impossible head counts: " + std::to_string(config.n_heads) +
                                   " over " + std::to_string(config.n_kv_heads));
  }
  if (!read.status()) return read.status().error();
  config.rope = read_rope(read, config.head_dim);
  check_attention(read, config);
  check_tensors(read, file, config);
  read.check_others();
  if (!read.status()) return read.status().error();
  return config;
}

}  // namespace cake::inline CAKE_ABI::reference
