// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// make_objects DIRECTORY SEED COUNT MODEL SALT: stores the chunks of one prompt, and prints their keys and
// the fingerprint of the model, for tests that drive programs from outside.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>

#include "cake/storage/posix.hpp"
#include "tests/chunk/sample.hpp"

int main(int argc, char** argv) try {
  if (argc != 6) {
    std::fputs("usage: make_objects DIRECTORY SEED COUNT MODEL SALT\n", stderr);
    return 2;
  }
  cake::PosixStorage store({.directory = argv[1], .threads = 1});
  const std::uint64_t seed = std::stoull(argv[2]);
  const std::uint64_t count = std::stoull(argv[3]);
  for (std::uint32_t i = 0; i < count; ++i) {
    const auto chunk = cake::sample::make(seed, cake::sample::kSmall, 16, i, argv[5], argv[4]);
    store.write(chunk.identity.key, chunk.object).value();
    if (i == 0) std::puts(chunk.identity.fingerprint.hex().c_str());
    std::puts(chunk.identity.key.hex().c_str());
  }
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "make_objects: %s\n", e.what());
  return 1;
}
