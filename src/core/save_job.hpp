// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One save of a saver, which its ticket shares.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <utility>
#include <vector>

#include "cake/chunk/format.hpp"
#include "cake/detail/lane_client.hpp"
#include "cake/detail/process.hpp"
#include "cake/detail/session_engine.hpp"
#include "cake/identity.hpp"
#include "cake/save.hpp"
#include "cake/types.hpp"
#include "src/core/save_work.hpp"

namespace cake::inline CAKE_ABI::detail {

/// What the saver's mutex guards is said; the ticket's side is safe for concurrent use.
class SaveJob {
 public:
  SaveJob(std::unique_ptr<SessionEngine> engine, LaneStorage& storage, Tokens tokens,
          ChunkOptions chunks, std::stop_token caller)
      : engine_(std::move(engine)),
        tokens_(tokens.begin(), tokens.end()),
        options_(std::move(chunks)),
        work(*engine_, storage, tokens_, options_),
        tally(report) {
    caller_.emplace(std::move(caller), PassOn{&stop_});
  }

  SessionEngine& engine() { return *engine_; }
  const std::vector<TokenId>& tokens() const { return tokens_; }
  const ChunkOptions& options() const { return options_; }
  bool on_caller() const { return engine_->abilities.insert_on_caller; }
  bool stop_requested() const { return stop_.stop_requested(); }
  void request_stop() { stop_.request_stop(); }
  bool in_child() const { return made_here_.in_child(); }
  Status usable() const { return made_here_.check("a SaveTicket"); }

  bool done() const { return done_.load(); }
  void wait_extracted() const { wait(extracted_); }
  void wait_done() const { wait(done_); }
  void note_extracted() noexcept { note(extracted_); }
  /// The report stays as it is from here on.
  void note_done() noexcept {
    note(extracted_);
    note(done_);
  }

  /// Asks engine and store what there is to save, without the saver's mutex. `lanes`: that have to
  /// be able to load it again; null: none. Bytes of each object.
  Result<std::uint64_t> prepare(const LaneHost* lanes, RecentKeys* asked,
                                std::uint32_t write_after) {
    if (lanes != nullptr) {
      auto usable = lanes->usable();
      if (usable) {
        usable = fits_staging(engine_->layout(), options_, engine_->abilities.whole_chunks,
                              lanes->staging_budget());
      }
      if (!usable) return usable.error();
    }
    if (auto status = work.prepare(report, asked, write_after); !status) return status.error();
    if (work.chunks().empty()) return 0;
    tally.reserve(work.chunks().size());
    return work.geometry().object_bytes();
  }

  /// What prepare() has answered: chunks wait to be extracted, or there is nothing to do.
  void open(const Result<std::uint64_t>& prepared) noexcept {
    if (!prepared) nothing_saved(prepared.error());
    object_bytes = prepared.value_or(0);
    phase = Phase::open;
    last = prepared ? work.chunks().size() : 0;
    total = static_cast<std::uint32_t>(last);
    if (last == 0) note_extracted();
  }

  void nothing_saved(const Error& why) noexcept {
    tally.note(why);
    report.present = report.held_back = 0;
    if (options_.chunk_tokens != 0) {
      report.failed = static_cast<std::uint32_t>(tokens_.size() / options_.chunk_tokens);
    }
  }

  // Progress, for the ticket.
  std::atomic<std::uint32_t> total{0}, taken{0}, stored{0};
  std::atomic<std::uint64_t> stored_bytes{0};

 private:
  struct PassOn {
    std::stop_source* to;
    void operator()() const { to->request_stop(); }
  };
  void note(std::atomic<bool>& flag) noexcept {
    const std::lock_guard lock(mutex_);
    flag = true;
    changed_.notify_all();
  }
  void wait(const std::atomic<bool>& flag) const {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return flag.load(); });
  }

  const std::unique_ptr<SessionEngine> engine_;
  const std::vector<TokenId> tokens_;
  const ChunkOptions options_;
  std::stop_source stop_;
  std::optional<std::stop_callback<PassOn>> caller_;  // ends before `stop_`
  const ForkGuard made_here_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::atomic<bool> extracted_{false};
  std::atomic<bool> done_{false};

 public:
  // The saver's side, guarded by its mutex; report and tally are the ticket's once it is done.
  enum class Phase : std::uint8_t { fresh, preparing, open, checking };
  SaveReport report;
  SaveWork work;
  SaveTally tally;
  Phase phase = Phase::fresh;
  std::size_t first = 0;           // of the chunks that wait to be extracted,
  std::size_t last = 0;            // and behind the last one; the last one is next
  std::uint32_t extracting = 0;    // chunks, at this moment
  std::uint32_t on_their_way = 0;  // chunks that are extracted, or being so, and not written
  std::uint64_t object_bytes = 0;  // of each

  std::size_t waiting() const { return last - first; }
  /// Where the first chunk that waits begins in its prompt. Units: tokens.
  ///
  /// Needs:   one waits
  std::uint64_t lowest() const {
    return std::uint64_t{work.chunks()[first].chunk} * options_.chunk_tokens;
  }
  /// One more of its chunks may be extracted now.
  bool may_extract() const {
    return waiting() != 0 && extracting < engine_->abilities.parallel_extracts;
  }
  bool all_extracted() const { return waiting() == 0 && extracting == 0; }
  /// Nothing is left to be done but to count what is readable.
  bool all_written() const { return phase == Phase::open && waiting() == 0 && on_their_way == 0; }
  /// All that wait are lost.
  void give_up() {
    tally.lost(static_cast<std::uint32_t>(waiting()));
    first = last;
  }
};

}  // namespace cake::inline CAKE_ABI::detail
