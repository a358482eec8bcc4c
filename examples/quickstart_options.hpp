// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Command line of the quickstart.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "cake/result.hpp"

namespace cake::examples {

enum class Mode { compute, load, cake, all };
enum class Device { cpu, cuda };

struct QuickstartOptions {
  std::filesystem::path model;
  std::filesystem::path document = "/usr/share/common-licenses/Apache-2.0";
  std::string question = "What does each Contributor grant?";
  std::optional<std::filesystem::path>
      prompt_file;                  // a raw prompt, instead of document and question
  std::filesystem::path store;      // a folder, s3://BUCKET/PREFIX or redis://HOST:PORT/PREFIX
  std::optional<double> link_mbit;  // megabits per second; none: near the crossover
  Mode mode = Mode::all;
  Device device = Device::cpu;
  std::uint32_t max_new_tokens = 64;
  std::uint32_t chunk_tokens = 128;
  unsigned threads = 0;  // 0: one per core
  std::optional<std::filesystem::path> trace;
  std::optional<std::filesystem::path> json;
  bool help = false;
};

/// Where things lie unless the command line says otherwise: $CAKE_CACHE, else $XDG_CACHE_HOME/cake,
/// else ~/.cache/cake.
std::filesystem::path cache_folder();

/// Errors:  invalid_argument, naming the option and what it takes
Result<QuickstartOptions> parse_options(int argc, char** argv);
const char* quickstart_usage();

}  // namespace cake::examples
