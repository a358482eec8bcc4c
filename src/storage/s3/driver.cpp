// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "driver.hpp"

#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "cake/detail/guarded.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

constexpr std::chrono::milliseconds kSweep{20};
constexpr int kIdle = 60'000;  // milliseconds; whatever comes wakes the thread

Exception no_thread() {
  return Exception({Errc::out_of_memory, EAGAIN,
                    "S3Storage: no thread or no memory for transfers; raise the limit of "
                    "processes (ulimit -u)"});
}

}  // namespace

S3Driver::S3Driver(S3Common& common, std::array<unsigned, 3> most)
    : common_(common), most_(most), multi_(curl_multi_init()), random_(std::random_device{}()) {
  if (multi_ == nullptr) throw no_thread();
  const unsigned all = most[0] + most[1] + most[2];
  // Connections stay open for as many requests as there may be.
  curl_multi_setopt(multi_, CURLMOPT_MAXCONNECTS, static_cast<long>(all));
  curl_multi_setopt(multi_, CURLMOPT_PIPELINING, static_cast<long>(CURLPIPE_NOTHING));
  try {
    idle_.reserve(all);
    thread_ = std::thread([this] { work(); });
  } catch (const std::exception&) {
    curl_multi_cleanup(multi_);
    throw no_thread();
  }
}

S3Driver::~S3Driver() {
  stop();
  curl_multi_cleanup(multi_);
}

void S3Driver::stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  curl_multi_wakeup(multi_);
  const std::lock_guard lock(joining_);
  if (thread_.joinable()) thread_.join();
}

void S3Driver::submit(Exchanges& exchanges) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (!stop_) new_.splice(new_.end(), exchanges);
  }
  for (const auto& each : exchanges) {
    each->end(Errc::canceled, "the store has ended", common_);
    each->tell();
  }
  curl_multi_wakeup(multi_);
}

void S3Driver::wake() noexcept {
  swept_.store(false, std::memory_order_release);
  curl_multi_wakeup(multi_);
}

void S3Driver::work() noexcept {
  // TLS writes to sockets that the other side may have closed.
  sigset_t pipe;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
  for (;;) {
    {
      const std::lock_guard lock(mutex_);
      if (stop_) break;
    }
    take_new();
    Clock::time_point now = Clock::now();
    if (now >= next_sweep_ || !swept_.exchange(true, std::memory_order_acq_rel)) sweep(now);
    start(now);
    int running = 0;
    curl_multi_perform(multi_, &running);
    finish();
    now = Clock::now();
    start(now);
    wait(now);
  }
  end_all();
}

void S3Driver::take_new() {
  Exchanges more;
  {
    const std::lock_guard lock(mutex_);
    more.swap(new_);
  }
  while (!more.empty()) {
    Exchanges& queue = waiting_[share_of(*more.front())];
    queue.splice(queue.end(), more, more.begin());
  }
}

void S3Driver::sweep(Clock::time_point now) {
  next_sweep_ = now + kSweep;
  Exchanges ended;
  // Whether it is over; what it ends as is noted then.
  const auto ends = [&](S3Exchange& exchange) {
    if (exchange.batch().canceled()) {
      exchange.end_with_batch(common_);
    } else if (now >= exchange.deadline()) {
      exchange.end(Errc::timeout,
                   "not done within its time; look at the server, or raise the "
                   "timeout of S3Options",
                   common_);
    } else {
      return false;
    }
    return true;
  };
  const auto look = [&](Exchanges& queue) {
    for (auto it = queue.begin(); it != queue.end();) {
      const auto next = std::next(it);
      if (ends(**it)) ended.splice(ended.end(), queue, it);
      it = next;
    }
  };
  for (Exchanges& queue : waiting_) look(queue);
  look(later_);
  for (auto it = active_.begin(); it != active_.end();) {
    const auto next = std::next(it);
    if (it->exchange && ends(*it->exchange)) {
      release(*it);
      const std::shared_ptr<S3Exchange> exchange = std::move(it->exchange);
      active_.erase(it);
      exchange->tell();
    } else if (it->exchange->stalled(now, common_.options.stall_timeout)) {
      over(it, CURLE_OPERATION_TIMEDOUT);
    }
    it = next;
  }
  for (const auto& each : ended) each->tell();
}

