// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A bucket's list of names. Whatever it says, objects have keys that their names say, and a list that goes on
// does so behind one of them.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "src/storage/s3/names.hpp"
#include "src/storage/s3/reply.hpp"

using namespace cake;
using namespace cake::detail;

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

const S3Address& bucket() {
  static const S3Address address = [] {
    S3Options options;
    options.bucket = "bucket";
    options.endpoint = "http://127.0.0.1:9000";
    options.prefix = "kv";
    options.anonymous = true;
    return S3Address(options);
  }();
  return address;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view xml(reinterpret_cast<const char*>(data), size);
  const auto time = s3_time(xml);
  require(!time || (*time > -70'000'000'000 && *time < 300'000'000'000));
  const auto listing = s3_names(xml, bucket());
  if (!listing) {
    require(listing.error().code == Errc::io && !listing.error().context.empty());
    return 0;
  }
  for (const ListedObject& object : listing->objects) {
    require(bucket().key_of(bucket().name_of(object.key)) == object.key);
  }
  if (!listing->next.empty()) {
    require(!listing->objects.empty() && listing->objects.back().key.hex() == listing->next);
    require(s3_names_query(bucket(), listing->next).has_value());
  }
  return 0;
}
