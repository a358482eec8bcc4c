// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a directory holds, and how it is brought down to a size.
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "cake/storage/listing.hpp"
#include "catch.hpp"
#include "listing_helpers.hpp"
#include "posix_helpers.hpp"

namespace {

using namespace cake;
using sample::Directory;
using sample::file_of;
using sample::key_of;

constexpr std::size_t kSize = 4 * 4096;

void touch(const std::filesystem::path& file) { std::ofstream(file) << "not ours"; }

/// Makes an object look as if it was read last so many minutes ago.
void set_age(const Directory& directory, const ChunkKey& key, std::int64_t minutes) {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  now.tv_sec -= 60 * minutes;
  const timespec times[2] = {now, now};
  REQUIRE(::utimensat(AT_FDCWD, file_of(directory.path(), key).c_str(), times, 0) == 0);
}

std::int64_t used(const Directory& directory, const ChunkKey& key) {
  struct stat info {};
  REQUIRE(::stat(file_of(directory.path(), key).c_str(), &info) == 0);
  return std::max(info.st_atim.tv_sec, info.st_mtim.tv_sec);
}

}  // namespace

TEST_CASE("a listing names every object of a directory once, with its size and age") {
  const Directory directory;
  PosixStorage store({.directory = directory.path(), .threads = 1});
  const auto bytes = sample::content(1, kSize);
  std::set<ChunkKey> keys;
  for (std::uint64_t i = 0; i < 40; ++i) {
    keys.insert(key_of(i));
    REQUIRE(store.write(key_of(i), bytes.bytes()));
  }
  set_age(directory, key_of(7), 90);
  const auto all = sample::all_of(store);
  CHECK(all.objects.size() == 40);
  CHECK(all.others == 0);
  for (const ListedObject& object : all.objects) {
    CHECK(keys.erase(object.key) == 1);
    CHECK(object.bytes == kSize);
    CHECK(object.used == used(directory, object.key));
  }
  CHECK(store.list("zz").error().code == Errc::invalid_argument);
  const std::string folder = key_of(7).hex().substr(0, 2);
  const auto part = store.list(folder);
  REQUIRE(part);
  CHECK(std::any_of(part->objects.begin(), part->objects.end(),
                    [](const ListedObject& object) { return object.key == key_of(7); }));
}

TEST_CASE("links, foreign files and misplaced objects are not listed, but counted") {
  const Directory directory, elsewhere;
  PosixStorage store({.directory = directory.path(), .threads = 1});
  const auto bytes = sample::content(1, kSize);
  REQUIRE(store.write(key_of(1), bytes.bytes()));
  const auto object = file_of(directory.path(), key_of(1));
  // Beside it: text, a link to an object, an object of another folder, a file that others may write.
  touch(object.parent_path() / "notes.txt");
  std::string link = object.filename().string();
  link[10] = link[10] == '0' ? '1' : '0';
  std::filesystem::create_symlink(object, object.parent_path() / link);
  std::string misplaced = object.filename().string();
  misplaced[0] = misplaced[0] == '0' ? '1' : '0';
  std::filesystem::copy_file(object, object.parent_path() / misplaced);
  std::string open = object.filename().string();
  open[11] = open[11] == '0' ? '1' : '0';
  std::filesystem::copy_file(object, object.parent_path() / open);
  REQUIRE(::chmod((object.parent_path() / open).c_str(), 0666) == 0);
  // A folder that is a link leads nowhere.
  const std::string name = object.parent_path().filename() == "00" ? "01" : "00";
  std::filesystem::create_directory(elsewhere.path() / "00");
  std::filesystem::create_directory_symlink(elsewhere.path() / "00", directory.path() / name);
  const auto all = sample::all_of(store);
  REQUIRE(all.objects.size() == 1);
  CHECK(all.objects[0].key == key_of(1));
  CHECK(all.others == 5);
  // A trim to nothing leaves them as they are.
  const auto trimmed = store.trim(0);
  REQUIRE(trimmed);
  CHECK(trimmed->objects == 1);
  CHECK_FALSE(std::filesystem::exists(object));
  for (const auto& left : {link, misplaced, open, std::string("notes.txt")}) {
    CHECK(std::filesystem::symlink_status(object.parent_path() / left).type() !=
          std::filesystem::file_type::not_found);
  }
  CHECK(std::filesystem::is_symlink(directory.path() / name));
}

