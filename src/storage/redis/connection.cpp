// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "connection.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <utility>

namespace cake::inline CAKE_ABI::detail {
namespace {

using Then = RedisProblem::Then;

constexpr std::size_t kBuffer = std::size_t{16} << 10;  // of what is no value, or begins one
constexpr std::size_t kParts = 64;                      // of one call that sends

}  // namespace

RedisConnection::RedisConnection(RedisCommon& common, const RedisEndpoint& node,
                                 std::weak_ptr<RemoteDriver> driver, int epoll)
    : common_(common),
      node_(node),
      epoll_(epoll),
      names_(node, std::move(driver)),
      buffer_(kBuffer) {
  const auto credentials = common.credentials_now();
  if (credentials->password.empty()) return;
  const std::string command =
      credentials->user.empty() ? resp_command({"AUTH", credentials->password})
                                : resp_command({"AUTH", credentials->user, credentials->password});
  queue(nullptr, Role::auth, {command, ""}, {});
}

void RedisConnection::queue(std::shared_ptr<RedisExchange> exchange, Role role, RespFrame frame,
                            ConstBytes body) {
  if (sent_.empty()) moved_ = Clock::now();
  sent_.push_back({std::move(exchange), role, std::move(frame), body});
}

void RedisConnection::send(std::shared_ptr<RedisExchange> exchange) {
  if (exchange->asks()) queue(nullptr, Role::asking, {resp_command({"ASKING"}), ""}, {});
  exchange->routed();
  RespFrame frame = exchange->begin_attempt(common_);
  const ConstBytes body = exchange->request().body;
  queue(std::move(exchange), Role::request, std::move(frame), body);
  ++requests_;
}

void RedisConnection::fail(RedisCause cause, RedisConnectionUser& user) {
  cause_ = std::move(cause);
  abandon([&](const auto& exchange) { user.failed(exchange, *cause_, node_); });
}

void RedisConnection::abandon(
    const std::function<void(const std::shared_ptr<RedisExchange>&)>& take) {
  link_.close();
  begun_ = false;
  for (const Sent& each : sent_) {
    if (each.exchange) take(each.exchange);
  }
  sent_.clear();
  requests_ = written_ = offset_ = 0;
}

// ---- it comes about ----

bool RedisConnection::connect() {
  RedisCause cause{
      Errc::io, "the server's name is not known; look at HOST of the URL and at the name service"};
  if (addresses_.empty()) cause.what += " (" + names_.why() + ")";
  while (next_address_ < addresses_.size()) {
    const auto& to = addresses_[next_address_++];
    const auto most =
        std::chrono::duration_cast<std::chrono::milliseconds>(common_.options.stall_timeout);
    if (link_.begin(to.data, to.size, common_.tls.get(), node_.host, most)) {
      state_ = State::connecting;
      return true;
    }
    cause = *link_.cause();
  }
  cause_ = std::move(cause);
  cause_->no_way = true;
  return false;
}

bool RedisConnection::established() {
  if (state_ == State::names) {
    if (!names_.known()) return false;
    addresses_ = names_.addresses();
    if (!connect()) return false;
  }
  if (state_ == State::connecting) {
    while (!link_.establish()) {
      if (!link_.cause()) return false;
      const RedisCause why = *link_.cause();
      const bool other_address = why.no_way && why.then != Then::nothing;
      if (!other_address || next_address_ == addresses_.size()) {
        cause_ = why;
        return false;
      }
      if (!connect()) return false;
    }
    state_ = State::open;
    moved_ = Clock::now();
    ++common_.counters.connects;
  }
  return true;
}

void RedisConnection::advance(RedisConnectionUser& user) {
  if (cause_) return;
  if (established()) {
    write();
    read(user);
    if (!cause_) write();
    // What a server says before it hangs up counts, also where not all was sent to it.
    if (!cause_ && link_.cause()) read(user);
  }
  if (cause_ && (requests_ > 0 || link_.fd() >= 0)) {
    fail(*cause_, user);
    return;
  }
  if (!cause_) watch();
}

void RedisConnection::watch() {
  const int fd = link_.fd();
  if (fd < 0) return;
  const bool writes = link_.waits_for_write() || (state_ == State::open && written_ < sent_.size());
  const std::uint32_t wanted = EPOLLIN | EPOLLRDHUP | (writes ? EPOLLOUT : 0u);
  // A number that another socket had before is a new one to epoll.
  const bool known = watched_fd_ == fd && watched_ != 0;
  if (known && watched_ == wanted) return;
  epoll_event event{};
  event.events = wanted;
  event.data.ptr = this;
  if (::epoll_ctl(epoll_, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) != 0) {
    static_cast<void>(::epoll_ctl(epoll_, known ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event));
  }
  watched_ = wanted;
  watched_fd_ = fd;
}

void RedisConnection::look_at(Clock::time_point now, RedisConnectionUser& user) {
  if (cause_) return;
  if (state_ != State::open) {
    if (now - moved_ > common_.options.connect_timeout) {
      RedisCause cause{Errc::io,
                       link_.shakes_hands()
                           ? "the server does not answer to TLS in time; look whether it runs, and "
                             "whether the URL should begin with redis://"
                           : "the server did not answer in time; look whether it runs"};
      cause.no_way = true;
      fail(std::move(cause), user);
    } else if (state_ == State::names) {
      advance(user);
    }
  } else if (!sent_.empty() && now - moved_ > common_.options.stall_timeout) {
    ++common_.counters.stalls;
    fail({Errc::io,
          "nothing moves on a connection any more; look whether the server is paused, overloaded "
          "or gone"},
         user);
  }
}

// ---- it carries ----

void RedisConnection::write() {
  while (written_ < sent_.size() && !link_.cause()) {
    std::array<iovec, kParts> parts;
    std::size_t count = 0;
    std::size_t skip = offset_;
    const auto add = [&](const void* data, std::size_t size) {
      const std::size_t gone = std::min(skip, size);
      skip -= gone;
      if (size == gone || count == kParts) return;
      auto* const bytes = static_cast<std::byte*>(const_cast<void*>(data));
      parts[count++] = {bytes + gone, size - gone};
    };
    for (std::size_t i = written_; i < sent_.size() && count + 3 <= kParts; ++i) {
      const Sent& each = sent_[i];
      add(each.frame.head.data(), each.frame.head.size());
      add(each.body.data(), each.body.size());
      add(each.frame.tail.data(), each.frame.tail.size());
    }
    const std::size_t bytes = link_.write({parts.data(), count});
    if (bytes == 0) break;
    moved_ = Clock::now();
    offset_ += bytes;
    while (written_ < sent_.size() && offset_ >= sent_[written_].size()) {
      offset_ -= sent_[written_++].size();
    }
  }
}

void RedisConnection::begin_front() {
  if (begun_ || sent_.empty()) return;
  const Sent& front = sent_.front();
  parser_.begin(front.exchange ? front.exchange->out() : MutableBytes());
  if (!front.exchange && front.role == Role::request) parser_.drop();
  begun_ = true;
  told_ = 0;
}

/// Whoever is told of parts digests them now, while they are in a cache.
void RedisConnection::note_landed() {
  const std::size_t landed = parser_.landed();
  RedisExchange* const exchange = sent_.front().exchange.get();
  if (exchange != nullptr && landed > told_)
    exchange->landed(landed - std::exchange(told_, landed));
}

void RedisConnection::read(RedisConnectionUser& user) {
  while (!cause_) {
    begin_front();
    const MutableBytes gap = begun_ ? parser_.gap() : MutableBytes();
    const std::size_t bytes = link_.read(gap, buffer_);
    if (bytes == 0) break;
    moved_ = Clock::now();
    const std::size_t direct = std::min(bytes, gap.size());
    if (direct > 0) {
      parser_.filled(direct);
      note_landed();
    }
    if (!take(ConstBytes(buffer_).first(bytes - direct), user)) return;
  }
  if (cause_ || !link_.cause()) return;
  cause_ = link_.cause();
  if (!answered_ && requests_ > 0) {
    cause_->what += common_.tls
                        ? "; it said nothing before: it may ask for a certificate "
                          "(RedisOptions::certificate_file)"
                        : "; it said nothing before: look whether the URL should begin with "
                          "rediss://";
  }
}

bool RedisConnection::take(ConstBytes bytes, RedisConnectionUser& user) {
  const auto nonsense = [&](const std::string& what) {
    cause_ = RedisCause{Errc::io,
                        "the server does not speak RESP as it should (" + what +
                            "); look at HOST and PORT of the URL, and at what lies between",
                        Then::retry};
    return false;
  };
  while (!bytes.empty()) {
    begin_front();
    if (!begun_) return nonsense("an answer to nothing");
    const auto taken = parser_.take(bytes);
    if (!taken) return nonsense(taken.error().context);
    note_landed();
    bytes = bytes.subspan(*taken);
    if (!parser_.whole()) continue;
    answered_ = true;
    if (written_ == 0) return nonsense("an answer before the question");
    front_over(user);
    if (cause_) return false;
  }
  return true;
}

void RedisConnection::front_over(RedisConnectionUser& user) {
  const Sent front = std::move(sent_.front());
  sent_.pop_front();
  --written_;
  begun_ = false;
  if (front.role == Role::auth && parser_.reply().kind == RespReply::Kind::error) {
    cause_ = RedisCause{Errc::io, "", Then::nothing, parser_.reply().text};
  }
  if (front.role != Role::request) return;
  --requests_;
  if (front.exchange) user.answered(front.exchange, std::move(parser_.reply()), node_);
}

void RedisConnection::let_go(const std::function<bool(const std::shared_ptr<RedisExchange>&)>& over,
                             RedisConnectionUser& user) {
  bool half_sent = false;
  for (std::size_t i = sent_.size(); i-- > 0;) {
    Sent& each = sent_[i];
    if (!each.exchange || !over(each.exchange)) continue;
    const bool sends = i == written_ && (offset_ > 0 || link_.owes_write());
    if (i >= written_ && !sends) {
      if (i == 0) begun_ = false;
      sent_.erase(sent_.begin() + static_cast<std::ptrdiff_t>(i));
      --requests_;
      continue;
    }
    each.exchange = nullptr;
    // Its memory is somebody else's from now on.
    half_sent = half_sent || (sends && !each.body.empty());
    if (i == 0 && begun_) parser_.drop();
  }
  if (half_sent) {
    fail({Errc::io, "the connection was closed, since a write on it was broken off", Then::retry},
         user);
  }
}

}  // namespace cake::inline CAKE_ABI::detail
