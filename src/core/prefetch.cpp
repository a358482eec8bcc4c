// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "src/core/prefetch.hpp"

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "cake/chunk/reader.hpp"
#include "cake/detail/guarded.hpp"
#include "cake/detail/landing.hpp"
#include "src/core/clock.hpp"

namespace cake::inline CAKE_ABI {

struct PrefetchTicket::Inside {
  struct Stop {
    detail::Prefetch* prefetch;
    void operator()() const noexcept { prefetch->stop(); }
  };
  std::shared_ptr<detail::Prefetch> prefetch;
  std::optional<std::stop_callback<Stop>> caller;  // ends before it
};

PrefetchTicket::PrefetchTicket(std::unique_ptr<Inside> inside) : inside_(std::move(inside)) {}
PrefetchTicket::PrefetchTicket(PrefetchTicket&&) noexcept = default;
PrefetchTicket& PrefetchTicket::operator=(PrefetchTicket&& other) noexcept {
  const PrefetchTicket old(std::move(*this));
  inside_ = std::move(other.inside_);
  return *this;
}
PrefetchTicket::~PrefetchTicket() { request_stop(); }

bool PrefetchTicket::ready() const { return inside_->prefetch->ready(); }
PrefetchReport PrefetchTicket::wait() const { return inside_->prefetch->wait(); }
PrefetchReport PrefetchTicket::report() const { return inside_->prefetch->report(); }
void PrefetchTicket::request_stop() noexcept {
  if (inside_ != nullptr) inside_->prefetch->stop();
}

namespace detail {

Prefetch::Prefetch(QueuedPrompt prompt, LaneHost& lanes, const PrefetchOptions& options,
                   const Tiers& tiers, Time read_timeout)
    : prompt_(std::move(prompt)),
      lanes_(lanes),
      reads_at_once_(std::max(1u, options.reads_at_once)),
      read_timeout_(read_timeout),
      waiting_(lanes.lane_count()) {
  report_.lookup = prompt_.lookup.status;
  flights_.reserve(std::size_t{reads_at_once_} * waiting_.size());
  plan(options, tiers);
}

void Prefetch::plan(const PrefetchOptions& options, const Tiers& tiers) {
  if (options.stop.stop_requested()) {
    report_.status = Error{Errc::canceled, 0, "prefetch"};
    return;
  }
  std::uint64_t bytes = 0;
  std::uint32_t nowhere = 0;  // chunks that no tier would promote
  const std::uint64_t staging = lanes_.staging_budget();
  for (std::uint32_t c = prompt_.lookup.spec.end_chunk; c-- > 0;) {
    const StoredChunk& chunk = prompt_.lookup.stored[c];
    const std::optional<LaneId> lane = fastest_lane(chunk);
    if (!lane) continue;
    ++report_.stored;
    if (*lane == 0 || (tiers.lend >> *lane & 1) != 0) {
      ++report_.there;
      continue;
    }
    ++report_.left;
    if (tiers.on_device || (tiers.promote >> *lane & 1) == 0 || chunk.size > staging) {
      ++nowhere;
    } else if (chunk.size <= options.most_bytes - bytes) {
      bytes += chunk.size;
      largest_read_ = std::max(largest_read_, chunk.size);
      waiting_[*lane].push_back(c);
    }
  }
  for (Chunks& chunks : waiting_) std::reverse(chunks.begin(), chunks.end());
  if (nowhere != 0) report_.status = why_nothing(tiers);
}

Status Prefetch::why_nothing(const Tiers& tiers) const {
  const char* const why =
      tiers.on_device
          ? "prefetch: the lanes read into device memory, from where nothing gets into a "
            "faster tier"
      : tiers.promote == 0
          ? "prefetch: the store does not promote what is read from a slower tier; make it a "
            "TieredStorage with TierOptions::promote = Promotion::on_hit"
          : "prefetch: a chunk cannot be promoted from its tier, or does not fit into "
            "LaneOptions::staging_bytes as a whole";
  return Error{Errc::unsupported, 0, why};
}

PrefetchTicket Prefetch::start(std::shared_ptr<Prefetch> prefetch, const PrefetchOptions& options) {
  Prefetch& self = *prefetch;
  auto inside = std::make_unique<PrefetchTicket::Inside>();
  inside->prefetch = std::move(prefetch);
  if (!self.ready()) self.lanes_.attach(inside->prefetch);
  inside->caller.emplace(options.stop, PrefetchTicket::Inside::Stop{&self});
  return PrefetchTicket(std::move(inside));
}

bool Prefetch::over() const {
  return flights_.empty() && std::all_of(waiting_.begin(), waiting_.end(),
                                         [](const Chunks& chunks) { return chunks.empty(); });
}

bool Prefetch::ready() const {
  if (made_here_.in_child()) return true;
  const std::lock_guard lock(mutex_);
  return over();
}

PrefetchReport Prefetch::wait() const {
  if (Status here = made_here_.check("a PrefetchTicket"); !here) {
    PrefetchReport report;
    report.status = std::move(here);
    return report;
  }
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return over(); });
  return report_;
}

