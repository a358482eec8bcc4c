// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A folder that goes when its owner goes.
#pragma once

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "cake/result.hpp"

namespace cake::examples {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "cake-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw Exception(errno_error(errno, "create " + name));
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace cake::examples
