// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A server that fails in every way that a test can name: what is tried again, what is not, and what
// is said of it. No text holds a secret, whatever the server sends back.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <optional>
#include <string>

#include "cake/storage/s3.hpp"
#include "catch.hpp"
#include "s3_helpers.hpp"

using namespace cake;
using namespace cake_s3_test;
using namespace std::chrono_literals;
using sample::content;
using sample::equal;
using sample::key_of;
using sample::look;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kSize = 2 * kMiB;

ServerOptions with_token() {
  ServerOptions options;
  options.keys.token = "SessionTokenOfTheTest//+==";
  return options;
}

/// A server with one object, and a store over it that knows its secrets.
struct Rig {
  const ServerOptions of = with_token();
  Server server{of};
  S3Options options = options_for(server, of);
  AlignedBuffer object = content(1, kSize);
  AlignedBuffer out{kSize};
  std::optional<S3Storage> store;

  explicit Rig(const std::function<void(S3Options&)>& change = {}) {
    if (change) change(options);
    server.put(name_of(key_of(1)), text_of(object.bytes()));
    store.emplace(options);
  }
  Status read(std::uint64_t key = 1) {
    std::memset(out.data(), 0x5a, out.size());
    const Status status = store->read(0, key_of(key), 0, out.bytes()).wait();
    if (!status) check_text(status.error());
    return status;
  }
  bool right() const { return equal(out.bytes(), object.bytes()); }
  /// What went wrong with which URL, and nothing that is not for everybody.
  void check_text(const Error& error, const std::string& doing = "read") const {
    INFO(error.context);
    CHECK(error.context.find(doing + " of " + options.endpoint + "/bucket/kv/v2/") !=
          std::string::npos);
    CHECK(error.context.find('?') == std::string::npos);
    for (const std::string& secret : {of.keys.access, of.keys.secret, of.keys.token}) {
      CHECK(error.context.find(secret) == std::string::npos);
    }
  }
  /// What a server might send back: all of it.
  std::string echo() const {
    return "<Message>you said " + of.keys.access + " " + of.keys.secret + " " + of.keys.token +
           "</Message><AWSAccessKeyId>" + of.keys.access + "</AWSAccessKeyId>";
  }
  /// Reads with every answer changed, and expects a failure that says this.
  void refuses(const std::function<void(Answer&)>& change, Errc code, const std::string& says,
               std::uint64_t requests) {
    server.misbehave([&](const Asked&, Answer& answer) { change(answer); });
    const std::uint64_t before = store->stats().requests;
    const Status status = read();
    CHECK(status.code() == code);
    INFO((status ? "" : status.error().context));
    CHECK((status ? "" : status.error().context).find(says) != std::string::npos);
    CHECK(store->stats().requests - before == requests);
    server.behave();
    CHECK(read());
    CHECK(right());
  }
};

/// Counts requests, and changes the first ones of them.
Server::Fault first(int n, std::atomic<int>& seen, const std::function<void(Answer&)>& change) {
  return [n, &seen, change](const Asked&, Answer& answer) {
    if (seen++ < n) change(answer);
  };
}

/// Of a date for the header of that name, so many seconds from now.
std::string date(std::int64_t seconds) {
  const std::time_t when = std::time(nullptr) + seconds;
  std::tm utc{};
  gmtime_r(&when, &utc);
  char text[64];
  std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &utc);
  return text;
}

}  // namespace

TEST_CASE("s3 404: a key that is not there is not found, and not asked for again") {
  Rig rig;
  CHECK(rig.read(2).code() == Errc::not_found);
  CHECK(rig.store->stats().requests == 1);
  rig.refuses([&](Answer& a) { a.error(404, "NoSuchKey", rig.echo()); }, Errc::not_found,
              "no such object", 1);
}

TEST_CASE("s3 404: a bucket that is not there is no missing key") {
  Rig rig;
  rig.refuses([&](Answer& a) { a.error(404, "NoSuchBucket", rig.echo()); }, Errc::io,
              "no such bucket; create it", 1);
}

TEST_CASE(
    "s3 403: denied access is told with the permissions that are needed, and not tried again") {
  Rig rig;
  rig.refuses([&](Answer& a) { a.error(403, "AccessDenied", rig.echo()); }, Errc::io,
              "s3:GetObject", 1);
  rig.refuses([&](Answer& a) { a.error(403, "SignatureDoesNotMatch", rig.echo()); }, Errc::io,
              "AWS_SECRET_ACCESS_KEY", 1);
  rig.refuses([&](Answer& a) { a.error(403, "InvalidAccessKeyId", rig.echo()); }, Errc::io,
              "AWS_ACCESS_KEY_ID", 1);
}

