// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Chunk objects in Redis or Valkey, one server or a cluster. Target cake::redis; it needs OpenSSL.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cake/detail/remote_read.hpp"
#include "cake/engine.hpp"
#include "cake/export.hpp"
#include "cake/storage/listing.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI {

namespace detail {
class RedisEngine;
}  // namespace detail

/// What a connection begins with (AUTH). No text that cake writes contains any of it.
struct RedisCredentials {
  std::string user;      // of an access control list; empty: the default user
  std::string password;  // empty: nothing is sent
};

struct RedisOptions {
  std::string host;  // a name, or an address of IPv4 or IPv6 without brackets
  std::uint16_t port = 6379;
  std::string prefix = "cake";  // of all names: letters, digits and . _ ~ - /
  RedisCredentials credentials;

  bool tls = false;              // certificates are always checked
  std::string ca_file;           // of authorities, in PEM format; empty: those of the system
  std::string certificate_file;  // that a server may ask for, with its chain, in PEM format
  std::string key_file;          // of that certificate

  unsigned threads = 2;            // that drive connections; 1 to 16
  unsigned connections = 4;        // to each node, for reads
  unsigned write_connections = 2;  // to each node, for writes
  unsigned pipeline = 4;           // reads in flight of one connection
  // Most bytes of one GETRANGE: a multiple of 64 KiB, up to 16 MiB. Servers answer small ones at a
  // much better rate than large ones.
  std::size_t piece_bytes = std::size_t{1} << 20;
  // Larger objects are refused: servers take values of 512 MiB (proto-max-bulk-len).
  std::size_t most_object_bytes = std::size_t{512} << 20;
  // After which a server forgets an object that is written from now on; 0: never by age.
  std::chrono::milliseconds time_to_live{0};

  // Retries included. What a lane gives up before ends then.
  std::chrono::nanoseconds read_timeout = std::chrono::seconds(30);
  std::chrono::nanoseconds write_timeout = std::chrono::seconds(120);
  std::chrono::nanoseconds call_timeout = std::chrono::seconds(10);  // lookup, erase
  std::chrono::nanoseconds connect_timeout = std::chrono::seconds(3);
  // A connection on which nothing moves for so long, though something should, is closed, and what it
  // was asked is asked again on another one.
  std::chrono::nanoseconds stall_timeout = std::chrono::seconds(5);
  unsigned attempts = 5;      // of one request
  unsigned redirections = 8;  // of one request, by nodes of a cluster
  bool read_only = false;     // it writes and erases nothing
};

/// Options for "redis://[USER:PASSWORD@]HOST[:PORT][/PREFIX]", or "rediss://" for TLS. Characters of
/// the user and the password may be written as %XX. What the URL does not say comes from the
/// environment: REDISCLI_AUTH (the password), CAKE_REDIS_CA_FILE, CAKE_REDIS_CERTIFICATE_FILE,
/// CAKE_REDIS_KEY_FILE.
///
/// Errors:  invalid_argument, saying what is missing or wrong, and what to do; never the URL itself
/// Thread:  Safe for concurrent use, as long as nobody changes the environment
CAKE_API Result<RedisOptions> redis_options(std::string_view url);

/// What a store did since it was made.
struct RedisStats {
  std::uint64_t requests = 0;         // attempts included
  std::uint64_t retries = 0;          // of these: after one that failed
  std::uint64_t redirections = 0;     // requests that a node sent to another one
  std::uint64_t connects = 0;         // connections opened
  std::uint64_t stalls = 0;           // connections closed because nothing moved any more
  std::uint64_t reads = 0;            // calls of read()
  std::uint64_t canceled = 0;         // requests that nobody waited for any more
  std::uint64_t read_bytes = 0;       // of objects, that arrived
  std::uint64_t published = 0;        // objects that write() made visible
  std::uint64_t published_bytes = 0;  //
  std::uint64_t already_stored = 0;   // objects that another writer had published before
  std::uint64_t replaced = 0;         // of the published ones: over what could be no object
  std::uint64_t lookup_problems = 0;  // keys that lookup() could not look up; lookup_problem()
  std::uint64_t topologies = 0;       // times that the slots of a cluster were asked for
  unsigned masters = 0;               // nodes that have keys, as far as is known; 0: not known yet
  bool cluster = false;               // as far as is known
};

struct StoreCounts;  // metrics.hpp
/// For metric_families() (metrics.hpp); `store` is its name, for people.
CAKE_API StoreCounts store_counts(const RedisStats& stats, std::string store);

