// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// verify: reads objects as a whole, and checks every byte of them.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>

#include "commands.hpp"
#include "parallel.hpp"

namespace cake::tools {
namespace {

using Json = nlohmann::ordered_json;

struct Bad {
  ChunkKey key;
  std::string why;
};

/// What came of all objects.
///
/// Thread:  add() is safe for concurrent use
struct Verdict {
  std::uint64_t good = 0, bytes = 0, gone = 0;
  std::vector<Bad> damaged, unreadable, unknown;

  void add(const ListedObject& object, const Status& outcome) {
    const std::lock_guard lock(mutex);
    bytes += object.bytes;
    switch (outcome.code()) {
      case Errc::ok:
        ++good;
        break;
      case Errc::not_found:
        ++gone;
        break;
      case Errc::corrupt:
      case Errc::mismatch:
        damaged.push_back({object.key, outcome.error().context});
        break;
      case Errc::unsupported:
        unknown.push_back({object.key, outcome.error().context});
        break;
      default:
        unreadable.push_back({object.key, outcome.error().context});
    }
  }
  std::mutex mutex;
};

/// How many of `all` are to be looked at; none: the text is no such number.
std::optional<std::size_t> sample_size(const std::string& text, std::size_t all) {
  if (text.empty()) return all;
  const bool percent = text.ends_with('%');
  double value = 0;
  const char* const end = text.data() + text.size() - (percent ? 1 : 0);
  const auto [rest, code] = std::from_chars(text.data(), end, value);
  if (code != std::errc() || rest != end || !(value > 0)) return std::nullopt;
  if (percent && value > 100) return std::nullopt;
  if (!percent && value != std::floor(value)) return std::nullopt;
  if (!percent) return static_cast<std::size_t>(std::min(value, static_cast<double>(all)));
  return static_cast<std::size_t>(std::ceil(static_cast<double>(all) * value / 100));
}

Json bad_json(const OpenStore& store, const std::vector<Bad>& all) {
  Json list = Json::array();
  for (const Bad& bad : all) {
    list.push_back(
        {{"key", bad.key.hex()}, {"place", store.place_of(bad.key)}, {"error", bad.why}});
  }
  return list;
}

void print_verdict(const OpenStore& store, const Verdict& verdict, std::size_t checked,
                   std::size_t all) {
  std::printf("%s: %zu of %zu objects checked, %s\n", store.shown().c_str(), checked, all,
              bytes_text(verdict.bytes).c_str());
  std::printf("  good        %llu\n", static_cast<unsigned long long>(verdict.good));
  std::printf("  damaged     %zu\n", verdict.damaged.size());
  if (!verdict.unreadable.empty()) std::printf("  unreadable  %zu\n", verdict.unreadable.size());
  if (!verdict.unknown.empty()) {
    std::printf("  of a version that this build does not read  %zu\n", verdict.unknown.size());
  }
  if (verdict.gone > 0) {
    std::printf("  gone meanwhile  %llu\n", static_cast<unsigned long long>(verdict.gone));
  }
}

void tell_failures(const Settings& settings, const Verdict& verdict) {
  Failures failures;
  const std::string store = without_secrets(settings.store);
  for (const Bad& bad : verdict.damaged) {
    failures.tell(bad.why +
                  "; it will be computed anew when it is wanted; to remove it: cake_store " +
                  "erase " + store + " --key " + bad.key.hex());
  }
  for (const Bad& bad : verdict.unreadable) failures.tell(bad.why);
  for (const Bad& bad : verdict.unknown) {
    failures.tell(bad.why + "; use the cake_store of the build that wrote it");
  }
}

Json verdict_json(const OpenStore& store, const Verdict& verdict, std::size_t checked,
                  std::size_t all, std::uint64_t seed) {
  return {{"store", store.shown()},
          {"objects", all},
          {"checked", checked},
          {"bytes", verdict.bytes},
          {"seed", seed},
          {"good", verdict.good},
          {"gone", verdict.gone},
          {"damaged", bad_json(store, verdict.damaged)},
          {"unreadable", bad_json(store, verdict.unreadable)},
          {"unknown_version", bad_json(store, verdict.unknown)}};
}

void check(OpenStore& store, const std::vector<ListedObject>& objects, unsigned workers,
           Verdict& verdict) {
  std::uint64_t bytes = 0;
  for (const ListedObject& object : objects) bytes += object.bytes;
  Progress progress("verify", objects.size(), bytes);
  in_parallel(objects.size(), workers, [&](std::size_t i) {
    const auto read = read_verified(store, objects[i], "verify");
    verdict.add(objects[i], read ? Status() : Status(read.error()));
    progress.add(objects[i].bytes);
  });
  for (auto* const list : {&verdict.damaged, &verdict.unreadable, &verdict.unknown}) {
    std::sort(list->begin(), list->end(), [](const Bad& a, const Bad& b) { return a.key < b.key; });
  }
}

}  // namespace

int verify(const Settings& settings) {
  const auto store = open_store(settings.store, Access::read, settings.trust_directory);
  if (!store) return refused(store.error());
  const auto all = take_inventory(**store);
  if (!all) return refused(all.error());
  const auto some = chosen(**store, *all, settings.filter, settings.workers);
  if (!some) return refused(some.error());
  const auto size = sample_size(settings.sample, some->size());
  if (!size) {
    return refused({Errc::invalid_argument, 0,
                    "--sample is a number of objects, or a share like 5%, and not \"" +
                        settings.sample + "\""});
  }
  const std::uint64_t seed = settings.seed != 0 ? settings.seed : std::random_device{}();
  std::vector<ListedObject> objects;
  std::sample(some->begin(), some->end(), std::back_inserter(objects), *size,
              std::mt19937_64(seed));
  Verdict verdict;
  check(**store, objects, settings.workers, verdict);
  if (settings.json) {
    std::puts(verdict_json(**store, verdict, objects.size(), some->size(), seed).dump(2).c_str());
  } else {
    print_verdict(**store, verdict, objects.size(), some->size());
  }
  tell_failures(settings, verdict);
  const bool good =
      verdict.damaged.empty() && verdict.unreadable.empty() && verdict.unknown.empty();
  return good ? kGood : kFailed;
}

}  // namespace cake::tools
