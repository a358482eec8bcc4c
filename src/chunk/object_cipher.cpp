// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "src/chunk/object_cipher.hpp"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include <cstring>
#include <string_view>

namespace cake::inline CAKE_ABI::detail {
namespace {

/// Their texts hold no secret.
[[noreturn]] void refused(const char* what) { throw Exception({Errc::unsupported, 0, what}); }

const unsigned char* as_uchar(const std::byte* bytes) {
  return reinterpret_cast<const unsigned char*>(bytes);
}
unsigned char* as_uchar(std::byte* bytes) { return reinterpret_cast<unsigned char*>(bytes); }

/// Looked up once, and kept until the process ends; null: OpenSSL has none.
const EVP_CIPHER* aes_256_gcm() {
  static const EVP_CIPHER* const cipher = EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr);
  return cipher;
}
EVP_KDF* hkdf() {
  static EVP_KDF* const kdf = EVP_KDF_fetch(nullptr, "HKDF", nullptr);
  return kdf;
}

}  // namespace

void hkdf_sha256(ConstBytes secret, ConstBytes salt, ConstBytes info, MutableBytes out) {
  const auto free = [](EVP_KDF_CTX* context) { EVP_KDF_CTX_free(context); };
  const std::unique_ptr<EVP_KDF_CTX, decltype(free)> context(
      hkdf() == nullptr ? nullptr : EVP_KDF_CTX_new(hkdf()), free);
  if (context == nullptr) refused("OpenSSL has no HKDF");
  char digest[] = "SHA256";
  // OpenSSL reads them only, and takes no null pointer.
  const auto octets = [](const char* name, ConstBytes bytes) {
    static std::byte nothing{};
    std::byte* const data = bytes.empty() ? &nothing : const_cast<std::byte*>(bytes.data());
    return OSSL_PARAM_construct_octet_string(name, data, bytes.size());
  };
  const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
                               octets(OSSL_KDF_PARAM_KEY, secret),
                               octets(OSSL_KDF_PARAM_SALT, salt), octets(OSSL_KDF_PARAM_INFO, info),
                               OSSL_PARAM_construct_end()};
  if (EVP_KDF_derive(context.get(), as_uchar(out.data()), out.size(), params) != 1) {
    refused("HKDF: OpenSSL refused to compute it");
  }
}

namespace {

Nonce nonce_of(std::uint32_t kind, std::uint64_t place) {
  Nonce nonce;
  std::memcpy(nonce.data(), &kind, sizeof kind);
  std::memcpy(nonce.data() + sizeof kind, &place, sizeof place);
  return nonce;
}

}  // namespace

Nonce nonce_of_block(std::uint64_t block) { return nonce_of(0, block); }
Nonce nonce_of_head() { return nonce_of(1, 0); }

ObjectKey::~ObjectKey() { OPENSSL_cleanse(bytes_.data(), bytes_.size()); }

Gcm::Gcm(const ObjectKey& key, Does does) : context_(EVP_CIPHER_CTX_new()) {
  if (aes_256_gcm() == nullptr || context_ == nullptr ||
      EVP_CipherInit_ex2(context_.get(), aes_256_gcm(), as_uchar(key.bytes().data()), nullptr,
                         does == Does::encrypt ? 1 : 0, nullptr) != 1) {
    refused("OpenSSL has no AES-256-GCM");
  }
}

void Gcm::Free::operator()(EVP_CIPHER_CTX* context) const {
  EVP_CIPHER_CTX_free(context);  // cleanses its key
}

void Gcm::update(const Nonce& nonce, std::span<const ConstBytes> associated, ConstBytes bytes,
                 std::byte* out) {
  EVP_CIPHER_CTX* const context = context_.get();
  bool good =
      EVP_CipherInit_ex2(context, nullptr, nullptr, as_uchar(nonce.data()), -1, nullptr) == 1;
  int length = 0;
  for (const ConstBytes part : associated) {
    good = good && EVP_CipherUpdate(context, nullptr, &length, as_uchar(part.data()),
                                    static_cast<int>(part.size())) == 1;
  }
  good = good && EVP_CipherUpdate(context, as_uchar(out), &length, as_uchar(bytes.data()),
                                  static_cast<int>(bytes.size())) == 1;
  if (!good) refused("AES-256-GCM: OpenSSL refused to compute it");
}

GcmTag Gcm::encrypt(const Nonce& nonce, std::span<const ConstBytes> associated, ConstBytes bytes,
                    std::byte* out) {
  update(nonce, associated, bytes, out);
  GcmTag tag;
  int length = 0;
  if (EVP_CipherFinal_ex(context_.get(), as_uchar(out), &length) != 1 ||
      EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_AEAD_GET_TAG, static_cast<int>(tag.size()),
                          tag.data()) != 1) {
    refused("AES-256-GCM: OpenSSL refused to compute a tag");
  }
  return tag;
}

bool Gcm::decrypt(const Nonce& nonce, std::span<const ConstBytes> associated, ConstBytes bytes,
                  std::byte* out, const GcmTag& tag) {
  update(nonce, associated, bytes, out);
  GcmTag expected = tag;  // OpenSSL takes a mutable pointer
  if (EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_AEAD_SET_TAG, static_cast<int>(expected.size()),
                          expected.data()) != 1) {
    refused("AES-256-GCM: OpenSSL refused to take a tag");
  }
  int length = 0;
  return EVP_CipherFinal_ex(context_.get(), as_uchar(out), &length) == 1;
}

Sha256Digest random_value() {
  Sha256Digest value;
  if (RAND_bytes(as_uchar(value.data()), static_cast<int>(value.size())) != 1) {
    refused("OpenSSL has no random bytes");
  }
  return value;
}

}  // namespace cake::inline CAKE_ABI::detail
