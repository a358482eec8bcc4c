// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One server as a store: its contract, addresses, reads and writes.
#include "cake/storage/redis.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "cake/testing/check_storage.hpp"
#include "contract.hpp"
#include "redis_process.hpp"
#include "redis_proxy.hpp"

using namespace cake;
using namespace cake_redis_test;
using sample::content;
using sample::equal;
using sample::fetch;
using sample::key_of;
using sample::look;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

int free_port() { return cake_loopback_test::free_ports(1)[0]; }

std::string refusal(const RedisOptions& options) {
  try {
    const RedisStorage store(options);
  } catch (const Exception& e) {
    CHECK(e.error().code == Errc::invalid_argument);
    return e.what();
  }
  return "";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// Sets variables of the environment, and unsets them again.
class Environment {
 public:
  Environment() { clear(); }
  ~Environment() { clear(); }
  void set(const char* name, const char* value) { ::setenv(name, value, 1); }

 private:
  static void clear() {
    for (const char* name : {"REDISCLI_AUTH", "CAKE_REDIS_CA_FILE", "CAKE_REDIS_CERTIFICATE_FILE",
                             "CAKE_REDIS_KEY_FILE"}) {
      ::unsetenv(name);
    }
  }
};

}  // namespace

TEST_CASE("a server of Redis keeps the contract of a store") {
  if (redis_program() == nullptr) return;
  const RedisProcess server(free_port());
  RedisStorage store(options_for(server.port()));
  REQUIRE(store.check_access());
  CHECK(server.ask({"DBSIZE"}) == ":0\r\n");
  CHECK(testing::check(store) == testing::Failures{});
  sample::check_contract(store);
  sample::check_concurrent(store, 200);
  CHECK(server.ask({"DBSIZE"}) == ":0\r\n");
  CHECK_FALSE(store.stats().cluster);
  CHECK(store.stats().masters == 1);
}

TEST_CASE("an object is a string under its key, and the URL names it") {
  if (redis_program() == nullptr) return;
  const RedisProcess server(free_port());
  RedisStorage store(options_for(server.port()));
  const auto object = content(1, 8192);
  REQUIRE(store.write(key_of(1), object.bytes()));
  CHECK(server.ask({"GET", key_text(key_of(1))}) == bulk_of(text_of(object.bytes())));
  CHECK(server.ask({"TTL", key_text(key_of(1))}) == ":-1\r\n");
  CHECK(store.url() == "redis://127.0.0.1:" + std::to_string(server.port()) + "/kv/v2");
}

TEST_CASE("a large read goes in pieces that are sent ahead over few connections") {
  if (redis_program() == nullptr) return;
  const RedisProcess server(free_port());
  RedisProxy proxy(server.port());
  RedisOptions options = options_for(proxy.port());
  options.threads = 1;
  options.connections = 2;
  RedisStorage store(options);
  const std::size_t size = 33 * kMiB + 4096;
  const auto object = content(3, size);
  REQUIRE(store.write(key_of(3), object.bytes()));
  for (int i = 0; i < 2; ++i) CHECK(equal(fetch(store, key_of(3), size).bytes(), object.bytes()));
  CHECK(equal(fetch(store, key_of(3), 2 * kMiB, 5 * kMiB).bytes(),
              object.bytes().subspan(5 * kMiB, 2 * kMiB)));
  CHECK(proxy.count("GETRANGE") == 2 * 34 + 2);
  CHECK(proxy.connections() == 2 + 1 + 1);  // reads, writes, calls
  CHECK(store.stats().connects == proxy.connections());
  CHECK(store.stats().read_bytes == 2 * size + 2 * kMiB);
  CHECK(proxy.log().front() == RedisProxy::Words{"CLUSTER", "SLOTS"});
}

TEST_CASE("a lookup asks for all keys at once, and once for each") {
  if (redis_program() == nullptr) return;
  const RedisProcess server(free_port());
  RedisProxy proxy(server.port());
  RedisStorage store(options_for(proxy.port()));
  std::vector<ChunkKey> keys;
  for (std::uint64_t i = 0; i < 500; ++i) keys.push_back(key_of(i));
  keys.push_back(key_of(7));
  REQUIRE(store.write(key_of(7), content(7, 4096).bytes()));
  const auto found = store.lookup(keys);
  REQUIRE(found);
  CHECK((*found)[7].size == 4096);
  CHECK((*found)[500].size == 4096);
  CHECK_FALSE((*found)[8].stored());
  CHECK(proxy.count("STRLEN") == 500);
  CHECK(store.lookup_problem());
}