TEST_CASE("s3 403: without a reason it is told what the answer to a lookup may mean") {
  Rig rig;
  rig.server.misbehave([](const Asked&, Answer& answer) { answer.error(403, "AccessDenied"); });
  const auto found = rig.store->lookup(std::vector{key_of(1), key_of(2)});
  REQUIRE_FALSE(found);
  rig.check_text(found.error(), "lookup");
  CHECK(found.error().native == 403);
  CHECK(found.error().context.find("without s3:ListBucket") != std::string::npos);
  CHECK_FALSE(rig.store->lookup_problem());
}

TEST_CASE("s3 403: a clock that is wrong is named, and by how much") {
  Rig rig;
  rig.refuses(
      [&](Answer& a) {
        a.error(403, "RequestTimeTooSkewed", rig.echo());
        a.set("Date", date(-7200));
      },
      Errc::io, "s ahead of the server's; set it (NTP)", 1);
  rig.refuses(
      [&](Answer& a) {
        a.error(403, "RequestTimeTooSkewed", rig.echo());
        a.set("Date", date(7200));
      },
      Errc::io, "s behind the server's", 1);
  // Of a lookup there is no code, but a date.
  rig.server.misbehave([](const Asked&, Answer& a) {
    a.error(403, "");
    a.set("Date", date(-7200));
  });
  const auto found = rig.store->lookup(std::vector{key_of(1)});
  REQUIRE_FALSE(found);
  CHECK(found.error().context.find("ahead of the server's") != std::string::npos);
}

TEST_CASE("s3 400: a session token that has expired is told so") {
  Rig rig;
  rig.refuses([&](Answer& a) { a.error(400, "ExpiredToken", rig.echo()); }, Errc::io,
              "the session token has expired", 1);
}

TEST_CASE("s3 503: a server that asks to slow down is asked again, later") {
  Rig rig;
  std::atomic<int> seen{0};
  rig.server.misbehave(first(2, seen, [](Answer& a) { a.error(503, "SlowDown"); }));
  CHECK(rig.read());
  CHECK(rig.right());
  CHECK(rig.store->stats().requests == 3);
  CHECK(rig.store->stats().retries == 2);
}

TEST_CASE("s3 503: a server that always asks to slow down fails the read after all attempts") {
  Rig rig;
  rig.refuses([&](Answer& a) { a.error(503, "SlowDown", rig.echo()); }, Errc::io,
              "slow down (SlowDown); lower S3Options::connections, or give it more power, 5 times",
              5);
}

TEST_CASE("s3 503: no attempt is made after the read's own time") {
  Rig rig;
  rig.refuses(
      [](Answer& a) {
        a.error(503, "SlowDown");
        a.set("Retry-After", "3600");
      },
      Errc::io, "slow down", 1);
}

TEST_CASE("s3 500: an internal error of the server is tried again") {
  Rig rig;
  std::atomic<int> seen{0};
  rig.server.misbehave(first(1, seen, [](Answer& a) { a.error(500, "InternalError"); }));
  CHECK(rig.read());
  CHECK(rig.right());
  rig.refuses([&](Answer& a) { a.error(500, "InternalError", rig.echo()); }, Errc::io,
              "the server failed: HTTP 500 (InternalError)", 5);
}

TEST_CASE("s3 412: another writer was first, and that is no failure") {
  Rig rig;
  CHECK_FALSE(rig.store->write_new(key_of(1), content(2, 4096).bytes()).value());
  // A server that says so of what it does not have ends it with an error, at last.
  rig.server.misbehave([](const Asked& asked, Answer& a) {
    if (asked.method == "PUT") a.error(412, "PreconditionFailed");
    if (asked.method == "HEAD") a.error(404, "");
  });
  const auto written = rig.store->write_new(key_of(3), content(2, 4096).bytes());
  REQUIRE_FALSE(written);
  rig.check_text(written.error(), "write");
}

