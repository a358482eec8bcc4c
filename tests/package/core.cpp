// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Links cake::cake from outside: a digest (ISA-L), a key (OpenSSL), and a store that looks for cuFile (libdl).
#include <cake/chunk/digest.hpp>
#include <cake/identity.hpp>
#include <cake/storage/gds.hpp>
#include <cstdio>

int main() {
  const std::uint32_t digest = cake::crc32c(std::as_bytes(std::span("123456789", 9)));
  const std::string key = cake::FingerprintBuilder().add("weights", "none").finish().hex();
  std::printf("%08x %s\n", digest, key.c_str());
  try {
    const cake::GdsStorage storage({.posix = {.directory = "no-such-folder/store"}});
  } catch (const cake::Exception& e) {
    std::printf("%s\n", e.what());
    return digest == 0xe3069283 && key.size() == 64 ? 0 : 1;
  }
  return 1;
}