TEST_CASE("the sink of a read is told of all its pieces") {
  if (redis_program() == nullptr) return;
  struct Sink final : PieceSink {
    void arrived(ConstBytes piece) noexcept override { told += piece.size(); }
    std::atomic<std::size_t> told{0};
  };
  const RedisProcess server(free_port());
  RedisStorage store(options_for(server.port()));
  const auto object = content(4, 5 * kMiB + 4096);
  REQUIRE(store.write(key_of(4), object.bytes()));
  const auto sink = std::make_shared<Sink>();
  const AlignedBuffer out(object.size());
  REQUIRE(store.read_pieces(0, key_of(4), 0, out.bytes(), sink).wait());
  CHECK(sink->told == object.size());
  CHECK(equal(out.bytes(), object.bytes()));
}

TEST_CASE("the first writer of one key wins, whoever else writes to Redis at the same moment") {
  if (redis_program() == nullptr) return;
  const RedisProcess server(free_port());
  RedisStorage one(options_for(server.port())), other(options_for(server.port()));
  for (std::uint64_t k = 0; k < 8; ++k) {
    std::atomic<int> made{0};
    std::vector<std::thread> writers;
    for (std::uint64_t t = 0; t < 4; ++t) {
      writers.emplace_back([&, t] {
        const auto object = content(10 * k + t, 8192);
        const auto written = (t % 2 == 0 ? one : other).write_new(key_of(k), object.bytes());
        if (written && *written) ++made;
      });
    }
    for (auto& writer : writers) writer.join();
    CHECK(made == 1);
  }
  CHECK(one.stats().published + other.stats().published == 8);
  CHECK(one.stats().already_stored + other.stats().already_stored == 24);
}

TEST_CASE("what can be no object is replaced, and what is no string counts as absent") {
  if (redis_program() == nullptr) return;
  const RedisProcess server(free_port());
  RedisStorage store(options_for(server.port()));
  const auto object = content(1, 8192);
  server.ask({"SET", key_text(key_of(1)), "half"});
  server.ask({"SET", key_text(key_of(2)), ""});
  server.ask({"RPUSH", key_text(key_of(3)), "list"});
  CHECK_FALSE(look(store, key_of(3)).stored());
  CHECK(store.lookup_problem());
  CHECK(sample::read_code(store, key_of(3), 4096) == Errc::corrupt);
  for (std::uint64_t k = 1; k <= 3; ++k) {
    CHECK(store.write_new(key_of(k), object.bytes()).value());
    CHECK(equal(fetch(store, key_of(k), 8192).bytes(), object.bytes()));
  }
  CHECK(store.stats().replaced == 3);
  CHECK(store.stats().published == 3);
}

TEST_CASE("objects with a time to live are forgotten by the server") {
  if (redis_program() == nullptr) return;
  const RedisProcess server(free_port());
  RedisOptions options = options_for(server.port());
  options.time_to_live = 3600s;
  RedisStorage store(options);
  REQUIRE(store.write(key_of(1), content(1, 4096).bytes()));
  const std::string left = server.ask({"TTL", key_text(key_of(1))});
  CHECK((left == ":3600\r\n" || left == ":3599\r\n"));
  options.time_to_live = 1ms;
  RedisStorage brief(options);
  REQUIRE(brief.write(key_of(2), content(1, 4096).bytes()));
  while (server.ask({"EXISTS", key_text(key_of(2))}) != ":0\r\n") std::this_thread::sleep_for(1ms);
  CHECK_FALSE(look(brief, key_of(2)).stored());
}

TEST_CASE("an object that is larger than servers take is refused before it is sent") {
  if (redis_program() == nullptr) return;
  const RedisProcess server(free_port(), {"--proto-max-bulk-len", "2mb"});
  RedisOptions options = options_for(server.port());
  options.most_object_bytes = 2 * kMiB;
  RedisStorage store(options);
  const auto refused = store.write_new(key_of(1), content(1, 3 * kMiB).bytes());
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == Errc::unsupported);
  CHECK(has(refused.error().context, "use smaller chunks"));
  CHECK(store.stats().requests == 0);
  options.most_object_bytes = 4 * kMiB;
  RedisStorage other(options);
  const auto by_server = other.write_new(key_of(1), content(1, 3 * kMiB).bytes());
  REQUIRE_FALSE(by_server);
  INFO(by_server.error().context);
  CHECK(has(by_server.error().context, "write of redis://"));
  CHECK(other.write_new(key_of(2), content(1, kMiB).bytes()).value());
}

TEST_CASE("two prefixes share a server, and nothing else") {
  if (redis_program() == nullptr) return;
  const RedisProcess server(free_port());
  RedisOptions options = options_for(server.port());
  RedisStorage one(options);
  options.prefix = "other";
  RedisStorage other(options);
  REQUIRE(one.write(key_of(1), content(1, 4096).bytes()));
  CHECK_FALSE(look(other, key_of(1)).stored());
}

