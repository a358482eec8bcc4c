// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The parser of RESP, slots of keys, and lists of nodes, without a server.
#include <algorithm>
#include <random>
#include <string>

#include "catch.hpp"
#include "redis_wire.hpp"
#include "src/storage/redis/reply.hpp"
#include "src/storage/redis/resp.hpp"
#include "src/storage/redis/slots.hpp"

using namespace cake;
using namespace cake::detail;
using namespace cake_redis_test;
using Kind = RespReply::Kind;
using Then = RedisProblem::Then;

namespace {

ConstBytes bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

/// All of a text is one reply.
RespReply parsed(const std::string& text) {
  RespParser parser;
  parser.begin();
  const auto taken = parser.take(bytes_of(text));
  REQUIRE(taken);
  CHECK(*taken == text.size());
  REQUIRE(parser.whole());
  return std::move(parser.reply());
}

bool refused(const std::string& text, MutableBytes out = {}) {
  RespParser parser;
  parser.begin(out);
  const auto taken = parser.take(bytes_of(text));
  if (!taken) CHECK(taken.error().code == Errc::corrupt);
  return !taken;
}

const RedisEndpoint kSelf{"10.0.0.1", 7000};
const RedisContext kContext{"read", "redis://10.0.0.1:7000/p:{k}", kSelf};

}  // namespace

TEST_CASE("replies of each kind are told apart") {
  CHECK(parsed("+OK\r\n").kind == Kind::status);
  CHECK(parsed("+OK\r\n").text == "OK");
  CHECK(parsed("-ERR no\r\n").text == "ERR no");
  CHECK(parsed(":-42\r\n").integer == -42);
  CHECK(parsed("$-1\r\n").kind == Kind::null);
  CHECK(parsed("*-1\r\n").kind == Kind::null);
  CHECK(parsed("$0\r\n\r\n").text.empty());
  CHECK(parsed("$4\r\na\r\nb\r\n").text == "a\r\nb");
  CHECK(parsed("*0\r\n").kind == Kind::array);
  const RespReply list = parsed("*3\r\n:1\r\n*2\r\n$1\r\nx\r\n*0\r\n+y\r\n");
  REQUIRE(list.items.size() == 3);
  CHECK(list.items[1].items[0].text == "x");
  CHECK(list.items[1].items[1].kind == Kind::array);
  CHECK(list.items[2].text == "y");
}

TEST_CASE("a value goes where it is wanted, in pieces of any size, and what follows is left") {
  std::string text;
  for (int i = 0; i < 300; ++i) text += static_cast<char>(i);
  const std::string sent = bulk_of(text) + ":7\r\n";
  for (std::size_t step = 1; step < 40; ++step) {
    std::vector<std::byte> out(300);
    RespParser parser;
    parser.begin(out);
    std::size_t at = 0;
    while (!parser.whole()) {
      const std::size_t size = std::min(step, sent.size() - at);
      if (step % 2 == 0 && !parser.gap().empty()) {
        // As a socket fills it.
        const std::size_t direct = std::min(size, parser.gap().size());
        std::copy_n(bytes_of(sent).begin() + static_cast<std::ptrdiff_t>(at), direct,
                    parser.gap().begin());
        parser.filled(direct);
        at += direct;
        continue;
      }
      at += parser.take(bytes_of(sent).subspan(at, size)).value();
    }
    CHECK(parser.landed() == 300);
    CHECK(std::equal(out.begin(), out.end(), bytes_of(text).begin()));
    CHECK(sent.substr(at) == ":7\r\n");
    CHECK(parser.reply().text.empty());
  }
}

TEST_CASE("a value that nobody wants any more goes nowhere") {
  std::vector<std::byte> out(100, std::byte{7});
  RespParser parser;
  parser.begin(out);
  const std::string sent = bulk_of(std::string(100, 'x'));
  REQUIRE(parser.take(bytes_of(sent).first(20)));
  parser.drop();
  CHECK(parser.gap().empty());
  REQUIRE(parser.take(bytes_of(sent).subspan(20)));
  CHECK(parser.whole());
  CHECK(out[50] == std::byte{7});
  parser.begin();
  parser.drop();
  const std::string large = bulk_of(std::string(3 << 20, 'x'));
  REQUIRE(parser.take(bytes_of(large)));
  CHECK(parser.whole());
  CHECK(parser.reply().text.empty());
}

TEST_CASE("what is no reply is refused, and lengths are bounded before memory is taken") {
  for (const char* const text : {"\r\n",
                                 "OK\r\n",
                                 "_\r\n",
                                 "%1\r\n",
                                 ">1\r\n",
                                 "#t\r\n",
                                 ":x\r\n",
                                 ":\r\n",
                                 "$x\r\n",
                                 "$-2\r\n",
                                 "*-2\r\n",
                                 "$3\r\nabcd\r\n",
                                 "$1\r\nab",
                                 "+a\rb\r\n",
                                 "+ok\n",
                                 "$1\r\na\rx",
                                 "$9223372036854775807\r\n",
                                 "$92233720368547758070\r\n",
                                 "$1048577\r\n",
                                 "*131073\r\n",
                                 "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n"}) {
    INFO(text);
    CHECK(refused(text));
  }
  CHECK(refused("+" + std::string(RespParser::kMostLine, 'x')));
  std::vector<std::byte> out(3);
  CHECK(refused("$4\r\n", out));
  CHECK_FALSE(refused("$3\r\n", out));
  std::string many = "*2\r\n" + bulk_of(std::string(1 << 20, 'x'));
  CHECK_FALSE(refused(many));
  CHECK(refused(many + "$1\r\n"));
  CHECK(parsed("-" + std::string(4000, 'E') + "\r\n").text.size() == RespParser::kMostShown);
}

