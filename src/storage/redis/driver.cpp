// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "driver.hpp"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "cake/detail/guarded.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

using Then = RedisProblem::Then;
using Next = RedisExchange::Next;

constexpr std::chrono::milliseconds kSweep{20};
constexpr int kIdle = 60'000;  // milliseconds; whatever comes wakes the thread
constexpr int kEvents = 64;    // of one wait

Exception no_thread() {
  return Exception({Errc::out_of_memory, EAGAIN,
                    "RedisStorage: no thread, no file or no memory for transfers; raise the limits "
                    "of processes and open files (ulimit -u, ulimit -n)"});
}

std::size_t share_of(const RedisExchange& exchange) {
  return static_cast<std::size_t>(exchange.request().share);
}

}  // namespace

bool RedisDriver::Node::idle() const {
  const auto free = [](const auto& each) { return each.empty(); };
  const auto quiet = [](const auto& all) {
    return std::all_of(all.begin(), all.end(), [](const auto& c) { return c->in_flight() == 0; });
  };
  return std::all_of(waiting.begin(), waiting.end(), free) &&
         std::all_of(connections.begin(), connections.end(), quiet);
}

std::shared_ptr<RedisDriver> RedisDriver::make(RedisCommon& common,
                                               const std::array<unsigned, 3>& most,
                                               const std::array<unsigned, 3>& ahead) {
  std::shared_ptr<RedisDriver> driver(new RedisDriver(common, most, ahead));
  driver->self_ = driver;
  try {
    driver->thread_ = std::thread([raw = driver.get()] { raw->work(); });
  } catch (const std::exception&) {
    throw no_thread();
  }
  return driver;
}

RedisDriver::RedisDriver(RedisCommon& common, const std::array<unsigned, 3>& most,
                         const std::array<unsigned, 3>& ahead)
    : common_(common),
      most_(most),
      ahead_(ahead),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      woken_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      routes_(common),
      random_(std::random_device{}()) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = nullptr;
  if (epoll_ >= 0 && woken_ >= 0 && ::epoll_ctl(epoll_, EPOLL_CTL_ADD, woken_, &event) == 0) return;
  if (epoll_ >= 0) ::close(epoll_);
  if (woken_ >= 0) ::close(woken_);
  throw no_thread();
}

RedisDriver::~RedisDriver() {
  stop();
  ::close(epoll_);
  ::close(woken_);
}

void RedisDriver::stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake();
  const std::lock_guard lock(joining_);
  if (thread_.joinable()) thread_.join();
}

void RedisDriver::submit(Exchanges& exchanges) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (!stop_) new_.splice(new_.end(), exchanges);
  }
  for (const auto& each : exchanges) {
    each->end(Errc::canceled, "the store has ended", common_);
    each->tell();
  }
  ::eventfd_write(woken_, 1);
}

void RedisDriver::wake() noexcept {
  swept_.store(false, std::memory_order_release);
  ::eventfd_write(woken_, 1);
}

void RedisDriver::work() noexcept {
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
    const Status went = guarded(Errc::out_of_memory, "transfers", [&]() -> Status {
      turn();
      return {};
    });
    if (!went) end_all(Errc::out_of_memory, "no memory for transfers");
  }
  take_new();
  end_all(Errc::canceled, "the store has ended");
}

void RedisDriver::turn() {
  take_new();
  Clock::time_point now = Clock::now();
  if (now >= next_sweep_ || !swept_.exchange(true, std::memory_order_acq_rel)) sweep(now);
  start(now);
  reap();
  wait(now);
  reap();
}

void RedisDriver::take_new() {
  const std::lock_guard lock(mutex_);
  unrouted_.splice(unrouted_.end(), new_);
}

// ---- what is over ----

bool RedisDriver::is_over(const Exchange& exchange, Clock::time_point now) {
  if (exchange->batch().canceled()) {
    exchange->end_with_batch(common_);
  } else if (now >= exchange->deadline()) {
    exchange->end(Errc::timeout,
                  "not done within its time; look at the server, or raise the timeout of "
                  "RedisOptions",
                  common_);
  } else {
    return false;
  }
  return true;
}

