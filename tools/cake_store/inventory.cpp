// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "inventory.hpp"

#include <algorithm>
#include <mutex>
#include <new>
#include <set>
#include <utility>

#include "cake/chunk/format.hpp"
#include "cake/staging.hpp"
#include "parallel.hpp"

namespace cake::tools {

std::uint64_t Inventory::bytes() const {
  std::uint64_t sum = 0;
  for (const ListedObject& object : objects) sum += object.bytes;
  return sum;
}

Result<Inventory> take_inventory(OpenStore& store) {
  Inventory all;
  std::string from;
  do {
    auto part = store.list(from);
    if (!part) return part.error();
    all.objects.insert(all.objects.end(), part->objects.begin(), part->objects.end());
    all.others += part->others;
    from = std::move(part->next);
  } while (!from.empty());
  const auto by_key = [](const ListedObject& a, const ListedObject& b) { return a.key < b.key; };
  std::sort(all.objects.begin(), all.objects.end(), by_key);
  const auto end =
      std::unique(all.objects.begin(), all.objects.end(),
                  [](const ListedObject& a, const ListedObject& b) { return a.key == b.key; });
  all.objects.erase(end, all.objects.end());
  return all;
}

bool plausible_size(std::uint64_t bytes) {
  return bytes >= 2 * ChunkGeometry::kPage && bytes % ChunkGeometry::kPage == 0 &&
         bytes <= ChunkGeometry::kMaxObjectBytes;
}

Result<std::vector<HeadedObject>> read_headers(OpenStore& store,
                                               const std::vector<ListedObject>& objects,
                                               unsigned workers) {
  std::vector<HeadedObject> headed(objects.size());
  std::mutex mutex;
  Status failure;
  in_parallel(objects.size(), workers, [&](std::size_t i) {
    headed[i].object = objects[i];
    if (!plausible_size(objects[i].bytes)) return;
    const AlignedBuffer page(ChunkGeometry::kPage);
    const Status read = store.read(objects[i].key, 0, page.bytes());
    if (read) {
      headed[i].header = peek_chunk(page.bytes());
    } else if (read.code() != Errc::not_found && read.code() != Errc::corrupt) {
      const std::lock_guard lock(mutex);
      if (failure) {
        failure = Error{read.error().code, read.error().native,
                        "reading the header of " + store.place_of(objects[i].key) + ": " +
                            read.error().context};
      }
    }
  });
  if (!failure) return failure.error();
  return headed;
}

bool Filter::takes(const ChunkSummary& header) const {
  return header.fingerprint.hex().starts_with(model) &&
         tenant_hex(header.tenant).starts_with(tenant);
}

std::optional<std::string> checked_digits(const std::string& text, std::size_t most) {
  constexpr std::size_t kFewest = 8;
  const bool digits = text.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!digits || text.size() < kFewest || text.size() > most) return std::nullopt;
  return text;
}

std::string tenant_hex(const std::array<std::byte, 16>& tag) {
  ChunkKey padded;
  std::copy(tag.begin(), tag.end(), padded.bytes.begin());
  return padded.hex().substr(0, 2 * tag.size());
}

Result<std::vector<ListedObject>> chosen(OpenStore& store, const Inventory& all,
                                         const Filter& filter, unsigned workers) {
  if (filter.empty()) return all.objects;
  const auto headed = read_headers(store, all.objects, workers);
  if (!headed) return headed.error();
  std::vector<ListedObject> objects;
  std::set<ModelFingerprint> models;
  for (const HeadedObject& each : *headed) {
    if (!each.header || !filter.takes(*each.header)) continue;
    models.insert(each.header->fingerprint);
    objects.push_back(each.object);
  }
  if (!filter.model.empty() && models.size() > 1) {
    return Error{Errc::invalid_argument, 0,
                 "the fingerprints of " + std::to_string(models.size()) + " models in " +
                     store.shown() + " begin with " + filter.model +
                     "; give more digits (cake_store stats shows them)"};
  }
  return objects;
}

Result<AlignedBuffer> read_verified(OpenStore& store, const ListedObject& object,
                                    const char* doing) {
  const auto error = [&](Errc code, int native, const std::string& why) {
    return Error{code, native,
                 std::string(doing) + " of " + store.place_of(object.key) + ": " + why};
  };
  if (!plausible_size(object.bytes)) {
    return error(
        Errc::corrupt, 0,
        "no object has " + std::to_string(object.bytes) + " bytes: it was cut short or has grown");
  }
  try {
    AlignedBuffer buffer(object.bytes);
    if (const Status read = store.read(object.key, 0, buffer.bytes()); !read) {
      return error(read.error().code, read.error().native, read.error().context);
    }
    const auto seal = verify_object(buffer.bytes(), object.key);
    if (!seal) return error(seal.error().code, seal.error().native, seal.error().context);
    return buffer;
  } catch (const std::bad_alloc&) {
    return error(Errc::out_of_memory, 0,
                 "no memory for its " + std::to_string(object.bytes) + " bytes; lower --workers");
  }
}

}  // namespace cake::tools
