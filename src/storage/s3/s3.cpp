// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/storage/s3.hpp"

#include <algorithm>
#include <new>
#include <optional>
#include <utility>

#include "cake/detail/guarded.hpp"
#include "cake/detail/process.hpp"
#include "cake/staging.hpp"
#include "client.hpp"
#include "names.hpp"
#include "src/core/try.hpp"
#include "src/storage/remote/attempts.hpp"
#include "src/storage/remote/last_lookup.hpp"
#include "upload.hpp"

namespace cake::inline CAKE_ABI {
namespace detail {

using Method = S3Request::Method;
using Share = S3Request::Share;

/// The parts of one store.
class S3Engine {
 public:
  explicit S3Engine(const S3Options& options) : client(options), upload(client) {}

  Status usable() const { return made_here_.check("an S3Storage"); }
  bool in_child() const { return made_here_.in_child(); }

  std::shared_ptr<RemoteBatch> read(const std::string& url, std::uint64_t offset, MutableBytes out,
                                    const std::shared_ptr<PieceSink>& sink);
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys);
  Status erase(const std::string& url, const char* doing);
  Result<Listing> list(const std::string& from);
  Status check_writing();

  S3Client client;
  S3Upload upload;
  LastLookup last_lookup;

 private:
  std::size_t piece_of(std::size_t bytes) const;

  ForkGuard made_here_;
};

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kMostNames = 4 * kMiB;  // of an answer to LIST

Status may_read(const S3Engine& engine, std::uint32_t tier, std::uint64_t offset,
                MutableBytes out) {
  CAKE_TRY(engine.usable());
  return check_read("a bucket", tier, offset, out);
}

Status may_change(const S3Engine& engine, const char* doing) {
  CAKE_TRY(engine.usable());
  return check_serves_only(engine.client.options().read_only, doing,
                           engine.client.address().shown(), "S3Options::read_only");
}

}  // namespace

std::size_t S3Engine::piece_of(std::size_t bytes) const {
  const S3Options& options = client.options();
  const std::size_t even = bytes / options.connections / kMiB * kMiB;
  const std::size_t least = std::max(kMiB, options.piece_bytes / 2 / kMiB * kMiB);
  return std::clamp(even, least, options.piece_bytes);
}

std::shared_ptr<RemoteBatch> S3Engine::read(const std::string& url, std::uint64_t offset,
                                            MutableBytes out,
                                            const std::shared_ptr<PieceSink>& sink) {
  if (const Status status = check_offset(url, offset); !status) {
    return std::make_shared<RemoteBatch>(status.error());
  }
  S3Request request = client.request(Method::get, Share::reads, "read", url);
  request.sink = sink;
  return client.begin(read_requests(request, offset, out, piece_of(out.size())),
                      deadline_after(client.options().read_timeout));
}

Result<std::vector<StoredChunk>> S3Engine::lookup(std::span<const ChunkKey> keys) {
  const auto make = [&](const ChunkKey& key) {
    S3Request request =
        client.request(Method::head, Share::calls, "lookup", client.address().url(key));
    request.ends_all = false;
    return request;
  };
  const auto ask = [&](std::vector<S3Request> requests) {
    return client.ask_all(std::move(requests), deadline_after(client.options().call_timeout));
  };
  const auto size_of = [](const S3Exchange& answer) -> std::optional<std::uint64_t> {
    if (answer.status().code() == Errc::not_found) return 0;
    if (!answer.status()) return std::nullopt;
    return answer.reply().length.value_or(0);
  };
  return last_lookup.run(keys, make, ask, size_of, client.counters().lookup_problems);
}

Status S3Engine::erase(const std::string& url, const char* doing) {
  const Status status = client
                            .ask(client.request(Method::remove, Share::calls, doing, url),
                                 deadline_after(client.options().call_timeout))
                            ->status();
  return status.code() == Errc::not_found ? Status() : status;
}

Result<Listing> S3Engine::list(const std::string& from) {
  const S3Address& address = client.address();
  auto query = s3_names_query(address, from);
  if (!query) return query.error();
  S3Request request = client.request(Method::get, Share::calls, "list", address.url(""));
  request.query = std::move(*query);
  request.most_answer = kMostNames;
  const auto answer = client.ask(std::move(request), deadline_after(client.options().call_timeout));
  if (!answer->status()) return answer->status().error();
  return s3_names(answer->reply().body, address, from);
}