void RedisDriver::sweep(Clock::time_point now) {
  next_sweep_ = now + kSweep;
  Exchanges ended;
  const auto look = [&](Exchanges& queue) {
    for (auto it = queue.begin(); it != queue.end();) {
      const auto next = std::next(it);
      if (is_over(*it, now)) ended.splice(ended.end(), queue, it);
      it = next;
    }
  };
  const auto over = [&](const Exchange& exchange) {
    const bool is = is_over(exchange, now);
    if (is) ended.push_back(exchange);
    return is;
  };
  look(unrouted_);
  look(later_);
  for (auto& [at, node] : nodes_) {
    for (std::size_t share = 0; share < RedisRequest::kShares; ++share) {
      look(node.waiting[share]);
      for (const auto& each : node.connections[share]) {
        each->let_go(over, *this);
        each->look_at(now, *this);
      }
    }
  }
  reap();
  for (const auto& each : ended) {
    each->tell();
    if (each == slots_) {
      slots_failed({Errc::io, "the server did not answer in time; look whether it runs"},
                   common_.address.server());
    }
  }
  std::erase_if(nodes_,
                [&](const auto& each) { return !routes_.uses(each.first) && each.second.idle(); });
}

// ---- what begins ----

void RedisDriver::start(Clock::time_point now) {
  for (auto it = later_.begin(); it != later_.end();) {
    const auto next = std::next(it);
    // It was there before all that wait.
    if ((*it)->not_before() <= now) unrouted_.splice(unrouted_.begin(), later_, it);
    it = next;
  }
  ask_for_slots(now);
  if (routes_.known()) {
    Exchanges all;
    all.swap(unrouted_);
    while (!all.empty()) {
      const Exchange exchange = std::move(all.front());
      all.pop_front();
      route(exchange);
    }
  }
  for (auto& [at, node] : nodes_) serve(at, node, now);
}

/// Not before somebody needs them.
void RedisDriver::ask_for_slots(Clock::time_point now) {
  if (slots_ || !routes_.wants(now) || (!routes_.known() && unrouted_.empty())) return;
  RedisRequest request;
  request.doing = "look at the slots";
  request.frame = {resp_command({"CLUSTER", "SLOTS"}), ""};
  request.expects = {RespReply::Kind::array, RespReply::Kind::array};
  slots_ = std::make_shared<RedisExchange>(std::move(request), std::make_shared<RemoteBatch>(1),
                                           deadline_after(common_.options.call_timeout));
  nodes_[routes_.whom()].waiting[share_of(*slots_)].push_front(slots_);
}

void RedisDriver::route(Exchange exchange) {
  const RedisEndpoint* const to =
      exchange->asks() ? &exchange->to() : routes_.owner(exchange->slot());
  if (to == nullptr) {
    failed(std::move(exchange),
           {Errc::io, "no node of the cluster has the key's slot; look at CLUSTER SLOTS"}, {});
    return;
  }
  Exchanges& queue = nodes_[*to].waiting[share_of(*exchange)];
  queue.push_back(std::move(exchange));
}

void RedisDriver::serve(const RedisEndpoint& at, Node& node, Clock::time_point now) {
  if (now < node.closed_until) return;
  for (std::size_t share = 0; share < RedisRequest::kShares; ++share) {
    Exchanges& waiting = node.waiting[share];
    if (waiting.empty()) continue;
    while (!waiting.empty()) {
      RedisConnection* const connection = connection_for(at, node, share);
      if (connection == nullptr) break;
      const Exchange exchange = std::move(waiting.front());
      waiting.pop_front();
      connection->send(exchange);
    }
    for (const auto& each : node.connections[share]) each->advance(*this);
  }
}

RedisConnection* RedisDriver::connection_for(const RedisEndpoint& at, Node& node,
                                             std::size_t share) {
  auto& all = node.connections[share];
  RedisConnection* best = nullptr;
  for (const auto& each : all) {
    if (each->cause() || each->in_flight() >= ahead_[share]) continue;
    if (best == nullptr || each->in_flight() < best->in_flight()) best = each.get();
  }
  if ((best == nullptr || best->in_flight() > 0) && all.size() < most_[share]) {
    all.push_back(std::make_unique<RedisConnection>(common_, at, self_, epoll_));
    return all.back().get();
  }
  return best;
}

void RedisDriver::reap() {
  for (auto& [at, node] : nodes_) {
    for (auto& all : node.connections) {
      std::optional<RedisCause> no_way;
      for (const auto& each : all) {
        if (each->cause() && each->cause()->no_way) no_way = each->cause();
      }
      std::erase_if(all, [](const auto& each) { return each->cause().has_value(); });
      if (!no_way) continue;
      // So have all that wait for it.
      node.closed_until = Clock::now() + pause_after(std::min(++node.failures, 4u), random_);
      for (Exchanges& waiting : node.waiting) fail_all(waiting, *no_way, at);
    }
  }
}

