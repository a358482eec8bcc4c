// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What cake asks of a store of chunk objects. A store's author writes the members that the concept
// lists, puts a static_assert beside the type, and runs cake::testing::check() on it, which tests
// what a concept cannot say.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cake/detail/abilities.hpp"
#include "cake/engine.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/staging.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

/// Bytes of a stored object where they lie, lent by the store. Until this object ends they stay where
/// they are and as they are, whatever is written, evicted or erased meanwhile. Movable; empty once
/// it was moved from.
///
/// Needs:   the store outlives it
/// Thread:  may end on any thread
class BorrowedBytes {
 public:
  BorrowedBytes() = default;
  /// `loan`: the loan ends with it. `seal`: see seal().
  BorrowedBytes(ConstBytes bytes, std::shared_ptr<const void> loan,
                std::optional<std::uint32_t> seal = std::nullopt)
      : bytes_(bytes), seal_(seal), loan_(std::move(loan)) {}
  BorrowedBytes(BorrowedBytes&& other) noexcept
      : bytes_(std::exchange(other.bytes_, {})),
        seal_(std::exchange(other.seal_, std::nullopt)),
        loan_(std::move(other.loan_)) {}
  BorrowedBytes& operator=(BorrowedBytes&& other) noexcept {
    bytes_ = std::exchange(other.bytes_, {});
    seal_ = std::exchange(other.seal_, std::nullopt);
    loan_ = std::move(other.loan_);
    return *this;
  }

  ConstBytes bytes() const { return bytes_; }
  /// What verify_object() (chunk/reader.hpp) returned for the object whose bytes these are, which
  /// has not changed since. None: nobody verified it, or it is to be verified again.
  std::optional<std::uint32_t> seal() const { return seal_; }
  bool verified() const { return seal_.has_value(); }

 private:
  ConstBytes bytes_;
  std::optional<std::uint32_t> seal_;
  std::shared_ptr<const void> loan_;
};

/// Memory of a store in which an object is built where it will lie: nobody reads it before it is
/// published. What is not published goes back to the store when this ends. Movable; empty once it was
/// moved from.
///
/// Needs:   the store outlives it
/// Thread:  may end on any thread
class ObjectRoom {
 public:
  ObjectRoom() = default;
  /// `owner` is the store's: the memory is given back when the last one of it ends.
  ObjectRoom(MutableBytes bytes, std::shared_ptr<void> owner)
      : bytes_(bytes), owner_(std::move(owner)) {}
  ObjectRoom(ObjectRoom&& other) noexcept
      : bytes_(std::exchange(other.bytes_, {})), owner_(std::move(other.owner_)) {}
  ObjectRoom& operator=(ObjectRoom&& other) noexcept {
    bytes_ = std::exchange(other.bytes_, {});
    owner_ = std::move(other.owner_);
    return *this;
  }

  bool empty() const { return bytes_.empty(); }
  /// At a 4 KiB boundary, of any content.
  MutableBytes bytes() const { return bytes_; }
  const std::shared_ptr<void>& owner() const { return owner_; }

 private:
  MutableBytes bytes_;
  std::shared_ptr<void> owner_;
};

/// Told of the parts of a read as they arrive: whoever reads a part has it verified while it is in a
/// cache near by.
///
/// Thread:  Safe for concurrent use
class PieceSink {
 public:
  virtual ~PieceSink() = default;
  /// This part of `out` has arrived, and stays as it is. Told at most once of each byte, in any
  /// order, before the completion is ready; what is not told is verified afterwards. Takes as long
  /// as the digest of these bytes.
  virtual void arrived(ConstBytes piece) noexcept = 0;
};

