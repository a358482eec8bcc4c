// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The identity of chunks. A key names one chunk of one prefix of one model for one tenant. It is the
// SHA-256 of the parent's key and the chunk's token ids; the root is a hash of everything that
// changes KV bytes. Equal keys mean the same tokens, model and numerics, and equal bytes
// where the engine gives equal bytes for steps of any size.
#pragma once

#include <array>
#include <bit>
#include <compare>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cake/export.hpp"
#include "cake/kv_layout.hpp"
#include "cake/result.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

using Sha256Digest = std::array<std::byte, 32>;

/// Names one stored chunk.
struct CAKE_API ChunkKey {
  Sha256Digest bytes{};
  std::string hex() const;
  /// The key of which hex() is this text; none: it is no key's.
  static std::optional<ChunkKey> from_hex(std::string_view text);
  friend auto operator<=>(const ChunkKey&, const ChunkKey&) = default;
};

/// Everything that changes the KV bytes of given tokens, as one digest. Built with
/// FingerprintBuilder.
struct CAKE_API ModelFingerprint {
  Sha256Digest bytes{};
  std::string hex() const;
  friend auto operator<=>(const ModelFingerprint&, const ModelFingerprint&) = default;
};

/// SHA-256 over fields that are each written as (tag length, tag, value length, value), so that no
/// two lists of fields run together.
///
/// Thread:  Requires external synchronization
/// Errors:  throws Exception(unsupported) where OpenSSL offers no SHA-256, or fails
/// Source:  FIPS 180-4, by OpenSSL's EVP
class CAKE_API Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  Sha256& update(std::span<const std::byte> bytes);
  Sha256& update(std::string_view text) { return update(std::as_bytes(std::span(text))); }
  Sha256& field(std::string_view tag, std::span<const std::byte> value);
  /// Returns the digest and starts anew.
  Sha256Digest finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Collects what makes a model's KV its own. Put in all that applies: "weights" (a digest of the
/// files, or of header, sizes and a sample of each tensor), "rope", "tp_rank", "tp_size", "lora",
/// "numerics" (what decides how the engine rounds: library version, kernels, precision). The loader
/// adds layout, chunk size and codec by itself. docs/engines.md says more.
///
///     auto fingerprint = cake::FingerprintBuilder()
///                            .add("weights", sha256_of_file)
///                            .add("rope_theta", 500000.0)
///                            .add("tp_rank", 0)
///                            .finish();
///
/// A value's type is part of the field: text "1", the integer 1, 1.0 and true are four values.
/// Integers of all widths are compared by value, floating-point numbers by the bits of the double.
///
/// An engine is asked for its fingerprint at every begin() and save(): one that serves several LoRA
/// adapters names the one in force.
class CAKE_API FingerprintBuilder {
 public:
  FingerprintBuilder();
  FingerprintBuilder& add(std::string_view tag, std::string_view value);
  FingerprintBuilder& add(std::string_view tag, std::span<const std::byte> value);
  template <std::integral T>
  FingerprintBuilder& add(std::string_view tag, T value) {
    static_assert(sizeof(T) <= 8, "a fingerprint takes integers of up to 64 bits");
    if constexpr (std::same_as<T, bool>) {
      return add_number(tag, 'b', value ? 1 : 0);
    } else {
      bool negative = false;
      if constexpr (std::signed_integral<T>) negative = value < 0;
      return add_number(tag, negative ? 'n' : 'u', static_cast<std::uint64_t>(value));
    }
  }
  template <std::floating_point T>
  FingerprintBuilder& add(std::string_view tag, T value) {
    static_assert(sizeof(T) <= 8,
                  "a fingerprint takes float and double; long double has bits to lose");
    return add_number(tag, 'f', std::bit_cast<std::uint64_t>(static_cast<double>(value)));
  }
  ModelFingerprint finish();

 private:
  FingerprintBuilder& add_number(std::string_view tag, char type, std::uint64_t bits);
  FingerprintBuilder& add_field(std::string_view tag, char type, std::span<const std::byte> value);
  Sha256 sha_;
};

/// What the token ids of some positions do not say: an image, an audio frame, a soft prompt, an
/// adapter that is switched on in between. `digest` is any bytes that tell two such inputs apart, a
/// SHA-256 of the image's pixels and resolution, say. Every chunk that the range touches, and so
/// every one behind it, gets another key for another digest; chunks before it stay shared.
///
/// Units:   range in tokens of the prompt; it may reach beyond the tokens at hand
struct ExtraKey {
  TokenRange range;
  std::string digest;
  friend bool operator==(const ExtraKey&, const ExtraKey&) = default;
};

/// How the objects of a tenant are encrypted.
enum class Cipher : std::uint8_t { none = 0, aes_256_gcm = 1 };

class TenantKeys;  // chunk/tenant_keys.hpp

/// What a prompt's chunks are, besides model and tokens. One object for saving and loading: chunks
/// are found again by equal values only.
struct ChunkOptions {
  std::uint32_t chunk_tokens = 256;  // unit of identity and storage
  std::string salt = {};             // of the tenant: two salts share nothing
  std::vector<ExtraKey> extra = {};  // what token ids do not say: images, soft prompts
  // Of the tenant: all its objects are encrypted with these. Null: they are not.
  std::shared_ptr<const TenantKeys> keys = {};

  Cipher cipher() const { return keys == nullptr ? Cipher::none : Cipher::aes_256_gcm; }
  friend bool operator==(const ChunkOptions&, const ChunkOptions&) = default;
};

/// The root of all chains of one model, layout, chunk size and tenant. Two salts share nothing, nor do
/// objects that are encrypted and such that are not.
///
/// Errors:  throws Exception(invalid_argument) for a layout that is not valid()
CAKE_API ChunkKey root_key(const ModelFingerprint& fingerprint, const KvLayout& layout,
                           std::uint32_t chunk_tokens, std::string_view tenant_salt,
                           Cipher cipher = Cipher::none);

/// 16 bytes that tell tenants apart in a stored object without storing the salt.
CAKE_API std::array<std::byte, 16> tenant_tag(std::string_view tenant_salt);

/// One key per full chunk: tokens.size() / chunk_tokens keys, each over all tokens before it and
/// over the extra keys whose ranges touch it or a chunk before it. The order of `extra` does not
/// matter.
///
/// Errors:  throws Exception(invalid_argument) when chunk_tokens is 0, or an extra key has an empty
///          range or digest
CAKE_API std::vector<ChunkKey> prefix_chain(const ChunkKey& root, Tokens tokens,
                                            std::uint32_t chunk_tokens,
                                            std::span<const ExtraKey> extra = {});

}  // namespace cake::inline CAKE_ABI

template <>
struct std::hash<cake::ChunkKey> {
  std::size_t operator()(const cake::ChunkKey& key) const noexcept {
    std::size_t value;
    std::memcpy(&value, key.bytes.data(), sizeof value);  // SHA-256 is uniform already
    return value;
  }
};
