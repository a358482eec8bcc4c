// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Chunk objects as files of a directory, on any POSIX-like file system of Linux.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cake/engine.hpp"
#include "cake/export.hpp"
#include "cake/storage/listing.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI {

namespace detail {
class PosixCalls;  // the system calls, for tests that make them fail: src/storage/posix/calls.hpp
struct PendingRead;
class PosixEngine;
}  // namespace detail

/// Whether reads and writes go past the page cache (O_DIRECT).
enum class DirectIo : std::uint8_t {
  automatic,  // where the file system takes it, found out by trying
  on,         // or the constructor throws
  off,
};

/// What carries out reads.
enum class ReadEngine : std::uint8_t {
  // io_uring where O_DIRECT is in use on a file system that is not in memory, this build has
  // liburing, and a read of a file in the directory through it gives what pread gives; else threads.
  // PosixStats::engine_reason says why.
  automatic,
  threads,   // pread
  io_uring,  // or the constructor throws
};

/// A number of bytes, or a share of a whole.
struct ByteAmount {
  double share = 0;         // 0 to 1
  std::uint64_t bytes = 0;  // in its place, unless it is 0
  std::uint64_t of(std::uint64_t whole) const {
    return bytes != 0 ? bytes : static_cast<std::uint64_t>(share * static_cast<double>(whole));
  }
};

struct PosixOptions {
  std::filesystem::path directory;  // created if it is missing; its parent must be there
  unsigned threads = 8;             // preads in flight; with io_uring each thread has four
  // Bytes of one operation; a multiple of 4 KiB. 0: 256 KiB where the file system is in memory, so
  // that more threads read the first chunk of a load, else 1 MiB.
  std::size_t op_bytes = 0;
  DirectIo direct = DirectIo::automatic;
  ReadEngine engine = ReadEngine::automatic;
  bool durable = false;                // objects survive a power cut once write() returned
  std::uint64_t capacity_bytes = 0;    // objects are evicted above it; 0: no limit
  bool force_temporary_names = false;  // publish as on file systems without O_TMPFILE
  std::shared_ptr<detail::PosixCalls> calls = {};  // null: the real ones
  // The store only serves: it creates, writes and erases nothing. It also accepts a directory and
  // objects that belong to root. A read-only file system implies it.
  bool read_only = false;
  // Accepts the directory and its files whatever their owner and mode: for mounts
  // that show one owner and mode for all files, and for volumes that several users share. All who
  // can write there are then trusted with the KV that answers are computed from. New files and
  // folders get the modes that the umask leaves (shared by a group: umask 002).
  bool trust_directory = false;
  // Reads count as uses, by which eviction goes. False: for tools that look at everything, after which
  // the objects are as old as before.
  bool note_use = true;
  // Of capacity_bytes: eviction begins when a write would bring more into use than high_water, and goes
  // on until low_water is.
  ByteAmount high_water = {.share = 1.0};
  ByteAmount low_water = {.share = 0.9};
  // Of the file system, stays free for others: a write evicts for it, and is refused when that does not
  // help. Also without capacity_bytes.
  ByteAmount keep_free = {};
  // Objects are served for so long after they were published, however often they are read; then they
  // count as absent, and go with the next writes before all others. One that is written again is as
  // good as new. 0: for ever.
  std::chrono::seconds ttl{0};
};

/// What a trim did.
struct PosixTrim {
  std::uint64_t objects = 0;     // erased
  std::uint64_t bytes = 0;       // of these
  std::uint64_t bytes_left = 0;  // of all objects that stay
};

