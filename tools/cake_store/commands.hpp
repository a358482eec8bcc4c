// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The commands of cake_store. Each prints what it found on stdout, as text or as one JSON object, and
// failures on stderr; it returns an Exit.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "inventory.hpp"
#include "output.hpp"

namespace cake::tools {

/// What the command line says.
struct Settings {
  std::string store;
  std::string target;  // of a copy
  bool json = false;
  bool trust_directory = false;
  unsigned workers = 4;
  Filter filter;
  // list
  bool names_only = false;
  // verify
  std::string sample;
  std::uint64_t seed = 0;  // 0: a random one
  // trim
  std::uint64_t bytes = 0;
  // erase
  std::vector<std::string> keys;
  bool everything = false;
  bool dry_run = false;
  // bench
  unsigned bench_objects = 16;
  std::uint64_t bench_bytes = std::uint64_t{4} << 20;
  unsigned read_percent = 80;
  double seconds = 5;
};

int list(const Settings& settings);
int stats(const Settings& settings);
int metrics(const Settings& settings);
int verify(const Settings& settings);
int trim(const Settings& settings);
int erase(const Settings& settings);
int copy(const Settings& settings);
int bench(const Settings& settings);

/// Tells why a command cannot go on. kWrongUse where the command line was wrong, else kFailed.
int refused(const Error& error);

}  // namespace cake::tools
