// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// copy: objects of one store into another one, each verified before it is written.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "parallel.hpp"

namespace cake::tools {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kLookedUp = 256;  // keys of one lookup

/// Those that the target does not have in this size.
Result<std::vector<ListedObject>> missing_in(OpenStore& target,
                                             const std::vector<ListedObject>& objects) {
  std::vector<ListedObject> missing;
  for (std::size_t at = 0; at < objects.size(); at += kLookedUp) {
    const std::size_t end = std::min(at + kLookedUp, objects.size());
    std::vector<ChunkKey> keys;
    for (std::size_t i = at; i < end; ++i) keys.push_back(objects[i].key);
    const auto found = target.lookup(keys);
    if (!found) return found.error();
    for (std::size_t i = at; i < end; ++i) {
      if ((*found)[i - at].size != objects[i].bytes) missing.push_back(objects[i]);
    }
  }
  return missing;
}

struct Copied {
  std::atomic<std::uint64_t> objects{0}, bytes{0}, present{0}, gone{0};
};

void copy_all(OpenStore& source, OpenStore& target, const std::vector<ListedObject>& objects,
              unsigned workers, Copied& copied, Failures& failures) {
  std::uint64_t bytes = 0;
  for (const ListedObject& object : objects) bytes += object.bytes;
  Progress progress("copy", objects.size(), bytes);
  in_parallel(objects.size(), workers, [&](std::size_t i) {
    const ListedObject& object = objects[i];
    const auto read = read_verified(source, object, "copy");
    if (!read && read.error().code == Errc::not_found) {
      ++copied.gone;
    } else if (!read) {
      failures.tell(read.error().context);
    } else if (const auto written = target.write(object.key, read->bytes()); !written) {
      failures.tell("copy to " + target.place_of(object.key) + ": " + written.error().context);
    } else if (*written) {
      ++copied.objects;
      copied.bytes += object.bytes;
    } else {
      ++copied.present;  // somebody else was faster
    }
    progress.add(object.bytes);
  });
}

}  // namespace

int copy(const Settings& settings) {
  const auto source = open_store(settings.store, Access::read, settings.trust_directory);
  if (!source) return refused(source.error());
  const auto target = open_store(settings.target, Access::create, settings.trust_directory);
  if (!target) return refused(target.error());
  const auto all = take_inventory(**source);
  if (!all) return refused(all.error());
  const auto objects = chosen(**source, *all, settings.filter, settings.workers);
  if (!objects) return refused(objects.error());
  const auto missing = missing_in(**target, *objects);
  if (!missing) return refused(missing.error());
  Copied copied;
  Failures failures;
  copied.present = objects->size() - missing->size();
  copy_all(**source, **target, *missing, settings.workers, copied, failures);
  if (settings.json) {
    const Json done{{"source", (*source)->shown()}, {"target", (*target)->shown()},
                    {"objects", objects->size()},   {"copied", copied.objects.load()},
                    {"bytes", copied.bytes.load()}, {"present", copied.present.load()},
                    {"gone", copied.gone.load()},   {"failed", failures.count()}};
    std::puts(done.dump(2).c_str());
  } else {
    std::printf("%s -> %s: %llu objects copied, %s; %llu were there, %llu failed\n",
                (*source)->shown().c_str(), (*target)->shown().c_str(),
                static_cast<unsigned long long>(copied.objects.load()),
                bytes_text(copied.bytes.load()).c_str(),
                static_cast<unsigned long long>(copied.present.load()),
                static_cast<unsigned long long>(failures.count()));
  }
  return failures.count() == 0 ? kGood : kFailed;
}

}  // namespace cake::tools
