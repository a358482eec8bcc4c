// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// list, stats and metrics: what there is.
#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "cake/metrics.hpp"
#include "commands.hpp"

namespace cake::tools {
namespace {

using Json = nlohmann::ordered_json;

Json time_json(std::optional<std::int64_t> seconds) { return seconds ? Json(*seconds) : Json(); }

Json header_json(const std::optional<ChunkSummary>& header) {
  if (!header) return nullptr;
  return {{"model", header->fingerprint.hex()},
          {"tenant", tenant_hex(header->tenant)},
          {"parent", header->parent.hex()},
          {"token_begin", header->token_begin},
          {"tokens", header->token_count},
          {"layers", header->n_layers},
          {"layers_held", header->held},
          {"key_id", header->cipher == Cipher::none ? Json() : Json(tenant_hex(header->key_id))}};
}

/// What is there, and the headers of it; of names alone where nothing else was asked for.
struct Found {
  std::unique_ptr<OpenStore> store;
  Inventory all;
  std::vector<HeadedObject> objects;  // that the filter takes
};

Result<Found> look(const Settings& settings, bool headers) {
  auto store = open_store(settings.store, Access::read, settings.trust_directory);
  if (!store) return store.error();
  Found found{std::move(*store), {}, {}};
  auto all = take_inventory(*found.store);
  if (!all) return all.error();
  found.all = std::move(*all);
  if (!headers) {
    for (const ListedObject& object : found.all.objects) found.objects.push_back({object, {}});
    return found;
  }
  const auto headed = read_headers(*found.store, found.all.objects, settings.workers);
  if (!headed) return headed.error();
  for (const HeadedObject& each : *headed) {
    const bool taken =
        settings.filter.empty() || (each.header && settings.filter.takes(*each.header));
    if (taken) found.objects.push_back(each);
  }
  return found;
}

void print_list(const Found& found, bool names_only) {
  for (const HeadedObject& each : found.objects) {
    std::printf("%s %12llu  %-19s", each.object.key.hex().c_str(),
                static_cast<unsigned long long>(each.object.bytes),
                time_text(each.object.used).c_str());
    if (names_only) {
      std::puts("");
    } else if (each.header) {
      std::printf("  %7u+%-5u  %.12s  %.12s\n", each.header->token_begin, each.header->token_count,
                  each.header->fingerprint.hex().c_str(), tenant_hex(each.header->tenant).c_str());
    } else {
      std::puts("  no header that this build reads");
    }
  }
}

/// What one model has in a store.
struct OfModel {
  std::uint64_t objects = 0, bytes = 0, tokens = 0;
  std::set<std::string> tenants;
};

struct Totals {
  std::uint64_t objects = 0, bytes = 0, without_header = 0;
  std::optional<std::int64_t> oldest, newest;
  std::map<std::string, OfModel> models;
};

Totals totals_of(const std::vector<HeadedObject>& objects) {
  Totals totals;
  for (const HeadedObject& each : objects) {
    ++totals.objects;
    totals.bytes += each.object.bytes;
    if (const auto used = each.object.used) {
      totals.oldest = std::min(totals.oldest.value_or(*used), *used);
      totals.newest = std::max(totals.newest.value_or(*used), *used);
    }
    if (!each.header) {
      ++totals.without_header;
      continue;
    }
    OfModel& model = totals.models[each.header->fingerprint.hex()];
    ++model.objects;
    model.bytes += each.object.bytes;
    model.tokens += each.header->token_count;
    model.tenants.insert(tenant_hex(each.header->tenant));
  }
  return totals;
}

void print_stats(const Found& found, const Totals& totals) {
  std::printf("%s\n", found.store->shown().c_str());
  std::printf("  %llu objects, %s\n", static_cast<unsigned long long>(totals.objects),
              bytes_text(totals.bytes).c_str());
  if (totals.oldest) {
    std::printf("  last used between %s and %s UTC\n", time_text(totals.oldest).c_str(),
                time_text(totals.newest).c_str());
  }
  if (totals.without_header > 0) {
    std::printf(
        "  %llu objects have no header that this build reads; cake_store verify says more\n",
        static_cast<unsigned long long>(totals.without_header));
  }
  if (found.all.others > 0) {
    std::printf("  %llu other entries, which are left alone\n",
                static_cast<unsigned long long>(found.all.others));
  }
  for (const auto& [fingerprint, model] : totals.models) {
    std::printf("  model %s\n    %llu objects, %s, %llu tokens, %zu tenant%s\n",
                fingerprint.c_str(), static_cast<unsigned long long>(model.objects),
                bytes_text(model.bytes).c_str(), static_cast<unsigned long long>(model.tokens),
                model.tenants.size(), model.tenants.size() == 1 ? "" : "s");
    for (const std::string& tenant : model.tenants) std::printf("    tenant %s\n", tenant.c_str());
  }
}

Json stats_json(const Found& found, const Totals& totals) {
  Json models = Json::array();
  for (const auto& [fingerprint, model] : totals.models) {
    models.push_back({{"model", fingerprint},
                      {"objects", model.objects},
                      {"bytes", model.bytes},
                      {"tokens", model.tokens},
                      {"tenants", model.tenants}});
  }
  return {{"store", found.store->shown()},
          {"objects", totals.objects},
          {"bytes", totals.bytes},
          {"others", found.all.others},
          {"without_header", totals.without_header},
          {"oldest_use", time_json(totals.oldest)},
          {"newest_use", time_json(totals.newest)},
          {"models", models}};
}

/// What a server may draw and warn of. All are gauges: a program that looks counts nothing.
std::vector<MetricFamily> store_families(const Found& found, const Totals& totals) {
  const std::string store = found.store->shown();
  std::vector<MetricFamily> families;
  const auto gauge = [&](const char* name, const char* help, std::uint64_t value,
                         const std::string& model = {}) {
    MetricSample sample{{{"store", store}}, value};
    if (!model.empty()) sample.labels.emplace_back("model", model);
    families.push_back({name, help, MetricKind::gauge, {std::move(sample)}});
  };
  gauge("cake_store_objects", "Objects that are held now", totals.objects);
  gauge("cake_store_bytes", "Bytes of these", totals.bytes);
  gauge("cake_store_other_entries", "Entries that are no objects", found.all.others);
  gauge("cake_store_unread_headers", "Objects without a header that this build reads",
        totals.without_header);
  if (totals.oldest) {
    gauge("cake_store_oldest_use_timestamp_seconds", "Last use of the object that was used first",
          static_cast<std::uint64_t>(*totals.oldest));
    gauge("cake_store_newest_use_timestamp_seconds", "Last use of the object that was used last",
          static_cast<std::uint64_t>(*totals.newest));
  }
  for (const auto& [fingerprint, model] : totals.models) {
    gauge("cake_store_model_objects", "Objects of a model", model.objects, fingerprint);
    gauge("cake_store_model_bytes", "Bytes of these", model.bytes, fingerprint);
    gauge("cake_store_model_tokens", "Tokens of these", model.tokens, fingerprint);
  }
  return families;
}

}  // namespace

int metrics(const Settings& settings) {
  const auto found = look(settings, true);
  if (!found) return refused(found.error());
  std::fputs(prometheus_text(store_families(*found, totals_of(found->objects))).c_str(), stdout);
  return kGood;
}

int list(const Settings& settings) {
  const auto found = look(settings, !settings.names_only);
  if (!found) return refused(found.error());
  if (!settings.json) {
    print_list(*found, settings.names_only);
    return kGood;
  }
  Json objects = Json::array();
  for (const HeadedObject& each : found->objects) {
    Json object{{"key", each.object.key.hex()},
                {"place", found->store->place_of(each.object.key)},
                {"bytes", each.object.bytes},
                {"used", time_json(each.object.used)}};
    if (!settings.names_only) object["header"] = header_json(each.header);
    objects.push_back(std::move(object));
  }
  const Json all{
      {"store", found->store->shown()}, {"objects", objects}, {"others", found->all.others}};
  std::puts(all.dump(2).c_str());
  return kGood;
}

int stats(const Settings& settings) {
  const auto found = look(settings, true);
  if (!found) return refused(found.error());
  const Totals totals = totals_of(found->objects);
  if (settings.json) {
    std::puts(stats_json(*found, totals).dump(2).c_str());
  } else {
    print_stats(*found, totals);
  }
  return kGood;
}

}  // namespace cake::tools
