// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "index.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <tuple>

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
    Order& order = order_[object.keep];
    const auto place = order.emplace(object.used, key).first;
    try {
      in.emplace(key, Kept{object, look_});
    } catch (...) {
      order.erase(place);
      throw;
    }
    bytes_ += object.bytes;
    ++size_;
    if (object.published != 0) published_.emplace(object.published, key);
    return;
  }
  Kept& kept = it->second;
  if (kept.object.used != object.used || kept.object.keep != object.keep) {
    Order& to = order_[object.keep];
    auto node = order_[kept.object.keep].extract({kept.object.used, key});
    node.value().first = object.used;
    to.insert(std::move(node));
  }
  if (!object.position_known && kept.object.bytes == object.bytes) {
    object.position = kept.object.position;
    object.position_known = kept.object.position_known;
  }
  if (kept.object.published != object.published) {
    if (object.published != 0) published_.emplace(object.published, key);
    if (kept.object.published != 0) published_.erase({kept.object.published, key});
  }
  bytes_ += object.bytes - kept.object.bytes;
  kept = {object, look_};
}

std::uint64_t ObjectIndex::remove(const ChunkKey& key) {
  Folder& in = folder(key);
  const auto it = in.find(key);
  if (it == in.end()) return 0;
  const std::uint64_t bytes = it->second.object.bytes;
  leave(it->second.object, key);
  in.erase(it);
  return bytes;
}

void ObjectIndex::leave(const KnownObject& object, const ChunkKey& key) {
  order_.at(object.keep).erase({object.used, key});
  if (object.published != 0) published_.erase({object.published, key});
  bytes_ -= object.bytes;
  --size_;
}

void ObjectIndex::clear() {
  for (Folder& in : folders_) in.clear();
  order_.clear();
  published_.clear();
  bytes_ = 0;
  size_ = 0;
}

std::vector<ObjectIndex::Entry> ObjectIndex::oldest(std::int64_t now, std::size_t most) const {
  std::vector<Entry> found;
  const auto class_of = [&](std::int8_t keep, std::int64_t used) {
    return age_class(now, used) - keep;
  };
  int oldest_class = std::numeric_limits<int>::min();
  for (const auto& [keep, order] : order_) {
    if (order.empty()) continue;
    oldest_class = std::max(oldest_class, class_of(keep, order.begin()->first));
  }
  for (const auto& [keep, order] : order_) {
    std::size_t taken = 0;
    for (const auto& [used, key] : order) {
      if (taken++ == most || class_of(keep, used) != oldest_class) break;
      found.push_back({key, folder(key).at(key).object});
    }
  }
  if (found.size() <= most) return found;
  std::sort(found.begin(), found.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.object.used, a.key) < std::tie(b.object.used, b.key);
  });
  found.resize(most);
  return found;
}

std::vector<ObjectIndex::Entry> ObjectIndex::published_by(std::int64_t time,
                                                          std::size_t most) const {
  std::vector<Entry> found;
  for (const auto& [published, key] : published_) {
    if (found.size() == most || published > time) break;
    found.push_back({key, folder(key).at(key).object});
  }
  return found;
}

void ObjectIndex::end_folder(std::uint8_t number) {
  Folder& in = folders_[number];
  for (auto it = in.begin(); it != in.end();) {
    const auto entry = it++;
    if (entry->second.look == look_) continue;
    leave(entry->second.object, entry->first);
    in.erase(entry);
  }
}

}  // namespace cake::inline CAKE_ABI::detail