/// What a store can do beyond the four members that every store has. All of it is optional, and all
/// of it is here: a store declares what it has,
///
///     static constexpr cake::StorageAbilities abilities{.erase_tier = true};
///
/// or specialises storage_traits. A name that is not a member here does not compile; nor does a
/// method of one of these names without its ability, or with another signature. What wraps a store
/// inherits all of them: abilities = storage_traits<Inner>::abilities.
/// cake::testing::describe(store) tells what was recognised.
struct StorageAbilities {
  /// std::uint32_t tiers(): how many there are, at most kMaxTiers; without it one.
  bool tiers = false;
  /// lookup() is a matter of memory alone: it is asked on the caller's thread, any other store on
  /// one with a deadline.
  bool lookup_never_blocks = false;
  /// Status lookup_problem(): why a part of the last lookup's keys could not be looked up; ok when
  /// all could.
  bool lookup_problem = false;
  /// Result<std::vector<StoredChunk>> lookup_tier(std::uint32_t tier, std::span<const ChunkKey>):
  /// as lookup(), of one tier. All are then asked at once, and one that hangs delays none.
  bool lookup_tier = false;
  /// Status erase_tier(std::uint32_t tier, ChunkKey): as erase(), of one tier. Where an object is
  /// damaged, good ones of other tiers stay.
  bool erase_tier = false;
  /// DeviceStaging* device_staging(): memory that read() fills at full speed, or null.
  bool device_staging = false;
  /// bool stored_bytes_differ(ChunkKey, std::uint64_t offset, ConstBytes): whether these bytes of a
  /// read, which failed verification, are not the stored ones. A chunk whose bytes are is damaged,
  /// and erased.
  bool stored_bytes_differ = false;
  /// Result<bool> write_new(ChunkKey, ConstBytes): as write(), blocking, and whether this call made
  /// the object visible; false: one was there.
  bool write_new = false;
  /// Result<ObjectRoom> make_room(ChunkKey, std::uint64_t bytes): memory for an object of at most so
  /// many bytes, in which a save builds it instead of having it copied; and Result<bool>
  /// publish(ChunkKey, ObjectRoom, std::uint64_t bytes, std::optional<std::uint32_t> seal): as
  /// write_new(), of the first bytes of a room that this store made for the key. `seal`: what
  /// verify_object() would return for them, from whoever digested them where they lie; none: the
  /// store verifies them if it verifies writes. make_room() may evict as a write does. Where it fails
  /// the object is written; `unsupported` says that there is never a room as things are set up.
  bool write_in_place = false;
  /// Result<BorrowedBytes> borrow(std::uint32_t tier, ChunkKey, std::uint64_t offset, std::uint64_t
  /// size): these bytes of an object where they lie, in host memory, instead of a copy; errors as of
  /// read(). A store with tiers() also has bool lends(std::uint32_t tier): whether this one lends.
  /// What a tier lends is not read any more, but by lanes that land in device memory.
  bool borrow = false;
  /// read_pieces(std::uint32_t tier, ChunkKey, std::uint64_t offset, MutableBytes out,
  /// std::shared_ptr<PieceSink>): as read(), with its completion, and tells the sink of each part of
  /// `out`, some 256 KiB to 4 MiB, on the thread that has just read it. `out` is in host memory. The
  /// store keeps the sink until the read has ended, also after it was abandoned.
  bool read_pieces = false;
  /// Status read_on_caller(std::uint32_t tier, ChunkKey, std::uint64_t offset, MutableBytes out): as
  /// read(), by the calling thread alone, which it blocks; and bool reads_on_caller(std::uint32_t
  /// tier): whether that is as fast as read(), since what the tier holds lies in memory and a read is
  /// a copy. Lanes then read such a tier in parts of 2 MiB or so with their own threads, into small
  /// buffers, and insert each part while the next one is read, where the engine takes that
  /// (EngineAbilities::inserts_parts) and bytes land on the host. Where all tiers are such, lookup() is
  /// asked on the caller's thread.
  bool read_on_caller = false;
  /// void promote(std::uint32_t tier, ChunkKey, BorrowedBytes object): a lane has read this whole
  /// object from the tier, and it was verified. The store may copy it into a faster tier, later: the
  /// loan is staging memory, which the lanes wait for. Empty: there was none to spare. Returns at once.
  /// A store may say with bool promotes(std::uint32_t tier) whether it copies every object of this tier
  /// that it is offered, as a prefetch wants; without that it is taken to do so.
  bool promote = false;
};

template <class S>
struct storage_traits;
template <class S>
struct storage_calls;

namespace detail {
template <class S>
constexpr bool storage_abilities_hold();
}  // namespace detail