TEST_CASE("s3 truncated body: only the rest is asked for, until all is there") {
  Rig rig;
  std::atomic<int> seen{0};
  rig.server.misbehave(first(3, seen, [](Answer& a) { a.cut = a.body.size() / 2 + 17; }));
  CHECK(rig.read());
  CHECK(rig.right());
  CHECK(rig.store->stats().requests == 4);
  const auto log = rig.server.log();
  const std::size_t half = kSize / 2 + 17;
  CHECK(log[1].header("range") ==
        "bytes=" + std::to_string(half) + "-" + std::to_string(kSize - 1));
}

TEST_CASE("s3 truncated body: a server that always sends too little fails the read") {
  Rig rig;
  rig.refuses([](Answer& a) { a.cut = 0; }, Errc::io, "ended after 0 of 2097152 bytes", 5);
}

TEST_CASE("s3 wrong Content-Range: other bytes than asked for are not taken") {
  Rig rig;
  const auto says = [](const std::string& range) {
    return [range](Answer& a) { a.set("Content-Range", range); };
  };
  rig.refuses(says("bytes 4096-2097151/2097152"), Errc::io, "other bytes than it was asked for", 1);
  rig.refuses(says("bytes 0-9999999/10000000"), Errc::io, "other bytes than it was asked for", 1);
  rig.refuses(says("bytes 10-4/2097152"), Errc::io, "other bytes than it was asked for", 1);
  rig.refuses(says("bytes 0-2097151/18446744073709551616"), Errc::io, "other bytes", 1);
  rig.refuses(says("all of it"), Errc::io, "other bytes than it was asked for", 1);
}

TEST_CASE("s3 no ranges: a server that sends whole objects only is told apart") {
  Rig rig;
  const AlignedBuffer part(4096);
  rig.server.misbehave([&](const Asked&, Answer& a) {
    a.status = 200;
    a.body = text_of(rig.object.bytes());
  });
  const Status status = rig.store->read(0, key_of(1), 4096, part.bytes()).wait();
  CHECK(status.code() == Errc::unsupported);
  rig.check_text(status.error());
  CHECK(rig.read());  // of the whole object it is as good
  CHECK(rig.right());
}

TEST_CASE("s3 short object: a read beyond the end is corrupt, and brings nothing that counts") {
  Rig rig;
  rig.server.put(name_of(key_of(5)), std::string(kSize / 2, 'x'));
  CHECK(rig.read(5).code() == Errc::corrupt);
  rig.server.misbehave([](const Asked&, Answer& a) { a.error(416, "InvalidRange"); });
  CHECK(rig.read().code() == Errc::corrupt);
}

TEST_CASE("s3 slow body: the read ends at its time, and its memory is its owner's again") {
  Rig rig([](S3Options& o) { o.read_timeout = 200ms; });
  rig.server.misbehave([](const Asked&, Answer& a) { a.milliseconds_per_kilobyte = 5; });
  const Status status = rig.read();
  CHECK(status.code() == Errc::timeout);
  std::memset(rig.out.data(), 7, rig.out.size());
  std::this_thread::sleep_for(50ms);
  CHECK(std::all_of(rig.out.bytes().begin(), rig.out.bytes().end(),
                    [](std::byte b) { return b == std::byte{7}; }));
  rig.server.behave();
  CHECK(rig.store->stats().canceled == 0);
}

TEST_CASE("s3 reset: a connection that breaks in the head is opened again") {
  Rig rig;
  std::atomic<int> seen{0};
  rig.server.misbehave(first(2, seen, [](Answer& a) { a.reset_at_once = true; }));
  CHECK(rig.read());
  CHECK(rig.right());
  rig.refuses([](Answer& a) { a.reset_at_once = true; }, Errc::io, "the connection broke", 5);
}

TEST_CASE("s3 reset: a connection that breaks in the body goes on where it was") {
  Rig rig;
  std::atomic<int> seen{0};
  rig.server.misbehave(first(2, seen, [](Answer& a) {
    a.cut = a.body.size() / 3;
    a.then = Answer::Then::reset;
  }));
  CHECK(rig.read());
  CHECK(rig.right());
}

TEST_CASE("s3 redirect: it is not followed, and named without what may be in it") {
  Rig rig;
  Server other;
  rig.refuses(
      [&](Answer& a) {
        a.error(307, "TemporaryRedirect");
        a.set("Location", other.endpoint() + "/bucket/x?X-Amz-Signature=" + rig.of.keys.secret);
      },
      Errc::unsupported, "the server redirects to " + other.endpoint() + ", which is not followed",
      1);
  rig.refuses(
      [&](Answer& a) {
        a.error(302, "");
        a.set("Location", "http://" + rig.of.keys.secret + "@127.0.0.1/");
      },
      Errc::unsupported, "the server redirects, which is not followed", 1);
  rig.refuses(
      [](Answer& a) {
        a.error(302, "");
        a.set("Location", "ht\x1b[1mtp://127.0.0.1/");  // a terminal would obey
      },
      Errc::unsupported, "the server redirects, which is not followed", 1);
  CHECK(other.requests() == 0);
}

