// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A store of one's own in about 40 lines, tried out by the conformance kit. cake::PosixStorage is
// the one to use for files: this one checks no owner, keeps no limit and reads one file at a time.
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "cake/engine.hpp"
#include "cake/storage_backend.hpp"
#include "cake/testing/check_storage.hpp"
#include "temporary_folder.hpp"

namespace {

namespace fs = std::filesystem;

// [storage]
class FolderStorage {
 public:
  explicit FolderStorage(fs::path folder) : folder_(std::move(folder)) {}

  cake::Result<std::vector<cake::StoredChunk>> lookup(std::span<const cake::ChunkKey> keys) {
    std::vector<cake::StoredChunk> found(keys.size());  // size 0: absent
    for (std::size_t i = 0; i < keys.size(); ++i) {
      std::error_code absent;
      const std::uintmax_t size = fs::file_size(file(keys[i]), absent);
      if (!absent) found[i] = {size, /*tiers=*/1};
    }
    return found;
  }
  cake::Status read(std::uint32_t /*tier*/, const cake::ChunkKey& key, std::uint64_t offset,
                    cake::MutableBytes out) {
    std::ifstream in(file(key), std::ios::binary);
    if (!in) return cake::Error{cake::Errc::not_found, 0, key.hex()};
    in.seekg(static_cast<std::streamoff>(offset));
    in.read(reinterpret_cast<char*>(out.data()), static_cast<std::streamsize>(out.size()));
    if (!in) return cake::Error{cake::Errc::corrupt, 0, key.hex() + " ends before the read does"};
    return {};
  }
  // Written under another name, then linked: readers see a whole object, and the first one wins.
  cake::Status write(const cake::ChunkKey& key, cake::ConstBytes bytes) {
    const fs::path part = folder_ / (key.hex() + "." + std::to_string(++writes_));
    std::ofstream out(part, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
    out.close();
    std::error_code error;
    if (out) fs::create_hard_link(part, file(key), error);
    std::error_code ignored;
    fs::remove(part, ignored);
    if (out && (!error || error == std::errc::file_exists)) return {};
    return cake::Error{cake::Errc::io, error.value(), "write " + key.hex()};
  }
  cake::Status erase(const cake::ChunkKey& key) {
    std::error_code error;
    fs::remove(file(key), error);  // not there is ok
    return error ? cake::Status(cake::Error{cake::Errc::io, error.value(), "erase"})
                 : cake::Status();
  }

 private:
  fs::path file(const cake::ChunkKey& key) const { return folder_ / (key.hex() + ".kv"); }

  fs::path folder_;
  std::atomic<std::uint64_t> writes_{0};
};
static_assert(cake::StorageBackend<FolderStorage>);
// [/storage]

}  // namespace

int main() try {
  const cake::examples::TemporaryFolder folder;
  // [check]
  FolderStorage storage(folder.path());
  const std::vector<std::string> broken = cake::testing::check(storage);
  for (const std::string& rule : broken) std::puts(rule.c_str());
  // [/check]
  std::printf("%zu rules of a StorageBackend broken\n", broken.size());
  return broken.empty() ? 0 : 1;
} catch (const std::exception& e) {
  std::fprintf(stderr, "custom_storage: %s\n", e.what());
  return 1;
}
