// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Names of objects, as a bucket lists them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "address.hpp"
#include "cake/result.hpp"
#include "cake/storage/listing.hpp"

namespace cake::inline CAKE_ABI::detail {

/// The query of ListObjectsV2 for the part that begins at `from`, as S3Storage::list() says.
///
/// Errors:  invalid_argument: there is no such part
Result<std::string> s3_names_query(const S3Address& address, const std::string& from);

/// What an answer names to the question of s3_names_query().
///
/// Errors:  io: it is no whole answer, or nothing could be asked behind it
Result<Listing> s3_names(std::string_view xml, const S3Address& address,
                         const std::string& from = {});

/// Seconds since 1970 of "2009-10-12T17:50:30.000Z"; none: it is no such time.
std::optional<std::int64_t> s3_time(std::string_view text);

}  // namespace cake::inline CAKE_ABI::detail
