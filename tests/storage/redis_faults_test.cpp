// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A server, or what lies before it, that fails in every way that a test can name: what is tried again,
// what is not, and what is said of it. No text holds a secret, whatever is sent back.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <optional>
#include <string>

#include "cake/storage/redis.hpp"
#include "catch.hpp"
#include "redis_process.hpp"
#include "redis_proxy.hpp"

using namespace cake;
using namespace cake_redis_test;
using namespace std::chrono_literals;
using sample::content;
using sample::equal;
using sample::key_of;
using sample::look;
using Words = RedisProxy::Words;
using Then = Answer::Then;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kSize = 2 * kMiB;
constexpr const char* kPassword = "WordOfTheTest//+==";

/// A server with one object behind a proxy, and a store over both that knows a secret. Reads take one
/// request: pieces are as large as the object.
struct Rig {
  RedisProcess server{cake_loopback_test::free_ports(1)[0], {"--requirepass", kPassword}};
  RedisProxy proxy{server.port()};
  RedisOptions options = options_for(proxy.port());
  AlignedBuffer object = content(1, kSize);
  AlignedBuffer out{kSize};
  std::optional<RedisStorage> store;

  explicit Rig(const std::function<void(RedisOptions&)>& change = {}) {
    options.credentials.password = kPassword;
    options.threads = 1;
    options.connections = 1;
    options.piece_bytes = kSize;
    if (change) change(options);
    admin({"SET", key_text(key_of(1)), text_of(object.bytes())});
    store.emplace(options);
  }
  std::string admin(const Words& words) const { return server.ask_with(kPassword, words); }
  Status read(std::uint64_t key = 1) {
    std::memset(out.data(), 0x5a, out.size());
    const Status status = store->read(0, key_of(key), 0, out.bytes()).wait();
    if (!status) check_text(status.error());
    return status;
  }
  bool right() const { return equal(out.bytes(), object.bytes()); }
  std::size_t reads() const { return proxy.count("GETRANGE"); }
  /// What went wrong with which URL, and nothing that is not for everybody.
  void check_text(const Error& error, const std::string& doing = "read") const {
    INFO(error.context);
    CHECK(error.context.find(doing + " of redis://127.0.0.1:" + std::to_string(proxy.port()) +
                             "/kv/v2:{") != std::string::npos);
    CHECK(error.context.find(kPassword) == std::string::npos);
    CHECK(error.context.find("echo") == std::string::npos);
  }
  /// Every answer to this command is changed, and a read fails and says so.
  void refuses(const std::function<void(Answer&)>& change, Errc code, const std::string& says,
               std::uint64_t requests, const std::string& command = "GETRANGE") {
    proxy.misbehave([&](const Words& words, Answer& answer) {
      if (words[0] == command) change(answer);
    });
    const std::uint64_t before = store->stats().requests;
    const Status status = read();
    CHECK(status.code() == code);
    INFO((status ? "" : status.error().context));
    CHECK((status ? "" : status.error().context).find(says) != std::string::npos);
    CHECK(store->stats().requests - before == requests);
    proxy.behave();
    CHECK(read());
    CHECK(right());
  }
  /// As refuses(), of an error, which repeats what it was told.
  void refuses_by(const std::string& error, Errc code, const std::string& says,
                  std::uint64_t requests) {
    refuses([&](Answer& a) { a.error(error + " echo " + kPassword); }, code, says, requests);
  }
  /// The first `n` answers to a command are changed, and all goes well.
  void survives(int n, const std::function<void(Answer&)>& change) {
    proxy.misbehave(first(n, "GETRANGE", change));
    CHECK(read());
    CHECK(right());
    proxy.behave();
  }
  /// What changes the first answers to a command.
  RedisProxy::Fault first(int n, const std::string& command,
                          const std::function<void(Answer&)>& change) {
    seen_ = 0;
    return [this, n, command, change](const Words& words, Answer& answer) {
      if (words[0] == command && seen_++ < n) change(answer);
    };
  }

 private:
  std::atomic<int> seen_{0};
};

void raw(Answer& answer, const std::string& bytes) { answer.bytes = bytes; }

}  // namespace

TEST_CASE("redis no key: what is not there is not found, and not asked for again") {
  if (redis_program() == nullptr) return;
  Rig rig;
  CHECK(rig.read(2).code() == Errc::not_found);
  CHECK(rig.reads() == 1);
  CHECK(rig.proxy.count("STRLEN") == 1);
}

