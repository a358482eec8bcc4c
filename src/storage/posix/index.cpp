// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "index.hpp"

#include <algorithm>
#include <bit>

namespace cake::inline CAKE_ABI::detail {

int age_class(std::int64_t now, std::int64_t used) {
  // A clock that was set back makes files from the future; they count as new.
  const std::int64_t minutes = std::max<std::int64_t>(now - used, 0) / 60;
  return static_cast<int>(std::bit_width(static_cast<std::uint64_t>(minutes)));
}

void ObjectIndex::put(const ChunkKey& key, KnownObject object) {
  Folder& in = folder(key);
  const auto it = in.find(key);
  if (it == in.end()) {
    const auto place = order_.emplace(object.used, key).first;
    try {
      in.emplace(key, Kept{object, look_});
    } catch (...) {
      order_.erase(place);
      throw;
    }
    bytes_ += object.bytes;
    return;
  }
  Kept& kept = it->second;
  if (kept.object.used != object.used) {
    auto node = order_.extract({kept.object.used, key});
    node.value().first = object.used;
    order_.insert(std::move(node));
  }
  if (!object.position_known && kept.object.bytes == object.bytes) {
    object.position = kept.object.position;
    object.position_known = kept.object.position_known;
  }
  bytes_ += object.bytes - kept.object.bytes;
  kept = {object, look_};
}

std::uint64_t ObjectIndex::remove(const ChunkKey& key) {
  Folder& in = folder(key);
  const auto it = in.find(key);
  if (it == in.end()) return 0;
  const std::uint64_t bytes = it->second.object.bytes;
  order_.erase({it->second.object.used, key});
  in.erase(it);
  bytes_ -= bytes;
  return bytes;
}

void ObjectIndex::clear() {
  for (Folder& in : folders_) in.clear();
  order_.clear();
  bytes_ = 0;
}

std::vector<ObjectIndex::Entry> ObjectIndex::oldest(std::int64_t now, std::size_t most) const {
  std::vector<Entry> found;
  if (order_.empty()) return found;
  const int oldest_class = age_class(now, order_.begin()->first);
  for (const auto& [used, key] : order_) {
    if (found.size() == most || age_class(now, used) != oldest_class) break;
    found.push_back({key, folder(key).at(key).object});
  }
  return found;
}

void ObjectIndex::end_folder(std::uint8_t number) {
  Folder& in = folders_[number];
  for (auto it = in.begin(); it != in.end();) {
    const auto entry = it++;
    if (entry->second.look == look_) continue;
    bytes_ -= entry->second.object.bytes;
    order_.erase({entry->second.object.used, entry->first});
    in.erase(entry);
  }
}

}  // namespace cake::inline CAKE_ABI::detail
