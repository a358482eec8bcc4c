// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A plugin of an engine: it opens a store, and lets through what that throws.
#include <cake/storage/posix.hpp>

extern "C" __attribute__((visibility("default"))) void open_store(const char* directory) {
  const cake::PosixStorage storage({.directory = directory});
}