/// What a store did since it was opened.
struct PosixStats {
  bool direct = false;                  // O_DIRECT is in use
  std::uint64_t direct_refusals = 0;    // times that the file system refused O_DIRECT
  std::uint64_t reads = 0;              // calls of read()
  std::uint64_t read_ops = 0;           // reads of the system
  std::uint64_t read_bytes = 0;         // bytes that arrived
  std::uint64_t short_reads = 0;        // those that ended early and were continued
  std::uint64_t opens = 0;              // files opened for reading
  std::uint64_t published = 0;          // objects that write() made visible
  std::uint64_t published_bytes = 0;    //
  std::uint64_t already_stored = 0;     // objects that another writer had published before
  std::uint64_t leftovers = 0;          // temporary files of dead writers removed
  std::uint64_t evicted = 0;            // objects removed to stay below the capacity
  std::uint64_t evicted_bytes = 0;      //
  bool read_only = false;               // it only serves
  std::uint64_t replaced = 0;           // of the published ones: over a damaged file
  std::uint64_t lookup_problems = 0;    // keys that lookup() could not look up; lookup_problem()
  std::uint64_t eviction_failures = 0;  // objects that were to be evicted and could not be erased
  std::uint64_t refused = 0;            // writes that no room could be made for
  std::uint64_t expired = 0;            // of the evicted ones, those older than the ttl
  std::uint64_t first_reads = 0;        // objects read for the first time since they were published
  std::uint64_t reopened = 0;           // times that the directory was found to be another one
  std::uint64_t stuck_reads = 0;        // operations of reads that lasted over 0.25 s
  ReadEngine engine = ReadEngine::threads;  // what carries out reads now
  std::string engine_reason;                // why that one, and not the other
  std::uint64_t ring_reads = 0;             // operations that io_uring carried out
  std::uint64_t ring_refusals = 0;  // operations that it refused, and a thread carried out instead
  std::uint64_t ring_retries = 0;   // times that it took nothing, and was asked again
};

struct StoreCounts;  // metrics.hpp
/// For metric_families() (metrics.hpp); `store` is its name, for people.
CAKE_API StoreCounts store_counts(const PosixStats& stats, std::string store);

/// A read that may still run. `out` stays valid until it is ready, also when this object is gone:
/// destroying it neither stops the read nor waits for it.
class CAKE_API PosixRead {
 public:
  explicit PosixRead(std::shared_ptr<detail::PendingRead> pending);
  PosixRead(PosixRead&&) noexcept;
  PosixRead& operator=(PosixRead&&) noexcept;
  ~PosixRead();
  bool ready();
  Status wait();
  bool wait_for(std::chrono::nanoseconds span);

 private:
  std::shared_ptr<detail::PendingRead> pending_;
};

/// Files `<directory>/<2 hex>/<64 hex>.ckv`. Any number of processes may share a directory, also
/// while it is being evicted from: an object appears whole or not at all, and a read that has begun
/// ends well although the file was unlinked.
///
/// Publishing writes an unnamed file (O_TMPFILE) and links it under its name, or, where the file
/// system has no unnamed files, a temporary one that is locked while its writer lives; the next
/// store that opens the directory removes those of dead writers. A file system that can neither
/// rename without replacing nor link gets a plain rename: equal keys mean equal KV. A file that
/// cannot be the object is replaced: one that lookup() would not serve (not a regular file of ours,
/// size not a multiple of 4 KiB), a chunk whose header is damaged or tells another size, a file
/// that is a cut or longer copy of what is written.
///
/// A directory that is removed, moved away or made anew while it is open is noticed by the next
/// call: until it is there again calls fail with that reason, then they go on in the new one.
///
/// Trust: the directory is created with mode 0700; one that belongs to somebody else or that others
/// may write is refused, and so are symbolic links, foreign and group- or world-writable files
/// (PosixOptions::trust_directory takes them).
///
/// Eviction (capacity_bytes, keep_free or ttl): before a publish that would exceed high_water, objects
/// go until low_water is in use. They go by age since their last read or, if never read, their
/// publication, in classes that double (1, 2, 4, ... minutes); within a class the lowest token
/// position goes first, because the tail of a prompt saves the most compute. What was never read
/// counts as four times as old, so that prompts that come once do not push out what is read again. A
/// read leaves chunks
/// untouched that compute reached first, so they age and go even earlier. What is stored is known
/// from an index in memory (about 200 bytes per object), and each write does a bounded part of the
/// work: it looks at up to 1024 files, reads 64 headers and erases 32 objects, or twice as many
/// bytes as it adds if that is more. So with over a thousand objects of one age class the order
/// within it is that of the oldest thousand, and while a large store is looked at for the first
/// time the capacity may be exceeded by a sixteenth. Files that the store does not trust are
/// neither counted nor evicted.
///
/// Stores of several processes tell each other what they are about to write and what they erased,
/// in the file `.evict.log` (a few MiB, not counted), so that each knows what is in use; one at a
/// time evicts, the one that has the lock of `.evict.lock`, which the system takes from a process
/// that dies. A write that finds it taken goes on as long as the capacity was not exceeded without
/// it, and else waits for up to two seconds before it is refused. So once each has looked at the
/// store, all together exceed the capacity by the one object that each thread is writing at most.
/// What a store without these options, or somebody by hand, adds or deletes is seen after a
/// sixteenth of the capacity was written. Where the file system has no locks, each store goes by
/// what it knows, and may exceed the capacity by a sixteenth.
///
/// Ages go by the system's clock. A step of it is believed after ten minutes, and times in the
/// future become the present when they are seen, so that a clock that is set changes no order.
///
/// A file system that hangs blocks its callers: the constructor, lookup(), write() and erase() for
/// as long as it hangs, and a read blocks one of the store's threads (others take its place). The
/// destructor waits for all of them; nothing else does.
///
/// Thread:  Safe for concurrent use; not in the child of a fork(), where all calls fail with
///          `unsupported`, and the destructor does nothing
class CAKE_API PosixStorage {
 public:
  static constexpr StorageAbilities abilities{
      .lookup_problem = true, .write_new = true, .read_pieces = true, .read_on_caller = true};

