// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "evictor.hpp"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <limits>
#include <new>
#include <tuple>
#include <utility>

#include "cake/chunk/reader.hpp"
#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

// The most that one write does for the store. A write is to take below 50 ms.
constexpr std::chrono::milliseconds kMostTime{10};
constexpr std::size_t kMostEntries = 1024;  // files looked at
constexpr std::size_t kMostHeaders = 64;    // headers read
constexpr std::size_t kMostEvicted = 32;    // objects erased, unless the object needs more
constexpr std::size_t kFewest = 8;          // erased at any rate, and twice as many headers read
constexpr std::size_t kMostCandidates = 1024;
constexpr std::size_t kAll = std::numeric_limits<std::size_t>::max() / 2;

std::uint32_t position_in(ConstBytes first_page) {
  const auto summary = peek_chunk(first_page);
  return summary ? summary->token_begin : 0;
}

/// Position of an object's first token; zero for anything that is no chunk, so that it goes first.
std::uint32_t position_of(StoreDirectory& store, const ChunkKey& key) {
  struct stat info {};
  // A look by the evictor is no use of the object.
  auto file = store.open_object(key, O_NOATIME, info);
  if (!file && file.error().native == EPERM) file = store.open_object(key, 0, info);
  if (!file) return 0;
  alignas(kIoAlignment) std::array<std::byte, kIoAlignment> page;
  if (store.calls().read_at(file->get(), page.data(), page.size(), 0) !=
      static_cast<ssize_t>(page.size())) {
    return 0;
  }
  return position_in(page);
}

}  // namespace

Evictor::Evictor(StoreDirectory& store, std::function<void(const ChunkKey&)> forget)
    : store_(store), forget_(std::move(forget)), look_(std::make_unique<DirectoryLook>(store)) {
  index_.begin_look();
}

Status Evictor::reserve(std::uint64_t bytes) {
  const std::uint64_t capacity = store_.options().capacity_bytes;
  if (bytes > capacity) {
    return Error{Errc::out_of_memory, 0,
                 "an object of " + std::to_string(bytes) +
                     " bytes is larger than the capacity of " + store_.named() + " (" +
                     std::to_string(capacity) +
                     " bytes); raise capacity_bytes, or store smaller chunks"};
  }
  const auto until = Clock::now() + kMostTime;
  look(until);
  Aim aim{capacity, capacity - capacity / 10, bytes};
  {
    const std::lock_guard lock(mutex_);
    reserved_ += bytes;
    // Of a store that is not known yet a sixteenth may be added before as much goes.
    if (!complete_ && added_ > capacity / 16) aim.limit = aim.target = in_use() - bytes;
  }
  Outcome outcome;
  try {
    outcome = evict(aim, until);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    reserved_ -= bytes;
    doubt();
    throw;
  }
  if (outcome.failure && outcome.freed == 0) {
    const std::lock_guard lock(mutex_);
    if (complete_ && index_.bytes() + bytes > capacity) {
      reserved_ -= bytes;
      return Error{Errc::out_of_memory, outcome.failure->native,
                   store_.named() + " is at its capacity, and nothing in it can be evicted: " +
                       outcome.failure->context};
    }
  }
  return {};
}

void Evictor::settle(const ChunkKey& key, ConstBytes object, std::optional<bool> published) {
  const std::lock_guard lock(mutex_);
  reserved_ -= object.size();
  if (!published) return lose_sight(object.size());
  if (!*published) return;
  added_ += object.size();
  try {
    put_known(key, {object.size(), ::time(nullptr), position_in(object.first(kIoAlignment)), true});
  } catch (const std::bad_alloc&) {  // it is counted all the same
  }
}

void Evictor::put_known(const ChunkKey& key, const KnownObject& object) {
  try {
    index_.put(key, object);
  } catch (...) {
    lose_sight(object.bytes);
    throw;
  }
}

void Evictor::lose_sight(std::uint64_t bytes) {
  unseen_ += bytes;
  doubt();
}

