// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/identity.hpp"

#include <openssl/evp.h>

#include <algorithm>
#include <bit>
#include <numeric>
#include <tuple>

namespace cake::inline CAKE_ABI {
namespace {

static_assert(std::endian::native == std::endian::little,
              "keys hash little-endian integers in place");

std::string hex_of(const Sha256Digest& bytes) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (const std::byte b : bytes) {
    text.push_back(digits[std::to_integer<unsigned>(b) >> 4]);
    text.push_back(digits[std::to_integer<unsigned>(b) & 15]);
  }
  return text;
}

std::span<const std::byte> bytes_of(const std::uint64_t& value) {
  return std::as_bytes(std::span(&value, 1));
}

/// A digest that was not computed must not become a key.
void require(int ok) {
  if (ok != 1) throw Exception({Errc::unsupported, 0, "SHA-256: OpenSSL refused to compute it"});
}

/// Those of `extra` that touch some chunk, first to last, in an order that the caller's does not
/// change.
std::vector<ExtraKey> sorted(std::span<const ExtraKey> extra) {
  std::vector<ExtraKey> list(extra.begin(), extra.end());
  for (const ExtraKey& e : list) {
    if (e.range.empty() || e.digest.empty()) {
      throw Exception({Errc::invalid_argument, 0,
                       "extra key for tokens " + std::to_string(e.range.begin) + " to " +
                           std::to_string(e.range.end) + ": its " +
                           (e.range.empty() ? "range" : "digest") + " is empty"});
    }
  }
  std::sort(list.begin(), list.end(), [](const ExtraKey& a, const ExtraKey& b) {
    return std::tie(a.range.begin, a.range.end, a.digest) <
           std::tie(b.range.begin, b.range.end, b.digest);
  });
  return list;
}

}  // namespace

std::string ChunkKey::hex() const { return hex_of(bytes); }
std::optional<ChunkKey> ChunkKey::from_hex(std::string_view text) {
  ChunkKey key;
  if (text.size() != 2 * key.bytes.size()) return std::nullopt;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool digit = c >= '0' && c <= '9';
    if (!digit && (c < 'a' || c > 'f')) return std::nullopt;
    const auto value = static_cast<std::byte>(digit ? c - '0' : c - 'a' + 10);
    key.bytes[i / 2] = key.bytes[i / 2] << 4 | value;
  }
  return key;
}
std::string ModelFingerprint::hex() const { return hex_of(bytes); }

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

namespace {

/// A digest of nothing yet. Looking SHA-256 up takes a microsecond, as long as 2 KB of digest, and
/// to begin one anew takes longer than to copy this. Kept until the process ends; null: there is none.
const EVP_MD_CTX* begun() {
  static const EVP_MD_CTX* const context = [] {
    EVP_MD* const md = EVP_MD_fetch(nullptr, "SHA256", nullptr);
    EVP_MD_CTX* made = EVP_MD_CTX_new();
    if (md == nullptr || made == nullptr || EVP_DigestInit_ex2(made, md, nullptr) != 1) {
      EVP_MD_CTX_free(made);
      made = nullptr;
    }
    EVP_MD_free(md);
    return made;
  }();
  return context;
}

}  // namespace

Sha256::Sha256() : state_(std::make_unique<State>()) {
  if (begun() == nullptr || state_->context == nullptr ||
      EVP_MD_CTX_copy_ex(state_->context, begun()) != 1) {
    throw Exception({Errc::unsupported, 0, "OpenSSL has no SHA-256"});
  }
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

Sha256& Sha256::update(std::span<const std::byte> bytes) {
  require(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()));
  return *this;
}

Sha256& Sha256::field(std::string_view tag, std::span<const std::byte> value) {
  const std::uint64_t tag_size = tag.size();
  const std::uint64_t value_size = value.size();
  return update(bytes_of(tag_size)).update(tag).update(bytes_of(value_size)).update(value);
}

Sha256Digest Sha256::finish() {
  Sha256Digest digest;
  auto* const out = reinterpret_cast<unsigned char*>(digest.data());
  require(EVP_DigestFinal_ex(state_->context, out, nullptr));
  require(EVP_MD_CTX_copy_ex(state_->context, begun()));
  return digest;
}

FingerprintBuilder::FingerprintBuilder() { sha_.update("cake model fingerprint 2"); }

FingerprintBuilder& FingerprintBuilder::add_field(std::string_view tag, char type,
                                                  std::span<const std::byte> value) {
  sha_.update(std::string_view(&type, 1)).field(tag, value);
  return *this;
}
FingerprintBuilder& FingerprintBuilder::add_number(std::string_view tag, char type,
                                                   std::uint64_t bits) {
  return add_field(tag, type, bytes_of(bits));
}

FingerprintBuilder& FingerprintBuilder::add(std::string_view tag,
                                            std::span<const std::byte> value) {
  return add_field(tag, 'x', value);
}
FingerprintBuilder& FingerprintBuilder::add(std::string_view tag, std::string_view value) {
  return add_field(tag, 's', std::as_bytes(std::span(value)));
}
ModelFingerprint FingerprintBuilder::finish() {
  ModelFingerprint fingerprint{sha_.finish()};
  sha_.update("cake model fingerprint 2");
  return fingerprint;
}