using RedisRead = detail::RemoteRead;

/// Objects as strings under the keys `PREFIX:{<64 hex>}` of a Redis or Valkey server, or of a cluster
/// of them, which is recognised. The braces make all keys of one chunk lie in one slot. Any number of
/// processes and machines may share one.
///
/// Reading: a read is split into GETRANGEs that are sent ahead, several on each connection, and each
/// received into its part of `out`. What arrived is not asked for again after a failure. lookup() asks
/// by one STRLEN for each key, all of them sent at once.
///
/// Writing: SET with NX: an object appears whole or not at all, and the first writer wins. What is
/// there and cannot be an object (not a string, empty, or of a size that is no multiple of 4 KiB) is
/// replaced. Bounds and eviction are the server's (maxmemory, maxmemory-policy).
///
/// Cluster: requests go to the node that owns the slot; MOVED and ASK are followed, a bounded number
/// of times, and the slots are asked for again when a node moves or fails. While no node owns a
/// slot, requests for it are tried again, as after any failure.
///
/// Trust: a server is not trusted; every byte is verified by whoever reads it. What it sends besides
/// objects is kept to 1 MiB. Nodes of a cluster are given the same credentials.
///
/// Retries: attempts of a request, with growing and random pauses, stay within its timeout, and end
/// with the read that they belong to. Errors that come again (access, memory, certificate) are not
/// tried again.
///
/// Errors:  the text names the URL without user and password, what was being done, and what to do
/// Thread:  Safe for concurrent use; not in the child of a fork(), where all calls fail with
///          `unsupported`, and the destructor does nothing
class CAKE_API RedisStorage {
 public:
  static constexpr StorageAbilities abilities{
      .lookup_problem = true, .write_new = true, .read_pieces = true};

  /// Asks the server for nothing, which may come up later: check_access() does.
  ///
  /// Errors:  throws Exception(invalid_argument) for options that cannot be, naming the member;
  ///          out_of_memory: no thread
  explicit RedisStorage(const RedisOptions& options);
  /// Breaks off what still runs.
  ~RedisStorage();
  RedisStorage(RedisStorage&&) noexcept;
  RedisStorage& operator=(RedisStorage&&) noexcept;

  /// Stores an object, reads it back and erases it; with read_only it looks one up.
  ///
  /// Errors:  as of these calls
  Status check_access();
  /// Connections from now on begin with these: passwords change.
  void set_credentials(RedisCredentials credentials);

  /// Keys that could not be looked up count as absent as long as others could; lookup_problem()
  /// then says why.
  ///
  /// Errors:  io, timeout, unsupported: no key could be looked up
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys);
  /// Why the last lookup() could not look up all its keys; ok: it could.
  Status lookup_problem() const;
  /// Needs:   offset and size are multiples of 4 KiB
  /// Errors:  not_found; corrupt: the object ends before the read does; timeout; canceled; io: the
  ///          server or the way to it failed; unsupported; out_of_memory
  RedisRead read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out);
  /// read(), telling of each MiB.
  RedisRead read_pieces(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                        MutableBytes out, const std::shared_ptr<PieceSink>& sink);
  /// Needs:   the size is a multiple of 4 KiB
  /// Errors:  unsupported: the store only serves, or the object is larger than most_object_bytes;
  ///          out_of_memory: the server has no memory left; io; timeout; canceled
  Status write(const ChunkKey& key, ConstBytes bytes);
  /// write(), and whether this call made the object visible. False: one was there already.
  Result<bool> write_new(const ChunkKey& key, ConstBytes bytes);
  /// Errors:  unsupported: the store only serves, and nothing was erased; io; timeout; canceled
  Status erase(const ChunkKey& key);

  /// Some hundred keys by one SCAN, and a STRLEN for each of them, node by node in a cluster: `from` is
  /// empty, or Listing::next. A key may be named twice; while slots move to another node, keys may be
  /// left out. Keys that cannot be objects count as others. To the server this is a use of the keys.
  ///
  /// Errors:  invalid_argument: no such part; io, timeout, unsupported, canceled; out_of_memory
  Result<Listing> list(const std::string& from = {});

  RedisStats stats() const;
  /// "redis://HOST:PORT/PREFIX"
  const std::string& url() const;

 private:
  std::unique_ptr<detail::RedisEngine> engine_;
};
static_assert(StorageBackend<RedisStorage>);

}  // namespace cake::inline CAKE_ABI