Status S3Engine::check_writing() {
  const Sha256Digest noise = random_digest();
  const std::string url =
      client.address().url(client.address().name_of(".cake-access-" + ChunkKey{noise}.hex()));
  return check_by_object(
      noise, url, [&](ConstBytes bytes) { return upload.write(url, bytes); },
      [&](MutableBytes out) { return read(url, 0, out, nullptr)->wait(); },
      [&] { return erase(url, "erase"); });
}

}  // namespace detail

S3Storage::S3Storage(const S3Options& options)
    : engine_(std::make_unique<detail::S3Engine>(options)) {}
S3Storage::~S3Storage() {
  // Its threads are not in the child, and a lock may be held for ever there.
  if (engine_ && engine_->in_child()) detail::abandon(std::move(engine_));
}
S3Storage::S3Storage(S3Storage&&) noexcept = default;
S3Storage& S3Storage::operator=(S3Storage&& other) noexcept {
  S3Storage old(std::move(*this));
  engine_ = std::move(other.engine_);
  return *this;
}

Status S3Storage::check_access() {
  CAKE_TRY(engine_->usable());
  return detail::guarded(Errc::out_of_memory, "access to a bucket", [&]() -> Status {
    if (!engine_->client.options().read_only) return engine_->check_writing();
    const ChunkKey any;
    const auto found = engine_->lookup(std::span(&any, 1));
    return found ? Status() : Status(found.error());
  });
}

void S3Storage::set_credentials(S3Credentials credentials) {
  engine_->client.set_credentials(std::move(credentials));
}

Result<std::vector<StoredChunk>> S3Storage::lookup(std::span<const ChunkKey> keys) {
  CAKE_TRY(engine_->usable());
  return detail::guarded(Errc::out_of_memory, "lookup", [&] { return engine_->lookup(keys); });
}

Status S3Storage::lookup_problem() const {
  CAKE_TRY(engine_->usable());
  return engine_->last_lookup.problem();
}

S3Read S3Storage::read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                       MutableBytes out) {
  return read_pieces(tier, key, offset, out, nullptr);
}

S3Read S3Storage::read_pieces(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                              MutableBytes out, const std::shared_ptr<PieceSink>& sink) {
  try {
    if (auto status = detail::may_read(*engine_, tier, offset, out); !status) {
      return S3Read(std::make_shared<detail::RemoteBatch>(status.error()));
    }
    ++engine_->client.counters().reads;
    return S3Read(engine_->read(engine_->client.address().url(key), offset, out, sink));
  } catch (const std::bad_alloc&) {
    return S3Read(nullptr);
  }
}

Result<bool> S3Storage::write_new(const ChunkKey& key, ConstBytes bytes) {
  CAKE_TRY(detail::may_change(*engine_, "write"));
  CAKE_TRY(detail::check_written(bytes));
  return detail::guarded(Errc::out_of_memory, "write", [&] {
    return engine_->upload.write(engine_->client.address().url(key), bytes);
  });
}

Status S3Storage::write(const ChunkKey& key, ConstBytes bytes) {
  const auto written = write_new(key, bytes);
  return written ? Status() : Status(written.error());
}

Status S3Storage::erase(const ChunkKey& key) {
  CAKE_TRY(detail::may_change(*engine_, "erase"));
  return detail::guarded(Errc::out_of_memory, "erase", [&] {
    return engine_->erase(engine_->client.address().url(key), "erase");
  });
}

Result<Listing> S3Storage::list(const std::string& from) {
  CAKE_TRY(engine_->usable());
  return detail::guarded(Errc::out_of_memory, "list", [&] { return engine_->list(from); });
}

S3Stats S3Storage::stats() const {
  const auto& from = engine_->client.counters();
  S3Stats stats;
  stats.requests = from.requests;
  stats.retries = from.retries;
  stats.connects = from.connects;
  stats.reads = from.reads;
  stats.canceled = from.canceled;
  stats.read_bytes = from.read_bytes;
  stats.published = from.published;
  stats.published_bytes = from.published_bytes;
  stats.already_stored = from.already_stored;
  stats.replaced = from.replaced;
  stats.lookup_problems = from.lookup_problems;
  stats.conditional_writes = engine_->upload.conditional();
  return stats;
}

const std::string& S3Storage::url() const { return engine_->client.address().shown(); }

}  // namespace cake::inline CAKE_ABI
