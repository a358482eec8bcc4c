// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "evictor.hpp"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <new>
#include <thread>
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
// How long a write waits for the store that evicts.
constexpr std::chrono::seconds kMostWait{2};
constexpr std::chrono::seconds kMostWaitOfTrim{10};
constexpr std::chrono::milliseconds kPause{2};
// What another store is about to write may be there after so long. Seconds.
constexpr std::int64_t kArrives = 10;
// KnownObject::keep of what could not be erased: it is tried again after all others.
constexpr std::int8_t kLast = 100;
// How long freed space may take until it is free: open files, snapshots, file systems that free late.
constexpr std::chrono::seconds kMostLate{30};
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

Evictor::Evictor(StoreDirectory& store, std::function<void(const ChunkKey&)> forget, bool active)
    : store_(store),
      capacity_(store.options().capacity_bytes != 0
                    ? store.options().capacity_bytes
                    : std::max<std::uint64_t>(store.file_system_bytes(), 1)),
      forget_(std::move(forget)),
      look_(std::make_unique<DirectoryLook>(DirectoryLook::to_evict(store))) {
  index_.begin_look();
  if (!active) return;
  turn_.emplace(store);
  if (turn_->supported()) log_.emplace(store);
}

Status Evictor::reserve(const ChunkKey& key, ConstBytes object) {
  const std::uint64_t bytes = object.size();
  if (bytes > capacity_) {
    ++store_.counters().refused;
    return Error{Errc::out_of_memory, 0,
                 "an object of " + std::to_string(bytes) +
                     " bytes is larger than the capacity of " + store_.named() + " (" +
                     std::to_string(capacity_) +
                     " bytes); raise capacity_bytes, or store smaller chunks"};
  }
  const auto until = Clock::now() + kMostTime;
  look(until);
  expire();
  {
    const std::lock_guard lock(mutex_);
    reserved_ += bytes;
  }
  Status room = Error{Errc::out_of_memory, 0, {}};
  try {
    tell({key, bytes, position_in(object.first(kIoAlignment)), false});
    learn();
    room = make_room(bytes, until);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    reserved_ -= bytes;
    doubt();
    throw;
  }
  if (room) return room;
  ++store_.counters().refused;
  {
    const std::lock_guard lock(mutex_);
    reserved_ -= bytes;
  }
  tell_absent(key);
  return room;
}

KnownObject Evictor::just_written(KnownObject object) const {
  object.used = store_.now();
  object.keep = keep_of(false, 0);
  if (store_.options().ttl.count() > 0) object.published = object.used;
  return object;
}

void Evictor::tell(const ChangeLog::Change& change) {
  const std::lock_guard one(log_mutex_);
  if (log_) static_cast<void>(log_->tell(change));
}

void Evictor::learn() {
  const std::lock_guard one(log_mutex_);
  if (!log_) return;
  const ChangeLog::News news = log_->read();
  const std::lock_guard lock(mutex_);
  look_again_ = look_again_ || news.lost;
  for (const ChangeLog::Change& change : news.changes) {
    if (change.erased) {
      index_.remove(change.key);
    } else {
      index_.put(change.key, just_written({change.bytes, 0, change.position, true, true}));
    }
  }
}

void Evictor::expire() {
  const std::int64_t ttl = store_.options().ttl.count();
  if (ttl <= 0) return;
  const std::int64_t now = store_.now();
  std::vector<Candidate> expired;
  {
    const std::lock_guard lock(mutex_);
    expired = index_.published_by(now - ttl, kMostEvicted);
  }
  if (expired.empty()) return;
  const auto taken = turn_->take();
  if (taken == EvictionTurn::Taken::no) return;  // with one of the next writes
  const EvictionTurn::Guard guard(taken == EvictionTurn::Taken::yes ? &*turn_ : nullptr);
  Outcome outcome;
  for (const Candidate& candidate : expired) static_cast<void>(remove(candidate, now, outcome));
}

Evictor::Aim Evictor::aim_for(std::uint64_t bytes, std::uint64_t short_of) const {
  const PosixOptions& options = store_.options();
  Aim aim{capacity_, capacity_, bytes};
  if (options.capacity_bytes != 0) {
    aim.limit = options.high_water.of(capacity_);
    aim.target = options.low_water.of(capacity_);
    // Of a store that is not known yet a sixteenth may be added before as much goes.
    if (!complete_ && added_ > capacity_ / 16) aim.limit = aim.target = in_use() - bytes;
  }
  if (short_of != 0) {
    const std::uint64_t left = in_use() > short_of ? in_use() - short_of : 0;
    aim.limit = std::min(aim.limit, left);
    aim.target = std::min(aim.target, left);
  }
  return aim;
}

