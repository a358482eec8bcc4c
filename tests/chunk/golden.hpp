// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Golden objects: what the writer of each format version has made, kept in tests/chunk/golden. Here is
// what they hold; the bytes of KV are a formula, so that a reader can be checked without a writer.
#pragma once

#include <charconv>
#include <cstdint>
#include <fstream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "cake/chunk/reader.hpp"
#include "cake/chunk/tenant_keys.hpp"
#include "cake/chunk/writer.hpp"
#include "cake/identity.hpp"

namespace cake::inline CAKE_ABI::detail {

/// What is random in an encrypted object is given, so that its bytes can be foretold.
class WriterForTests {
 public:
  static Result<ConstBytes> finish(ChunkWriter& writer, const ChunkIdentity& identity,
                                   std::uint32_t held, const Sha256Digest& random) {
    return writer.finish(identity, held, random);
  }
};

}  // namespace cake::inline CAKE_ABI::detail

namespace cake::inline CAKE_ABI::golden {

/// One file: `name` begins with the version of its format.
struct Case {
  std::string name;
  KvLayout layout;
  std::uint32_t held = 0;   // layers; 0: all
  std::uint32_t index = 0;  // chunk of the prompt
  std::string salt = {};
  std::vector<ExtraKey> extra = {};
  bool encrypted = false;

  Cipher cipher() const { return encrypted ? Cipher::aes_256_gcm : Cipher::none; }
};

inline constexpr std::uint32_t kChunkTokens = 8;

/// state, window 20, all, window 64, all, shared, window 20
inline KvLayout mixed_layout() {
  constexpr KvPlane rows{2, 24, KvOrder::hnd, DType::bf16};
  constexpr KvPlane state{4, 130, KvOrder::nhd, DType::f32};
  return {7,
          {{{rows, rows}}, {{rows}, 20}, {{rows}, 64}, {{state}, 0, true}, {}},
          {3, 1, 0, 2, 0, 4, 1}};
}

/// All of them. A version of the format adds some; none is ever changed.
inline std::vector<Case> cases() {
  const UniformKvLayout plain{2, 2, 8, DType::bf16, KvOrder::nhd};
  const KvLayout latent{3, {{{{1, 72, KvOrder::nhd, DType::bf16}}}}};
  const KvPlane values{2, 16, KvOrder::hnd, DType::i8};
  const KvPlane scales{2, 4, KvOrder::hnd, DType::f32};
  const KvLayout scaled{2, {{{values, scales, values, scales}}}};
  const KvPlane recurrent{4, 130, KvOrder::nhd, DType::f32};
  const KvLayout states{2, {{{values, values}}, {{recurrent}, 0, true}}, {0, 1}};
  return {
      {"2.0_kv", plain},
      {"2.0_second_chunk", plain, 0, 1},
      {"2.0_latent", latent},
      {"2.0_scales", scaled},
      {"2.0_salt", plain, 0, 0, "a tenant"},
      {"2.0_extra_keys", plain, 0, 1, "", {{{2, 5}, "an image"}, {{9, 30}, "another one"}}},
      {"2.1_windows", mixed_layout()},
      {"2.1_partly_held", mixed_layout(), 3},
      {"2.1_partly_held_window", mixed_layout(), 4},
      {"2.1_states", states},
      {"2.2_encrypted", plain, 0, 1, "a tenant", {}, true},
      {"2.2_encrypted_partly_held", mixed_layout(), 4, 0, "", {}, true},
      {"2.2_encrypted_states", states, 0, 0, "", {}, true},
  };
}

/// Byte `i` of one plane of one layer.
inline std::byte kv_byte(std::uint32_t layer, std::uint32_t plane, std::size_t i) {
  return static_cast<std::byte>((31 * layer + 17 * plane + 7 * i + (i >> 8) + 1) & 0xFF);
}

/// 32 bytes of a formula: the key of the tenant, or what is random in an object else.
inline Sha256Digest fixed(std::uint8_t begin) {
  Sha256Digest bytes;
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(begin + 5 * i);
  return bytes;
}

inline std::vector<TokenId> prompt(std::size_t n) {
  std::vector<TokenId> tokens(n);
  for (std::size_t i = 0; i < n; ++i) tokens[i] = static_cast<TokenId>((i * i * 37 + 11) % 32000);
  return tokens;
}

/// The identity of a case, and what it refers to.
struct Expected {
  explicit Expected(const Case& of) : tokens(prompt(std::size_t{kChunkTokens} * (of.index + 1))) {
    const auto model = FingerprintBuilder().add("weights", "golden").finish();
    const ChunkKey root = root_key(model, of.layout, kChunkTokens, of.salt, of.cipher());
    const auto chain = prefix_chain(root, tokens, kChunkTokens, of.extra);
    identity.key = chain[of.index];
    identity.parent = of.index == 0 ? root : chain[of.index - 1];
    identity.fingerprint = model;
    identity.tenant = tenant_tag(of.salt);
    identity.token_begin = of.index * kChunkTokens;
    identity.tokens = Tokens(tokens).subspan(identity.token_begin, kChunkTokens);
    identity.geometry = ChunkGeometry(of.layout, kChunkTokens, of.cipher());
    if (of.encrypted) identity.keys = std::make_shared<const TenantKeys>(fixed(1));
  }
  Expected(const Expected&) = delete;
  Expected& operator=(const Expected&) = delete;

