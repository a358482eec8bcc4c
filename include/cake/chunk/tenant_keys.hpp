// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The keys that a tenant's objects are encrypted with. docs/storage_format.md says what is encrypted,
// and how keys are replaced.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>

#include "cake/engine.hpp"
#include "cake/export.hpp"
#include "cake/identity.hpp"

namespace cake::inline CAKE_ABI {

namespace detail {
class ObjectKey;
}

/// Names a key in the header of an object. It comes from the key, and does not tell it.
using TenantKeyId = std::array<std::byte, 16>;

/// Keys of AES-256-GCM of one tenant: the current one encrypts what is saved, all of them decrypt.
///
///     const auto keys = std::make_shared<const cake::TenantKeys>(current, std::array{old});
///     const cake::ChunkOptions chunks{.salt = tenant, .keys = keys};     // for saving and loading
///
/// Keep one object per tenant and process, for all its prompts: it remembers which objects could not be
/// decrypted, so that saves replace them. To rotate, make a new one and give it to the next prompts. The
/// memory of keys is cleansed when it ends; that of the caller is the caller's to cleanse.
///
/// Thread:  Safe for concurrent use
/// Errors:  the constructor throws Exception(invalid_argument) for a key that is not kKeyBytes long or
///          consists of zeros, Exception(unsupported) where OpenSSL has no HKDF or AES-256-GCM
class CAKE_API TenantKeys {
 public:
  static constexpr std::size_t kKeyBytes = 32;  // random ones

  explicit TenantKeys(ConstBytes current, std::span<const ConstBytes> old = {});
  ~TenantKeys();
  TenantKeys(const TenantKeys&) = delete;
  TenantKeys& operator=(const TenantKeys&) = delete;

  /// Of the key that encrypts.
  TenantKeyId current() const;
  bool has(const TenantKeyId& id) const;

  /// An object of this name was met that none of these keys decrypts. Of the last few thousand such names
  /// all are remembered.
  void note_unreadable(const ChunkKey& name) const noexcept;
  bool unreadable(const ChunkKey& name) const noexcept;
  /// It was written anew.
  void note_written(const ChunkKey& name) const noexcept;

 private:
  friend class detail::ObjectKey;
  struct Inside;
  std::unique_ptr<Inside> inside_;
};

}  // namespace cake::inline CAKE_ABI
