// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "open_store.hpp"

#include <algorithm>
#include <concepts>
#include <utility>

#include "cake/engine.hpp"
#ifdef CAKE_TOOLS_REDIS
#include "cake/storage/redis.hpp"
#endif
#ifdef CAKE_TOOLS_S3
#include "cake/storage/s3.hpp"
#endif

namespace cake::tools {
namespace {

std::string shown_of(const PosixStorage& store) { return store.directory().string(); }
std::string place_in(const PosixStorage& store, const std::string& hex) {
  return (store.directory() / hex.substr(0, 2) / (hex + ".ckv")).string();
}
#ifdef CAKE_TOOLS_S3
std::string shown_of(const S3Storage& store) { return store.url(); }
std::string place_in(const S3Storage& store, const std::string& hex) {
  return store.url() + "/" + hex.substr(0, 2) + "/" + hex + ".ckv";
}
#endif
#ifdef CAKE_TOOLS_REDIS
std::string shown_of(const RedisStorage& store) { return store.url(); }
std::string place_in(const RedisStorage& store, const std::string& hex) {
  return store.url() + ":{" + hex + "}";
}
#endif

template <class S>
class StoreOf final : public OpenStore {
 public:
  explicit StoreOf(std::unique_ptr<S> store) : store_(std::move(store)) {}

  std::string shown() const override { return shown_of(*store_); }
  std::string place_of(const ChunkKey& key) const override { return place_in(*store_, key.hex()); }
  Result<Listing> list(const std::string& from) override { return store_->list(from); }
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys) override {
    auto found = store_->lookup(keys);
    if (!found) return found;
    if (const Status problem = store_->lookup_problem(); !problem) return problem.error();
    return found;
  }
  Result<std::optional<ListedObject>> find(const ChunkKey& key) override {
    if constexpr (std::same_as<S, PosixStorage>) {
      // A lookup would not tell of a file that was cut short.
      const auto folder = store_->list(key.hex().substr(0, 2));
      if (!folder) return folder.error();
      const auto at = std::find_if(folder->objects.begin(), folder->objects.end(),
                                   [&](const ListedObject& object) { return object.key == key; });
      return at == folder->objects.end() ? std::nullopt : std::optional(*at);
    } else {
      const auto found = lookup(std::span(&key, 1));
      if (!found) return found.error();
      if (found->front().size == 0) return std::optional<ListedObject>();
      return std::optional(ListedObject{key, found->front().size});
    }
  }
  Status read(const ChunkKey& key, std::uint64_t offset, MutableBytes out) override {
    return cake::await_completion(store_->read(0, key, offset, out));
  }
  Result<bool> write(const ChunkKey& key, ConstBytes bytes) override {
    return store_->write_new(key, bytes);
  }
  Status erase(const ChunkKey& key) override { return store_->erase(key); }
  Result<PosixTrim> trim([[maybe_unused]] std::uint64_t bytes) override {
    if constexpr (std::same_as<S, PosixStorage>) {
      return store_->trim(bytes);
    } else {
      return Error{Errc::unsupported, 0,
                   "trim of " + shown() +
                       ": cake evicts nothing there; bound it by the server's own means: a rule of "
                       "the bucket that expires objects by age, or maxmemory and maxmemory-policy "
                       "of Redis"};
    }
  }

 private:
  std::unique_ptr<S> store_;
};

using Opened = Result<std::unique_ptr<OpenStore>>;

template <class S, class Options>
Opened make(const Options& options) {
  try {
    return std::unique_ptr<OpenStore>(std::make_unique<StoreOf<S>>(std::make_unique<S>(options)));
  } catch (const Exception& e) {
    return e.error();
  }
}

Opened open_directory(const std::string& address, Access access, bool trust_directory) {
  PosixOptions options{.directory = address,
                       .read_only = true,
                       .trust_directory = trust_directory,
                       .note_use = false};
  if (access != Access::create) {
    Opened opened = make<PosixStorage>(options);
    if (!opened || access == Access::read) return opened;
  }
  options.read_only = false;
  return make<PosixStorage>(options);
}

template <class S, class Options>
Opened open_remote(Result<Options> options, Access access) {
  if (!options) return options.error();
  options->read_only = access == Access::read;
  return make<S>(*options);
}

#if !defined(CAKE_TOOLS_S3) || !defined(CAKE_TOOLS_REDIS)
Error not_built(const char* what, const char* option) {
  return {Errc::unsupported, 0,
          std::string("this cake_store was built without ") + what + "; configure cake with -D" +
              option + "=ON to see what is missing"};
}
#endif

bool begins(const std::string& address, const char* scheme) { return address.starts_with(scheme); }

}  // namespace

Opened open_store(const std::string& address, Access access, bool trust_directory) {
  if (begins(address, "s3:")) {
#ifdef CAKE_TOOLS_S3
    return open_remote<S3Storage>(s3_options(address), access);
#else
    return not_built("buckets (cake::s3)", "CAKE_S3");
#endif
  }
  if (begins(address, "redis:") || begins(address, "rediss:")) {
#ifdef CAKE_TOOLS_REDIS
    return open_remote<RedisStorage>(redis_options(address), access);
#else
    return not_built("Redis (cake::redis)", "CAKE_REDIS");
#endif
  }
  if (address.find("://") != std::string::npos) {
    return Error{
        Errc::invalid_argument, 0,
        "a store is a directory, s3://BUCKET/PREFIX, or redis://HOST:PORT/PREFIX (rediss:// "
        "with TLS); the address that was given is none of them"};
  }
  return open_directory(address, access, trust_directory);
}

std::string without_secrets(const std::string& text) {
  std::string shown = text;
  for (std::size_t at = shown.find("://"); at != std::string::npos; at = shown.find("://", at)) {
    at += 3;
    // A password may hold anything but the end of the line.
    const std::size_t line = std::min(shown.find('\n', at), shown.size());
    const std::size_t end = shown.rfind('@', line);
    if (end != std::string::npos && end >= at && end < line) shown.erase(at, end + 1 - at);
  }
  return shown;
}

}  // namespace cake::tools