/// Keeps chunk objects by key, in one or several tiers.
///
///     Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey>);  // one entry per key
///     // ok: every byte arrived
///     Completion read(std::uint32_t tier, ChunkKey, std::uint64_t offset, MutableBytes out);
///     Completion write(ChunkKey, ConstBytes);  // all or nothing; the first one wins
///     Status erase(ChunkKey);                  // not there is ok
///
/// What else a store may offer is a member of StorageAbilities.
///
/// `out` stays valid until the completion is ready, also after the read was abandoned; a backend
/// copies the keys it keeps. `out`, `offset` and its size are multiples of 4 KiB whenever the
/// object's size is.
///
/// Thread:  any number of threads at once
template <class S>
concept StorageBackend = requires(S& s, std::span<const ChunkKey> keys, const ChunkKey& key,
                                  std::uint32_t tier, std::uint64_t offset, MutableBytes out,
                                  ConstBytes in) {
  { s.lookup(keys) } -> std::same_as<Result<std::vector<StoredChunk>>>;
  { s.read(tier, key, offset, out) } -> Completion;
  { s.write(key, in) } -> Completion;
  { s.erase(key) } -> std::same_as<Status>;
}
&&detail::storage_abilities_hold<S>();

/// What a store can do, and calls of what it may leave out. Specialised for a store that cannot
/// declare it itself:
///
///     template <>
///     struct cake::storage_traits<Theirs> : cake::storage_calls<Theirs> {
///       static constexpr cake::StorageAbilities abilities{.lookup_never_blocks = true};
///     };
template <class S>
struct storage_traits : storage_calls<S> {
  static constexpr StorageAbilities abilities = detail::declared_abilities<S, StorageAbilities>();
};

