// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// make_golden DIRECTORY: writes the golden objects that are not there yet. One that is there stays as
// it is, whatever today's writer makes: a new version of the format adds files.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>

#include "tests/chunk/golden.hpp"

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::fputs("usage: make_golden DIRECTORY\n", stderr);
    return 2;
  }
  for (const cake::golden::Case& one : cake::golden::cases()) {
    const std::filesystem::path file = std::filesystem::path(argv[1]) / (one.name + ".txt");
    if (std::filesystem::exists(file)) continue;
    std::ofstream out(file);
    out << cake::golden::to_text(cake::golden::write(one));
    if (!out.flush()) {
      std::fprintf(stderr, "make_golden: cannot write %s\n", file.c_str());
      return 1;
    }
    std::printf("%s\n", file.c_str());
  }
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "make_golden: %s\n", e.what());
  return 1;
}
