// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Redis over TLS: whom a store trusts, and what it says of whom it does not.
#include <string>

#include "cake/storage/redis.hpp"
#include "contract.hpp"
#include "redis_process.hpp"
#include "tests/certificate.hpp"

using namespace cake;
using namespace cake_redis_test;
using cake_loopback_test::Certificate;
using sample::content;
using sample::equal;
using sample::fetch;
using sample::key_of;

namespace {

/// A server with a plain port and one of TLS, where clients are asked for a certificate, or not.
struct Rig {
  Certificate certificate;
  const std::vector<int> ports = cake_loopback_test::free_ports(2);
  RedisProcess server;
  RedisOptions options = options_for(ports[1]);

  explicit Rig(const std::string& asks_clients)
      : server(ports[0],
               {"--tls-port", std::to_string(ports[1]), "--tls-cert-file", certificate.file(),
                "--tls-key-file", certificate.key_file(), "--tls-ca-cert-file", certificate.file(),
                "--tls-auth-clients", asks_clients}) {
    options.tls = true;
    options.ca_file = certificate.file();
    options.attempts = 2;
  }
  /// Empty: all is well.
  std::string problem() const {
    const Status status = RedisStorage(options).check_access();
    if (status) return "";
    const std::string text = status.error().context;
    CHECK(status.error().code == Errc::io);
    CHECK(text.starts_with(options.tls ? "write of rediss://" : "write of redis://"));
    return text;
  }
  void says(const std::string& what) const {
    const std::string text = problem();
    INFO(text);
    CHECK(text.find(what) != std::string::npos);
  }
};

}  // namespace

TEST_CASE("a server that is spoken to over TLS keeps the contract of a store") {
  if (redis_program() == nullptr) return;
  Rig rig("no");
  RedisStorage store(rig.options);
  REQUIRE(store.check_access());
  CHECK(store.url().starts_with("rediss://127.0.0.1:"));
  sample::check_contract(store);
  sample::check_concurrent(store, 60);
  const auto object = content(1, (std::size_t{9} << 20) + 4096);
  REQUIRE(store.write(key_of(1), object.bytes()));
  for (int i = 0; i < 3; ++i) {
    CHECK(equal(fetch(store, key_of(1), object.size()).bytes(), object.bytes()));
  }
}

TEST_CASE("a write over TLS that is given up leaves no half object, and the store goes on") {
  if (redis_program() == nullptr) return;
  Rig rig("no");
  rig.options.write_timeout = std::chrono::milliseconds(200);
  RedisStorage store(rig.options);
  CHECK_FALSE(sample::look(store, key_of(1)).stored());
  const auto object = content(1, std::size_t{64} << 20);
  rig.server.freeze(true);
  CHECK(store.write(key_of(1), object.bytes()).code() == Errc::timeout);
  rig.server.freeze(false);
  CHECK_FALSE(sample::look(store, key_of(1)).stored());
  CHECK(store.write(key_of(2), content(2, 4096).bytes()));
  CHECK(equal(fetch(store, key_of(2), 4096).bytes(), content(2, 4096).bytes()));
}

TEST_CASE("a certificate of an authority that is not known, or of another name, is not trusted") {
  if (redis_program() == nullptr) return;
  Rig rig("no");
  CHECK(rig.problem().empty());
  rig.options.host = "localhost";
  rig.says("the server's certificate is not trusted");
  rig.options.host = "127.0.0.1";
  rig.options.ca_file.clear();
  rig.says("name its authority by RedisOptions::ca_file (CAKE_REDIS_CA_FILE)");
  const Certificate other;
  rig.options.ca_file = other.file();
  rig.says("the server's certificate is not trusted");
}

TEST_CASE("a server that asks for a certificate gets it, and a store without one says so") {
  if (redis_program() == nullptr) return;
  Rig rig("yes");
  rig.says("ask");  // an alert of TLS says so, unless a reset was faster
  rig.says("RedisOptions::certificate_file");
  rig.options.certificate_file = rig.certificate.file();
  rig.options.key_file = rig.certificate.key_file();
  CHECK(rig.problem().empty());
  const Certificate other;
  rig.options.key_file = other.key_file();
  try {
    const RedisStorage store(rig.options);
    FAIL("a key of another certificate is taken");
  } catch (const Exception& e) {
    CHECK(std::string(e.what()).find("key_file") != std::string::npos);
  }
}

TEST_CASE("TLS to a plain port, and the other way round, is told with the scheme to use") {
  if (redis_program() == nullptr) return;
  Rig rig("no");
  rig.options.port = static_cast<std::uint16_t>(rig.ports[0]);
  rig.options.connect_timeout = std::chrono::milliseconds(300);  // it waits for the end of a line
  rig.says("whether the URL should begin with redis://");
  rig.options.connect_timeout = std::chrono::minutes(1);
  rig.options.tls = false;
  rig.options.ca_file.clear();
  CHECK(rig.problem().empty());
  rig.options.port = static_cast<std::uint16_t>(rig.ports[1]);
  rig.says("look whether the URL should begin with rediss://");
}