TEST_CASE("s3 redirect: a bucket of another region is named with the region") {
  Rig rig;
  rig.refuses(
      [](Answer& a) {
        a.error(301, "PermanentRedirect");
        a.set("x-amz-bucket-region", "us-west-2");
      },
      Errc::unsupported, "set AWS_REGION=us-west-2", 1);
  rig.refuses(
      [](Answer& a) { a.error(400, "AuthorizationHeaderMalformed", "<Region>sa-east-1</Region>"); },
      Errc::unsupported, "set AWS_REGION=sa-east-1", 1);
  rig.refuses(
      [](Answer& a) { a.error(400, "AuthorizationHeaderMalformed", "<Region>a b</Region>"); },
      Errc::unsupported, "expects another region than eu-test-7", 1);
}

TEST_CASE("s3 garbage XML: the status counts, and nothing of the body is repeated") {
  Rig rig;
  const auto body = [&](const std::string& text) {
    return [text](Answer& a) {
      a.error(418, "");
      a.body = text;
    };
  };
  for (const std::string& text :
       {std::string("<Error><Code>"), std::string("<Error><Code></Code"), std::string("\0\xff<", 3),
        std::string("<Error><Code>" + rig.of.keys.secret + "</Code></Error>"),
        std::string("<Error><Code>a<b></Code></Error>"), std::string("not XML at all"),
        std::string("<Error><Code>" + std::string(5000, 'x') + "</Code></Error>"),
        std::string(
            "<!DOCTYPE a [<!ENTITY b SYSTEM \"file:///etc/passwd\">]><Error><Code>&b;</Code>")}) {
    rig.refuses(body(text), Errc::io, "the server refuses: HTTP 418; look at its log", 1);
  }
}

TEST_CASE("s3 huge XML: an error is read to a bound, and the connection given up") {
  Rig rig;
  rig.refuses(
      [](Answer& a) {
        a.error(403, "AccessDenied");
        a.body += std::string(64 * kMiB, ' ');
      },
      Errc::io, "s3:GetObject", 1);
}

TEST_CASE("s3 wrong length: what is less than it says is not taken") {
  Rig rig;
  rig.refuses([](Answer& a) { a.length = a.body.size() - 4096; }, Errc::io,
              "ended after 2093056 of 2097152 bytes", 5);
}

TEST_CASE("s3 wrong length: what is more than it says is not taken") {
  Rig rig;
  rig.refuses([](Answer& a) { a.body += "more"; }, Errc::io, "more bytes than it says", 1);
}

TEST_CASE("s3 half-open: what does not answer any more is asked on another connection") {
  Rig rig([](S3Options& o) { o.stall_timeout = 100ms; });
  std::atomic<int> seen{0};
  rig.server.misbehave(first(1, seen, [](Answer& a) { a.hang_at_once = true; }));
  CHECK(rig.read());
  CHECK(rig.right());
  CHECK(rig.store->stats().requests == 2);
  CHECK(rig.server.connections() == 2);
}

TEST_CASE("s3 half-open: what stops in the middle of a body goes on elsewhere where it was") {
  Rig rig([](S3Options& o) { o.stall_timeout = 100ms; });
  std::atomic<int> seen{0};
  rig.server.misbehave(first(1, seen, [](Answer& a) {
    a.cut = a.body.size() / 2;
    a.then = Answer::Then::hang;
  }));
  CHECK(rig.read());
  CHECK(rig.right());
  CHECK(rig.server.log().back().header("range").starts_with("bytes=1048576-"));
}

TEST_CASE(
    "s3 killed: a server that dies in the middle of a read fails it, and says what to look at") {
  Rig rig;
  rig.server.misbehave([](const Asked&, Answer& a) {
    a.cut = a.body.size() / 2;
    a.then = Answer::Then::hang;
  });
  std::memset(rig.out.data(), 0, rig.out.size());
  S3Read read = rig.store->read(0, key_of(1), 0, rig.out.bytes());
  while (rig.server.requests() == 0) std::this_thread::sleep_for(1ms);
  rig.server.kill();
  const Status status = read.wait();
  CHECK(status.code() == Errc::io);
  rig.check_text(status.error());
  CHECK(status.error().context.find("cannot be reached; look whether it runs") !=
        std::string::npos);
}

