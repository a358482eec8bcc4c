// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A prefetch as the lanes see it: a client that is in the background, whose reads are whole objects for
// the store and for nobody else.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "cake/detail/lane_client.hpp"
#include "cake/detail/process.hpp"
#include "cake/queued.hpp"
#include "src/core/queued_prompt.hpp"

namespace cake::inline CAKE_ABI::detail {

class Prefetch final : public LaneClient, public std::enable_shared_from_this<Prefetch> {
 public:
  /// Which tiers chunks are read from: those that the store promotes from, and that do not lend.
  struct Tiers {
    std::uint32_t promote = 0;  // bit set
    std::uint32_t lend = 0;
    bool on_device = false;  // reads land there, so that nothing is promoted
  };

  Prefetch(QueuedPrompt prompt, LaneHost& lanes, const PrefetchOptions& options, const Tiers& tiers,
           Time read_timeout);

  /// Gives it to the lanes.
  static PrefetchTicket start(std::shared_ptr<Prefetch> prefetch, const PrefetchOptions& options);

  bool ready() const;
  PrefetchReport wait() const;
  PrefetchReport report() const;
  void stop() noexcept;

  // ---- the lanes' side ----

  std::uint64_t largest_read() const noexcept override { return largest_read_; }
  std::optional<ReadTicket> next_read(LaneId lane, std::uint64_t max_bytes,
                                      bool& short_of_room) override;
  bool wanted(std::uint64_t read) noexcept override;
  std::shared_ptr<DigestingSink> sink(const ReadTicket&, ConstBytes) noexcept override {
    return nullptr;
  }
  bool landed(const ReadTicket& read, const Landed& landed) noexcept override;
  bool keeps_bytes() const noexcept override { return false; }
  void failed(const ReadTicket& read, const Error& error) noexcept override;
  void returned(const ReadTicket& read) noexcept override;
  std::optional<ReadTicket> join(const ReadTicket& other) noexcept override;
  std::uint64_t left_to_load(LaneId lane) const noexcept override;
  bool in_background() const noexcept override { return true; }

 private:
  struct Flight {
    std::uint64_t read = 0;
    LaneId lane = 0;
    Time deadline{0};  // steady_clock
  };
  using Chunks = std::vector<std::uint32_t>;  // by number; the last one is read next

  void plan(const PrefetchOptions& options, const Tiers& tiers);
  Status why_nothing(const Tiers& tiers) const;
  bool take(const ReadTicket& read);
  void settle(bool was_over) noexcept;
  bool over() const;

  const QueuedPrompt prompt_;
  LaneHost& lanes_;
  const std::uint32_t reads_at_once_;
  const Time read_timeout_;
  const ForkGuard made_here_;
  std::uint64_t largest_read_ = 0;
  mutable std::mutex mutex_;  // guards all below; under it none of the lanes' is taken
  mutable std::condition_variable changed_;
  std::vector<Chunks> waiting_;  // [lane]
  std::vector<Flight> flights_;
  PrefetchReport report_;
  std::uint64_t reads_ = 0;
  bool stopped_ = false;
};

}  // namespace cake::inline CAKE_ABI::detail