  /// Stores an object, reads it back and erases it, to find out what the file system can do.
  ///
  /// Errors:  throws Exception, its text naming the directory and the remedy, when the parent is
  ///          missing, the directory cannot be created, is no directory, is not writable, is
  ///          another user's or writable by others, no object can be published in it, or its file
  ///          system is full
  explicit PosixStorage(const PosixOptions& options);
  /// Waits for every read.
  ~PosixStorage();
  PosixStorage(PosixStorage&&) noexcept;
  PosixStorage& operator=(PosixStorage&&) noexcept;

  /// Keys that could not be looked up count as absent as long as others could; lookup_problem()
  /// then says why.
  ///
  /// Errors:  io, out_of_memory: no key could be looked up
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey> keys);
  /// Why the last lookup() could not look up all its keys; ok: it could.
  Status lookup_problem() const;
  /// Needs:   offset, size and address of `out` are multiples of 4 KiB
  /// Errors:  not_found; corrupt: the file ends before the read does; io; unsupported: DirectIo::on
  ///          and the file system refused after all; out_of_memory
  PosixRead read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out);
  /// read(), telling of what each pread brought, on the thread that made it.
  PosixRead read_pieces(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                        MutableBytes out, std::shared_ptr<PieceSink> sink);
  /// Whether the file system is in memory (tmpfs, ramfs), so that a read is a copy by whoever asks.
  bool reads_on_caller(std::uint32_t tier) const;
  /// read() by the calling thread alone, without one of the store's threads.
  ///
  /// Errors:  as read()
  Status read_on_caller(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                        MutableBytes out);
  /// Needs:   the size is a multiple of 4 KiB; past the page cache only if the address is, too
  /// Errors:  out_of_memory: no room on the disk, or none within capacity_bytes or keep_free, or above
  ///          RLIMIT_FSIZE;
  ///          unsupported: the store only serves; io. Nothing is left behind
  Status write(const ChunkKey& key, ConstBytes bytes);
  /// write(), and whether this call made the object visible. False: one was there already.
  Result<bool> write_new(const ChunkKey& key, ConstBytes bytes);
  /// Errors:  unsupported: the store only serves, and nothing was erased; io
  Status erase(const ChunkKey& key);

  /// How long objects are kept: each step counts as four times younger when others are evicted. For what
  /// many prompts begin with. Of keys that are not stored nothing is remembered. Kept in the extended
  /// attribute user.cake.priority, so that all processes know it; an object that is written anew has
  /// priority 0 again.
  ///
  /// Needs:   `priority` is 0 to 3
  /// Errors:  invalid_argument; unsupported: the store only serves, or its file system has no extended
  ///          attributes; io
  Status set_priority(std::span<const ChunkKey> keys, int priority);

  /// The objects of one folder after the other: `from` is empty, or Listing::next, or the two hex digits
  /// of a folder. Nothing is opened. What is not a regular file of an object's name, or not trusted,
  /// counts as others; of links nothing is followed.
  ///
  /// Errors:  invalid_argument: no such part; io: the folder cannot be read
  Result<Listing> list(const std::string& from = {}) const;
  /// Evicts until all objects together have at most so many bytes, in the order of eviction, exactly:
  /// the whole store is looked at, and headers of all candidates are read.
  ///
  /// Errors:  unsupported: the store only serves; io: something could not be erased; the text says how
  ///          far it came
  Result<PosixTrim> trim(std::uint64_t bytes);

  bool direct() const;
  PosixStats stats() const;
  const std::filesystem::path& directory() const;

 private:
  std::unique_ptr<detail::PosixEngine> engine_;
};
static_assert(StorageBackend<PosixStorage>);

}  // namespace cake::inline CAKE_ABI