/// The calls of storage_traits: each says what is done for a store that has not the ability.
///
/// Errors:  exceptions of the store are passed on
/// Thread:  as the store
template <class S>
struct storage_calls {
  /// Else 1.
  static std::uint32_t tiers(S& storage) {
    if constexpr (storage_traits<S>::abilities.tiers) {
      return storage.tiers();
    } else {
      return 1;
    }
  }
  /// lookup() of one tier; else that tier's part of the whole answer.
  static Result<std::vector<StoredChunk>> lookup_in_tier(S& storage, std::uint32_t tier,
                                                         std::span<const ChunkKey> keys) {
    if constexpr (storage_traits<S>::abilities.lookup_tier) {
      return storage.lookup_tier(tier, keys);
    } else {
      Result<std::vector<StoredChunk>> found = storage.lookup(keys);
      if (found) {
        for (StoredChunk& chunk : *found) chunk.tiers &= 1u << tier;
      }
      return found;
    }
  }
  /// erase() in one tier; else in all.
  static Status erase_in_tier(S& storage, std::uint32_t tier, const ChunkKey& key) {
    if constexpr (storage_traits<S>::abilities.erase_tier) {
      return storage.erase_tier(tier, key);
    } else {
      return storage.erase(key);
    }
  }
  /// The memory that the store reads into at full speed; else null.
  static DeviceStaging* device_staging(S& storage) {
    if constexpr (storage_traits<S>::abilities.device_staging) {
      return storage.device_staging();
    } else {
      return nullptr;
    }
  }
  /// Why the last lookup() left out some keys; else ok.
  static Status lookup_problem(S& storage) {
    if constexpr (storage_traits<S>::abilities.lookup_problem) {
      return storage.lookup_problem();
    } else {
      return {};
    }
  }
  /// Whether these bytes, which were read, are not the stored ones; else false.
  static bool stored_bytes_differ(S& storage, const ChunkKey& key, std::uint64_t offset,
                                  ConstBytes bytes) {
    if constexpr (storage_traits<S>::abilities.stored_bytes_differ) {
      return storage.stored_bytes_differ(key, offset, bytes);
    } else {
      return false;
    }
  }
  /// Whether borrow() works for this tier; else false.
  static bool lends([[maybe_unused]] S& storage, [[maybe_unused]] std::uint32_t tier) {
    constexpr StorageAbilities can = storage_traits<S>::abilities;
    if constexpr (can.borrow && can.tiers) {
      return storage.lends(tier);
    } else {
      return can.borrow;
    }
  }
  /// Else unsupported.
  static Result<BorrowedBytes> borrow(S& storage, std::uint32_t tier, const ChunkKey& key,
                                      std::uint64_t offset, std::uint64_t size) {
    if constexpr (storage_traits<S>::abilities.borrow) {
      return storage.borrow(tier, key, offset, size);
    } else {
      return Error{Errc::unsupported, 0, "borrow: this storage does not lend its bytes"};
    }
  }
  /// Reads and tells `sink` of the parts; else reads.
  static auto read_pieces(S& storage, std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                          MutableBytes out, [[maybe_unused]] std::shared_ptr<PieceSink> sink) {
    if constexpr (storage_traits<S>::abilities.read_pieces) {
      return storage.read_pieces(tier, key, offset, out, std::move(sink));
    } else {
      return storage.read(tier, key, offset, out);
    }
  }
  /// Whether read_on_caller() is the better read of this tier; else false.
  static bool reads_on_caller([[maybe_unused]] S& storage, [[maybe_unused]] std::uint32_t tier) {
    if constexpr (storage_traits<S>::abilities.read_on_caller) {
      return storage.reads_on_caller(tier);
    } else {
      return false;
    }
  }
  /// Reads with the calling thread alone; else by read(), waiting for it.
  static Status read_on_caller(S& storage, std::uint32_t tier, const ChunkKey& key,
                               std::uint64_t offset, MutableBytes out) {
    if constexpr (storage_traits<S>::abilities.read_on_caller) {
      return storage.read_on_caller(tier, key, offset, out);
    } else {
      return cake::await_completion(storage.read(tier, key, offset, out));
    }
  }
  /// Offers a whole object that was read from the tier; else nothing.
  static void promote([[maybe_unused]] S& storage, [[maybe_unused]] std::uint32_t tier,
                      [[maybe_unused]] const ChunkKey& key, [[maybe_unused]] BorrowedBytes object) {
    if constexpr (storage_traits<S>::abilities.promote) {
      storage.promote(tier, key, std::move(object));
    }
  }
  /// Whether all objects of the tier that are offered are copied into a faster one.
  static bool promotes([[maybe_unused]] S& storage, [[maybe_unused]] std::uint32_t tier) {
    if constexpr (!storage_traits<S>::abilities.promote) {
      return false;
    } else if constexpr (requires {
                           { storage.promotes(tier) } -> std::same_as<bool>;
                         }) {
      return storage.promotes(tier);
    } else {
      return true;
    }
  }
  /// Else an empty room.
  static Result<ObjectRoom> make_room([[maybe_unused]] S& storage,
                                      [[maybe_unused]] const ChunkKey& key,
                                      [[maybe_unused]] std::uint64_t bytes) {
    if constexpr (storage_traits<S>::abilities.write_in_place) {
      return storage.make_room(key, bytes);
    } else {
      return ObjectRoom();
    }
  }
  /// Else unsupported.
  static Result<bool> publish([[maybe_unused]] S& storage, [[maybe_unused]] const ChunkKey& key,
                              [[maybe_unused]] ObjectRoom room,
                              [[maybe_unused]] std::uint64_t bytes,
                              [[maybe_unused]] std::optional<std::uint32_t> seal) {
    if constexpr (storage_traits<S>::abilities.write_in_place) {
      return storage.publish(key, std::move(room), bytes, seal);
    } else {
      return Error{Errc::unsupported, 0, "publish: this storage has no rooms for objects"};
    }
  }
  /// Writes, and tells whether this call made the object visible. A store that does not say counts
  /// as having done so.
  static Result<bool> write_and_tell(S& storage, const ChunkKey& key, ConstBytes bytes) {
    if constexpr (storage_traits<S>::abilities.write_new) {
      return storage.write_new(key, bytes);
    } else {
      const Status status = cake::await_completion(storage.write(key, bytes));
      if (!status) return status.error();
      return true;
    }
  }
};

