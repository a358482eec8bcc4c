// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Which session a lane reads for, behind its real threads. What is read is told by its key.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "cake/detail/lane_client.hpp"
#include "cake/io_lanes.hpp"
#include "cake/queued.hpp"
#include "catch.hpp"
#include "stored_prompt.hpp"

using namespace cake;
using namespace std::chrono_literals;
using testing::eventually;

namespace {

constexpr std::uint64_t kRead = 4096;

/// A prompt that wants so many reads, at most `at_once` of them at once.
class Wants final : public detail::LaneClient {
 public:
  Wants(std::uint8_t name, std::uint64_t reads, std::uint64_t at_once, detail::LaneHost& lanes)
      : name_(name), left_(reads), at_once_(at_once), lanes_(lanes) {}
  std::uint64_t largest_read() const noexcept override { return kRead; }
  std::optional<detail::ReadTicket> next_read(LaneId lane, std::uint64_t max_bytes,
                                              bool& short_of_room) override {
    short_of_room = max_bytes < kRead;
    if (short_of_room || left_ == 0 || claimed_ - landed_ >= at_once_) return std::nullopt;
    --left_;
    detail::ReadTicket read{.id = ++claimed_, .lane = lane, .bytes = kRead};
    read.key.bytes[0] = std::byte{name_};
    return read;
  }
  bool wanted(std::uint64_t) noexcept override { return true; }
  std::shared_ptr<detail::DigestingSink> sink(const detail::ReadTicket&,
                                              ConstBytes) noexcept override {
    return nullptr;
  }
  bool landed(const detail::ReadTicket&, const detail::Landed&) noexcept override {
    ++landed_;
    lanes_.wake(*this);
    return false;
  }
  bool keeps_bytes() const noexcept override { return false; }
  void failed(const detail::ReadTicket&, const Error&) noexcept override {}
  void returned(const detail::ReadTicket&) noexcept override {}
  std::uint64_t left_to_load(LaneId) const noexcept override { return kRead * left_; }
  Time load_by() const noexcept override { return target; }
  bool in_background() const noexcept override { return background; }

  std::uint64_t landed() const { return landed_; }
  Time target = kNever;
  bool background = false;

 private:
  std::uint8_t name_;
  std::atomic<std::uint64_t> left_;
  const std::uint64_t at_once_;
  detail::LaneHost& lanes_;
  std::uint64_t claimed_ = 0;
  std::atomic<std::uint64_t> landed_{0};
};

/// Its reads wait until as many were let go, and say whose they are.
class Turnstile {
 public:
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) {
    return std::vector<StoredChunk>(keys.size());
  }
  Status read(std::uint32_t, const ChunkKey& key, std::uint64_t, MutableBytes) {
    std::unique_lock lock(mutex_);
    begun_.push_back(std::to_integer<int>(key.bytes[0]));
    const std::size_t own = begun_.size();
    changed_.notify_all();
    changed_.wait(lock, [&] { return let_go_ >= own; });
    return {};
  }
  Status write(const ChunkKey&, ConstBytes) { return {}; }
  Status erase(const ChunkKey&) { return {}; }

  void let_go(std::size_t reads) {
    const std::lock_guard lock(mutex_);
    let_go_ += reads;
    changed_.notify_all();
  }
  void wait_for(std::size_t begun) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return begun_.size() >= begun; });
  }
  std::vector<int> begun() {
    const std::lock_guard lock(mutex_);
    return begun_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t let_go_ = 0;
  std::vector<int> begun_;
};

/// Lets one read after the other go, so that each is the answer to what is attached by then.
void serve_all(Turnstile& store, std::size_t reads) {
  for (std::size_t i = 1; i <= reads; ++i) {
    store.wait_for(i);
    store.let_go(1);
  }
}

std::shared_ptr<Wants> attached(IoLanes<Turnstile>& lanes, std::uint8_t name, std::uint64_t reads,
                                Time target = kNever, std::uint64_t at_once = 1000) {
  auto client = std::make_shared<Wants>(name, reads, at_once, lanes.core().host());
  client->target = target;
  lanes.core().host().attach(client);
  return client;
}

