// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/storage/redis.hpp"

#include <algorithm>
#include <new>
#include <optional>
#include <utility>

#include "cake/detail/guarded.hpp"
#include "cake/detail/process.hpp"
#include "client.hpp"
#include "publish.hpp"
#include "scan.hpp"
#include "src/core/try.hpp"
#include "src/storage/remote/attempts.hpp"
#include "src/storage/remote/last_lookup.hpp"

namespace cake::inline CAKE_ABI {
namespace detail {

/// The parts of one store.
class RedisEngine {
 public:
  explicit RedisEngine(const RedisOptions& options) : client(options), publish(client) {}

  Status usable() const { return made_here_.check("a RedisStorage"); }
  bool in_child() const { return made_here_.in_child(); }
  Status may_change(const char* doing) const;
  std::string key_of(const ChunkKey& key) const { return client.address().key_of(key); }

  std::shared_ptr<RemoteBatch> read(const std::string& key, std::uint64_t offset, MutableBytes out,
                                    const std::shared_ptr<PieceSink>& sink);
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys, LastLookup& last);
  Result<Listing> list(const std::string& from);
  Status erase(const std::string& key) {
    return publish.erase(key, "erase", deadline_after(client.options().call_timeout));
  }
  Status check_writing();

  RedisClient client;
  RedisPublish publish;
  LastLookup last_lookup;

 private:
  ForkGuard made_here_;
};

Status RedisEngine::may_change(const char* doing) const {
  CAKE_TRY(usable());
  return check_serves_only(client.options().read_only, doing, client.address().shown(),
                           "RedisOptions::read_only");
}

std::shared_ptr<RemoteBatch> RedisEngine::read(const std::string& key, std::uint64_t offset,
                                               MutableBytes out,
                                               const std::shared_ptr<PieceSink>& sink) {
  if (const Status status = check_offset(client.address().url(key), offset); !status) {
    return std::make_shared<RemoteBatch>(status.error());
  }
  RedisRequest request;
  request.share = RedisRequest::Share::reads;
  request.doing = "read";
  request.key = key;
  request.sink = sink;
  return client.begin(read_requests(request, offset, out, client.options().piece_bytes),
                      deadline_after(client.options().read_timeout));
}

Result<std::vector<StoredChunk>> RedisEngine::lookup(std::span<const ChunkKey> keys,
                                                     LastLookup& last) {
  const auto make = [&](const ChunkKey& key) {
    RedisRequest request = RedisClient::about("STRLEN", "lookup", key_of(key));
    request.ends_all = false;
    return request;
  };
  const auto ask = [&](std::vector<RedisRequest> requests) {
    return client.ask_all(std::move(requests), deadline_after(client.options().call_timeout));
  };
  const auto size_of = [](const RedisExchange& answer) -> std::optional<std::uint64_t> {
    // What is no string is no object either.
    if (answer.status().code() == Errc::corrupt) return 0;
    if (!answer.status()) return std::nullopt;
    return static_cast<std::uint64_t>(std::max<std::int64_t>(answer.reply().integer, 0));
  };
  return last.run(keys, make, ask, size_of, client.counters().lookup_problems);
}

Result<Listing> RedisEngine::list(const std::string& from) {
  const auto part = RedisScan(client).keys(from);
  if (!part) return part.error();
  Listing listing;
  listing.next = part->next;
  listing.others = part->others;
  LastLookup sizes;
  const auto found = lookup(part->keys, sizes);
  if (!found) return found.error();
  CAKE_TRY(sizes.problem());
  for (std::size_t i = 0; i < part->keys.size(); ++i) {
    if ((*found)[i].size == 0) {
      ++listing.others;  // no string, or gone meanwhile
    } else {
      listing.objects.push_back({part->keys[i], (*found)[i].size});
    }
  }
  return listing;
}

Status RedisEngine::check_writing() {
  const Sha256Digest noise = random_digest();
  const std::string key = client.address().key_of("access-" + ChunkKey{noise}.hex());
  return check_by_object(
      noise, client.address().url(key), [&](ConstBytes bytes) { return publish.write(key, bytes); },
      [&](MutableBytes out) { return read(key, 0, out, nullptr)->wait(); },
      [&] { return erase(key); });
}

}  // namespace detail