void RedisDriver::wait(Clock::time_point now) {
  const bool waits = !later_.empty() || !unrouted_.empty() || slots_ ||
                     std::any_of(nodes_.begin(), nodes_.end(),
                                 [](const auto& each) { return !each.second.idle(); });
  int span = waits ? static_cast<int>(kSweep.count()) : kIdle;
  const auto until = [&](Clock::time_point then) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(then - now);
    span = static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, span));
  };
  for (const auto& each : later_) until(each->not_before());
  if (!unrouted_.empty() && routes_.known()) until(now);
  if (!unrouted_.empty() && !routes_.known() && !slots_) until(routes_.not_before());
  std::array<epoll_event, kEvents> events;
  const int count = ::epoll_wait(epoll_, events.data(), kEvents, span);
  for (int i = 0; i < count; ++i) {
    auto* const connection =
        static_cast<RedisConnection*>(events[static_cast<std::size_t>(i)].data.ptr);
    if (connection != nullptr) {
      connection->advance(*this);
      continue;
    }
    eventfd_t ignored = 0;
    static_cast<void>(::eventfd_read(woken_, &ignored));
  }
}

// ---- what comes of it ----

void RedisDriver::answered(Exchange exchange, RespReply&& reply, const RedisEndpoint& node) {
  if (exchange != slots_) {
    nodes_[node].failures = 0;
    const Next next = exchange->answered(std::move(reply), node, common_, random_);
    go_on(std::move(exchange), next);
    return;
  }
  exchange->tell();
  if (!routes_.take(reply, node)) {
    const bool says = reply.kind == RespReply::Kind::error;
    slots_failed({Errc::io, "the server's list of slots is none; look at what lies between",
                  Then::retry, says ? reply.text : ""},
                 node);
    return;
  }
  slots_ = nullptr;
  // What waits at a node may belong to another one.
  for (auto& [at, each] : nodes_) {
    for (Exchanges& waiting : each.waiting) unrouted_.splice(unrouted_.end(), waiting);
  }
}

void RedisDriver::failed(Exchange exchange, const RedisCause& cause, const RedisEndpoint& node) {
  if (exchange == slots_) {
    exchange->tell();
    slots_failed(cause, node);
    return;
  }
  const Next next = exchange->failed(cause, node, common_, random_);
  go_on(std::move(exchange), next);
}

/// While nobody knows of any, those that wait for them fail, too.
void RedisDriver::slots_failed(const RedisCause& cause, const RedisEndpoint& node) {
  slots_ = nullptr;
  routes_.failed(Clock::now(), random_);
  if (!routes_.known()) fail_all(unrouted_, cause, node);
}

void RedisDriver::fail_all(Exchanges& all, const RedisCause& cause, const RedisEndpoint& node) {
  Exchanges these;
  these.swap(all);
  while (!these.empty()) {
    Exchange exchange = std::move(these.front());
    these.pop_front();
    failed(std::move(exchange), cause, node);
  }
}

void RedisDriver::go_on(Exchange exchange, Next next) {
  switch (exchange->then()) {
    case Then::moved:
      routes_.moved(exchange->slot(), exchange->to());
      break;
    case Then::refresh:
      routes_.doubt();
      break;
    default:
      break;
  }
  if (next == Next::over) {
    exchange->tell();
  } else if (next == Next::now) {
    unrouted_.push_back(std::move(exchange));
  } else {
    later_.push_back(std::move(exchange));
  }
}

void RedisDriver::end_all(Errc code, const char* why) noexcept {
  const auto end = [&](const Exchange& exchange) {
    exchange->end(code, why, common_);
    exchange->tell();
  };
  const auto end_list = [&](Exchanges& all) {
    for (const Exchange& each : all) end(each);
    all.clear();
  };
  end_list(unrouted_);
  end_list(later_);
  for (auto& [at, node] : nodes_) {
    for (Exchanges& waiting : node.waiting) end_list(waiting);
    for (auto& all : node.connections) {
      for (const auto& each : all) each->abandon(end);
    }
  }
  nodes_.clear();
  slots_ = nullptr;
}

}  // namespace cake::inline CAKE_ABI::detail
