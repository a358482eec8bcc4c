// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Chunk objects in a bucket of any S3-compatible store. Target cake::s3; it needs libcurl.
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
class S3Engine;
}  // namespace detail

/// What requests are signed with. No text that cake writes contains any of it.
struct S3Credentials {
  std::string access_key;
  std::string secret_key;
  std::string session_token;  // of temporary credentials; else empty
};

/// Where a request names the bucket.
enum class S3Addressing : std::uint8_t {
  automatic,     // path where S3Options::endpoint is given, else virtual_host where the name allows
  path,          // https://HOST/BUCKET/...
  virtual_host,  // https://BUCKET.HOST/...
};

struct S3Options {
  std::string bucket;
  std::string prefix;  // of all names: letters, digits and . _ ~ - / ; "" for none
  S3Credentials credentials;
  bool anonymous = false;  // requests are not signed
  std::string region = "us-east-1";
  std::string endpoint;  // "https://HOST[:PORT]", or http; empty: that of AWS in the region
  S3Addressing addressing = S3Addressing::automatic;
  std::string ca_file;  // of authorities, in PEM format; empty: those of the system

  unsigned threads = 2;              // that drive transfers; 1 to 16
  unsigned connections = 16;         // ranged GETs in flight
  unsigned write_connections = 4;    // PUTs in flight
  unsigned lookup_connections = 32;  // HEADs and other small requests in flight
  // Most bytes of one GET: a multiple of 1 MiB, up to 64. A read that is too small for all
  // connections goes in smaller ones, down to half.
  std::size_t piece_bytes = std::size_t{8} << 20;
  std::size_t multipart_above = std::size_t{64} << 20;  // larger objects are written in parts
  std::size_t part_bytes = std::size_t{16} << 20;       // of such; 5 MiB at least

  // Retries included. What a lane gives up before ends then.
  std::chrono::nanoseconds read_timeout = std::chrono::seconds(30);
  std::chrono::nanoseconds write_timeout = std::chrono::seconds(120);
  std::chrono::nanoseconds call_timeout = std::chrono::seconds(10);  // lookup, erase
  std::chrono::nanoseconds connect_timeout = std::chrono::seconds(3);
  // A GET of which nothing arrives for so long is asked again on another connection.
  std::chrono::nanoseconds stall_timeout = std::chrono::seconds(5);
  unsigned attempts = 5;  // of one request

  // PUT with "If-None-Match: *": the first writer wins. A store that answers that it does not know
  // this gets a HEAD before each PUT instead, and false says so from the start, for stores that
  // ignore the header in silence. Two writers at the same moment may then both write, and the last
  // one wins; equal keys mean equal KV.
  bool conditional_writes = true;
  bool read_only = false;  // it writes and erases nothing
};

/// Options for "s3://BUCKET" or "s3://BUCKET/PREFIX", with what the environment says, by the names
/// that AWS tools read: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION
/// (AWS_DEFAULT_REGION), AWS_ENDPOINT_URL_S3 (AWS_ENDPOINT_URL), AWS_CA_BUNDLE. Profiles and the
/// credentials of machine roles are not looked for.
///
/// Errors:  invalid_argument, saying what is missing or wrong, and what to do
/// Thread:  Safe for concurrent use, as long as nobody changes the environment
CAKE_API Result<S3Options> s3_options(std::string_view url);

/// What a store did since it was made.
struct S3Stats {
  std::uint64_t requests = 0;         // attempts included
  std::uint64_t retries = 0;          // of these: after one that failed
  std::uint64_t connects = 0;         // connections opened; all other requests reused one
  std::uint64_t reads = 0;            // calls of read()
  std::uint64_t canceled = 0;         // requests that nobody waited for any more
  std::uint64_t read_bytes = 0;       // of objects, that arrived
  std::uint64_t published = 0;        // objects that write() made visible
  std::uint64_t published_bytes = 0;  //
  std::uint64_t already_stored = 0;   // objects that another writer had published before
  std::uint64_t replaced = 0;         // of the published ones: over what could be no object
  std::uint64_t lookup_problems = 0;  // keys that lookup() could not look up; lookup_problem()
  bool conditional_writes = false;    // the first writer wins by the store's own means
};

struct StoreCounts;  // metrics.hpp
/// For metric_families() (metrics.hpp); `store` is its name, for people.
CAKE_API StoreCounts store_counts(const S3Stats& stats, std::string store);