TEST_CASE("redis short object: a read beyond the end is corrupt, and brings nothing that counts") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.admin({"SET", key_text(key_of(5)), std::string(kSize / 2, 'x')});
  CHECK(rig.read(5).code() == Errc::corrupt);
  CHECK(rig.reads() == 1);
}

TEST_CASE("redis short value: what is missing is asked for, until all is there or attempts end") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.survives(1, [&](Answer& a) { raw(a, bulk_of(text_of(rig.object.bytes().first(4096)))); });
  rig.refuses([](Answer& a) { raw(a, "$0\r\n\r\n"); }, Errc::io,
              "the server gives less of the object than there is, 5 times", 10);
}

TEST_CASE("redis NOAUTH and WRONGPASS: what mends the password is told, and nothing tried again") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.refuses_by("NOAUTH Authentication required.", Errc::io, "the server wants a password", 1);
  rig.options.credentials.password = "echo wrong";
  rig.store.emplace(rig.options);
  const Status status = rig.read();
  CHECK(status.error().context.find("the server refuses the user or the password") !=
        std::string::npos);
  CHECK(rig.store->stats().connects == 1);
}

TEST_CASE("redis NOPERM: the commands that are needed are named") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.refuses_by("NOPERM this user has no permissions", Errc::io, "+getrange", 1);
}

TEST_CASE("redis LOADING: a server that starts is asked again, later") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.survives(2, [](Answer& a) { a.error("LOADING Redis is loading the dataset in memory"); });
  CHECK(rig.store->stats().retries == 2);
  rig.refuses_by("LOADING", Errc::io, "the server is loading its data", 5);
}

TEST_CASE("redis BUSY: a script of somebody else is waited for") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.survives(1, [](Answer& a) { a.error("BUSY Redis is busy running a script"); });
  rig.refuses_by("BUSY", Errc::io, "busy with a script", 5);
}

TEST_CASE("redis TRYAGAIN, CLUSTERDOWN and MASTERDOWN: a cluster that changes is waited for") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.survives(2, [](Answer& a) { a.error("TRYAGAIN Multiple keys request during rehashing"); });
  rig.survives(2, [](Answer& a) { a.error("CLUSTERDOWN The cluster is down"); });
  rig.survives(2, [](Answer& a) { a.error("MASTERDOWN Link with MASTER is down"); });
  rig.refuses_by("TRYAGAIN", Errc::io, "on its way to another node", 5);
  rig.refuses_by("CLUSTERDOWN", Errc::io, "the cluster is down", 5);
  rig.refuses_by("MASTERDOWN", Errc::io, "whose master is down", 5);
}

TEST_CASE("redis NOSCRIPT and what nobody knows: the code is told, and nothing tried again") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.refuses_by("NOSCRIPT No matching script", Errc::io, "none was called", 1);
  rig.refuses_by("FANCY", Errc::io, "the server refuses (FANCY)", 1);
  rig.refuses_by("ERR", Errc::io, "the server refuses (ERR)", 1);
  rig.refuses_by("lower case", Errc::io, "the server refuses; look at its log", 1);
  rig.refuses_by("ERR unknown command 'GETRANGE', with args beginning with: ", Errc::unsupported,
                 "the server does not know a command", 1);
}

TEST_CASE("redis too many clients: it is tried again, and the limit named") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.proxy.misbehave(rig.first(2, "AUTH", [](Answer& a) {
    a.error("ERR max number of clients reached");
    a.end_after(a.bytes.size(), Then::close);
  }));
  CHECK(rig.read());
  CHECK(rig.right());
  rig.refuses_by("ERR max number of clients reached", Errc::io, "maxclients", 5);
}

TEST_CASE("redis protected mode: it is told, and not tried again") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.refuses_by("DENIED Redis is running in protected mode", Errc::io, "give it a password", 1);
}

TEST_CASE("redis OOM: a server without memory refuses writes, and serves what it has") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.admin({"CONFIG", "SET", "maxmemory", "1mb"});
  const auto written = rig.store->write_new(key_of(9), content(9, kMiB).bytes());
  REQUIRE_FALSE(written);
  CHECK(written.error().code == Errc::out_of_memory);
  rig.check_text(written.error(), "write");
  CHECK(written.error().context.find("maxmemory-policy") != std::string::npos);
  CHECK(rig.proxy.count("SET") == 1);
  CHECK(rig.read());
  CHECK(rig.right());
}

