// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/reference/weights.hpp"

#include <algorithm>
#include <bit>
#include <new>
#include <unordered_set>
#include <utility>

#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::reference {

/// Two passes over the same list of tensors: the first finds and checks each and adds up the room,
/// the second fills it. So nothing is allocated on the word of a file that does not hold the data.
class Weights::Loader {
 public:
  Loader(const GgufFile& file, Weights& weights) : file_(file), weights_(weights) {}

  Status run() {
    auto config = read_config(file_);
    if (!config) return config.error();
    weights_.config_ = *std::move(config);
    weights_.name_ = file_.name();
    if (const GgufTensor* embedding = file_.tensor("token_embd.weight")) {
      if (embedding->n_dims == 2 && embedding->shape[1] <= (std::uint64_t{1} << 24)) {
        weights_.config_.n_vocab = static_cast<std::uint32_t>(embedding->shape[1]);
      }
    }
    walk();
    if (!status_) return status_;
    for (const GgufTensor& tensor : file_.tensors()) {
      if (!known_.contains(tensor.name)) {
        return error(Errc::unsupported, "tensor \"" + printable(tensor.name) +
                                            "\" is not part of the Llama architecture"
                                            " that is supported");
      }
    }
    try {
      weights_.storage_ = AlignedBuffer(used_ * sizeof(float));
    } catch (const std::bad_alloc&) {
      return error(Errc::out_of_memory,
                   "no room for " + std::to_string(used_ * sizeof(float)) + " bytes of weights");
    }
    base_ = reinterpret_cast<float*>(weights_.storage_.data());
    used_ = 0;
    walk();
    if (!status_) return status_;
    const auto digest = file_.digest();
    if (!digest) return digest.error();
    weights_.digest_ = *digest;
    // Weights and digest are those of one file: KV is kept under the digest.
    return file_.unchanged();
  }

 private:
  using Shape = std::vector<std::uint64_t>;  // as in the file: a row's length first

  void walk() {
    const Config& c = weights_.config_;
    const std::uint64_t q = std::uint64_t{c.n_heads} * c.head_dim;
    const std::uint64_t kv = std::uint64_t{c.n_kv_heads} * c.head_dim;
    weights_.token_embedding_ = place("token_embd.weight", {c.n_embd, c.n_vocab});
    weights_.layers_.resize(c.n_layers);
    for (std::uint32_t i = 0; i < c.n_layers && status_; ++i) {
      const std::string block = "blk." + std::to_string(i) + ".";
      LayerWeights& layer = weights_.layers_[i];
      layer.attention_norm = place(block + "attn_norm.weight", {c.n_embd});
      layer.qkv = place(block + "attn_q.weight", {c.n_embd, q});
      append(block + "attn_k.weight", {c.n_embd, kv});
      append(block + "attn_v.weight", {c.n_embd, kv});
      layer.attention_output = place(block + "attn_output.weight", {q, c.n_embd});
      layer.ffn_norm = place(block + "ffn_norm.weight", {c.n_embd});
      layer.gate_up = place(block + "ffn_gate.weight", {c.n_embd, c.n_ff});
      append(block + "ffn_up.weight", {c.n_embd, c.n_ff});
      layer.down = place(block + "ffn_down.weight", {c.n_ff, c.n_embd});
    }
    weights_.output_norm_ = place("output_norm.weight", {c.n_embd});
    weights_.output_ = file_.tensor("output.weight") != nullptr
                           ? place("output.weight", {c.n_embd, c.n_vocab})
                           : weights_.token_embedding_;  // tied
    weights_.rope_factors_.assign(c.rope.dimensions / 2, 1.0f);
    if (file_.tensor("rope_freqs.weight") != nullptr) {
      if (const GgufTensor* t = find("rope_freqs.weight", {c.rope.dimensions / 2})) {
        keep_finite(*t, weights_.rope_factors_);
        if (!std::all_of(weights_.rope_factors_.begin(), weights_.rope_factors_.end(),
                         [](float factor) { return factor > 0; })) {
          keep(error(Errc::corrupt,
                     "tensor \"rope_freqs.weight\" holds a factor that is not above 0"));
        }
      }
    }
  }

  /// A matrix of its own, at a 64-byte boundary.
  const float* place(const std::string& name, const Shape& shape) {
    used_ = detail::align_up(used_, 16);
    return append(name, shape);
  }

  /// Rows that follow directly on what came before.
  const float* append(const std::string& name, const Shape& shape) {
    const GgufTensor* tensor = find(name, shape);
    if (tensor == nullptr) return nullptr;
    float* to = nullptr;
    if (base_ != nullptr) {
      to = base_ + used_;
      keep_finite(*tensor, {to, tensor->elements});
    }
    used_ += tensor->elements;
    return to;
  }

  /// A number that is none would spoil every answer, and say so nowhere.
  void keep_finite(const GgufTensor& tensor, std::span<float> out) {
    keep(file_.dequantise(tensor, out));
    std::uint32_t infinite = 0;
    for (const float value : out) {
      infinite |= (std::bit_cast<std::uint32_t>(value) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
    }
    if (infinite != 0) {
      keep(error(Errc::corrupt,
                 "tensor \"" + tensor.name + "\" holds an infinite number or none (NaN)"));
    }
  }

  const GgufTensor* find(const std::string& name, const Shape& shape) {
    if (!status_) return nullptr;
    const GgufTensor* tensor = file_.tensor(name);
    if (tensor == nullptr) {
      keep(error(Errc::corrupt, "tensor \"" + name + "\" is missing"));
      return nullptr;
    }
    if (tensor->n_dims != shape.size() ||
        !std::equal(shape.begin(), shape.end(), tensor->shape.begin())) {
      keep(error(Errc::corrupt,
                 "tensor \"" + name + "\" has the shape " +
                     text({tensor->shape.begin(), tensor->shape.begin() + tensor->n_dims}) +
                     " where the configuration asks for " + text(shape)));
      return nullptr;
    }
    if (!tensor_type_supported(tensor->type)) {
      keep(error(Errc::unsupported, tensor_type_name(tensor->type) +
                                        " is not supported (tensor \"" + name + "\"); there are " +
                                        supported_tensor_types()));
      return nullptr;
    }
    known_.insert(name);
    return tensor;
  }

  static std::string text(const Shape& shape) {
    std::string text = "[";
    for (const std::uint64_t size : shape) {
      if (text.size() > 1) text += ", ";
      text += std::to_string(size);
    }
    return text + "]";
  }
  Error error(Errc code, const std::string& what) const {
    return Error{code, 0, file_.name() + ": " + what};
  }
  void keep(Status status) {
    if (status_ && !status) status_ = std::move(status);
  }

  const GgufFile& file_;
  Weights& weights_;
  std::unordered_set<std::string> known_;
  Status status_;
  float* base_ = nullptr;
  std::size_t used_ = 0;  // floats
};

Result<std::shared_ptr<const Weights>> Weights::load(const GgufFile& file) {
  const std::shared_ptr<Weights> weights(new Weights);
  CAKE_TRY(Loader(file, *weights).run());
  return std::shared_ptr<const Weights>(weights);
}

Result<std::shared_ptr<const Weights>> Weights::load(const std::filesystem::path& path) {
  const auto file = GgufFile::open(path);
  if (!file) return file.error();
  return load(*file);
}

}  // namespace cake::inline CAKE_ABI::reference