Status Evictor::make_room(std::uint64_t bytes, Clock::time_point until) {
  auto short_of = store_.short_of_free(bytes);
  if (!short_of) return short_of.error();
  {
    const std::lock_guard lock(mutex_);
    if (*short_of == 0 && in_use() <= aim_for(bytes, 0).limit) return {};
  }
  const auto turn = wait_for_turn(bytes);
  if (!turn) return turn.error();
  if (*turn == Turn::of_another) return {};
  const EvictionTurn::Guard guard(*turn == Turn::ours ? &*turn_ : nullptr);
  learn();
  short_of = store_.short_of_free(bytes);
  if (!short_of) return short_of.error();
  if (Status come = check_late(*short_of); !come) return come;
  Aim aim;
  {
    const std::lock_guard lock(mutex_);
    aim = aim_for(bytes, *short_of);
  }
  const Outcome outcome = evict(aim, until);
  {
    const std::lock_guard one(log_mutex_);
    if (log_) log_->shorten();
  }
  if (Status free = check_free(bytes, *short_of, outcome); !free) return free;
  return check_capacity(bytes, outcome);
}

Result<Evictor::Turn> Evictor::wait_for_turn(std::uint64_t bytes) {
  const auto end = Clock::now() + kMostWait;
  for (;;) {
    const auto taken = turn_->take();
    if (taken == EvictionTurn::Taken::yes) return Turn::ours;
    if (taken == EvictionTurn::Taken::unsupported) return Turn::of_all;
    learn();
    const auto short_of = store_.short_of_free(bytes);
    if (!short_of) return short_of.error();
    {
      const std::lock_guard lock(mutex_);
      // What this store is writing may go over the capacity, what it will write next may not.
      if (*short_of == 0 && index_.bytes() + unseen_ <= capacity_) return Turn::of_another;
    }
    if (Clock::now() >= end) break;
    std::this_thread::sleep_for(kPause);
  }
  return Error{Errc::out_of_memory, EWOULDBLOCK,
               "another process holds the lock .evict.lock of " + store_.named() +
                   " to evict, and there is no room yet; if that lasts, look whether it hangs"};
}

Result<Evictor::Turn> Evictor::wait_to_trim() {
  const auto end = Clock::now() + kMostWaitOfTrim;
  for (;;) {
    const auto taken = turn_->take();
    if (taken == EvictionTurn::Taken::yes) return Turn::ours;
    if (taken == EvictionTurn::Taken::unsupported) return Turn::of_all;
    if (Clock::now() >= end) break;
    std::this_thread::sleep_for(kPause);
  }
  return Error{Errc::io, EWOULDBLOCK,
               "trim of " + store_.named() +
                   ": another process holds the lock .evict.lock to evict; try again, and if that "
                   "lasts, look whether it hangs"};
}

Status Evictor::check_late(std::uint64_t short_of) {
  const std::lock_guard lock(mutex_);
  if (short_of == 0 || late_ < short_of || Clock::now() >= late_until_) return {};
  return Error{
      Errc::out_of_memory, 0,
      std::to_string(late_) + " bytes were evicted from " + store_.named() +
          " for keep_free, and its file system does not count them as free yet: open files, "
          "snapshots, or a file system that frees late"};
}

Status Evictor::check_free(std::uint64_t bytes, std::uint64_t before, const Outcome& outcome) {
  if (before == 0) return {};
  const auto still = store_.short_of_free(bytes);
  if (!still) return still.error();
  const std::uint64_t came = before - std::min(before, *still);
  {
    const std::lock_guard lock(mutex_);
    late_ = came < std::min(outcome.freed, before) / 2 ? outcome.freed : 0;
    late_until_ = Clock::now() + kMostLate;
  }
  if (*still == 0) return {};
  std::string why = "nothing in it can be evicted; free space, or lower keep_free";
  if (outcome.failure) why = outcome.failure->context;
  if (outcome.freed != 0)
    why = std::to_string(outcome.freed) + " bytes were evicted for this write";
  return Error{Errc::out_of_memory, 0,
               "the file system of " + store_.named() + " lacks " + std::to_string(*still) +
                   " bytes of what keep_free leaves to others, and " + why};
}

Status Evictor::check_capacity(std::uint64_t bytes, const Outcome& outcome) {
  const std::lock_guard lock(mutex_);
  if (outcome.freed != 0 || !complete_ || index_.bytes() + bytes <= capacity_) return {};
  return Error{Errc::out_of_memory, outcome.failure ? outcome.failure->native : EBUSY,
               store_.named() + " is at its capacity, and nothing in it can be evicted: " +
                   (outcome.failure ? outcome.failure->context
                                    : std::string("all of it is being written at this moment"))};
}