TEST_CASE("redis eviction: what a server forgets in the middle of a read is not found") {
  if (redis_program() == nullptr) return;
  Rig rig([](RedisOptions& o) { o.piece_bytes = kSize / 8; });
  rig.proxy.misbehave([&](const Words& words, Answer&) {
    if (words[0] != "GETRANGE" || rig.reads() != 3) return;
    rig.admin({"CONFIG", "SET", "maxmemory-policy", "allkeys-lru"});
    rig.admin({"CONFIG", "SET", "maxmemory", "1mb"});
    rig.admin({"SET", "other", "x"});
  });
  CHECK(rig.read().code() == Errc::not_found);
  CHECK_FALSE(look(*rig.store, key_of(1)).stored());
  rig.proxy.behave();
  rig.admin({"CONFIG", "SET", "maxmemory", "0"});
  CHECK(rig.store->write_new(key_of(1), rig.object.bytes()).value());
  CHECK(rig.read());
}

TEST_CASE("redis MISCONF and READONLY: writes that the server does not take say why") {
  if (redis_program() == nullptr) return;
  Rig rig;
  const auto refused = [&](const std::string& error, const std::string& says, std::size_t times) {
    rig.proxy.misbehave([&](const Words& words, Answer& a) {
      if (words[0] == "SET") a.error(error);
    });
    const std::size_t before = rig.proxy.count("SET");
    const auto written = rig.store->write_new(key_of(3), content(3, 4096).bytes());
    REQUIRE_FALSE(written);
    rig.check_text(written.error(), "write");
    INFO(written.error().context);
    CHECK(written.error().context.find(says) != std::string::npos);
    CHECK(rig.proxy.count("SET") - before == times);
  };
  refused("MISCONF Redis is configured to save RDB snapshots", "it cannot save", 1);
  refused("NOREPLICAS Not enough good replicas", "min-replicas-to-write", 1);
  refused("READONLY You can't write against a read only replica.", "is a replica", 5);
  refused("ERR Protocol error: invalid bulk length", "proto-max-bulk-len", 1);
}

TEST_CASE("redis reset: a connection that breaks before an answer is opened again") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.survives(2, [](Answer& a) { a.end_after(0, Then::reset); });
  CHECK(rig.store->stats().retries == 2);
  rig.refuses([](Answer& a) { a.end_after(0, Then::reset); }, Errc::io, "the connection broke", 5);
}

TEST_CASE("redis reset: a connection that breaks in a value goes on where it was") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.survives(2, [](Answer& a) { a.end_after(a.bytes.size() / 3, Then::reset); });
  CHECK(rig.reads() == 3);
}

TEST_CASE("redis close: only the rest of a value is asked for, until all is there") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.survives(1, [](Answer& a) { a.end_after(10 + kMiB, Then::close); });
  const auto log = rig.proxy.log();
  const auto last = std::find_if(log.rbegin(), log.rend(),
                                 [](const Words& each) { return each[0] == "GETRANGE"; });
  CHECK((*last)[2] == std::to_string(kMiB));
  CHECK((*last)[3] == std::to_string(kSize - 1));
  rig.refuses([](Answer& a) { a.end_after(3, Then::close); }, Errc::io, "the connection broke", 5);
}

TEST_CASE("redis half-open: what does not answer any more is asked on another connection") {
  if (redis_program() == nullptr) return;
  Rig rig([](RedisOptions& o) { o.stall_timeout = 1s; });
  rig.survives(1, [](Answer& a) { a.end_after(0, Then::hang); });
  CHECK(rig.reads() >= 2);
  CHECK(rig.store->stats().stalls >= 1);  // more where the machine is slow
}

TEST_CASE("redis half-open: what stops in the middle of a value goes on elsewhere where it was") {
  if (redis_program() == nullptr) return;
  Rig rig([](RedisOptions& o) { o.stall_timeout = 1s; });
  rig.survives(1, [](Answer& a) { a.end_after(10 + kMiB, Then::hang); });
  std::vector<std::string> begins;
  for (const Words& each : rig.proxy.log()) {
    if (each[0] == "GETRANGE") begins.push_back(each[2]);
  }
  CHECK(begins[0] == "0");
  CHECK(begins[1] == std::to_string(kMiB));
  CHECK(rig.store->stats().stalls >= 1);
}

TEST_CASE("redis CLIENT PAUSE: a server that pauses is waited for") {
  if (redis_program() == nullptr) return;
  Rig rig;
  CHECK(rig.read());
  rig.admin({"CLIENT", "PAUSE", "300", "ALL"});
  CHECK(rig.read());
  CHECK(rig.right());
  CHECK(rig.store->stats().stalls == 0);
}

