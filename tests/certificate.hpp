// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A key and a certificate for 127.0.0.1 that it signs itself, in files that are gone at the end.
#pragma once

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace cake_loopback_test {

class Certificate {
 public:
  Certificate() {
    EVP_PKEY* const key = EVP_EC_gen("P-256");
    X509* const certificate = X509_new();
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_version(certificate, 2);
    X509_set_pubkey(certificate, key);
    X509_NAME* const name = X509_get_subject_name(certificate);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>("test"), -1, -1, 0);
    X509_set_issuer_name(certificate, name);
    X509_EXTENSION* const host =
        X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "IP:127.0.0.1");
    X509_add_ext(certificate, host, -1);
    X509_EXTENSION_free(host);
    X509_sign(certificate, key, EVP_sha256());
    std::FILE* out = open(file_);
    PEM_write_X509(out, certificate);
    std::fclose(out);
    out = open(key_file_);
    PEM_write_PrivateKey(out, key, nullptr, nullptr, 0, nullptr, nullptr);
    std::fclose(out);
    X509_free(certificate);
    EVP_PKEY_free(key);
  }
  Certificate(const Certificate&) = delete;
  Certificate& operator=(const Certificate&) = delete;
  ~Certificate() {
    ::unlink(file_.c_str());
    ::unlink(key_file_.c_str());
  }
  const std::string& file() const { return file_; }
  const std::string& key_file() const { return key_file_; }

 private:
  static std::FILE* open(std::string& name) {
    name = "/tmp/cake-test-pem-XXXXXX";
    return ::fdopen(::mkstemp(name.data()), "w");
  }
  std::string file_, key_file_;
};

}  // namespace cake_loopback_test