void Evictor::settle(const ChunkKey& key, ConstBytes object, std::optional<bool> published) {
  if (!published.value_or(true)) tell_absent(key);
  const std::lock_guard lock(mutex_);
  reserved_ -= object.size();
  if (!published) return lose_sight(object.size());
  if (!*published) return;
  added_ += object.size();
  try {
    put_known(key, just_written({object.size(), 0, position_in(object.first(kIoAlignment)), true}));
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
  added_ = capacity_;  // so that the next write begins a look
}

std::uint64_t Evictor::erased(const ChunkKey& key) {
  tell({key, 0, 0, true});
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
  // While another one evicts, the file system may have room again when it is asked again.
  const auto taken = turn_->take();
  if (taken == EvictionTurn::Taken::no) return;
  const EvictionTurn::Guard guard(taken == EvictionTurn::Taken::yes ? &*turn_ : nullptr);
  learn();
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
    const bool again = !looking_ && (look_again_ || added_ > capacity_ / 16);
    if (renewed || again) {
      look_ = std::make_unique<DirectoryLook>(DirectoryLook::to_evict(store_));
      look_again_ = false;
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
  Evictor evictor(store, std::move(forget), true);
  const auto turn = evictor.wait_to_trim();
  if (!turn) return turn.error();
  const EvictionTurn::Guard guard(*turn == Turn::ours ? &*evictor.turn_ : nullptr);
  auto look = DirectoryLook::to_evict(store);
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
  const std::int64_t now = store_.now();
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
    oldest = index_.oldest(store_.now(), most);
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

std::optional<KnownObject> Evictor::younger(const Candidate& candidate, const struct stat& info,
                                            int priority, std::int64_t now) const {
  if (store_.expired(info)) return std::nullopt;
  KnownObject object = candidate.object;
  object.used = std::min<std::int64_t>(now, std::max(info.st_atim.tv_sec, info.st_mtim.tv_sec));
  object.keep = keep_of(was_read(info), priority);
  if (object.published != 0) object.published = std::min<std::int64_t>(now, info.st_mtim.tv_sec);
  const auto class_of = [&](const KnownObject& o) { return age_class(now, o.used) - o.keep; };
  const bool renewed = object.published != candidate.object.published;
  if (!renewed && class_of(object) >= class_of(candidate.object)) return std::nullopt;
  return object;
}

bool Evictor::erase(const Candidate& candidate, std::int64_t now, Outcome& outcome) {
  const auto keep = [&](const KnownObject& object) {
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
  } else if (!S_ISREG(info.st_mode) || !store_.trusted(info)) {
    return true;  // somebody else's by now, and no part of the store
  } else {
    // It may have been read, written or given a priority since it was looked at, by whatever process.
    const int priority = store_.priority_of(folder->get(), name.c_str());
    if (const auto object = younger(candidate, info, priority, now)) {
      keep(*object);
      return true;
    }
    forget_(candidate.key);
    // Before it is gone: whoever writes it again tells that later.
    tell({candidate.key, 0, 0, true});
    if (store_.calls().unlink_at(folder->get(), name.c_str(), 0) != 0) number = errno;
  }
  if (number == 0) {
    ++store_.counters().evicted;
    store_.counters().evicted_bytes += candidate.object.bytes;
    if (store_.expired(info)) ++store_.counters().expired;
  } else if (number != ENOENT) {
    KnownObject object = candidate.object;
    object.used = now;
    object.keep = kLast;
    if (object.published != 0) object.published = now;
    keep(object);
    tell({candidate.key, object.bytes, object.position, false});
    ++store_.counters().eviction_failures;
    outcome.failure = system_error(number, "cannot erase " + name);
    return false;
  } else if (candidate.object.arriving && now - candidate.object.used < kArrives) {
    // It may be on its way. All others first; then there is nothing to wait for but that.
    if (candidate.object.keep == kLast) {
      keep(candidate.object);
      return false;
    }
    KnownObject object = candidate.object;
    object.keep = kLast;
    keep(object);
    return true;
  }
  outcome.freed += candidate.object.bytes;
  return true;
}

void Evictor::tell_absent(const ChunkKey& key) noexcept {
  try {
    const std::string name = StoreDirectory::file_name(key);
    const auto folder = store_.open_fan_out(StoreDirectory::fan_out_name(key), false);
    struct stat info {};
    const bool absent =
        folder ? store_.calls().stat_at(folder->get(), name.c_str(), &info) != 0 && errno == ENOENT
               : folder.error().code == Errc::not_found;
    if (absent) tell({key, 0, 0, true});
  } catch (const std::bad_alloc&) {  // then the others find out when they look
  }
}

}  // namespace cake::inline CAKE_ABI::detail
