// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "src/storage/tiered/copy_queue.hpp"

#include <algorithm>
#include <chrono>
#include <exception>
#include <string>
#include <tuple>
#include <utility>

#include "cake/chunk/reader.hpp"
#include "cake/detail/guarded.hpp"
#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::detail {

namespace {

using Kind = TierCopy::Kind;

/// The first one is worth less: what is not promised can be copied another time, and the tail of a
/// prompt saves the most compute.
bool worth_less(const TierCopy& a, const TierCopy& b) {
  return std::tie(a.kind, a.position) < std::tie(b.kind, b.position);
}

auto with_key(const ChunkKey& key) {
  return [&key](const TierCopy& copy) { return copy.key == key; };
}

}  // namespace

CopyQueue::CopyQueue(TierAccess& stores, std::size_t to, const TierOptions& options)
    : stores_(stores), to_(to), options_(options) {}

void CopyQueue::add(TierCopy copy) noexcept {
  Copies one, dropped;  // what is left in them ends without the lock
  const bool noted = value_or(
      [&] {
        one.push_back(std::move(copy));
        return true;
      },
      false);
  const std::lock_guard lock(mutex_);
  if (!noted) return drop(copy);
  if (take(one, dropped)) changed_.notify_all();
}

/// Whether it was taken.
bool CopyQueue::take(Copies& one, Copies& dropped) noexcept {
  TierCopy& copy = one.front();
  if (std::find(barred_.begin(), barred_.end(), copy.key) != barred_.end()) return false;
  const auto same = std::find_if(waiting_.begin(), waiting_.end(), with_key(copy.key));
  if (same != waiting_.end()) {
    same->kind = std::max(same->kind, copy.kind);
    return false;
  }
  if (std::any_of(running_.begin(), running_.end(), with_key(copy.key))) return false;
  while (!fits(copy.bytes)) {
    const auto victim = std::min_element(waiting_.begin(), waiting_.end(), worth_less);
    if (victim == waiting_.end() || !worth_less(*victim, copy)) {
      drop(copy);
      return false;
    }
    drop(*victim);
    bytes_ -= victim->bytes;
    dropped.splice(dropped.end(), waiting_, victim);
  }
  if (stop_ || !start_thread()) {
    drop(copy);
    return false;
  }
  copy.number = ++numbers_;
  bytes_ += copy.bytes;
  waiting_.splice(waiting_.end(), one);
  return true;
}

bool CopyQueue::fits(std::uint64_t bytes) const noexcept {
  return bytes_ == 0 ||
         (bytes_ <= options_.behind_bytes && bytes <= options_.behind_bytes - bytes_);
}

bool CopyQueue::has_room(std::uint64_t bytes) const noexcept {
  const std::lock_guard lock(mutex_);
  return fits(bytes);
}

void CopyQueue::drop(const TierCopy& what) noexcept {
  TierCounters::add(stores_.counters(to_).dropped);
  if (what.kind != Kind::behind || !failed_) return;
  failed_ = error_of(Errc::out_of_memory, 0,
                     "write-back: copies into a slower tier were dropped, because more wait than "
                     "TierOptions::behind_bytes; the tier is slower than what is written");
}

/// False: nobody would make the copy.
bool CopyQueue::start_thread() noexcept {
  if (threads_.size() >= std::max(1u, options_.threads)) return true;
  // One that makes no copy at the moment takes it.
  if (threads_.size() > running_.size() + waiting_.size()) return true;
  try {
    threads_.emplace_back([this] { serve(); });
  } catch (const std::exception&) {
  }
  return !threads_.empty();
}

void CopyQueue::bar(const ChunkKey& key) {
  Copies gone;  // end without the lock
  Lock lock(mutex_);
  barred_.push_back(key);
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    const auto next = std::next(it);
    if (it->key == key) {
      bytes_ -= it->bytes;
      gone.splice(gone.end(), waiting_, it);
    }
    it = next;
  }
  changed_.notify_all();
  changed_.wait(lock,
                [&] { return std::none_of(running_.begin(), running_.end(), with_key(key)); });
}