RedisStorage::RedisStorage(const RedisOptions& options)
    : engine_(std::make_unique<detail::RedisEngine>(options)) {}
RedisStorage::~RedisStorage() {
  // Its threads are not in the child, and a lock may be held for ever there.
  if (engine_ && engine_->in_child()) detail::abandon(std::move(engine_));
}
RedisStorage::RedisStorage(RedisStorage&&) noexcept = default;
RedisStorage& RedisStorage::operator=(RedisStorage&& other) noexcept {
  RedisStorage old(std::move(*this));
  engine_ = std::move(other.engine_);
  return *this;
}

Status RedisStorage::check_access() {
  CAKE_TRY(engine_->usable());
  return detail::guarded(Errc::out_of_memory, "access to a server", [&]() -> Status {
    if (!engine_->client.options().read_only) return engine_->check_writing();
    const ChunkKey any;
    const auto found = engine_->lookup(std::span(&any, 1), engine_->last_lookup);
    return found ? Status() : Status(found.error());
  });
}

void RedisStorage::set_credentials(RedisCredentials credentials) {
  engine_->client.set_credentials(std::move(credentials));
}

Result<std::vector<StoredChunk>> RedisStorage::lookup(std::span<const ChunkKey> keys) {
  CAKE_TRY(engine_->usable());
  return detail::guarded(Errc::out_of_memory, "lookup",
                         [&] { return engine_->lookup(keys, engine_->last_lookup); });
}

Status RedisStorage::lookup_problem() const {
  CAKE_TRY(engine_->usable());
  return engine_->last_lookup.problem();
}

RedisRead RedisStorage::read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                             MutableBytes out) {
  return read_pieces(tier, key, offset, out, nullptr);
}

RedisRead RedisStorage::read_pieces(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                                    MutableBytes out, const std::shared_ptr<PieceSink>& sink) {
  try {
    Status status = engine_->usable();
    if (status) status = detail::check_read("a server", tier, offset, out);
    if (!status) return RedisRead(std::make_shared<detail::RemoteBatch>(status.error()));
    ++engine_->client.counters().reads;
    return RedisRead(engine_->read(engine_->key_of(key), offset, out, sink));
  } catch (const std::bad_alloc&) {
    return RedisRead(nullptr);
  }
}

Result<bool> RedisStorage::write_new(const ChunkKey& key, ConstBytes bytes) {
  CAKE_TRY(engine_->may_change("write"));
  CAKE_TRY(detail::check_written(bytes));
  return detail::guarded(Errc::out_of_memory, "write",
                         [&] { return engine_->publish.write(engine_->key_of(key), bytes); });
}

Status RedisStorage::write(const ChunkKey& key, ConstBytes bytes) {
  const auto written = write_new(key, bytes);
  return written ? Status() : Status(written.error());
}

Status RedisStorage::erase(const ChunkKey& key) {
  CAKE_TRY(engine_->may_change("erase"));
  return detail::guarded(Errc::out_of_memory, "erase",
                         [&] { return engine_->erase(engine_->key_of(key)); });
}

Result<Listing> RedisStorage::list(const std::string& from) {
  CAKE_TRY(engine_->usable());
  return detail::guarded(Errc::out_of_memory, "list", [&] { return engine_->list(from); });
}

RedisStats RedisStorage::stats() const {
  const auto& from = engine_->client.counters();
  RedisStats stats;
  stats.requests = from.requests;
  stats.retries = from.retries;
  stats.redirections = from.redirections;
  stats.connects = from.connects;
  stats.stalls = from.stalls;
  stats.reads = from.reads;
  stats.canceled = from.canceled;
  stats.read_bytes = from.read_bytes;
  stats.published = from.published;
  stats.published_bytes = from.published_bytes;
  stats.already_stored = from.already_stored;
  stats.replaced = from.replaced;
  stats.lookup_problems = from.lookup_problems;
  stats.topologies = from.topologies;
  stats.masters = from.masters;
  stats.cluster = from.cluster;
  return stats;
}

const std::string& RedisStorage::url() const { return engine_->client.address().shown(); }

}  // namespace cake::inline CAKE_ABI
