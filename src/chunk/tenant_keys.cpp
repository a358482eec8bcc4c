// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/chunk/tenant_keys.hpp"

#include <openssl/crypto.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "cake/result.hpp"
#include "src/chunk/object_cipher.hpp"

namespace cake::inline CAKE_ABI {
namespace {

/// So many names are remembered at most.
constexpr std::size_t kMostUnreadable = 4096;

ConstBytes bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

struct OneKey {
  std::array<std::byte, TenantKeys::kKeyBytes> secret;
  TenantKeyId id;
};

}  // namespace

struct TenantKeys::Inside {
  std::vector<OneKey> keys;  // the current one first; reserved at once, so that none is ever copied
  std::mutex mutex;          // guards all below
  std::unordered_set<ChunkKey> unreadable;

  void add(ConstBytes secret) {
    const bool zeros =
        std::all_of(secret.begin(), secret.end(), [](std::byte b) { return b == std::byte{0}; });
    if (secret.size() != kKeyBytes || zeros) {
      throw Exception({Errc::invalid_argument, 0,
                       "TenantKeys: a key has " + std::to_string(secret.size()) + " bytes" +
                           (zeros ? ", all of them zero" : "") +
                           "; AES-256-GCM takes 32 random ones (RAND_priv_bytes)"});
    }
    OneKey& one = keys.emplace_back();
    std::memcpy(one.secret.data(), secret.data(), secret.size());
    detail::hkdf_sha256(one.secret, {}, bytes_of("cake key id 1"), one.id);
  }
  ~Inside() {
    for (OneKey& one : keys) OPENSSL_cleanse(one.secret.data(), one.secret.size());
  }
};

TenantKeys::TenantKeys(ConstBytes current, std::span<const ConstBytes> old)
    : inside_(std::make_unique<Inside>()) {
  inside_->keys.reserve(1 + old.size());
  inside_->add(current);
  for (const ConstBytes one : old) inside_->add(one);
}
TenantKeys::~TenantKeys() = default;

TenantKeyId TenantKeys::current() const { return inside_->keys.front().id; }
bool TenantKeys::has(const TenantKeyId& id) const {
  return std::any_of(inside_->keys.begin(), inside_->keys.end(),
                     [&](const OneKey& one) { return one.id == id; });
}

void TenantKeys::note_unreadable(const ChunkKey& name) const noexcept {
  try {
    const std::lock_guard lock(inside_->mutex);
    if (inside_->unreadable.size() >= kMostUnreadable) {
      inside_->unreadable.erase(inside_->unreadable.begin());
    }
    inside_->unreadable.insert(name);
  } catch (const std::bad_alloc&) {  // it is met again
  }
}
bool TenantKeys::unreadable(const ChunkKey& name) const noexcept {
  const std::lock_guard lock(inside_->mutex);
  return inside_->unreadable.contains(name);
}
void TenantKeys::note_written(const ChunkKey& name) const noexcept {
  const std::lock_guard lock(inside_->mutex);
  inside_->unreadable.erase(name);
}

namespace detail {

std::optional<ObjectKey> ObjectKey::derive(const TenantKeys& keys, const TenantKeyId& id,
                                           const Sha256Digest& random, const ChunkKey& name) {
  const std::vector<OneKey>& all = keys.inside_->keys;
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const OneKey& one) { return one.id == id; });
  if (found == all.end()) return std::nullopt;
  constexpr std::string_view tag = "cake object key 1";
  std::array<std::byte, tag.size() + sizeof name.bytes> info;
  std::memcpy(info.data(), tag.data(), tag.size());
  std::memcpy(info.data() + tag.size(), name.bytes.data(), sizeof name.bytes);
  std::optional<ObjectKey> key(ObjectKey{});
  hkdf_sha256(found->secret, random, info, key->bytes_);
  return key;
}

}  // namespace detail

}  // namespace cake::inline CAKE_ABI
