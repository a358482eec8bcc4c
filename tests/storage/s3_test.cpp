// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A bucket as a store: its contract, addresses, signatures and writes, over the server of these tests.
#include "cake/storage/s3.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "cake/testing/check_storage.hpp"
#include "contract.hpp"
#include "s3_helpers.hpp"
#include "src/storage/s3/address.hpp"

using namespace cake;
using namespace cake_s3_test;
using sample::content;
using sample::equal;
using sample::fetch;
using sample::key_of;
using sample::look;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

/// Sets variables of the environment, and unsets them again.
class Environment {
 public:
  Environment() { clear(); }
  ~Environment() { clear(); }
  void set(const char* name, const char* value) { ::setenv(name, value, 1); }

 private:
  static void clear() {
    for (const char* name :
         {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION",
          "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE"}) {
      ::unsetenv(name);
    }
  }
};

std::string refusal(const S3Options& options) {
  try {
    const S3Storage store(options);
  } catch (const Exception& e) {
    CHECK(e.error().code == Errc::invalid_argument);
    return e.what();
  }
  return "";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a bucket keeps the contract of a store") {
  Server server;
  S3Storage store(options_for(server));
  REQUIRE(store.check_access());
  CHECK(server.objects().empty());
  CHECK(testing::check(store) == testing::Failures{});
  sample::check_contract(store);
  sample::check_concurrent(store, 100);
  CHECK(server.objects().empty());
  CHECK(server.bad_signatures() == std::vector<std::string>{});
}

TEST_CASE(
    "a store that does not know If-None-Match keeps the contract, by a HEAD before each PUT") {
  Server server({.knows_conditions = false});
  S3Storage store(options_for(server));
  CHECK(store.stats().conditional_writes);
  CHECK(testing::check(store) == testing::Failures{});
  sample::check_contract(store);
  CHECK_FALSE(store.stats().conditional_writes);
}

TEST_CASE("a store that ignores If-None-Match keeps the contract when it is told") {
  Server server({.ignores_conditions = true});
  S3Options options = options_for(server);
  options.conditional_writes = false;
  S3Storage store(options);
  sample::check_contract(store);
  for (const Asked& asked : server.log()) CHECK(asked.header("if-none-match").empty());
}

TEST_CASE("names in a bucket are those of files in a folder") {
  Server server;
  S3Storage store(options_for(server));
  const auto object = content(1, 4096);
  REQUIRE(store.write(key_of(1), object.bytes()));
  REQUIRE(server.objects().size() == 1);
  CHECK(server.objects().begin()->first == name_of(key_of(1)));
  CHECK(server.objects().begin()->second == text_of(object.bytes()));
  CHECK(store.url() == server.endpoint() + "/bucket/kv/v2");
}

TEST_CASE("a large read goes in ranged pieces over connections that are kept, in both sizes") {
  Server server;
  S3Options options = options_for(server);
  options.threads = 1;
  S3Storage store(options);
  const std::size_t size = 33 * kMiB + 4096;
  const auto object = content(3, size);
  server.put(name_of(key_of(3)), text_of(object.bytes()));
  for (int i = 0; i < 3; ++i) CHECK(equal(fetch(store, key_of(3), size).bytes(), object.bytes()));
  CHECK(equal(fetch(store, key_of(3), 2 * kMiB, 5 * kMiB).bytes(),
              object.bytes().subspan(5 * kMiB, 2 * kMiB)));
  // 4 MiB, the smaller size: nine pieces.
  CHECK(store.stats().requests == 3 * 9 + 1);
  CHECK(store.stats().connects <= 9);
  CHECK(store.stats().connects == server.connections());
  CHECK(store.stats().read_bytes == 3 * size + 2 * kMiB);
  for (const Asked& asked : server.log()) CHECK(asked.header("range").starts_with("bytes="));
}

