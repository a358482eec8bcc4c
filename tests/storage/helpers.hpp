// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What the tests of the stores share.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "cake/engine.hpp"
#include "cake/staging.hpp"
#include "cake/storage_backend.hpp"
#include "tests/chunk/sample.hpp"

namespace cake::inline CAKE_ABI::sample {

/// An empty directory that is gone at the end.
class Directory {
 public:
  explicit Directory(const std::filesystem::path& parent = std::filesystem::temp_directory_path()) {
    std::string name = (parent / "cake-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary directory");
    path_ = name;
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline ChunkKey key_of(std::uint64_t seed) {
  ChunkKey key;
  fill(key.bytes, seed + 1);
  return key;
}

/// `size` aligned bytes that `seed` decides.
inline AlignedBuffer content(std::uint64_t seed, std::size_t size) {
  AlignedBuffer buffer(size);
  fill(buffer.bytes(), seed + 77);
  return buffer;
}

inline bool equal(ConstBytes a, ConstBytes b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

/// What a store says of one key; a store that fails holds nothing.
template <StorageBackend S>
StoredChunk look(S& store, const ChunkKey& key) {
  const auto found = store.lookup(std::span(&key, 1));
  return found ? found->at(0) : StoredChunk{};
}

/// Reads `size` bytes from `offset`; empty when the read failed, and `code` says why.
template <StorageBackend S>
AlignedBuffer fetch(S& store, const ChunkKey& key, std::size_t size, std::uint64_t offset = 0,
                    Errc* code = nullptr, std::uint32_t tier = 0) {
  // Zeroed, because memory that was just freed may hold the very bytes that are to be read.
  AlignedBuffer buffer(size);
  std::memset(buffer.data(), 0, size);
  const Status status = cake::await_completion(store.read(tier, key, offset, buffer.bytes()));
  if (code != nullptr) *code = status.code();
  return status ? std::move(buffer) : AlignedBuffer(0);
}

template <StorageBackend S>
Errc read_code(S& store, const ChunkKey& key, std::size_t size, std::uint64_t offset = 0,
               std::uint32_t tier = 0) {
  Errc code = Errc::ok;
  static_cast<void>(fetch(store, key, size, offset, &code, tier));
  return code;
}

}  // namespace cake::inline CAKE_ABI::sample
