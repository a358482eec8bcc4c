// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Prompts that wait in an engine's queue. Admission: whether to begin with one now; pure, what the prompt
// needs and how the lanes stand goes in, an answer comes out. Prefetch: its chunks are brought from slower
// tiers into the fastest one, with what running prompts leave of the lanes.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <vector>

#include "cake/export.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/scheduler/compute_cost.hpp"
#include "cake/scheduler/link_estimator.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

// ---- admission ----

/// A prompt that waits. PrefillSession::needs() and Loader::needs() fill in all but the last three.
///
/// Units: tokens, bytes
struct PromptNeeds {
  std::uint32_t tokens = 0;                      // whose KV is not resident
  std::uint32_t resident_tokens = 0;             // before them
  std::uint32_t stored_tokens = 0;               // of them, which lanes could bring
  std::array<std::uint64_t, kMaxTiers> bytes{};  // that each lane has to bring for that
  std::uint64_t read_bytes = 0;                  // of its largest read
  std::uint32_t max_step_tokens = 512;
  /// What a pass takes; none: no session has measured this model, and only loads are counted.
  std::optional<ComputeCost> cost = {};
  /// Error of the lookup, if it failed: nothing is then taken to be stored.
  Status lookup = {};
  Time waited{0};             // since the prompt came
  Time device_busy{0};        // with what the engine computes for other prompts first
  Time ttft_target = kNever;  // from when it came
};

/// One lane, as it stands.
///
/// Units: bytes
struct LaneState {
  LinkEstimate rate;
  bool lends = false;                    // its reads take no staging memory
  std::uint64_t in_flight = 0;           // of reads under way
  std::vector<std::uint64_t> left = {};  // of each prompt that has begun: not read yet, and may be
};

/// All lanes: IoLanes::state().
struct LanesState {
  std::vector<LaneState> lanes;
  std::uint64_t staging_bytes = 0;
  std::uint64_t free_staging_bytes = 0;
  std::size_t prompts = 0;  // that have begun and not ended
};

struct AdmissionOptions {
  /// A prompt that would take more than this many times its time alone longer, on account of what the lanes
  /// carry first, waits; but no longer than so many times its time alone.
  double most_ahead = 4;
  /// Times alone below this count as this.
  Time floor = std::chrono::milliseconds(10);
};

enum class WaitsFor : std::uint8_t {
  nothing,         // begin
  staging_memory,  // there is none for its first read
  lanes,           // they carry much for other prompts first
  ttft_target,     // it would be missed, and could be met if nobody went first
};

/// Units: times from when the prompt came
struct Admission {
  WaitsFor waits_for = WaitsFor::nothing;
  /// Of the first token, if the prompt began now; and if it had lanes and device to itself.
  Time expected_ttft{0};
  Time alone_ttft{0};
  /// In about so long the answer may be another one; also when a prompt begins or ends.
  Time ask_again{0};
  bool now() const { return waits_for == WaitsFor::nothing; }
};

/// "Not now" is said on account of others alone: sooner or later each prompt is admitted. What the
/// engine does with one that misses its target, whether it waits, goes to another device or is refused, is
/// the engine's to say.
///
///     const cake::Admission answer = cake::admit(needs, lanes.state());
///     if (answer.now()) begin(prompt);
///
/// The time that a prompt would take is that of least_time() with what goes first on each lane: reads in
/// flight, and the prompts with no more left to load.
CAKE_API Admission admit(const PromptNeeds& needs, const LanesState& lanes,
                         const AdmissionOptions& options = {});

// ---- prefetch ----

struct PrefetchOptions {
  /// Of this prompt; none: the session's.
  std::optional<ChunkOptions> chunks = {};
  /// That are read at most: the last chunks of the prompt, which save the most compute. The fastest tier should
  /// hold what is prefetched for all prompts that wait. Units: bytes
  std::uint64_t most_bytes = ~std::uint64_t{0};
  /// Of each lane. A prompt that begins finds so many reads in its way. 0 counts as 1.
  std::uint32_t reads_at_once = 2;
  /// As PrefetchTicket::request_stop().
  std::stop_token stop = {};
};

/// Units: chunks, bytes. Every stored chunk counts once: as there, read, by_others, failed or left.
struct PrefetchReport {
  /// canceled: it was stopped. unsupported: there is nothing to prefetch into, and what to do about it.
  Status status;
  /// Error of the lookup, if it failed: nothing is then taken to be stored.
  Status lookup;
  /// The first failure of a read.
  Status load_error;
  std::uint32_t stored = 0;     // of the prompt
  std::uint32_t there = 0;      // in the fastest tier, or in memory that a slower one lends
  std::uint32_t read = 0;       // verified, and offered to the store
  std::uint32_t by_others = 0;  // a prompt that ran meanwhile has read it whole
  std::uint32_t failed = 0;     // to be read, or damaged: not offered, and not erased
  std::uint32_t left = 0;  // so far, or for good once it has ended: stopped, or beyond most_bytes
  std::uint64_t bytes_read = 0;
};

namespace detail {
class Prefetch;
}

/// A prefetch that goes on beside other work. Its destructor stops it and waits for nothing.
///
/// Needs:   the lanes outlive it
/// Thread:  Safe for concurrent use, but for moves. In a child process after fork() wait() returns at once
class CAKE_API PrefetchTicket {
 public:
  PrefetchTicket(PrefetchTicket&&) noexcept;
  PrefetchTicket& operator=(PrefetchTicket&&) noexcept;
  ~PrefetchTicket();

  /// All is read, or is not going to be. Copies into the fastest tier may still be under way:
  /// TieredStorage::flush() waits for those that the lanes have handed over.
  bool ready() const;
  /// Blocks until it is. It may take as long as running prompts leave nothing of the lanes.
  PrefetchReport wait() const;
  /// As it stands.
  PrefetchReport report() const;
  /// No read begins any more, and nobody waits for those under way.
  void request_stop() noexcept;

 private:
  struct Inside;
  friend class detail::Prefetch;
  explicit PrefetchTicket(std::unique_ptr<Inside> inside);
  std::unique_ptr<Inside> inside_;
};

}  // namespace cake::inline CAKE_ABI