TEST_CASE("the first writer of one key wins, whoever else writes at the same moment") {
  Server server;
  S3Storage one(options_for(server)), other(options_for(server));
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

TEST_CASE("an object that is empty or of an odd size is replaced, and any other is not") {
  Server server;
  S3Storage store(options_for(server));
  const auto object = content(1, 8192);
  for (const std::string& rubbish : {std::string(), std::string(5000, 'x')}) {
    server.put(name_of(key_of(1)), rubbish);
    CHECK(store.write_new(key_of(1), object.bytes()).value());
    CHECK(server.objects().at(name_of(key_of(1))) == text_of(object.bytes()));
  }
  CHECK(store.stats().replaced == 2);
  CHECK_FALSE(store.write_new(key_of(1), content(2, 4096).bytes()).value());
}

TEST_CASE("a large object is written in parts, appears whole, and the first one wins") {
  Server server;
  S3Options options = options_for(server);
  options.part_bytes = options.multipart_above = 5 * kMiB;
  S3Storage store(options);
  const auto object = content(7, 16 * kMiB);
  std::atomic<bool> seen{false};
  server.misbehave([&](const Asked& asked, Answer&) {
    if (asked.method == "PUT" && look(store, key_of(7)).stored()) seen = true;
  });
  CHECK(store.write_new(key_of(7), object.bytes()).value());
  server.behave();
  CHECK_FALSE(seen);
  CHECK(equal(fetch(store, key_of(7), 16 * kMiB).bytes(), object.bytes()));
  CHECK(server.uploads() == 0);
  CHECK_FALSE(store.write_new(key_of(7), content(8, 16 * kMiB).bytes()).value());
  CHECK(server.uploads() == 0);
  CHECK(server.bad_signatures() == std::vector<std::string>{});
}

TEST_CASE("an upload in parts that fails is taken back, and nothing is found") {
  Server server;
  S3Options options = options_for(server);
  options.part_bytes = options.multipart_above = 5 * kMiB;
  S3Storage store(options);
  const auto object = content(7, 16 * kMiB);
  const auto fails = [&](const std::string& what, const Server::Fault& fault) {
    INFO(what);
    server.misbehave(fault);
    CHECK_FALSE(store.write_new(key_of(7), object.bytes()));
    server.behave();
    CHECK(server.uploads() == 0);
    CHECK(server.objects().empty());
    CHECK_FALSE(look(store, key_of(7)).stored());
  };
  fails("a part is refused", [](const Asked& asked, Answer& answer) {
    if (parameter(asked.query, "partNumber") == "3") answer.error(403, "AccessDenied");
  });
  fails("a part breaks off for ever", [](const Asked& asked, Answer& answer) {
    answer.reset_at_once = parameter(asked.query, "partNumber") == "2";
  });
  CHECK(store.write_new(key_of(7), object.bytes()).value());
}

TEST_CASE("an error behind a good status ends an upload in parts, and a lost answer does not") {
  Server server;
  S3Options options = options_for(server);
  options.part_bytes = options.multipart_above = 5 * kMiB;
  S3Storage store(options);
  const auto object = content(7, 16 * kMiB);
  const auto ends = [](const Asked& asked) {
    return asked.method == "POST" && has(asked.query, "uploadId");
  };
  std::atomic<int> lost{0};
  server.misbehave([&](const Asked& asked, Answer& answer) {
    if (ends(asked) && lost++ == 0) answer.reset_at_once = true;  // it was carried out
  });
  CHECK(store.write_new(key_of(7), object.bytes()).value());
  CHECK(lost == 2);
  REQUIRE(store.erase(key_of(7)));
  server.misbehave([&](const Asked& asked, Answer& answer) {
    if (!ends(asked)) return;
    answer.error(200, "InternalError");
  });
  // The server has it whole by then.
  CHECK(store.write_new(key_of(7), object.bytes()).value());
}

TEST_CASE("requests carry session tokens, the region and a digest that the server can check") {
  ServerOptions of;
  of.keys.token = "FwoGZXIvYXdzEXAMPLE//////token+with/signs==";
  of.keys.region = "ap-elsewhere-2";
  Server server(of);
  S3Storage store(options_for(server, of));
  sample::check_contract(store);
  CHECK(server.bad_signatures() == std::vector<std::string>{});
  for (const Asked& asked : server.log()) {
    CHECK(asked.header("x-amz-content-sha256").size() == 64);  // http: the body is digested
  }
  of.keys.token = "another";
  S3Storage stranger(options_for(server, of));
  CHECK(stranger.lookup(std::vector{key_of(1)}).error().code == Errc::io);
  CHECK_FALSE(server.bad_signatures().empty());
  // Temporary credentials end, and others take their place.
  stranger.set_credentials(
      {of.keys.access, of.keys.secret, "FwoGZXIvYXdzEXAMPLE//////token+with/signs=="});
  CHECK(stranger.lookup(std::vector{key_of(1)}));
}

TEST_CASE("a query is signed as the server reckons it, in whatever order it was put together") {
  using detail::s3_query;
  CHECK(s3_query({{"uploadId", "a.b_c~d-1"}, {"partNumber", "2"}}).value() ==
        "partNumber=2&uploadId=a.b_c~d-1");
  CHECK(s3_query({{"partNumber", "2"}, {"uploadId", "a.b_c~d-1"}}).value() ==
        "partNumber=2&uploadId=a.b_c~d-1");
  CHECK(s3_query({{"uploads", ""}}).value() == "uploads=");
  CHECK(s3_query({{"uploadId", "a/b=="}}).error().code == Errc::unsupported);
  // The server's own reckoning knows both orders, and what has to be encoded.
  CHECK(canonical_query("uploadId=x&partNumber=2") == canonical_query("partNumber=2&uploadId=x"));
  CHECK(canonical_query("uploads") == "uploads=");
  CHECK(canonical_query("prefix=a/b") == "prefix=a%2Fb");
}

TEST_CASE("virtual hosts name the bucket, and paths do not") {
  ServerOptions of;
  of.host_suffix = "localhost";
  Server server(of);
  S3Options options = options_for(server, of);
  options.endpoint = "http://localhost:" + std::to_string(server.port());
  options.addressing = S3Addressing::virtual_host;
  S3Storage store(options);
  // Where the machine has no name for it nothing can be asked.
  const auto found = store.lookup(std::vector{key_of(1)});
  if (!found && has(found.error().context, "name is not known")) {
    WARN("bucket.localhost is no name here; only the address is tested");
  } else {
    sample::check_contract(store);
    CHECK(server.bad_signatures() == std::vector<std::string>{});
  }
  CHECK(store.url() == "http://bucket.localhost:" + std::to_string(server.port()) + "/kv/v2");

  S3Options aws = options;
  aws.endpoint.clear();
  aws.addressing = S3Addressing::automatic;
  aws.region = "eu-central-1";
  CHECK(S3Storage(aws).url() == "https://bucket.s3.eu-central-1.amazonaws.com/kv/v2");
  aws.bucket = "with.dots";
  CHECK(S3Storage(aws).url() == "https://s3.eu-central-1.amazonaws.com/with.dots/kv/v2");
  aws.prefix = "";
  CHECK(S3Storage(aws).url() == "https://s3.eu-central-1.amazonaws.com/with.dots");
}

TEST_CASE("TLS: a certificate is verified, by an authority that a file may name") {
  ServerOptions of;
  of.tls = true;
  Server server(of);
  S3Options options = options_for(server, of);
  {
    S3Storage store(options);
    const auto found = store.lookup(std::vector{key_of(1)});
    REQUIRE_FALSE(found);
    CHECK(found.error().code == Errc::io);
    CHECK(has(found.error().context, "certificate is not trusted"));
    CHECK(has(found.error().context, "ca_file"));
    CHECK(server.requests() == 0);
    CHECK(store.stats().retries == 0);
  }
  options.ca_file = server.certificate();
  S3Storage store(options);
  sample::check_contract(store);
  CHECK(server.bad_signatures() == std::vector<std::string>{});
  // What the connection protects is not digested once more.
  for (const Asked& asked : server.log()) {
    if (asked.method == "PUT") CHECK(asked.header("x-amz-content-sha256") == "UNSIGNED-PAYLOAD");
  }
  // Of another host it is as good as none.
  options.endpoint = "https://localhost:" + std::to_string(server.port());
  S3Storage renamed(options);
  CHECK(has(renamed.lookup(std::vector{key_of(1)}).error().context, "certificate is not trusted"));
}

TEST_CASE("an address and the environment make options, as tools of AWS read them") {
  Environment environment;
  CHECK(has(s3_options("s3://bucket/kv").error().context, "AWS_ACCESS_KEY_ID"));
  environment.set("AWS_ACCESS_KEY_ID", "id");
  environment.set("AWS_SECRET_ACCESS_KEY", "secret");
  auto options = s3_options("s3://bucket/some/prefix/").value();
  CHECK(options.bucket == "bucket");
  CHECK(options.prefix == "some/prefix/");
  CHECK(options.region == "us-east-1");
  CHECK(options.endpoint.empty());
  CHECK(S3Storage(options).url() == "https://bucket.s3.us-east-1.amazonaws.com/some/prefix");
  environment.set("AWS_DEFAULT_REGION", "eu-west-1");
  CHECK(s3_options("s3://bucket").value().region == "eu-west-1");
  environment.set("AWS_REGION", "eu-west-2");
  environment.set("AWS_SESSION_TOKEN", "token");
  environment.set("AWS_ENDPOINT_URL", "https://all.example");
  environment.set("AWS_CA_BUNDLE", "/some/file.pem");
  options = s3_options("s3://bucket").value();
  CHECK(options.region == "eu-west-2");
  CHECK(options.prefix.empty());
  CHECK(options.credentials.session_token == "token");
  CHECK(options.endpoint == "https://all.example");
  CHECK(options.ca_file == "/some/file.pem");
  environment.set("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9000");
  CHECK(s3_options("s3://bucket").value().endpoint == "http://127.0.0.1:9000");
  for (const char* wrong :
       {"", "bucket", "S3://bucket", "s3://", "s3://b", "s3://bu_/", "s3://a..b", "s3://bucket/a b",
        "s3://bucket/a//b", "s3://bucket/../b", "s3://bucket/a%20b", "s3://bucket/a?b"}) {
    INFO(wrong);
    CHECK(s3_options(wrong).error().code == Errc::invalid_argument);
  }
  const auto with_secret = s3_options("s3://AKID:hunter2@bucket/kv");
  CHECK(has(with_secret.error().context, "AWS_SECRET_ACCESS_KEY"));
  CHECK_FALSE(has(with_secret.error().context, "hunter2"));
  environment.set("AWS_ENDPOINT_URL_S3", "http://user:hunter2@127.0.0.1");
  CHECK(has(s3_options("s3://bucket").error().context, "without user"));
  CHECK_FALSE(has(s3_options("s3://bucket").error().context, "hunter2"));
}

TEST_CASE("options that cannot be are refused by the name of the member") {
  Server server;
  const S3Options good = options_for(server);
  CHECK(refusal(good).empty());
  const auto refused = [&](auto set, const std::string& name) {
    S3Options options = good;
    set(options);
    CHECK(has(refusal(options), "S3Options::" + name));
  };
  refused([](S3Options& o) { o.bucket = "no bucket"; }, "bucket");
  refused([](S3Options& o) { o.prefix = "a b"; }, "prefix");
  refused([](S3Options& o) { o.region = ""; }, "region");
  refused([](S3Options& o) { o.region = "a/b"; }, "region");
  refused([](S3Options& o) { o.endpoint = "ftp://host"; }, "endpoint");
  refused([](S3Options& o) { o.endpoint = "http://host/path"; }, "endpoint");
  refused([](S3Options& o) { o.credentials = {}; }, "credentials");
  refused([](S3Options& o) { o.credentials.session_token = "a\r\nx-amz-acl: public"; },
          "credentials");
  refused([](S3Options& o) { o.threads = 0; }, "threads");
  refused([](S3Options& o) { o.connections = 1000; }, "connections");
  refused([](S3Options& o) { o.write_connections = 0; }, "write_connections");
  refused([](S3Options& o) { o.lookup_connections = 0; }, "lookup_connections");
  refused([](S3Options& o) { o.piece_bytes = 4096; }, "piece_bytes");
  refused([](S3Options& o) { o.part_bytes = 4096; }, "part_bytes");
  refused([](S3Options& o) { o.multipart_above = 1; }, "multipart_above");
  refused([](S3Options& o) { o.attempts = 0; }, "attempts");
  refused([](S3Options& o) { o.read_timeout = 0s; }, "read_timeout");
  refused([](S3Options& o) { o.stall_timeout = -1s; }, "stall_timeout");
  S3Options anonymous = good;
  anonymous.credentials = {};
  anonymous.anonymous = true;
  S3Storage store(anonymous);
  CHECK(store.lookup(std::vector{key_of(1)}).error().native == 403);
  CHECK(server.log().back().header("authorization").empty());
}

TEST_CASE("a store that only serves changes nothing") {
  Server server;
  const auto object = content(1, 4096);
  server.put(name_of(key_of(1)), text_of(object.bytes()));
  S3Options options = options_for(server);
  options.read_only = true;
  S3Storage store(options);
  CHECK(store.check_access());
  CHECK(store.write(key_of(2), object.bytes()).code() == Errc::unsupported);
  CHECK(store.erase(key_of(1)).code() == Errc::unsupported);
  CHECK(equal(fetch(store, key_of(1), 4096).bytes(), object.bytes()));
  CHECK(server.objects().size() == 1);
}

TEST_CASE("a read outlives its store, and ends with it") {
  Server server;
  server.misbehave([](const Asked&, Answer& answer) { answer.hang_at_once = true; });
  const AlignedBuffer out(4096);
  std::optional<S3Read> read;
  {
    S3Storage store(options_for(server));
    read.emplace(store.read(0, key_of(1), 0, out.bytes()));
    CHECK_FALSE(read->wait_for(20ms));
  }
  CHECK(read->ready());
  CHECK(read->wait().code() == Errc::canceled);
  read->cancel();
}

TEST_CASE("a read that is canceled ends, and gives its connection up") {
  Server server;
  server.misbehave([](const Asked&, Answer& answer) { answer.hang_at_once = true; });
  S3Options options = options_for(server);
  options.connections = options.threads = 1;
  S3Storage store(options);
  const AlignedBuffer out(4096);
  // The second one waits for the first one's connection.
  S3Read first = store.read(0, key_of(1), 0, out.bytes());
  S3Read second = store.read(0, key_of(1), 0, out.bytes());
  CHECK_FALSE(first.wait_for(30ms));
  second.cancel();
  CHECK(second.wait().code() == Errc::canceled);
  CHECK_FALSE(first.ready());
  first.cancel();
  CHECK(first.wait().code() == Errc::canceled);
  CHECK(store.stats().canceled == 2);
  server.behave();
  const auto object = content(1, 4096);
  server.put(name_of(key_of(1)), text_of(object.bytes()));
  CHECK(equal(fetch(store, key_of(1), 4096).bytes(), object.bytes()));
}

TEST_CASE("a child process cannot use its parent's bucket, and ends well") {
  Server server;
  S3Storage store(options_for(server));
  const AlignedBuffer out(4096);
  const pid_t child = ::fork();
  if (child == 0) {
    auto read = store.read(0, key_of(1), 0, out.bytes());
    const bool good = read.wait().code() == Errc::unsupported &&
                      store.erase(key_of(1)).code() == Errc::unsupported &&
                      store.write(key_of(1), out.bytes()).code() == Errc::unsupported &&
                      store.lookup(std::vector{key_of(1)}).error().code == Errc::unsupported;
    S3Storage ends(std::move(store));
    ::_exit(good ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  CHECK(status == 0);
}