TEST_CASE("redis CLIENT PAUSE: a read ends at its own time, and its memory is its owner's again") {
  if (redis_program() == nullptr) return;
  Rig rig([](RedisOptions& o) { o.read_timeout = 100ms; });
  CHECK(look(*rig.store, key_of(1)).stored());
  rig.admin({"CLIENT", "PAUSE", "1000", "ALL"});
  CHECK(rig.read().code() == Errc::timeout);
  std::memset(rig.out.data(), 7, rig.out.size());
  CHECK(look(*rig.store, key_of(1)).stored());  // and now it goes on
  CHECK(std::all_of(rig.out.bytes().begin(), rig.out.bytes().end(),
                    [](std::byte b) { return b == std::byte{7}; }));
}

TEST_CASE("redis slow value: the read ends at its time, and what still comes goes nowhere") {
  if (redis_program() == nullptr) return;
  Rig rig([](RedisOptions& o) { o.read_timeout = 200ms; });
  rig.proxy.misbehave([](const Words& words, Answer& a) {
    if (words[0] == "GETRANGE") a.milliseconds_per_kilobyte = 5;
  });
  CHECK(rig.read().code() == Errc::timeout);
  std::memset(rig.out.data(), 7, rig.out.size());
  std::this_thread::sleep_for(50ms);
  CHECK(std::all_of(rig.out.bytes().begin(), rig.out.bytes().end(),
                    [](std::byte b) { return b == std::byte{7}; }));
}

TEST_CASE("redis nonsense: what is no RESP is no answer, and fails the read after all attempts") {
  if (redis_program() == nullptr) return;
  Rig rig;
  for (const char* const text : {"HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-OpenSSH_9.2p1\r\n",
                                 "$99999999999999999999\r\n", "$-5\r\n", "*1000000000\r\n"}) {
    INFO(text);
    rig.refuses([&](Answer& a) { raw(a, text); }, Errc::io, "does not speak RESP", 5);
  }
  rig.refuses([](Answer& a) { raw(a, std::string(64 << 10, '+')); }, Errc::io, "a line has no end",
              5);
}

TEST_CASE("redis longer value: what is more than was asked for is not taken") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.refuses([](Answer& a) { raw(a, bulk_of(std::string(kSize + 1, 'x'))); }, Errc::io,
              "longer than was asked for", 5);
  rig.refuses([](Answer& a) { a.bytes.insert(a.bytes.size() - 2, "more"); }, Errc::io,
              "longer than it is said", 5);
}

TEST_CASE("redis other answer: one of a kind that was not asked for is told, and not tried again") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.refuses([](Answer& a) { raw(a, ":5\r\n"); }, Errc::io, "answers what it was not asked", 1);
  rig.refuses([](Answer& a) { raw(a, "*1\r\n:5\r\n"); }, Errc::io, "was not asked", 1);
  rig.refuses([](Answer& a) { raw(a, "$-1\r\n"); }, Errc::io, "was not asked", 1);
}

TEST_CASE("redis two answers: one that nobody asked for ends the connection") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.proxy.misbehave(rig.first(1, "GETRANGE", [](Answer& a) { a.bytes += "+more\r\n"; }));
  CHECK(rig.read());
  CHECK(rig.right());
  CHECK(rig.read());
  CHECK(rig.right());
}

TEST_CASE(
    "redis no cluster: a redirection by a server that is alone ends, and says what to look at") {
  if (redis_program() == nullptr) return;
  Rig rig;
  const std::string to = "127.0.0.1:" + std::to_string(rig.proxy.port());
  rig.refuses([&](Answer& a) { a.error("MOVED 1 " + to); }, Errc::io,
              "sends requests on and on; look at CLUSTER SLOTS", 1 + 8);
  rig.refuses([&](Answer& a) { a.error("ASK 1 " + to); }, Errc::io, "sends requests on and on",
              1 + 8);
  rig.refuses([](Answer& a) { a.error("MOVED 1 somewhere"); }, Errc::io, "to what is no node", 1);
}

TEST_CASE("redis killed: a server that dies in the middle of a read fails it") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.proxy.misbehave([&](const Words& words, Answer& a) {
    if (words[0] == "GETRANGE") a.end_after(kMiB, Then::hang);
  });
  RedisRead read = rig.store->read(0, key_of(1), 0, rig.out.bytes());
  while (rig.reads() == 0) std::this_thread::sleep_for(1ms);
  rig.proxy.kill();
  const Status status = read.wait();
  CHECK(status.code() == Errc::io);
  rig.check_text(status.error());
  CHECK(status.error().context.find("cannot be reached; look whether it runs") !=
        std::string::npos);
}