std::shared_ptr<Wants> in_background(IoLanes<Turnstile>& lanes, std::uint8_t name,
                                     std::uint64_t reads) {
  auto client = std::make_shared<Wants>(name, reads, 1000, lanes.core().host());
  client->background = true;
  lanes.core().host().attach(client);
  return client;
}

}  // namespace

TEST_CASE("nothing is read in the background while a session wants something of the lane") {
  Turnstile store;
  IoLanes lanes(store, {.threads = 4});
  const auto first =
      attached(lanes, 1, 3, kNever, 1);  // one read at a time, so that threads are idle
  store.wait_for(1);
  const auto prefetch = in_background(lanes, 9, 4);
  serve_all(store, 2);
  store.wait_for(3);
  std::this_thread::sleep_for(30ms);
  CHECK(store.begun() ==
        std::vector<int>{1, 1, 1});  // all of it is asked for, and its last read runs
  CHECK(lanes.state().prompts == 1);
  CHECK(lanes.state().lanes[0].left == std::vector<std::uint64_t>{0});
  store.let_go(1);
  store.wait_for(7);
  CHECK(store.begun() == std::vector<int>{1, 1, 1, 9, 9, 9, 9});
  // One that comes meanwhile is read for at once.
  const auto late = attached(lanes, 2, 1);
  store.let_go(1);
  store.wait_for(8);
  CHECK(store.begun().back() == 2);
  store.let_go(1000);
  eventually([&] { return prefetch->landed() == 4 && late->landed() == 1; });
}

TEST_CASE("a lane reads for the session with the least left to load, whoever came first") {
  Turnstile store;
  IoLanes lanes(store, {.threads = 1});
  const auto first = attached(lanes, 1, 6);
  store.wait_for(1);
  const auto second = attached(lanes, 2, 3);
  const auto third = attached(lanes, 3, 2);
  serve_all(store, 11);
  CHECK(store.begun() == std::vector<int>{1, 3, 3, 2, 2, 2, 1, 1, 1, 1, 1});
}

TEST_CASE("a session is passed over for no more than four times what it came for") {
  Turnstile store;
  IoLanes lanes(store, {.threads = 1});
  const auto first = attached(lanes, 1, 1);  // whose only read holds the lane
  store.wait_for(1);
  const auto second = attached(lanes, 2, 2);
  std::vector<std::shared_ptr<Wants>> later;
  for (std::uint8_t name = 3; name < 23; ++name) later.push_back(attached(lanes, name, 1));
  serve_all(store, 23);
  const std::vector<int> order = store.begun();
  // Eight reads of later ones are four times its own two.
  CHECK(order[8] != 2);
  CHECK(order[9] == 2);
  CHECK(order[10] == 2);
}

TEST_CASE("a session with a target at stake is read for first") {
  Turnstile store;
  // 4 KiB a second: the ten reads of the others take ten seconds, and its target leaves five.
  const auto known = std::make_shared<Calibration>(LinkEstimate{double{kRead}, Time{0}, Time{0}});
  IoLanes lanes(store, {.threads = 1, .calibration = known});
  const auto first = attached(lanes, 1, 11);
  store.wait_for(1);
  const Time now = std::chrono::steady_clock::now().time_since_epoch();
  const auto second = attached(lanes, 2, 5);
  const auto third = attached(lanes, 3, 30, now + 40s);
  serve_all(store, 2);
  store.wait_for(3);
  CHECK(store.begun()[1] == 3);
  store.let_go(1000);
  eventually([&] { return first->landed() + second->landed() + third->landed() == 46; });
}