void Evictor::doubt() {
  look_.reset();
  number_of_look_ += 1;  // what another thread sees of the last one counts no more
  looking_ = false;
  complete_ = false;
  added_ = store_.options().capacity_bytes;  // so that the next write begins a look
}

std::uint64_t Evictor::erased(const ChunkKey& key) {
  const std::lock_guard lock(mutex_);
  return index_.remove(key);
}

void Evictor::kept(std::uint64_t bytes) {
  if (bytes == 0) return;
  const std::lock_guard lock(mutex_);
  lose_sight(bytes);
}

void Evictor::free_space(std::uint64_t bytes) {
  const auto until = Clock::now() + kMostTime;
  look(until);
  std::uint64_t target;
  {
    const std::lock_guard lock(mutex_);
    target = in_use() > bytes ? in_use() - bytes : 0;
  }
  static_cast<void>(evict({target, target, bytes}, until));
}

void Evictor::look(Clock::time_point until) {
  std::unique_ptr<DirectoryLook> mine;
  std::uint64_t number = 0;
  {
    const std::lock_guard lock(mutex_);
    const bool renewed = generation_ != store_.generation();
    if (renewed) {
      generation_ = store_.generation();
      index_.clear();
      unseen_ = 0;
      complete_ = false;
    }
    // Others write to the directory, too; what they added is seen by looking again.
    const bool again = !looking_ && added_ > store_.options().capacity_bytes / 16;
    if (renewed || again) {
      look_ = std::make_unique<DirectoryLook>(store_);
      number_of_look_ += 1;
      looking_ = true;
      added_ = 0;
      index_.begin_look();
    }
    number = number_of_look_;
    mine = std::move(look_);
  }
  if (!mine) return;
  try {
    const DirectoryLook::Part part = mine->go_on(kMostEntries, until);
    const std::lock_guard lock(mutex_);
    if (number != number_of_look_) return;  // another one has begun
    for (const auto& [key, object] : part.objects) index_.put(key, object);
    for (const std::uint8_t folder : part.folders) index_.end_folder(folder);
    if (part.all) {
      complete_ = true;
      looking_ = false;
      unseen_ = 0;
    } else {
      look_ = std::move(mine);
    }
  } catch (const std::bad_alloc&) {
    const std::lock_guard lock(mutex_);
    doubt();
    throw;
  }
}

Result<PosixTrim> Evictor::trim(StoreDirectory& store, std::function<void(const ChunkKey&)> forget,
                                std::uint64_t bytes) {
  Evictor evictor(store, std::move(forget));
  auto look = DirectoryLook::of_trusted(store);
  for (bool all = false; !all;) {
    const DirectoryLook::Part part = look.folder();
    if (!part.problem) return part.problem.error();
    for (const auto& [key, object] : part.objects) evictor.index_.put(key, object);
    all = part.all;
  }
  const Outcome outcome = evictor.evict(
      {.limit = bytes, .target = bytes, .bytes = 0, .thorough = true}, Clock::time_point::max());
  const PosixTrim trimmed{outcome.erased, outcome.freed, evictor.index_.bytes()};
  if (trimmed.bytes_left <= bytes || !outcome.failure) return trimmed;
  return Error{outcome.failure->code, outcome.failure->native,
               "trim of " + store.named() + ": " + outcome.failure->context + "; " +
                   std::to_string(trimmed.objects) + " objects were erased, and " +
                   std::to_string(trimmed.bytes_left) + " bytes are left"};
}