PrefetchReport Prefetch::report() const {
  if (made_here_.in_child()) return wait();
  const std::lock_guard lock(mutex_);
  return report_;
}

void Prefetch::stop() noexcept {
  if (made_here_.in_child()) return;
  bool was_over = false;
  {
    const std::lock_guard lock(mutex_);
    was_over = over();
    if (!was_over && !stopped_) report_.status = error_of(Errc::canceled, 0, "prefetch");
    stopped_ = true;
    for (Chunks& chunks : waiting_) chunks.clear();
    flights_.clear();  // nobody waits for them
  }
  settle(was_over);
}

/// Without the mutex, after something has ended.
void Prefetch::settle(bool was_over) noexcept {
  bool is_over = false;
  {
    const std::lock_guard lock(mutex_);
    is_over = over();
    if (is_over) changed_.notify_all();
  }
  if (is_over && !was_over) {
    lanes_.detach(*this);
  } else if (!is_over) {
    lanes_.wake(*this);
  }
}

std::optional<ReadTicket> Prefetch::next_read(LaneId lane, std::uint64_t max_bytes,
                                              bool& short_of_room) {
  const std::lock_guard lock(mutex_);
  Chunks& chunks = waiting_[lane];
  const auto on_lane = std::count_if(flights_.begin(), flights_.end(),
                                     [lane](const Flight& f) { return f.lane == lane; });
  if (chunks.empty() || on_lane >= reads_at_once_) return std::nullopt;
  const std::uint32_t chunk = chunks.back();
  const std::uint64_t bytes = prompt_.lookup.stored[chunk].size;
  if (bytes > max_bytes) {
    short_of_room = true;
    return std::nullopt;
  }
  ReadTicket read;
  read.id = ++reads_;
  read.slice = prompt_.lookup.spec.whole(chunk);
  read.lane = lane;
  read.key = prompt_.lookup.keys[chunk];
  read.bytes = bytes;
  flights_.push_back({read.id, lane, steady_now() + read_timeout_});
  chunks.pop_back();
  return read;
}

bool Prefetch::wanted(std::uint64_t read) noexcept {
  const std::lock_guard lock(mutex_);
  const Time now = steady_now();
  return std::any_of(flights_.begin(), flights_.end(),
                     [&](const Flight& f) { return f.read == read && now < f.deadline; });
}

/// Whether somebody still waited for the read. With the mutex.
bool Prefetch::take(const ReadTicket& read) {
  return std::erase_if(flights_, [&](const Flight& f) { return f.read == read.id; }) != 0;
}

bool Prefetch::landed(const ReadTicket& read, const Landed& landed) noexcept {
  const Result<std::uint32_t> whole =
      guarded(Errc::io, "verify a chunk", [&] { return verify_object(landed.bytes, read.key); });
  if (!whole) {
    failed(read, whole.error());
    return false;
  }
  {
    const std::lock_guard lock(mutex_);
    if (!take(read)) return false;
    --report_.left;
    ++report_.read;
    report_.bytes_read += read.bytes;
  }
  settle(false);
  return !landed.lent;
}

void Prefetch::failed(const ReadTicket& read, const Error& error) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (!take(read)) return;
    --report_.left;
    ++report_.failed;
    if (report_.load_error) {
      report_.load_error = error_of(error.code, error.native, error.context);
    }
  }
  settle(false);
}

void Prefetch::returned(const ReadTicket& read) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (!take(read)) return;
    waiting_[read.lane].push_back(read.slice.chunk);  // it had room there before
  }
  settle(false);
}

/// What a prompt reads whole is promoted for that: it is not read again.
std::optional<ReadTicket> Prefetch::join(const ReadTicket& other) noexcept {
  bool taken = false;
  {
    const std::lock_guard lock(mutex_);
    const std::uint32_t chunk = other.slice.chunk;
    const std::vector<ChunkKey>& keys = prompt_.lookup.keys;
    if (chunk >= prompt_.lookup.stored.size() || keys[chunk] != other.key) return std::nullopt;
    if (other.bytes != prompt_.lookup.stored[chunk].size) return std::nullopt;  // some layers of it
    taken = std::erase(waiting_[other.lane], chunk) != 0;
    if (taken) --report_.left, ++report_.by_others;
  }
  if (taken) settle(false);
  return std::nullopt;
}

std::uint64_t Prefetch::left_to_load(LaneId lane) const noexcept {
  const std::lock_guard lock(mutex_);
  std::uint64_t bytes = 0;
  for (const std::uint32_t chunk : waiting_[lane]) bytes += prompt_.lookup.stored[chunk].size;
  return bytes;
}

}  // namespace detail

}  // namespace cake::inline CAKE_ABI
