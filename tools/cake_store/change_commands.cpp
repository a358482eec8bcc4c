// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// trim and erase: what takes objects away.
#include <cstdio>
#include <mutex>
#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "parallel.hpp"

namespace cake::tools {
namespace {

using Json = nlohmann::ordered_json;

int wrong(const std::string& what) { return refused({Errc::invalid_argument, 0, what}); }

/// The objects of these keys that are there.
Result<std::vector<ListedObject>> of_keys(OpenStore& store, const std::vector<std::string>& keys) {
  std::vector<ListedObject> objects;
  for (const std::string& text : keys) {
    const auto key = ChunkKey::from_hex(text);
    if (!key) {
      return Error{
          Errc::invalid_argument, 0,
          "--key takes the 64 hex digits of a key (cake_store list shows them), and not \"" + text +
              "\""};
    }
    const auto found = store.find(*key);
    if (!found) return found.error();
    if (*found) objects.push_back(**found);
  }
  return objects;
}

Result<std::vector<ListedObject>> to_erase(OpenStore& store, const Settings& settings) {
  if (!settings.keys.empty()) return of_keys(store, settings.keys);
  const auto all = take_inventory(store);
  if (!all) return all.error();
  return chosen(store, *all, settings.filter, settings.workers);
}

struct Erased {
  std::uint64_t objects = 0, bytes = 0;
};

Erased erase_all(OpenStore& store, const std::vector<ListedObject>& objects, unsigned workers,
                 Failures& failures) {
  Erased erased;
  std::mutex mutex;
  Progress progress("erase", objects.size(), 0);
  in_parallel(objects.size(), workers, [&](std::size_t i) {
    const Status status = store.erase(objects[i].key);
    if (!status) {
      failures.tell("erase of " + store.place_of(objects[i].key) + ": " + status.error().context);
    } else {
      const std::lock_guard lock(mutex);
      ++erased.objects;
      erased.bytes += objects[i].bytes;
    }
    progress.add(objects[i].bytes);
  });
  return erased;
}

/// Empty: the options say what is to be erased.
std::string missing_choice(const Settings& settings) {
  const int chosen = (settings.keys.empty() ? 0 : 1) + (settings.filter.empty() ? 0 : 1) +
                     (settings.everything ? 1 : 0);
  if (chosen == 1) return {};
  if (chosen == 0) {
    return "erase wants to know what: --key, --model, --tenant or --salt-file; --everything erases "
           "all objects of the store";
  }
  return "--everything, --key, and --model with --tenant exclude each other";
}

}  // namespace

int trim(const Settings& settings) {
  const auto store = open_store(settings.store, Access::change, settings.trust_directory);
  if (!store) return refused(store.error());
  const auto trimmed = (*store)->trim(settings.bytes);
  if (!trimmed) {
    const int code = refused(trimmed.error());
    return trimmed.error().code == Errc::unsupported ? kWrongUse : code;
  }
  if (settings.json) {
    const Json all{{"store", (*store)->shown()},
                   {"objects", trimmed->objects},
                   {"bytes", trimmed->bytes},
                   {"bytes_left", trimmed->bytes_left}};
    std::puts(all.dump(2).c_str());
  } else {
    std::printf("%s: %llu objects erased, %s; %s are left\n", (*store)->shown().c_str(),
                static_cast<unsigned long long>(trimmed->objects),
                bytes_text(trimmed->bytes).c_str(), bytes_text(trimmed->bytes_left).c_str());
  }
  return kGood;
}

int erase(const Settings& settings) {
  if (const std::string missing = missing_choice(settings); !missing.empty()) return wrong(missing);
  const auto store = open_store(settings.store, settings.dry_run ? Access::read : Access::change,
                                settings.trust_directory);
  if (!store) return refused(store.error());
  const auto objects = to_erase(**store, settings);
  if (!objects) return refused(objects.error());
  Failures failures;
  Erased erased;
  if (settings.dry_run) {
    for (const ListedObject& object : *objects) erased.bytes += object.bytes;
    erased.objects = objects->size();
  } else {
    erased = erase_all(**store, *objects, settings.workers, failures);
  }
  if (settings.json) {
    const Json all{{"store", (*store)->shown()},
                   {"objects", erased.objects},
                   {"bytes", erased.bytes},
                   {"failed", failures.count()},
                   {"dry_run", settings.dry_run}};
    std::puts(all.dump(2).c_str());
  } else {
    std::printf("%s: %llu objects %s, %s\n", (*store)->shown().c_str(),
                static_cast<unsigned long long>(erased.objects),
                settings.dry_run ? "would be erased" : "erased", bytes_text(erased.bytes).c_str());
  }
  return failures.count() == 0 ? kGood : kFailed;
}

}  // namespace cake::tools