Evictor::Outcome Evictor::evict(const Aim& aim, Clock::time_point until) {
  Outcome outcome;
  std::size_t headers_left = aim.thorough ? kAll : kMostHeaders;
  const std::size_t most = aim.thorough ? kAll : kMostCandidates;
  const std::int64_t now = ::time(nullptr);
  const auto enough = [&] {
    const std::lock_guard lock(mutex_);
    if (in_use() <= aim.target) return true;
    // The first few go whatever the clock says, so that a small store is always left with room.
    const bool long_enough =
        outcome.erased >= kMostEvicted || (outcome.erased >= kFewest && Clock::now() >= until);
    return !aim.thorough && long_enough &&
           (in_use() <= aim.limit || outcome.freed >= 2 * aim.bytes);
  };
  {
    const std::lock_guard lock(mutex_);
    if (in_use() <= aim.limit) return outcome;
  }
  // A round in which nothing goes is the last one.
  for (bool going = true; going && !enough();) {
    going = false;
    for (const Candidate& candidate : candidates(most, headers_left, until)) {
      if (enough()) return outcome;
      const std::uint64_t before = outcome.freed;
      going = remove(candidate, now, outcome) || going;
      if (outcome.freed != before) ++outcome.erased;
    }
  }
  return outcome;
}

std::vector<Evictor::Candidate> Evictor::candidates(std::size_t most, std::size_t& headers_left,
                                                    Clock::time_point until) {
  std::vector<Candidate> oldest;
  {
    const std::lock_guard lock(mutex_);
    oldest = index_.oldest(::time(nullptr), most);
  }
  std::vector<Candidate> known;
  for (Candidate& candidate : oldest) {
    if (headers_left + 2 * kFewest <= kMostHeaders && Clock::now() >= until) headers_left = 0;
    if (!candidate.object.position_known && headers_left > 0) {
      --headers_left;
      candidate.object.position = position_of(store_, candidate.key);
      candidate.object.position_known = true;
      const std::lock_guard lock(mutex_);
      // Somebody may have taken it out meanwhile; then it must not come back.
      if (index_.remove(candidate.key) != 0) put_known(candidate.key, candidate.object);
    }
    if (candidate.object.position_known) known.push_back(candidate);
  }
  if (known.empty()) known = std::move(oldest);  // no header may be read any more: by age alone
  std::sort(known.begin(), known.end(), [](const Candidate& a, const Candidate& b) {
    return std::tie(a.object.position, a.object.used, a.key) <
           std::tie(b.object.position, b.object.used, b.key);
  });
  return known;
}

bool Evictor::remove(const Candidate& candidate, std::int64_t now, Outcome& outcome) {
  {
    const std::lock_guard lock(mutex_);
    if (index_.remove(candidate.key) == 0) return true;  // another thread has it
  }
  try {
    return erase(candidate, now, outcome);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    lose_sight(candidate.object.bytes);
    throw;
  }
}

bool Evictor::erase(const Candidate& candidate, std::int64_t now, Outcome& outcome) {
  const auto keep = [&](std::int64_t used) {
    KnownObject object = candidate.object;
    object.used = used;
    const std::lock_guard lock(mutex_);
    index_.put(candidate.key, object);
  };
  const std::string name = StoreDirectory::file_name(candidate.key);
  const auto folder = store_.open_fan_out(StoreDirectory::fan_out_name(candidate.key), false);
  struct stat info {};
  int number = 0;
  if (!folder) {
    number = folder.error().native;
  } else if (store_.calls().stat_at(folder->get(), name.c_str(), &info) != 0) {
    number = errno;
  } else {
    // It may have been read since it was looked at, by whatever process.
    const std::int64_t used = std::max(info.st_atim.tv_sec, info.st_mtim.tv_sec);
    if (age_class(now, used) < age_class(now, candidate.object.used)) {
      keep(used);
      return true;
    }
    forget_(candidate.key);
    if (store_.calls().unlink_at(folder->get(), name.c_str(), 0) != 0) number = errno;
  }
  if (number == 0) {
    ++store_.counters().evicted;
    store_.counters().evicted_bytes += candidate.object.bytes;
  } else if (number != ENOENT) {
    keep(now);  // others first
    ++store_.counters().eviction_failures;
    outcome.failure = system_error(number, "cannot erase " + name);
    return false;
  }
  outcome.freed += candidate.object.bytes;
  return true;
}

}  // namespace cake::inline CAKE_ABI::detail