TEST_CASE("commands are what a server reads") {
  CHECK(resp_command({"GET", ""}) == "*2\r\n$3\r\nGET\r\n$0\r\n\r\n");
  const RespFrame frame = resp_frame({"SET", "k"}, 5, {"NX", "PX", "10"});
  CHECK(words_of(frame.head + "12345" + frame.tail) ==
        std::vector<std::string>{"SET", "k", "12345", "NX", "PX", "10"});
}

TEST_CASE("the slot of a key is CRC16 of its tag") {
  CHECK(redis_slot("123456789") == 0x31c3);
  CHECK(redis_slot("foo") == 12182);
  CHECK(redis_slot("") == 0);
  CHECK(redis_slot("{user1000}.following") == redis_slot("user1000"));
  CHECK(redis_slot("foo{}{bar}") != redis_slot("bar"));
  CHECK(redis_slot("foo{{bar}}zap") == redis_slot("{bar"));
  CHECK(redis_slot("foo{bar}{zap}") == redis_slot("bar"));
  CHECK(redis_slot("foo{bar") != redis_slot("bar"));
}

TEST_CASE("a list of slots names masters, and replicas beside them") {
  const auto topology = RedisTopology::of_slots(
      parsed("*2\r\n*4\r\n:0\r\n:5460\r\n*2\r\n$0\r\n\r\n:7001\r\n*2\r\n$4\r\nhost\r\n:7004\r\n"
             "*3\r\n:10923\r\n:16383\r\n*4\r\n$-1\r\n:7003\r\n$1\r\nx\r\n*0\r\n"),
      kSelf);
  REQUIRE(topology);
  CHECK(topology->cluster());
  CHECK(topology->masters() == 2);
  CHECK(topology->nodes().size() == 3);
  CHECK(*topology->owner(5460) == RedisEndpoint{"10.0.0.1", 7001});
  CHECK(topology->owner(5461) == nullptr);
  CHECK(topology->owner(16383)->port == 7003);
  CHECK(topology->knows({"host", 7004}));
  RedisTopology moved = *topology;
  CHECK(moved.move(5461, {"host", 7004}));
  CHECK(moved.owner(5461)->shown() == "host:7004");
  CHECK_FALSE(moved.move(16384, {"host", 7004}));
  for (const char* const text : {":1\r\n", "*1\r\n:1\r\n", "*1\r\n*2\r\n:0\r\n:1\r\n",
                                 "*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$1\r\nh\r\n:1\r\n",
                                 "*1\r\n*3\r\n:5\r\n:4\r\n*2\r\n$1\r\nh\r\n:1\r\n",
                                 "*1\r\n*3\r\n:-1\r\n:4\r\n*2\r\n$1\r\nh\r\n:1\r\n",
                                 "*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n$1\r\nh\r\n:70000\r\n",
                                 "*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n$3\r\na b\r\n:1\r\n"}) {
    INFO(text);
    CHECK_FALSE(RedisTopology::of_slots(parsed(text), kSelf));
  }
}

TEST_CASE("redirections name a node, and what is none is no redirection") {
  const RedisProblem moved = redis_refused("MOVED 3999 127.0.0.1:6381", kContext);
  CHECK(moved.then == Then::moved);
  CHECK(moved.to == RedisEndpoint{"127.0.0.1", 6381});
  CHECK(redis_refused("ASK 3999 ::1:6381", kContext).to.host == "::1");
  CHECK(redis_refused("ASK 3999 [::1]:6381", kContext).to.shown() == "[::1]:6381");
  CHECK(redis_refused("MOVED 3999 :6381", kContext).to == RedisEndpoint{"10.0.0.1", 6381});
  for (const char* const text : {"MOVED", "MOVED 1", "MOVED 1 ", "MOVED 1 host", "MOVED 1 host:0",
                                 "MOVED 1 host:65536", "ASK 1 a b:1", "ASK 1 h/../x:1"}) {
    INFO(text);
    CHECK(redis_refused(text, kContext).then == Then::nothing);
  }
}

TEST_CASE("of an error its code is repeated, and nothing else that the server says") {
  for (const char* const code :
       {"OOM", "MISCONF", "NOAUTH", "WRONGPASS", "NOPERM", "LOADING", "CLUSTERDOWN", "READONLY",
        "TRYAGAIN", "NOSCRIPT", "BUSY", "MASTERDOWN", "WHATEVER", "DENIED"}) {
    const RedisProblem problem = redis_refused(std::string(code) + " secret", kContext);
    INFO(problem.error.context);
    CHECK(problem.error.context.find(code) != std::string::npos);
    CHECK(problem.error.context.find("secret") == std::string::npos);
    CHECK(problem.error.context.starts_with("read of redis://10.0.0.1:7000/p:{k}: "));
  }
  CHECK(redis_refused("ERR unknown command 'x', with args: secret", kContext).error.code ==
        Errc::unsupported);
  CHECK(redis_refused("OOM", kContext).error.code == Errc::out_of_memory);
  CHECK(redis_refused("secret", kContext).error.context.find("secret") == std::string::npos);
  RedisContext other = kContext;
  other.node = {"10.0.0.2", 7001};
  CHECK(redis_refused("OOM", other).error.context.find("at 10.0.0.2:7001: ") != std::string::npos);
}
