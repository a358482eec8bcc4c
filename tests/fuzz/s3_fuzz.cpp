// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a server of S3 says besides objects: heads line by line, XML, and the texts made of them, which
// are printable and of a bounded length whatever it says.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "src/storage/s3/address.hpp"
#include "src/storage/s3/reply.hpp"

using namespace cake::detail;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  S3Reply reply;
  std::size_t at = 0;
  while (at < input.size()) {
    const std::size_t end = std::min(input.find('\n', at), input.size());
    const std::string_view line = input.substr(at, end - at);
    at = end + 1;
    if (line.empty() || line == "\r") break;
    reply.header(line);
  }
  reply.body = input.substr(std::min(at, input.size()));
  if (reply.range &&
      (reply.range->first > reply.range->last || reply.range->last >= reply.range->total))
    std::abort();
  const S3Context context{"read", "http://host/bucket/key", "us-east-1", "bucket"};
  const S3Problem problem = s3_refused(reply, context);
  const std::string& text = problem.error.context;
  const bool printable =
      std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
  if (!printable || text.size() > 1000 || problem.error.code == cake::Errc::ok) std::abort();
  const auto upload = s3_element(reply.body, "UploadId");
  if (upload && upload->size() > 1024) std::abort();
  if (upload) {
    const auto query = s3_query({{"uploadId", *upload}});
    if (query && query->find_first_of(" \r\n%/+") != std::string::npos) std::abort();
  }
  return 0;
}