TEST_CASE("a trim erases the oldest objects first, and of one age the front of a prompt") {
  const Directory directory;
  PosixStorage store({.directory = directory.path(), .threads = 1});
  std::vector<sample::Chunk> chunks;
  for (std::uint32_t i = 0; i < 6; ++i) {
    chunks.push_back(sample::make(1, {2, 2, 64, DType::f32}, 32, i));
    REQUIRE(store.write(chunks[i].identity.key, chunks[i].object));
    set_age(directory, chunks[i].identity.key, i == 5 ? 600 : 40);
  }
  const std::uint64_t size = chunks[0].object.size();
  const auto trimmed = store.trim(3 * size + 1);
  REQUIRE(trimmed);
  CHECK(trimmed->objects == 3);
  CHECK(trimmed->bytes == 3 * size);
  CHECK(trimmed->bytes_left == 3 * size);
  for (const std::uint32_t i : {0u, 1u, 2u, 3u, 4u, 5u}) {
    CHECK(sample::look(store, chunks[i].identity.key).stored() == (i >= 2 && i != 5));
  }
  CHECK(store.stats().evicted == 3);
  // Below the bound nothing goes.
  CHECK(store.trim(3 * size).value().objects == 0);
}

TEST_CASE("a trim of a bounded store leaves it with room, and it goes on") {
  const Directory directory;
  PosixStorage store({.directory = directory.path(), .threads = 1, .capacity_bytes = 10 * kSize});
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 9; ++i) REQUIRE(store.write(key_of(i), bytes.bytes()));
  REQUIRE(store.trim(2 * kSize));
  for (std::uint64_t i = 20; i < 40; ++i) REQUIRE(store.write(key_of(i), bytes.bytes()));
  CHECK(sample::all_of(store).objects.size() <= 10);
}

TEST_CASE("a store that only serves is not trimmed") {
  const Directory directory;
  const auto bytes = sample::content(1, kSize);
  {
    PosixStorage store({.directory = directory.path(), .threads = 1});
    REQUIRE(store.write(key_of(1), bytes.bytes()));
  }
  PosixStorage store({.directory = directory.path(), .threads = 1, .read_only = true});
  CHECK(store.trim(0).error().code == Errc::unsupported);
  CHECK(sample::all_of(store).objects.size() == 1);
}

TEST_CASE("an object that cannot be erased is named, and the others go") {
  const Directory directory;
  const auto calls = std::make_shared<sample::HookedCalls>();
  PosixStorage store({.directory = directory.path(), .threads = 1, .calls = calls});
  const auto bytes = sample::content(1, kSize);
  for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(store.write(key_of(i), bytes.bytes()));
  const std::string kept = file_of(directory.path(), key_of(2)).filename();
  calls->on_unlink = [&](const char* name) {
    return name == kept ? sample::fails(EIO) : sample::HookedCalls::Answer();
  };
  const auto trimmed = store.trim(0);
  REQUIRE_FALSE(trimmed);
  CHECK(sample::says(trimmed.error().context,
                     {directory.path().string(), "cannot erase " + kept, "3 objects were erased",
                      std::to_string(kSize) + " bytes are left"}));
  CHECK(sample::all_of(store).objects.size() == 1);
}

TEST_CASE("reads of a tool do not make objects younger") {
  const Directory directory;
  const auto bytes = sample::content(1, kSize);
  {
    PosixStorage store({.directory = directory.path(), .threads = 1});
    REQUIRE(store.write(key_of(1), bytes.bytes()));
  }
  set_age(directory, key_of(1), 100);
  const std::int64_t before = used(directory, key_of(1));
  for (const ReadEngine engine : sample::engines_here()) {
    PosixStorage store({.directory = directory.path(),
                        .threads = 1,
                        .engine = engine,
                        .read_only = true,
                        .note_use = false});
    REQUIRE(sample::read_code(store, key_of(1), 4096) == Errc::ok);
    REQUIRE(sample::read_code(store, key_of(1), kSize) == Errc::ok);
    CHECK(used(directory, key_of(1)) == before);
  }
  PosixStorage store({.directory = directory.path(), .threads = 1});
  REQUIRE(sample::read_code(store, key_of(1), kSize) == Errc::ok);
  CHECK(used(directory, key_of(1)) > before);
}
