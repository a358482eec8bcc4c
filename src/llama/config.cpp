// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/llama/config.hpp"

#include <cmath>

namespace cake::llama {
namespace {

/// Reads values and keeps the first error, so that the list of keys below reads as a list.
class Reader {
 public:
  explicit Reader(const GgufFile& file) : file_(file) {}

  /// An integer in [1, limit].
  std::uint32_t count(const char* key, std::uint64_t limit) {
    const auto value = file_.integer(std::string("llama.") + key);
    if (!value) return fail(value.error()), 0;
    if (*value < 1 || *value > limit) {
      refuse(Errc::corrupt, std::string("impossible llama.") + key + " " + std::to_string(*value));
      return 0;
    }
    return static_cast<std::uint32_t>(*value);
  }
  std::uint32_t count_or(const char* key, std::uint64_t limit, std::uint32_t otherwise) {
    return file_.has(std::string("llama.") + key) ? count(key, limit) : otherwise;
  }
  /// A finite number above zero.
  double positive(const char* key) {
    const auto value = file_.number(std::string("llama.") + key);
    if (!value) return fail(value.error()), 0;
    if (!std::isfinite(*value) || *value <= 0) {
      refuse(Errc::corrupt, std::string("impossible llama.") + key);
    }
    return *value;
  }
  double positive_or(const char* key, double otherwise) {
    return file_.has(std::string("llama.") + key) ? positive(key) : otherwise;
  }
  std::string text_or(const std::string& key, std::string otherwise) {
    if (!file_.has(key)) return otherwise;
    const auto value = file_.string(key);
    if (!value) return fail(value.error()), otherwise;
    return std::string(*value);
  }
  void refuse(Errc code, const std::string& what) {
    fail(Error{code, 0, file_.name() + ": " + what});
  }
  void fail(Error error) {
    if (status_) status_ = std::move(error);
  }
  const Status& status() const { return status_; }

 private:
  const GgufFile& file_;
  Status status_;
};

}  // namespace

Result<Config> read_config(const GgufFile& file) {
  Reader read(file);
  const std::string architecture = read.text_or("general.architecture", "");
  if (architecture != "llama") {
    return Error{Errc::unsupported, 0,
                 file.name() + ": the architecture is \"" + architecture +
                     "\"; only \"llama\" is"
                     " supported"};
  }
  // Limits are far above any model, and low enough that no product of two of them overflows 64
  // bits.
  constexpr std::uint64_t kMany = std::uint64_t{1} << 24;
  Config config;
  config.name = read.text_or("general.name", "llama");
  config.n_layers = read.count("block_count", 1 << 16);
  config.n_embd = read.count("embedding_length", kMany);
  config.n_heads = read.count("attention.head_count", 1 << 16);
  config.n_kv_heads = read.count_or("attention.head_count_kv", 1 << 16, config.n_heads);
  config.n_ff = read.count("feed_forward_length", kMany);
  config.n_context = read.count("context_length", std::uint64_t{1} << 30);
  config.rms_epsilon = static_cast<float>(read.positive("attention.layer_norm_rms_epsilon"));
  if (!read.status()) return read.status().error();

  config.head_dim = read.count_or("attention.key_length", 1 << 16, config.n_embd / config.n_heads);
  config.rope.dimensions = read.count_or("rope.dimension_count", 1 << 16, config.head_dim);
  config.rope.base = read.positive_or("rope.freq_base", 10000.0);
  const std::string scaling = read.text_or("llama.rope.scaling.type", "none");
  if (scaling == "linear") {
    config.rope.linear_factor = read.positive("rope.scaling.factor");
  } else if (scaling != "none") {
    read.refuse(Errc::unsupported, "rope scaling \"" + scaling + "\" is not supported");
  } else {
    config.rope.linear_factor = read.positive_or("rope.scale_linear", 1.0);  // an older key
  }
  if (file.has("llama.expert_count") && file.integer("llama.expert_count").value_or(1) != 0) {
    read.refuse(Errc::unsupported, "mixtures of experts are not supported");
  }
  if (read.count_or("attention.value_length", 1 << 16, config.head_dim) != config.head_dim) {
    read.refuse(Errc::unsupported, "heads whose K and V differ in length are not supported");
  }
  if (config.head_dim == 0 || config.n_heads % config.n_kv_heads != 0) {
    read.refuse(Errc::corrupt, "impossible head counts: " + std::to_string(config.n_heads) +
                                   " over " + std::to_string(config.n_kv_heads));
  }
  if (config.rope.dimensions > config.head_dim || config.rope.dimensions % 2 != 0) {
    read.refuse(Errc::corrupt,
                "impossible llama.rope.dimension_count " + std::to_string(config.rope.dimensions));
  }
  if (!read.status()) return read.status().error();
  return config;
}

}  // namespace cake::llama
