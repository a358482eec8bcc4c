// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Chunks with known content for tests of the object and of the stores.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cake/chunk/reader.hpp"
#include "cake/chunk/tenant_keys.hpp"
#include "cake/chunk/writer.hpp"
#include "cake/identity.hpp"

namespace cake::inline CAKE_ABI::sample {

inline constexpr UniformKvLayout kSmall{4, 2, 16, DType::bf16, KvOrder::nhd};

/// Bytes that differ from key to key and from place to place.
inline void fill(std::span<std::byte> bytes, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    const std::uint64_t word = random();
    std::memcpy(bytes.data() + i, &word, 8);
  }
  for (; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(random());
}

/// One chunk of a prompt that `seed` names: identity, and the object as a writer makes it.
struct Chunk {
  std::vector<TokenId> tokens;
  ChunkIdentity identity;
  std::vector<std::byte> object;

  ConstBytes bytes() const { return object; }
  ConstBytes head() const { return bytes().first(identity.geometry.head_bytes()); }
  std::uint32_t n_tokens() const { return static_cast<std::uint32_t>(tokens.size()); }
  const ChunkGeometry& geometry() const { return identity.geometry; }
};

inline Chunk make_of(std::uint64_t seed, const KvLayout& layout, std::uint32_t chunk_tokens = 16,
                     std::uint32_t index = 0, const std::string& salt = "tenant",
                     const std::string& model = "model",
                     std::shared_ptr<const TenantKeys> keys = nullptr) {
  Chunk chunk;
  const Cipher cipher = keys == nullptr ? Cipher::none : Cipher::aes_256_gcm;
  // One more token than the chunks hold, so that the last chunk has a key.
  std::vector<TokenId> prompt(std::size_t{chunk_tokens} * (index + 1) + 1);
  std::mt19937_64 random(seed);
  for (auto& token : prompt) token = static_cast<TokenId>(random() % 50000);
  const auto fingerprint = FingerprintBuilder().add("weights", model).finish();
  const ChunkKey root = root_key(fingerprint, layout, chunk_tokens, salt, cipher);
  const auto chain = prefix_chain(root, prompt, chunk_tokens);

  const auto begin = prompt.begin() + static_cast<std::ptrdiff_t>(index) * chunk_tokens;
  chunk.tokens.assign(begin, begin + chunk_tokens);
  chunk.identity.key = chain[index];
  chunk.identity.parent = index == 0 ? root : chain[index - 1];
  chunk.identity.fingerprint = fingerprint;
  chunk.identity.tenant = tenant_tag(salt);
  chunk.identity.token_begin = index * chunk_tokens;
  chunk.identity.tokens = chunk.tokens;
  chunk.identity.geometry = ChunkGeometry(layout, chunk_tokens, cipher);
  chunk.identity.keys = std::move(keys);

  ChunkWriter writer(chunk.identity.geometry);
  for (std::uint32_t layer = 0; layer < layout.n_layers; ++layer) {
    const auto n_planes = static_cast<std::uint32_t>(layout.kind(layer).planes.size());
    for (std::uint32_t i = 0; i < n_planes; ++i) {
      fill(writer.payload().plane(layer, i), seed * 1000 + 2 * layer + i);
    }
  }
  const auto object = writer.finish(chunk.identity);
  chunk.object.assign(object.value().begin(), object.value().end());
  return chunk;
}

inline Chunk make(std::uint64_t seed, const UniformKvLayout& layout = kSmall,
                  std::uint32_t chunk_tokens = 16, std::uint32_t index = 0,
                  const std::string& salt = "tenant", const std::string& model = "model") {
  return make_of(seed, layout, chunk_tokens, index, salt, model);
}

/// Keys whose bytes follow from a number; the first one is current.
inline std::shared_ptr<const TenantKeys> keys_of(std::initializer_list<std::uint8_t> numbers) {
  std::vector<std::array<std::byte, TenantKeys::kKeyBytes>> secrets;
  for (const std::uint8_t number : numbers) fill(secrets.emplace_back(), 7000 + number);
  std::vector<ConstBytes> all(secrets.begin(), secrets.end());
  return std::make_shared<const TenantKeys>(all[0], std::span(all).subspan(1));
}

/// Parses and verifies a whole object as a loader does.
inline Status check(ConstBytes object, const ChunkIdentity& expected) {
  const auto tables = parse_chunk(object, object.size(), expected);
  if (!tables) return tables.error();
  const ChunkGeometry& geometry = expected.geometry;
  const LayerRange all{0, geometry.layout().n_layers};
  if (!geometry.encrypted()) {
    const auto view = verify_slice(*tables, expected, all, object);
    return view ? Status() : Status(view.error());
  }
  std::vector<std::byte> plain(geometry.payload_bytes(all));
  const auto view = open_slice(*tables, expected, all, object, plain);
  return view ? Status() : Status(view.error());
}

}  // namespace cake::inline CAKE_ABI::sample