TEST_CASE("a store that only serves writes nothing") {
  if (redis_program() == nullptr) return;
  const RedisProcess server(free_port());
  RedisOptions options = options_for(server.port());
  options.read_only = true;
  RedisStorage store(options);
  CHECK(store.check_access());
  CHECK(store.write(key_of(1), content(1, 4096).bytes()).code() == Errc::unsupported);
  CHECK(store.erase(key_of(1)).code() == Errc::unsupported);
  CHECK(server.ask({"DBSIZE"}) == ":0\r\n");
}

TEST_CASE("a password or a user is told to the server, and to nobody else") {
  if (redis_program() == nullptr) return;
  const RedisProcess server(free_port());
  server.ask({"ACL", "SETUSER", "me", "on", ">p@ss/w:rd", "~kv/v2:*", "+set", "+getrange",
              "+strlen", "+unlink", "+cluster|slots"});
  server.ask({"CONFIG", "SET", "requirepass", "hush"});
  const std::string at = "127.0.0.1:" + std::to_string(server.port()) + "/kv/v2";
  const auto check = [&](const std::string& url, const std::string& says) {
    const RedisOptions options = redis_options(url).value();
    const Status status = RedisStorage(options).check_access();
    CHECK(status.has_value() == says.empty());
    if (status) return;
    INFO(status.error().context);
    CHECK(has(status.error().context, says));
    CHECK(has(status.error().context, "write of redis://" + at));
    for (const char* const secret : {"hush", "wrong", "p@ss", "me:", "other"}) {
      CHECK_FALSE(has(status.error().context, secret));
    }
  };
  check("redis://me:p%40ss%2Fw:rd@" + at, "");
  check("redis://:hush@" + at, "");
  check("redis://" + at, "the server wants a password");
  check("redis://:wrong@" + at, "the server refuses the user or the password");
  check("redis://other:hush@" + at, "the server refuses the user or the password");
  server.ask_with("hush", {"ACL", "SETUSER", "me", "-set"});
  check("redis://me:p%40ss%2Fw:rd@" + at, "its access list has to allow");
  server.ask_with("hush", {"CONFIG", "SET", "requirepass", ""});
  check("redis://:hush@" + at, "the server has no password");
}

TEST_CASE("a password that changes is told by new connections") {
  if (redis_program() == nullptr) return;
  const RedisProcess server(free_port());
  server.ask({"CONFIG", "SET", "requirepass", "first"});
  RedisOptions options = options_for(server.port());
  options.credentials.password = "first";
  RedisStorage store(options);
  REQUIRE(store.write(key_of(1), content(1, 4096).bytes()));
  server.ask_with("first", {"CONFIG", "SET", "requirepass", "second"});
  server.ask_with("second", {"CLIENT", "KILL", "TYPE", "normal"});
  CHECK_FALSE(store.lookup(std::vector{key_of(1)}));
  store.set_credentials({"", "second"});
  CHECK(look(store, key_of(1)).stored());
}

TEST_CASE("addresses of servers") {
  Environment environment;
  RedisOptions o = redis_options("redis://host").value();
  CHECK(o.host == "host");
  CHECK(o.port == 6379);
  CHECK(o.prefix == "cake");
  CHECK_FALSE(o.tls);
  o = redis_options("rediss://user:a%3Ab@[::1]:7000/some/prefix/").value();
  CHECK(o.tls);
  CHECK(o.host == "::1");
  CHECK(o.port == 7000);
  CHECK(o.prefix == "some/prefix/");
  CHECK(RedisStorage(o).url() == "rediss://[::1]:7000/some/prefix");
  CHECK(o.credentials.user == "user");
  CHECK(o.credentials.password == "a:b");
  environment.set("REDISCLI_AUTH", "from outside");
  environment.set("CAKE_REDIS_CA_FILE", "/ca.pem");
  CHECK(redis_options("redis://host").value().credentials.password == "from outside");
  CHECK(redis_options("rediss://host").value().ca_file == "/ca.pem");
  CHECK(redis_options("redis://:own@host").value().credentials.password == "own");
  environment.set("REDISCLI_AUTH", "");
  for (const char* const url :
       {"", "redis:", "http://host", "redis://", "redis://:6379", "redis://host:0",
        "redis://host:65536", "redis://host:x", "redis://[::1", "redis://[::1]x", "redis://host/7",
        "redis://host/a?b=c", "redis://host/a/../b", "redis://host/a b", "redis://ho st",
        "redis://user:%4@host", "redis://user@host", "redis://host/a{b}"}) {
    INFO(url);
    const auto refused = redis_options(url);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::invalid_argument);
    CHECK(refused.error().context.size() > 40);
  }
  CHECK_FALSE(has(redis_options("redis://user:hush%@host").error().context, "hush"));
}

