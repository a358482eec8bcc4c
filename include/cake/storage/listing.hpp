// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a store holds, part by part: for tools that look at all of it. No lane asks for this, so that it
// is no ability of the contract: PosixStorage, S3Storage and RedisStorage have a member list().
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cake/identity.hpp"
#include "cake/version.hpp"

namespace cake::inline CAKE_ABI {

/// Something under the name of an object. Whether it is one, undamaged, verify_object() says.
struct ListedObject {
  ChunkKey key;
  std::uint64_t bytes = 0;
  // Seconds since 1970. A directory knows when an object was last read or written, a bucket when it was
  // written, a server neither.
  std::optional<std::int64_t> used = {};
};

/// A part of what a store holds. Objects that come or go while a listing lasts may be in it or not;
/// all others are, and one may be named twice.
struct Listing {
  std::vector<ListedObject> objects;
  std::uint64_t others = 0;  // entries beside them that are no objects
  std::string next = {};     // list(next) is the part behind this one; empty: there is none
};

}  // namespace cake::inline CAKE_ABI
