// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// All that a store lists, part by part.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cake/storage/listing.hpp"
#include "catch.hpp"

namespace cake::inline CAKE_ABI::sample {

struct Listed {
  std::vector<ListedObject> objects;
  std::uint64_t others = 0;
  std::size_t parts = 0;

  std::map<ChunkKey, std::uint64_t> sizes() const {
    std::map<ChunkKey, std::uint64_t> all;
    for (const ListedObject& object : objects) all[object.key] = object.bytes;
    return all;
  }
};

template <class Store>
Listed all_of(Store& store) {
  Listed all;
  std::string from;
  do {
    const auto part = store.list(from);
    REQUIRE(part);
    all.objects.insert(all.objects.end(), part->objects.begin(), part->objects.end());
    all.others += part->others;
    ++all.parts;
    from = part->next;
  } while (!from.empty());
  return all;
}

}  // namespace cake::inline CAKE_ABI::sample
