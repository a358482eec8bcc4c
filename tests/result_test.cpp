// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/result.hpp"

#include <memory>

#include "catch.hpp"

using namespace cake;

TEST_CASE("a result is a value or an error") {
  const Result<int> good = 7;
  CHECK(good);
  CHECK(*good == 7);
  CHECK(good.value_or(1) == 7);
  const Result<int> bad = Error{Errc::corrupt, 5, "reading x"};
  CHECK_FALSE(bad);
  CHECK(bad.error().code == Errc::corrupt);
  CHECK(bad.value_or(1) == 1);
  CHECK_THROWS_AS(bad.value(), Exception);
}

TEST_CASE("a result may hold what can only be moved") {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(3);
  const std::unique_ptr<int> out = std::move(result).value();
  CHECK(*out == 3);
}

TEST_CASE("a status is ok or says why not") {
  CHECK(Status());
  CHECK(Status().code() == Errc::ok);
  const Status bad = Error{Errc::timeout, 0, "read"};
  CHECK(bad.code() == Errc::timeout);
  CHECK_THROWS_AS(bad.value(), Exception);
}

TEST_CASE("a message names what was done, what went wrong, and the number") {
  CHECK(Error{Errc::io, 5, "reading x"}.message() == "reading x: I/O error (5)");
  CHECK(Error{Errc::canceled, 0, ""}.message() == "canceled");
}

TEST_CASE("errno becomes the code that a caller can act on") {
  CHECK(errno_error(ENOSPC, "x").code == Errc::out_of_memory);
  CHECK(errno_error(EDQUOT, "x").code == Errc::out_of_memory);
  CHECK(errno_error(ENOENT, "x").code == Errc::not_found);
  CHECK(errno_error(EIO, "x").code == Errc::io);
  CHECK(errno_error(EIO, "x").native == EIO);
}

TEST_CASE("every code has a word") {
  for (int i = 0; i <= static_cast<int>(Errc::unsupported); ++i) {
    CHECK(to_string(static_cast<Errc>(i)) != "unknown");
  }
}