std::vector<std::uint32_t> KvLayout::stored_order() const {
  std::vector<std::uint32_t> order(n_layers);
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [this](std::uint32_t a, std::uint32_t b) {
    const KvLayerKind& x = kind(a);
    const KvLayerKind& y = kind(b);
    const bool state_x = x.state && !x.planes.empty();
    const bool state_y = y.state && !y.planes.empty();
    return state_x != state_y ? state_y : x.reach() > y.reach();
  });
  return order;
}

std::vector<std::byte> KvLayout::canonical() const {
  std::vector<std::byte> bytes;
  bytes.reserve(64 + std::size_t{2} * n_layers);
  const auto put = [&](auto number) {
    for (const std::byte b : std::as_bytes(std::span(&number, 1))) bytes.push_back(b);
  };
  put(n_layers);
  std::vector<const KvLayerKind*> seen;
  for (std::uint32_t l = 0; l < n_layers; ++l) {
    const KvLayerKind& mine = kind(l);
    const auto same = [&](const KvLayerKind* other) { return *other == mine; };
    const auto found = std::find_if(seen.begin(), seen.end(), same);
    put(static_cast<std::uint16_t>(found - seen.begin()));
    if (found == seen.end()) seen.push_back(&mine);
  }
  for (const KvLayerKind* one : seen) {
    put(static_cast<std::uint32_t>(one->planes.size()));
    for (const KvPlane& plane : one->planes) {
      put(plane.rows);
      put(plane.row_bytes);
      put(static_cast<std::uint8_t>(plane.order));
      put(static_cast<std::uint8_t>(plane.dtype));
    }
  }
  const bool plain = std::all_of(seen.begin(), seen.end(), [](const KvLayerKind* one) {
    return one->window == 0 && !one->state;
  });
  for (const KvLayerKind* one : seen) {
    if (plain) break;
    put(one->window);
    put(static_cast<std::uint8_t>(one->state));
  }
  return bytes;
}

ChunkKey root_key(const ModelFingerprint& fingerprint, const KvLayout& layout,
                  std::uint32_t chunk_tokens, std::string_view tenant_salt, Cipher cipher) {
  if (!layout.valid()) {
    throw Exception({Errc::invalid_argument, 0,
                     "the engine's layout() has no layers, a layer without a kind, or an empty "
                     "plane; nothing can be stored of it"});
  }
  Sha256 sha;
  const auto number = [&](std::string_view tag, std::uint64_t value) {
    sha.field(tag, bytes_of(value));
  };
  sha.update("cake root 2");
  sha.field("fingerprint", fingerprint.bytes);
  sha.field("layout", layout.canonical());
  number("chunk_tokens", chunk_tokens);
  number("codec", 0);
  sha.field("tenant", std::as_bytes(std::span(tenant_salt)));
  if (cipher != Cipher::none) number("cipher", static_cast<std::uint64_t>(cipher));
  return {sha.finish()};
}

std::array<std::byte, 16> tenant_tag(std::string_view tenant_salt) {
  Sha256 sha;
  sha.update("cake tenant 1").field("tenant", std::as_bytes(std::span(tenant_salt)));
  const Sha256Digest digest = sha.finish();
  std::array<std::byte, 16> tag;
  std::memcpy(tag.data(), digest.data(), tag.size());
  return tag;
}

std::vector<ChunkKey> prefix_chain(const ChunkKey& root, Tokens tokens, std::uint32_t chunk_tokens,
                                   std::span<const ExtraKey> extra) {
  if (chunk_tokens == 0) throw Exception({Errc::invalid_argument, 0, "chunk_tokens is 0"});
  std::vector<ChunkKey> keys(tokens.size() / chunk_tokens);
  Sha256 sha;
  const ChunkKey* parent = &root;
  constexpr std::size_t kTag = 12;
  std::array<std::byte, kTag + sizeof(Sha256Digest) + sizeof chunk_tokens> head;
  std::memcpy(head.data() + kTag + sizeof(Sha256Digest), &chunk_tokens, sizeof chunk_tokens);
  const std::vector<ExtraKey> extras = sorted(extra);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::size_t begin = i * chunk_tokens;
    const bool touched = std::any_of(extras.begin(), extras.end(), [&](const ExtraKey& e) {
      return e.range.begin < begin + chunk_tokens && e.range.end > begin;
    });
    // One piece: OpenSSL takes as long to take one over as to digest half a block.
    std::memcpy(head.data(), touched ? "cake chunk x" : "cake chunk 1", kTag);
    std::memcpy(head.data() + kTag, parent->bytes.data(), sizeof(Sha256Digest));
    sha.update(head);
    sha.update(std::as_bytes(tokens.subspan(i * chunk_tokens, chunk_tokens)));
    for (const ExtraKey& e : extras) {
      if (e.range.begin >= begin + chunk_tokens || e.range.end <= begin) continue;
      const std::uint64_t range[] = {e.range.begin, e.range.end};
      sha.field("range", std::as_bytes(std::span(range)));
      sha.field("digest", std::as_bytes(std::span(e.digest)));
    }
    keys[i].bytes = sha.finish();
    parent = &keys[i];
  }
  return keys;
}

}  // namespace cake::inline CAKE_ABI
