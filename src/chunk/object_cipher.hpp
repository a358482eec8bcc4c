// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Encryption of one object: its key, its nonces, and AES-256-GCM by OpenSSL.
#pragma once

#include <openssl/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "cake/chunk/tenant_keys.hpp"
#include "cake/engine.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"

namespace cake::inline CAKE_ABI::detail {

/// HKDF-SHA256 of `secret` into `out`.
///
/// Errors:  throws Exception(unsupported) where OpenSSL has none, or fails
/// Source:  RFC 5869, by OpenSSL's EVP_KDF
void hkdf_sha256(ConstBytes secret, ConstBytes salt, ConstBytes info, MutableBytes out);

using Nonce = std::array<std::byte, 12>;
using GcmTag = std::array<std::byte, 16>;

/// Of the n-th digest block of an object, and of its head. No two of them are equal.
Nonce nonce_of_block(std::uint64_t block);
Nonce nonce_of_head();

/// The key of one object. It is cleansed at its end.
class ObjectKey {
 public:
  /// Of the tenant's key `id`; none: there is no such key.
  static std::optional<ObjectKey> derive(const TenantKeys& keys, const TenantKeyId& id,
                                         const Sha256Digest& random, const ChunkKey& name);
  ~ObjectKey();
  ObjectKey(const ObjectKey&) = default;
  ObjectKey& operator=(const ObjectKey&) = delete;
  ConstBytes bytes() const { return bytes_; }

 private:
  ObjectKey() = default;
  std::array<std::byte, 32> bytes_{};
};

/// One direction of AES-256-GCM under one key.
///
/// Thread:  Requires external synchronization
/// Errors:  throws Exception(unsupported) where OpenSSL has no AES-256-GCM, or fails
class Gcm {
 public:
  enum class Does : std::uint8_t { encrypt, decrypt };
  Gcm(const ObjectKey& key, Does does);

  /// Into `out`, which may be where the bytes are. Returns the tag.
  GcmTag encrypt(const Nonce& nonce, std::span<const ConstBytes> associated, ConstBytes bytes,
                 std::byte* out);
  /// Likewise. False: it is not what was encrypted with this key, nonce and associated data; `out` then
  /// holds nothing of use.
  bool decrypt(const Nonce& nonce, std::span<const ConstBytes> associated, ConstBytes bytes,
               std::byte* out, const GcmTag& tag);

 private:
  void update(const Nonce& nonce, std::span<const ConstBytes> associated, ConstBytes bytes,
              std::byte* out);
  struct Free {
    void operator()(EVP_CIPHER_CTX* context) const;
  };
  std::unique_ptr<EVP_CIPHER_CTX, Free> context_;
};

/// Random bytes of the system's generator.
///
/// Errors:  throws Exception(unsupported) where it gives none
Sha256Digest random_value();

}  // namespace cake::inline CAKE_ABI::detail