  const std::vector<TokenId> tokens;
  ChunkIdentity identity;
};

/// The object of a case as today's writer makes it.
inline std::vector<std::byte> write(const Case& of) {
  const Expected expected(of);
  ChunkWriter writer(expected.identity.geometry);
  for (std::uint32_t layer = 0; layer < of.layout.n_layers; ++layer) {
    for (std::uint32_t p = 0; p < of.layout.kind(layer).planes.size(); ++p) {
      const MutableBytes plane = writer.payload().plane(layer, p);
      for (std::size_t i = 0; i < plane.size(); ++i) plane[i] = kv_byte(layer, p, i);
    }
  }
  const std::uint32_t held = of.held == 0 ? of.layout.n_layers : of.held;
  const ConstBytes object =
      detail::WriterForTests::finish(writer, expected.identity, held, fixed(100)).value();
  return {object.begin(), object.end()};
}

// The form of a file: "bytes N", then "OFFSET : 32 bytes in hexadecimal" for each row of 32 bytes that
// are not all zero.

inline constexpr std::size_t kRow = 32;

inline std::string to_text(ConstBytes object) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text = "bytes " + std::to_string(object.size()) + "\n";
  for (std::size_t at = 0; at < object.size(); at += kRow) {
    const ConstBytes row = object.subspan(at, kRow);
    std::string hex;
    bool any = false;
    for (const std::byte b : row) {
      any = any || b != std::byte{0};
      hex.push_back(digits[std::to_integer<unsigned>(b) >> 4]);
      hex.push_back(digits[std::to_integer<unsigned>(b) & 15]);
    }
    if (any) text += std::to_string(at) + " : " + hex + "\n";
  }
  return text;
}

/// Errors:  throws std::runtime_error for a text that is no golden file
inline std::vector<std::byte> from_text(std::istream& in) {
  const auto bad = [](const std::string& what) { return std::runtime_error("golden: " + what); };
  std::string word;
  std::size_t size = 0;
  if (!(in >> word >> size) || word != "bytes") throw bad("no \"bytes N\" at the begin");
  std::vector<std::byte> object(size);
  std::string hex;
  for (std::size_t at = 0; in >> at >> word >> hex;) {
    if (word != ":") throw bad("a row without a colon");
    if (hex.size() != 2 * kRow || at + kRow > size) throw bad("a row of another length");
    for (std::size_t i = 0; i < kRow; ++i) {
      unsigned value = 0;
      const char* const digit = hex.data() + 2 * i;
      if (std::from_chars(digit, digit + 2, value, 16).ptr != digit + 2) throw bad(hex);
      object[at + i] = static_cast<std::byte>(value);
    }
  }
  if (!in.eof()) throw bad("a row that cannot be read");
  return object;
}

}  // namespace cake::inline CAKE_ABI::golden