TEST_CASE("while one session keeps a lane busy its other threads read for nobody else") {
  Turnstile store;
  // With a byte a second no read is overdue for hours, and two at once keep the lane busy.
  const auto known = std::make_shared<Calibration>(LinkEstimate{1.0, Time{0}, Time{0}, 2, 1, true});
  IoLanes lanes(store, {.threads = 8, .calibration = known});
  const auto first = attached(lanes, 1, 9, kNever, 3);
  store.wait_for(3);
  const auto second = attached(lanes, 2, 20);
  std::this_thread::sleep_for(20ms);
  CHECK(store.begun() == std::vector<int>{1, 1, 1});
  const auto third = attached(lanes, 3, 2);  // it has less left
  store.wait_for(5);
  CHECK(store.begun() == std::vector<int>{1, 1, 1, 3, 3});
  store.let_go(1000);
  eventually([&] { return first->landed() + second->landed() + third->landed() == 31; });
}

TEST_CASE("of two sessions that claim the same bytes while they are read the second one joins") {
  Turnstile store;
  IoLanes lanes(store, {.threads = 2});
  const auto first = attached(lanes, 1, 1);
  store.wait_for(1);
  const auto second = attached(lanes, 1, 1);
  eventually([&] { return second->left_to_load(0) == 0; });
  store.let_go(1);
  eventually([&] { return first->landed() == 1 && second->landed() == 1; });
  CHECK(store.begun() == std::vector<int>{1});
}

TEST_CASE("reads that hang keep a lane busy for no longer than a few times what they should take") {
  Turnstile store;
  const auto known =
      std::make_shared<Calibration>(LinkEstimate{1e9, Time{0}, Time{0}, 2, 1e9, true});
  IoLanes lanes(store, {.threads = 4, .calibration = known});
  const auto first = attached(lanes, 1, 4, kNever, 2);
  store.wait_for(2);
  const auto second = attached(lanes, 2, 9);
  store.wait_for(4);  // though nothing of the first one ends, which has less left
  CHECK(store.begun().back() == 2);
  store.let_go(1000);
  eventually([&] { return first->landed() + second->landed() == 13; });
}

TEST_CASE("lanes tell an engine what they read and what they still have to") {
  Turnstile store;
  const LinkEstimate rate{5e6, 3ms, Time{0}};
  IoLanes lanes(store, {.threads = 1, .calibration = std::make_shared<Calibration>(rate)});
  const LanesState idle = lanes.state();
  REQUIRE(idle.lanes.size() == 1);
  CHECK(idle.lanes[0].rate == rate);
  CHECK_FALSE(idle.lanes[0].lends);
  CHECK(idle.lanes[0].in_flight == 0);
  CHECK(idle.lanes[0].left.empty());
  CHECK(idle.prompts == 0);
  CHECK(idle.staging_bytes == lanes.staging_bytes());
  CHECK(idle.free_staging_bytes == idle.staging_bytes);
  const auto first = attached(lanes, 1, 6);
  store.wait_for(1);
  const auto second = attached(lanes, 2, 3);
  const LanesState busy = lanes.state();
  CHECK(busy.prompts == 2);
  CHECK(busy.lanes[0].in_flight == kRead);
  CHECK(busy.lanes[0].left == std::vector<std::uint64_t>{5 * kRead, 3 * kRead});
  CHECK(busy.free_staging_bytes == busy.staging_bytes - kRead);
  serve_all(store, 9);
  eventually([&] { return lanes.state().lanes[0].in_flight == 0; });
}

TEST_CASE("lanes know what they carried, and for whom, and what goes ahead of a session") {
  Turnstile store;
  IoLanes lanes(store, {.threads = 1});
  detail::LaneHost& host = lanes.core().host();
  const auto first = attached(lanes, 1, 6);
  store.wait_for(1);
  CHECK(host.ahead(*first, 0) == 0);
  const auto second = attached(lanes, 2, 3);
  CHECK(host.ahead(*first, 0) == 3 * kRead);
  CHECK(host.ahead(*second, 0) == 0);
  serve_all(store, 9);
  eventually([&] { return host.carried(0) == 9 * kRead; });
  CHECK(first->carried(0) == 6 * kRead);
  CHECK(second->carried(0) == 3 * kRead);
  host.detach(*second);
  CHECK(host.ahead(*first, 0) == 0);
}
