// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "posix_evictor.hpp"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <ctime>
#include <thread>
#include <tuple>

#include "cake/buffer.hpp"
#include "cake/chunk/reader.hpp"

namespace cake::detail {
namespace {

int age_class(std::int64_t now, std::int64_t used) {
  // A clock that was set back makes files from the future; they count as new.
  const std::int64_t minutes = std::max<std::int64_t>(now - used, 0) / 60;
  return static_cast<int>(std::bit_width(static_cast<std::uint64_t>(minutes)));
}

/// Position of an object's first token; zero for anything that is no chunk, so that it goes first.
std::uint32_t position_of(StoreDirectory& store, const ChunkKey& key) {
  struct stat info {};
  // A look by the evictor is no use of the object.
  const auto file = store.open_object(key, O_NOATIME, info);
  if (!file) return 0;
  std::array<std::byte, kIoAlignment> page;
  if (::pread(file->get(), page.data(), page.size(), 0) != static_cast<ssize_t>(page.size())) {
    return 0;
  }
  const auto summary = peek_chunk(page);
  return summary ? summary->token_begin : 0;
}

/// The lock that makes this process the only evictor; empty when another one stays at it.
Fd lock_eviction(StoreDirectory& store) {
  const int flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC;
  Fd file(::openat(store.root(), ".evict.lock", flags, 0600));
  if (!file) return {};
  for (int attempt = 0; attempt < 100; ++attempt) {
    if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0) return file;
    if (errno != EWOULDBLOCK && errno != EINTR) return {};
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return {};
}

}  // namespace

Status Evictor::reserve(std::uint64_t bytes) {
  const std::uint64_t capacity = store_.options().capacity_bytes;
  if (bytes > capacity) {
    return Error{Errc::out_of_memory, 0, "an object is larger than the capacity of its store"};
  }
  const std::lock_guard lock(mutex_);
  // Others write to the directory, too; what they added is seen when we look again.
  if (!known_ || added_ > capacity / 16 || in_use() + bytes > capacity) {
    const std::uint64_t low = capacity - capacity / 10;
    evict(capacity - bytes, low > bytes ? low - bytes : 0);
  }
  reserved_ += bytes;
  return {};
}

void Evictor::settle(std::uint64_t bytes, bool published) {
  const std::lock_guard lock(mutex_);
  reserved_ -= bytes;
  if (published) added_ += bytes;
}

void Evictor::free_space(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  count();
  const std::uint64_t target = in_use() > bytes ? in_use() - bytes : 0;
  evict(target, target);
}

std::vector<Evictor::Candidate> Evictor::count() {
  std::vector<Candidate> all;
  counted_ = 0;
  added_ = 0;
  known_ = true;
  const std::int64_t now = ::time(nullptr);
  store_.for_each_object([&](int, const ChunkKey& key, const struct stat& info) {
    if (!S_ISREG(info.st_mode)) return;
    const std::int64_t used = std::max(info.st_atim.tv_sec, info.st_mtim.tv_sec);
    const auto bytes = static_cast<std::uint64_t>(info.st_size);
    all.push_back({key, bytes, used, age_class(now, used), 0});
    counted_ += bytes;
  });
  return all;
}

void Evictor::evict(std::uint64_t limit, std::uint64_t target) {
  count();
  if (in_use() <= limit) return;
  const Fd lock = lock_eviction(store_);
  if (!lock) return;  // another process makes room, for us as well
  auto all = count();
  if (in_use() <= limit) return;

  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.age > b.age; });
  auto begin = all.begin();
  while (begin != all.end() && in_use() > target) {
    const auto end =
        std::find_if(begin, all.end(), [&](const auto& c) { return c.age != begin->age; });
    // Headers are read class by class, as most classes are never reached.
    for (auto it = begin; it != end; ++it) it->position = position_of(store_, it->key);
    std::sort(begin, end, [](const auto& a, const auto& b) {
      return std::tie(a.position, a.used, a.key) < std::tie(b.position, b.used, b.key);
    });
    for (; begin != end && in_use() > target; ++begin) remove(*begin);
    begin = end;
  }
}

void Evictor::remove(const Candidate& candidate) {
  forget_(candidate.key);
  const auto directory = store_.open_fan_out(StoreDirectory::fan_out_name(candidate.key), false);
  if (!directory) return;
  const std::string name = StoreDirectory::file_name(candidate.key);
  if (::unlinkat(directory->get(), name.c_str(), 0) != 0) return;
  counted_ -= std::min(counted_, candidate.bytes);
  ++store_.counters().evicted;
  store_.counters().evicted_bytes += candidate.bytes;
}

}  // namespace cake::detail