TEST_CASE("redis no server: one reason for all keys, and not an attempt for each") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.proxy.kill();
  std::vector<ChunkKey> keys;
  for (std::uint64_t i = 0; i < 500; ++i) keys.push_back(key_of(i));
  const auto found = rig.store->lookup(keys);
  REQUIRE_FALSE(found);
  rig.check_text(found.error(), "lookup");
  CHECK(found.error().context.find("cannot be reached") != std::string::npos);
  CHECK(rig.store->stats().requests == 0);
  CHECK(rig.store->stats().connects == 0);
  CHECK_FALSE(rig.store->lookup_problem());
  const auto written = rig.store->write_new(key_of(1), content(2, 4096).bytes());
  REQUIRE_FALSE(written);
  rig.check_text(written.error(), "write");
  const Status erased = rig.store->erase(key_of(1));
  REQUIRE_FALSE(erased);
  rig.check_text(erased.error(), "erase");
  CHECK_FALSE(rig.store->check_access());
}

TEST_CASE("redis no name: a host that nobody knows is named") {
  RedisOptions options = options_for(6379);
  options.host = "no-such-host.invalid";
  options.attempts = 2;
  RedisStorage store(options);
  const auto found = store.lookup(std::vector{key_of(1)});
  REQUIRE_FALSE(found);
  INFO(found.error().context);
  CHECK(found.error().context.find("name is not known; look at HOST") != std::string::npos);
  CHECK(found.error().context.find("redis://no-such-host.invalid:6379/") != std::string::npos);
}

TEST_CASE("redis restart: a server that comes back is used again") {
  if (redis_program() == nullptr) return;
  Rig rig;
  CHECK(rig.read());
  rig.server.kill();
  CHECK_FALSE(rig.read());
  rig.server.start_again();
  rig.admin({"SET", key_text(key_of(1)), text_of(rig.object.bytes())});
  CHECK(rig.read());
  CHECK(rig.right());
}

TEST_CASE("redis lookup: one key that fails leaves the others their answers") {
  if (redis_program() == nullptr) return;
  Rig rig;
  rig.admin({"SET", key_text(key_of(2)), std::string(8192, 'x')});
  rig.proxy.misbehave([&](const Words& words, Answer& a) {
    if (words[0] == "STRLEN" && words[1] == key_text(key_of(3))) a.error("NOPERM");
  });
  const auto found = rig.store->lookup(std::vector{key_of(1), key_of(2), key_of(3), key_of(4)});
  REQUIRE(found);
  CHECK((*found)[0].size == kSize);
  CHECK((*found)[1].size == 8192);
  CHECK_FALSE((*found)[2].stored());
  CHECK_FALSE((*found)[3].stored());
  const Status problem = rig.store->lookup_problem();
  REQUIRE_FALSE(problem);
  rig.check_text(problem.error(), "lookup");
  CHECK(rig.store->stats().lookup_problems == 1);
}

TEST_CASE("redis write: a value that breaks off is sent again as a whole") {
  if (redis_program() == nullptr) return;
  Rig rig;
  const auto object = content(9, 8 * kMiB);
  rig.proxy.misbehave(rig.first(2, "SET", [](Answer& a) { a.error("LOADING"); }));
  // The server has it already: it was the answer that was changed.
  CHECK(rig.store->write(key_of(9), object.bytes()));
  CHECK(rig.admin({"STRLEN", key_text(key_of(9))}) == number_of(8 << 20));
  rig.proxy.misbehave(rig.first(1, "SET", [](Answer& a) { a.end_after(0, Then::reset); }));
  CHECK(rig.store->write(key_of(10), object.bytes()));
  CHECK(rig.admin({"GET", key_text(key_of(10))}) == bulk_of(text_of(object.bytes())));
}

TEST_CASE("redis write: one that is given up leaves its memory to its owner, and no half object") {
  if (redis_program() == nullptr) return;
  Rig rig([](RedisOptions& o) { o.write_timeout = 200ms; });
  CHECK(look(*rig.store, key_of(1)).stored());
  const auto object = content(9, 64 * kMiB);
  rig.server.freeze(true);
  CHECK(rig.store->write(key_of(9), object.bytes()).code() == Errc::timeout);
  std::memset(object.data(), 7, object.size());
  rig.server.freeze(false);
  const std::string size = rig.admin({"STRLEN", key_text(key_of(9))});
  CHECK((size == ":0\r\n" || size == number_of(64 << 20)));
  CHECK(rig.read());
}