void S3Driver::start(Clock::time_point now) {
  for (auto it = later_.begin(); it != later_.end();) {
    const auto next = std::next(it);
    if ((*it)->not_before() <= now) {
      // It was there before all that wait.
      Exchanges& queue = waiting_[share_of(**it)];
      queue.splice(queue.begin(), later_, it);
    }
    it = next;
  }
  for (std::size_t share = 0; share < waiting_.size() && now >= closed_until_; ++share) {
    while (running_[share] < most_[share] && !waiting_[share].empty()) {
      std::shared_ptr<S3Exchange> exchange = std::move(waiting_[share].front());
      waiting_[share].pop_front();
      if (!begin(exchange)) {
        exchange->end(Errc::out_of_memory, "no memory for a transfer", common_);
        exchange->tell();
      }
    }
  }
}

bool S3Driver::begin(std::shared_ptr<S3Exchange> exchange) {
  Active active;
  active.handle = idle_.empty() ? curl_easy_init() : idle_.back();
  if (active.handle == nullptr) return false;
  if (!idle_.empty()) idle_.pop_back();
  const Status ready = guarded(Errc::out_of_memory, "a request", [&] {
    active_.emplace_back();
    return exchange->prepare(active.handle, common_);
  });
  if (!ready || curl_multi_add_handle(multi_, active.handle) != CURLM_OK) {
    if (!active_.empty() && !active_.back().exchange) active_.pop_back();
    curl_easy_cleanup(active.handle);
    return false;
  }
  active.added = true;
  ++running_[share_of(*exchange)];
  active.exchange = std::move(exchange);
  active_.back() = std::move(active);
  return true;
}

/// The handle is free for another request; its connection stays in the multi handle.
void S3Driver::release(Active& active) noexcept {
  long connects = 0;
  if (curl_easy_getinfo(active.handle, CURLINFO_NUM_CONNECTS, &connects) == CURLE_OK) {
    common_.counters.connects += static_cast<std::uint64_t>(connects);
  }
  curl_multi_remove_handle(multi_, active.handle);
  --running_[share_of(*active.exchange)];
  if (idle_.size() < idle_.capacity()) {
    idle_.push_back(active.handle);
  } else {
    curl_easy_cleanup(active.handle);
  }
  active.handle = nullptr;
}

void S3Driver::over(std::list<Active>::iterator active, CURLcode code) {
  release(*active);
  const std::shared_ptr<S3Exchange> exchange = std::move(active->exchange);
  active_.erase(active);
  bool again = false;
  const Status ended = guarded(Errc::out_of_memory, "a request", [&]() -> Status {
    again = exchange->attempt_ended(code, common_, random_);
    if (!again) return {};
    later_.push_back(exchange);
    if (exchange->no_way()) closed_until_ = std::max(closed_until_, exchange->not_before());
    return {};
  });
  if (!ended) exchange->end(Errc::out_of_memory, "no memory for a transfer", common_);
  if (!ended || !again) exchange->tell();
}

void S3Driver::finish() {
  int left = 0;
  while (const CURLMsg* const message = curl_multi_info_read(multi_, &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    const CURLcode code = message->data.result;
    const auto active = std::find_if(active_.begin(), active_.end(), [&](const Active& a) {
      return a.handle == message->easy_handle;
    });
    if (active != active_.end()) over(active, code);
  }
}

void S3Driver::wait(Clock::time_point now) {
  const bool waits =
      !active_.empty() || !later_.empty() ||
      std::any_of(waiting_.begin(), waiting_.end(), [](const auto& q) { return !q.empty(); });
  int span = waits ? static_cast<int>(kSweep.count()) : kIdle;
  for (const auto& each : later_) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(each->not_before() - now);
    span = std::clamp(static_cast<int>(left.count()), 0, span);
  }
  curl_multi_poll(multi_, nullptr, 0, span, nullptr);
}

void S3Driver::end_all() {
  take_new();
  for (Active& each : active_) {
    release(each);
    later_.push_back(std::move(each.exchange));
  }
  active_.clear();
  for (Exchanges& queue : waiting_) later_.splice(later_.end(), queue);
  for (const auto& each : later_) {
    each->end(Errc::canceled, "the store has ended", common_);
    each->tell();
  }
  later_.clear();
  for (CURL* const handle : idle_) curl_easy_cleanup(handle);
  idle_.clear();
}

}  // namespace cake::inline CAKE_ABI::detail
