// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Links cake::s3 from outside: the errors of a bucket that is not there (libcurl, OpenSSL).
#include <cake/storage/s3.hpp>
#include <cstdio>

int main() {
  cake::S3Options options;
  options.bucket = "bucket";
  options.credentials = {"access", "secret", ""};
  options.endpoint = "http://127.0.0.1:9";
  options.attempts = 1;
  cake::S3Storage storage(options);
  const cake::Status status = storage.check_access();
  if (status) return 1;
  std::printf("%s\n", status.error().message().c_str());
  return status.error().code == cake::Errc::io ? 0 : 1;
}