TEST_CASE("options that cannot be are named") {
  const auto with = [](auto&& change) {
    RedisOptions options;
    options.host = "host";
    change(options);
    return refusal(options);
  };
  CHECK(has(with([](RedisOptions& o) { o.host = ""; }), "RedisOptions::host"));
  CHECK(has(with([](RedisOptions& o) { o.port = 0; }), "RedisOptions::port"));
  CHECK(has(with([](RedisOptions& o) { o.prefix = ""; }), "RedisOptions::prefix"));
  CHECK(has(with([](RedisOptions& o) { o.prefix = "12"; }), "the number of a database"));
  CHECK(has(with([](RedisOptions& o) { o.threads = 0; }), "RedisOptions::threads"));
  CHECK(has(with([](RedisOptions& o) { o.connections = 65; }), "RedisOptions::connections"));
  CHECK(has(with([](RedisOptions& o) { o.write_connections = 0; }), "write_connections"));
  CHECK(has(with([](RedisOptions& o) { o.pipeline = 0; }), "RedisOptions::pipeline"));
  CHECK(has(with([](RedisOptions& o) { o.piece_bytes = 4096; }), "RedisOptions::piece_bytes"));
  CHECK(has(with([](RedisOptions& o) { o.most_object_bytes = 0; }), "most_object_bytes"));
  CHECK(has(with([](RedisOptions& o) { o.time_to_live = -1ms; }), "time_to_live"));
  CHECK(has(with([](RedisOptions& o) { o.attempts = 0; }), "RedisOptions::attempts"));
  CHECK(has(with([](RedisOptions& o) { o.redirections = 101; }), "RedisOptions::redirections"));
  CHECK(has(with([](RedisOptions& o) { o.stall_timeout = 0s; }), "RedisOptions::stall_timeout"));
  CHECK(has(with([](RedisOptions& o) { o.credentials.user = "u"; }), "a user and no password"));
  CHECK(has(with([](RedisOptions& o) { o.ca_file = "/x"; }), "go with tls"));
  CHECK(has(with([](RedisOptions& o) { o.tls = true, o.ca_file = "/nothing.pem"; }), "ca_file"));
  CHECK(has(with([](RedisOptions& o) { o.tls = true, o.key_file = "/x"; }), "one is missing"));
}

TEST_CASE("a store of Redis in the child of a fork is none, and leaves the parent's alone") {
  if (redis_program() == nullptr) return;
  const RedisProcess server(free_port());
  auto store = std::make_unique<RedisStorage>(options_for(server.port()));
  const auto object = content(1, 4096);
  REQUIRE(store->write(key_of(1), object.bytes()));
  const pid_t child = ::fork();
  if (child == 0) {
    const AlignedBuffer out(4096);
    const bool refused =
        store->read(0, key_of(1), 0, out.bytes()).wait().code() == Errc::unsupported &&
        store->write(key_of(2), object.bytes()).code() == Errc::unsupported &&
        !store->lookup(std::vector{key_of(1)});
    store.reset();
    ::_exit(refused ? 0 : 1);
  }
  int status = 1;
  ::waitpid(child, &status, 0);
  CHECK(status == 0);
  CHECK(equal(fetch(*store, key_of(1), 4096).bytes(), object.bytes()));
}

TEST_CASE("a read that is canceled is over at once, and its memory is its owner's again") {
  if (redis_program() == nullptr) return;
  const RedisProcess server(free_port());
  RedisProxy proxy(server.port());
  RedisStorage store(options_for(proxy.port()));
  const auto object = content(1, 4 * kMiB);
  REQUIRE(store.write(key_of(1), object.bytes()));
  proxy.misbehave([](const RedisProxy::Words& words, Answer& answer) {
    if (words[0] == "GETRANGE") answer.milliseconds_per_kilobyte = 1;
  });
  const AlignedBuffer out(object.size());
  RedisRead read = store.read(0, key_of(1), 0, out.bytes());
  while (proxy.count("GETRANGE") == 0) std::this_thread::sleep_for(1ms);
  read.cancel();
  CHECK(read.wait().code() == Errc::canceled);
  std::memset(out.data(), 7, out.size());
  proxy.behave();
  CHECK(equal(fetch(store, key_of(1), object.size()).bytes(), object.bytes()));
  CHECK(std::all_of(out.bytes().begin(), out.bytes().end(),
                    [](std::byte b) { return b == std::byte{7}; }));
  CHECK(store.stats().canceled > 0);
}

TEST_CASE("a store that ends breaks its reads off") {
  if (redis_program() == nullptr) return;
  const RedisProcess server(free_port());
  auto store = std::make_unique<RedisStorage>(options_for(server.port()));
  const auto object = content(1, kMiB);
  REQUIRE(store->write(key_of(1), object.bytes()));
  server.freeze(true);
  const AlignedBuffer out(object.size());
  RedisRead read = store->read(0, key_of(1), 0, out.bytes());
  store.reset();
  CHECK(read.wait().code() == Errc::canceled);
  server.freeze(false);
}