namespace detail {

template <class S>
concept HasTiers = requires(S& s) {
  { s.tiers() } -> std::convertible_to<std::uint32_t>;
};
template <class S>
concept HasLookupProblem = requires(S& s) {
  { s.lookup_problem() } -> std::same_as<Status>;
};
template <class S>
concept HasLookupTier = requires(S& s, std::uint32_t tier, std::span<const ChunkKey> keys) {
  { s.lookup_tier(tier, keys) } -> std::same_as<Result<std::vector<StoredChunk>>>;
};
template <class S>
concept HasEraseTier = requires(S& s, std::uint32_t tier, const ChunkKey& key) {
  { s.erase_tier(tier, key) } -> std::same_as<Status>;
};
template <class S>
concept HasDeviceStaging = requires(S& s) {
  { s.device_staging() } -> std::convertible_to<DeviceStaging*>;
};
template <class S>
concept HasStoredBytesDiffer = requires(S& s, const ChunkKey& key, std::uint64_t offset,
                                        ConstBytes bytes) {
  { s.stored_bytes_differ(key, offset, bytes) } -> std::convertible_to<bool>;
};
template <class S>
concept HasWriteNew = requires(S& s, const ChunkKey& key, ConstBytes bytes) {
  { s.write_new(key, bytes) } -> std::same_as<Result<bool>>;
};
template <class S>
concept HasBorrow = requires(S& s, std::uint32_t tier, const ChunkKey& key, std::uint64_t bytes) {
  { s.borrow(tier, key, bytes, bytes) } -> std::same_as<Result<BorrowedBytes>>;
};
template <class S>
concept HasReadPieces = requires(S& s, std::uint32_t tier, const ChunkKey& key, MutableBytes out,
                                 std::shared_ptr<PieceSink> sink) {
  { s.read_pieces(tier, key, 0, out, sink) } -> std::same_as<decltype(s.read(tier, key, 0, out))>;
};
template <class S>
concept HasPromote = requires(S& s, std::uint32_t tier, const ChunkKey& key, BorrowedBytes object) {
  { s.promote(tier, key, std::move(object)) } -> std::same_as<void>;
};
template <class S>
concept HasRooms = requires(S& s, const ChunkKey& key, std::uint64_t bytes, ObjectRoom room,
                            std::optional<std::uint32_t> seal) {
  { s.make_room(key, bytes) } -> std::same_as<Result<ObjectRoom>>;
  { s.publish(key, std::move(room), bytes, seal) } -> std::same_as<Result<bool>>;
};
template <class S>
concept HasReadOnCaller = requires(S& s, const ChunkKey& key, std::uint32_t tier,
                                   MutableBytes out) {
  { s.read_on_caller(tier, key, 0, out) } -> std::same_as<Status>;
  { s.reads_on_caller(tier) } -> std::same_as<bool>;
};
template <class S>
concept HasLends = requires(S& s, std::uint32_t tier) {
  { s.lends(tier) } -> std::same_as<bool>;
};

/// As storage_abilities_hold(), of promote().
template <class S>
constexpr bool promote_holds() {
  constexpr StorageAbilities can = storage_traits<S>::abilities;
  static_assert(!can.promote || HasPromote<S>,
                "cake: the ability promote asks for: void "
                "promote(std::uint32_t tier, const cake::ChunkKey&, cake::BorrowedBytes object)");
  static_assert(
      can.promote || !requires { &S::promote; },
      "cake: a store with promote() has to declare it: "
      "static constexpr cake::StorageAbilities abilities{.promote = true}");
  return true;
}

/// As storage_abilities_hold(), of rooms.
template <class S>
constexpr bool rooms_hold() {
  constexpr StorageAbilities can = storage_traits<S>::abilities;
  static_assert(!can.write_in_place || HasRooms<S>,
                "cake: the ability write_in_place asks for: cake::Result<cake::ObjectRoom> "
                "make_room(const cake::ChunkKey&, std::uint64_t bytes) and cake::Result<bool> "
                "publish(const cake::ChunkKey&, cake::ObjectRoom, std::uint64_t bytes, "
                "std::optional<std::uint32_t> seal)");
  static_assert(
      can.write_in_place || (
                                !requires { &S::make_room; } && !requires { &S::publish; }),
      "cake: a store with make_room() or publish() has to declare it: "
      "static constexpr cake::StorageAbilities abilities{.write_in_place = true}");
  return true;
}

/// As storage_abilities_hold(), of read_on_caller().
template <class S>
constexpr bool read_on_caller_holds() {
  constexpr StorageAbilities can = storage_traits<S>::abilities;
  static_assert(!can.read_on_caller || HasReadOnCaller<S>,
                "cake: the ability read_on_caller asks for: cake::Status "
                "read_on_caller(std::uint32_t tier, const cake::ChunkKey&, std::uint64_t offset, "
                "cake::MutableBytes out), and bool reads_on_caller(std::uint32_t tier)");
  static_assert(can.read_on_caller ||
                    (
                        !requires { &S::read_on_caller; } && !requires { &S::reads_on_caller; }),
                "cake: a store with read_on_caller() or reads_on_caller() has to declare it: "
                "static constexpr cake::StorageAbilities abilities{.read_on_caller = true}");
  return true;
}

/// Stops the compiler where a store's members and its abilities contradict each other.
template <class S>
constexpr bool storage_abilities_hold() {
  using Traits = storage_traits<S>;
  static_assert(std::same_as<decltype(Traits::abilities), const StorageAbilities>,
                "cake: storage_traits of a store has to have: "
                "static constexpr cake::StorageAbilities abilities");
  constexpr StorageAbilities can = Traits::abilities;
  static_assert(!can.tiers || HasTiers<S>,
                "cake: the ability tiers asks for: std::uint32_t tiers()");
  static_assert(!can.lookup_problem || HasLookupProblem<S>,
                "cake: the ability lookup_problem asks for: cake::Status lookup_problem()");
  static_assert(!can.lookup_tier || HasLookupTier<S>,
                "cake: the ability lookup_tier asks for: "
                "cake::Result<std::vector<cake::StoredChunk>> "
                "lookup_tier(std::uint32_t tier, std::span<const cake::ChunkKey>)");
  static_assert(!can.erase_tier || HasEraseTier<S>,
                "cake: the ability erase_tier asks for: "
                "cake::Status erase_tier(std::uint32_t tier, const cake::ChunkKey&)");
  static_assert(!can.device_staging || HasDeviceStaging<S>,
                "cake: the ability device_staging asks for: cake::DeviceStaging* device_staging()");
  static_assert(
      !can.stored_bytes_differ || HasStoredBytesDiffer<S>,
      "cake: the ability stored_bytes_differ asks for: bool "
      "stored_bytes_differ(const cake::ChunkKey&, std::uint64_t offset, cake::ConstBytes)");
  static_assert(!can.write_new || HasWriteNew<S>,
                "cake: the ability write_new asks for: "
                "cake::Result<bool> write_new(const cake::ChunkKey&, cake::ConstBytes)");
  static_assert(!can.borrow || HasBorrow<S>,
                "cake: the ability borrow asks for: cake::Result<cake::BorrowedBytes> "
                "borrow(std::uint32_t tier, const cake::ChunkKey&, std::uint64_t offset, "
                "std::uint64_t size)");
  static_assert(!can.borrow || !can.tiers || HasLends<S>,
                "cake: the abilities borrow and tiers together ask for: "
                "bool lends(std::uint32_t tier)");
  static_assert(!can.read_pieces || HasReadPieces<S>,
                "cake: the ability read_pieces asks for a member that returns what read() returns: "
                "read_pieces(std::uint32_t tier, const cake::ChunkKey&, std::uint64_t offset, "
                "cake::MutableBytes out, std::shared_ptr<cake::PieceSink>)");
  static_assert((can.tiers || !requires { &S::tiers; }) &&
                    (can.lookup_problem || !requires { &S::lookup_problem; }) &&
                    (can.lookup_tier || !requires { &S::lookup_tier; }) &&
                    (can.erase_tier || !requires { &S::erase_tier; }) &&
                    (can.device_staging || !requires { &S::device_staging; }) &&
                    (can.stored_bytes_differ || !requires { &S::stored_bytes_differ; }) &&
                    (can.write_new || !requires { &S::write_new; }) &&
                    (can.borrow || !requires { &S::borrow; }) &&
                    (can.borrow || !requires { &S::lends; }) &&
                    (can.read_pieces || !requires { &S::read_pieces; }),
                "cake: a store with tiers(), lookup_problem(), lookup_tier(), erase_tier(), "
                "device_staging(), stored_bytes_differ(), write_new(), borrow(), lends() or "
                "read_pieces() has to declare it: "
                "static constexpr cake::StorageAbilities abilities{.tiers = true}");
  static_assert(
      !requires { S::lookup_never_blocks; },
      "cake: lookup_never_blocks is no member of a store, but of its abilities: "
      "static constexpr cake::StorageAbilities abilities{.lookup_never_blocks = true}");
  return promote_holds<S>() && rooms_hold<S>() && read_on_caller_holds<S>();
}

}  // namespace detail

}  // namespace cake::inline CAKE_ABI