TEST_CASE("s3 no server: one reason for all keys, and not an attempt for each") {
  Rig rig([](S3Options& o) { o.lookup_connections = 2; });
  rig.server.kill();
  std::vector<ChunkKey> keys;
  for (std::uint64_t i = 0; i < 500; ++i) keys.push_back(key_of(i));
  const auto found = rig.store->lookup(keys);
  REQUIRE_FALSE(found);
  rig.check_text(found.error(), "lookup");
  CHECK(found.error().context.find("cannot be reached") != std::string::npos);
  CHECK(rig.store->stats().requests <= 4 * rig.options.attempts);
  const auto written = rig.store->write_new(key_of(1), content(2, 4096).bytes());
  REQUIRE_FALSE(written);
  rig.check_text(written.error(), "write");
  const Status erased = rig.store->erase(key_of(1));
  REQUIRE_FALSE(erased);
  rig.check_text(erased.error(), "erase");
  CHECK_FALSE(rig.store->check_access());
}

TEST_CASE("s3 no HTTP: another protocol's server is told apart") {
  Rig rig;
  rig.refuses([](Answer& a) { a.raw = "SSH-2.0-OpenSSH_9.2p1\r\n"; }, Errc::io,
              "does not answer as HTTP", 5);
  rig.options.endpoint = "https://127.0.0.1:" + std::to_string(rig.server.port());
  rig.store.emplace(rig.options);
  const Status status = rig.read();
  CHECK(status.code() == Errc::io);
  CHECK(status.error().context.find("http://") != std::string::npos);
}

TEST_CASE("s3 lookup: one key that fails leaves the others their answers") {
  Rig rig;
  rig.server.put(name_of(key_of(2)), std::string(8192, 'x'));
  rig.server.misbehave([&](const Asked& asked, Answer& a) {
    if (asked.path.ends_with(name_of(key_of(3)))) a.error(500, "InternalError");
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
  rig.server.behave();
  CHECK(rig.store->lookup(std::vector{key_of(1)}));
  CHECK(rig.store->lookup_problem());
}

TEST_CASE("s3 write: a body that breaks off is sent again as a whole") {
  Rig rig;
  const auto object = content(9, 8 * kMiB);
  std::atomic<int> seen{0};
  rig.server.misbehave(first(2, seen, [](Answer& a) { a.error(503, "SlowDown"); }));
  CHECK(rig.store->write(key_of(9), object.bytes()));
  CHECK(rig.server.objects().at(name_of(key_of(9))) == text_of(object.bytes()));
  CHECK(rig.store->stats().retries == 2);
  // The answer of the first attempt is lost; the second one finds the object.
  seen = 0;
  rig.server.misbehave(first(1, seen, [](Answer& a) { a.reset_at_once = true; }));
  CHECK(rig.store->write(key_of(10), object.bytes()));
  CHECK(rig.server.objects().at(name_of(key_of(10))) == text_of(object.bytes()));
}

TEST_CASE("s3 write: what the server refuses leaves nothing behind, and says why") {
  Rig rig;
  const auto refused = [&](int status, const std::string& code, Errc errc,
                           const std::string& says) {
    rig.server.misbehave([&](const Asked& asked, Answer& a) {
      if (asked.method == "PUT") a.error(status, code, rig.echo());
    });
    const auto before = rig.server.objects().size();
    rig.server.put(name_of(key_of(1)), text_of(rig.object.bytes()));
    const auto written = rig.store->write_new(key_of(20), content(1, 4096).bytes());
    rig.server.behave();
    REQUIRE_FALSE(written);
    CHECK(written.error().code == errc);
    rig.check_text(written.error(), "write");
    CHECK(written.error().context.find(says) != std::string::npos);
    REQUIRE(rig.store->erase(key_of(20)));
    CHECK(rig.server.objects().size() == before);
  };
  refused(403, "AccessDenied", Errc::io, "s3:PutObject");
  refused(403, "QuotaExceeded", Errc::out_of_memory, "quota");
  refused(400, "EntityTooLarge", Errc::out_of_memory, "so large");
  refused(507, "", Errc::out_of_memory, "full");
}