void CopyQueue::unbar(const ChunkKey& key) noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = std::find(barred_.begin(), barred_.end(), key);
  if (found != barred_.end()) barred_.erase(found);
}

Status CopyQueue::flush() {
  Lock lock(mutex_);
  const std::uint64_t last = numbers_;
  const auto left = [last](const TierCopy& copy) { return copy.number <= last; };
  changed_.wait(lock, [&] {
    return std::none_of(waiting_.begin(), waiting_.end(), left) &&
           std::none_of(running_.begin(), running_.end(), left);
  });
  return std::exchange(failed_, Status());
}

void CopyQueue::end() noexcept {
  Copies gone;  // end without the lock
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    for (auto it = waiting_.begin(); it != waiting_.end();) {
      const auto next = std::next(it);
      if (it->kind == Kind::promotion) gone.splice(gone.end(), waiting_, it);
      it = next;
    }
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void CopyQueue::serve() noexcept {
  Lock lock(mutex_);
  while (!stop_ || !waiting_.empty()) {
    if (waiting_.empty()) {
      changed_.wait(lock);
    } else {
      make(lock);
    }
  }
}

/// Makes the copy that has waited longest; what exists in a fast tier alone goes before promotions.
void CopyQueue::make(Lock& lock) noexcept {
  auto next = std::find_if(waiting_.begin(), waiting_.end(),
                           [](const TierCopy& copy) { return copy.kind != Kind::promotion; });
  if (next == waiting_.end()) next = waiting_.begin();
  running_.splice(running_.end(), waiting_, next);  // `next` names it there
  lock.unlock();
  let_reads_go_first();
  const Result<bool> made = guarded(Errc::io, "a copy into a tier", [&] { return copy(*next); });
  next->object = BorrowedBytes();
  lock.lock();
  note(*next, made);
  bytes_ -= next->bytes;
  running_.erase(next);
  changed_.notify_all();
}

void CopyQueue::let_reads_go_first() const noexcept {
  const auto until = std::chrono::steady_clock::now() + options_.wait_for_reads;
  while (stores_.reading(to_) && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

Result<bool> CopyQueue::copy(const TierCopy& what) const {
  if (stores_.holds(to_, what.key, what.bytes)) return false;
  // Whoever erases it from here on waits for this copy, and erases that, too.
  if (!stores_.holds(what.from, what.key, what.bytes)) {
    TierCounters::add(stores_.counters(to_).dropped);
    return Error{Errc::not_found, 0, "it was evicted or erased before it was copied"};
  }
  const ConstBytes lent = what.object.bytes();
  if (!lent.empty()) return stores_.write(to_, what.key, lent);
  const AlignedBuffer object(what.bytes);
  const Status read = read_whole(what, object.bytes());
  if (read) return stores_.write(to_, what.key, object.bytes());
  TierCounters::add(stores_.counters(to_).dropped);
  return read.error();
}

/// A damaged chunk is not spread. What is no chunk nobody can verify.
Status CopyQueue::read_whole(const TierCopy& what, MutableBytes out) const {
  Status read = stores_.read(what.from, what.key, out);
  if (!read || out.size() < kIoAlignment || !peek_chunk(out.first(kIoAlignment))) return read;
  const auto whole = verify_object(out, what.key);
  return whole ? Status() : Status(whole.error());
}

void CopyQueue::note(const TierCopy& what, const Result<bool>& made) noexcept {
  TierCounters& counters = stores_.counters(to_);
  if (made) {
    const bool promoted = what.kind == Kind::promotion;
    if (*made) TierCounters::add(promoted ? counters.promoted : counters.behind);
    return;
  }
  if (what.kind != Kind::behind || !failed_) return;
  const Error& why = made.error();
  failed_ =
      error_of(why.code, why.native, "write-back: a chunk is not in a slower tier", why.context);
}

}  // namespace cake::inline CAKE_ABI::detail