using S3Read = detail::RemoteRead;

/// Objects `PREFIX/<2 hex>/<64 hex>.ckv` of a bucket, which are named as PosixStorage names its
/// files, so that a folder may be copied into a bucket and back. Any number of processes and
/// machines may share one.
///
/// Reading: a read is split into ranged GETs, which a few threads carry out over connections that
/// are kept open, each into its part of `out`. What arrived is not asked for again after a failure.
/// A key is a digest that says nothing of the prompt before it, so that no name could begin as that
/// of the chunk before does: lookup() asks by a HEAD for each key, many at once, and not by LIST.
///
/// Writing: an object appears whole or not at all, and the first writer wins
/// (S3Options::conditional_writes). A large one is written in parts that are taken back when one
/// fails; a process that is killed leaves parts that are never served, and that a rule of the bucket
/// for incomplete uploads removes. An object that is empty or whose size is no multiple of 4 KiB is
/// replaced. Bounds and retention are the bucket's: nothing is evicted.
///
/// Trust: a bucket is not trusted; every byte is verified by whoever reads it. Redirects are not
/// followed, and what a server sends besides an object is kept to 64 KiB, a list of names to 4 MiB.
///
/// Retries: attempts of a request, with growing and random pauses, stay within its timeout, and end
/// with the read that they belong to. Errors that come again (access, clock, region, certificate)
/// are not tried again.
///
/// Errors:  `native` is the status of HTTP, or 0. The text names the URL, without its query, what
///          was being done, and what to do
/// Thread:  Safe for concurrent use; not in the child of a fork(), where all calls fail with
///          `unsupported`, and the destructor does nothing
class CAKE_API S3Storage {
 public:
  static constexpr StorageAbilities abilities{
      .lookup_problem = true, .write_new = true, .read_pieces = true};

  /// Asks the server for nothing, which may come up later: check_access() does.
  ///
  /// Errors:  throws Exception(invalid_argument) for options that cannot be, naming the member;
  ///          out_of_memory: no thread; unsupported: libcurl cannot sign or has no TLS
  explicit S3Storage(const S3Options& options);
  /// Breaks off what still runs.
  ~S3Storage();
  S3Storage(S3Storage&&) noexcept;
  S3Storage& operator=(S3Storage&&) noexcept;

  /// Stores an object, reads it back and erases it; with read_only it looks one up.
  ///
  /// Errors:  as of these calls
  Status check_access();
  /// Requests from now on are signed with these: temporary credentials end.
  void set_credentials(S3Credentials credentials);

  /// Keys that could not be looked up count as absent as long as others could; lookup_problem()
  /// then says why.
  ///
  /// Errors:  io, timeout, unsupported: no key could be looked up
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys);
  /// Why the last lookup() could not look up all its keys; ok: it could.
  Status lookup_problem() const;
  /// Needs:   offset and size are multiples of 4 KiB
  /// Errors:  not_found; corrupt: the object ends before the read does; timeout; canceled; io: the
  ///          server or the way to it failed; unsupported: it redirects, or knows no ranges;
  ///          out_of_memory
  S3Read read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out);
  /// read(), telling of each MiB.
  S3Read read_pieces(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                     MutableBytes out, const std::shared_ptr<PieceSink>& sink);
  /// Needs:   the size is a multiple of 4 KiB
  /// Errors:  unsupported: the store only serves; io; timeout; canceled; out_of_memory
  Status write(const ChunkKey& key, ConstBytes bytes);
  /// write(), and whether this call made the object visible. False: one was there already.
  Result<bool> write_new(const ChunkKey& key, ConstBytes bytes);
  /// Errors:  unsupported: the store only serves, and nothing was erased; io; timeout; canceled
  Status erase(const ChunkKey& key);

  /// Up to 1000 names by one LIST: `from` is empty, or Listing::next, or the two hex digits that keys begin
  /// with. What is under the prefix and has no name of an object counts as others.
  ///
  /// Errors:  invalid_argument: no such part; io, timeout, unsupported, canceled; out_of_memory
  Result<Listing> list(const std::string& from = {});

  S3Stats stats() const;
  /// "https://HOST/BUCKET/PREFIX"
  const std::string& url() const;

 private:
  std::unique_ptr<detail::S3Engine> engine_;
};
static_assert(StorageBackend<S3Storage>);

}  // namespace cake::inline CAKE_ABI
