// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The loader: prefill() makes a prompt's KV resident as fast as computing and loading together can,
// save() stores it for the next time. A thin loop over PrefillSession; engines with a loop of their
// own use that instead.
#pragma once

#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "cake/chunk/writer.hpp"
#include "cake/concepts.hpp"
#include "cake/lanes.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/session.hpp"

namespace cake {

struct LoaderOptions {
  std::uint32_t chunk_tokens =
      256;  // unit of identity and storage: the same for saving and loading
  std::uint32_t max_step_tokens = 512;  // most tokens of one compute pass
  bool gated_steps = true;  // start the suffix behind the last loads, where the backend can
  LaneOptions lanes = {};
  SessionOptions session = {};
};

struct PrefillOptions {
  std::uint32_t resident = 0;  // tokens whose KV the engine holds already
  std::string salt = {};       // of the tenant
  std::stop_token stop = {};
};

/// What save() did. Units: chunks, bytes.
struct SaveReport {
  Status status;  // the first error; chunks before it are stored
  std::uint32_t written = 0;
  std::uint32_t present = 0;  // were stored already
  std::uint64_t bytes = 0;    // written
};

/// Composes an engine, a store and a scheduler. 10 lines:
///
///     Engine engine;
///     cake::PosixStorage storage({.directory = "/var/cache/kv"});
///     cake::Loader loader(engine, storage);
///     cake::PrefillReport report = loader.prefill(prompt);
///     if (!report.status) return fail(report.status.error().message());
///     puts(report.timeline().c_str());
///     loader.save(prompt);
///
/// Needs:   compute and storage outlive it
/// Thread:  one at a time; several loaders may share a store
template <ComputeBackend C, StorageBackend S, Scheduler Sch = MeetInTheMiddleScheduler>
class Loader {
 public:
  Loader(C& compute, S& storage, LoaderOptions options = {}, Sch scheduler = Sch())
      : compute_(compute),
        storage_(storage),
        options_(options),
        lanes_(storage, lane_options(compute, options_.lanes)),
        session_(compute, lanes_, std::move(scheduler), options_.session) {}

  /// Makes the KV of the whole prompt resident, and the logits of its last token.
  ///
  /// Errors:  in the report's status: canceled, or what a prefill of the engine returned. No I/O
  /// error is one: what
  ///          cannot be loaded is computed. Throws Exception(invalid_argument) as
  ///          PrefillSession::begin() does
  PrefillReport prefill(Tokens tokens, const PrefillOptions& options = {}) {
    session_.begin({.tokens = tokens,
                    .resident = options.resident,
                    .salt = options.salt,
                    .chunk_tokens = options_.chunk_tokens,
                    .max_step_tokens = options_.max_step_tokens,
                    .may_gate = PrefillsGated<C> && options_.gated_steps,
                    .stop = options.stop});
    std::deque<Running> running;  // steps that the device has not finished, oldest first
    for (;;) {
      const Step step = session_.next(options_.max_step_tokens);
      if (step.kind == Step::Kind::compute) {
        start(tokens, step, running);
      } else if (!running.empty()) {
        // The scheduler may want to see more of the loads before it says what comes behind this
        // one.
        const Time left = step.until - session_.now();
        if (left > std::chrono::hours(1) || wait_for(running.front().pass, left)) settle(running);
      } else if (step.kind == Step::Kind::finished) {
        break;
      } else {
        session_.wait(step.until);
      }
    }
    return session_.finish();
  }

  /// Stores every full chunk of the prompt that is not stored yet. Its KV must be resident in the
  /// engine.
  SaveReport save(Tokens tokens, const std::string& salt = {}) {
    SaveReport report;
    const KvLayout layout = compute_.layout();
    const ModelFingerprint fingerprint = compute_.fingerprint();
    const ChunkKey root = root_key(fingerprint, layout, options_.chunk_tokens, salt);
    const std::vector<ChunkKey> keys = prefix_chain(root, tokens, options_.chunk_tokens);
    if (keys.empty()) return report;
    const Result<std::vector<StoredChunk>> stored = storage_.lookup(keys);
    if (!stored) {
      report.status = stored.error();
      return report;
    }
    ChunkWriter writer(layout, options_.chunk_tokens);
    for (std::uint32_t c = 0; c < keys.size(); ++c) {
      const TokenRange range{c * options_.chunk_tokens, (c + 1) * options_.chunk_tokens};
      if ((*stored)[c].size == writer.geometry().object_bytes()) {
        ++report.present;
        continue;
      }
      report.status =
          wait(compute_.extract(Slice{c, range, {0, layout.n_layers}}, writer.payload()));
      if (!report.status) return report;
      const auto object =
          writer.finish({keys[c], c == 0 ? root : keys[c - 1], fingerprint, tenant_tag(salt),
                         range.begin, tokens.subspan(range.begin, range.size()), layout});
      report.status = object ? wait(storage_.write(keys[c], *object)) : Status(object.error());
      if (!report.status) return report;
      ++report.written;
      report.bytes += object->size();
    }
    return report;
  }

  IoLanes<S>& lanes() { return lanes_; }
  const LoaderOptions& options() const { return options_; }
  /// With what it has learned of this device so far.
  const Sch& scheduler() const { return session_.scheduler(); }

 private:
  /// An engine may bring the memory that its inserts copy from fastest: staging_memory(). One that
  /// inserts from device memory gets the storage's.
  static LaneOptions lane_options(C& compute, LaneOptions options) {
    if constexpr (requires {
                    { compute.staging_memory() } -> std::convertible_to<StagingMemory*>;
                  }) {
      if (options.staging == nullptr) options.staging = compute.staging_memory();
    }
    options.device = options.device || inserts_from_device<C>();
    return options;
  }
  static auto issue(C& compute, Tokens tokens, const Step& step, LayerGate gate) {
    if constexpr (PrefillsGated<C>) {
      return compute.prefill(tokens, step.tokens, gate);
    } else {
      return compute.prefill(tokens, step.tokens);
    }
  }
  using Pass = decltype(issue(std::declval<C&>(), Tokens(), Step(), LayerGate()));
  struct Running {
    Step step;
    Pass pass;
  };

  void start(Tokens tokens, const Step& step, std::deque<Running>& running) {
    try {
      if constexpr (std::same_as<Pass, Status>) {
        session_.done(step, step.tokens.size(), issue(compute_, tokens, step, session_.gate(step)));
      } else {
        running.push_back({step, issue(compute_, tokens, step, session_.gate(step))});
      }
    } catch (const std::exception& e) {
      session_.done(step, 0, Error{Errc::device, 0, std::string("prefill: ") + e.what()});
    }
  }

  /// Waits for the oldest step.
  void settle(std::deque<Running>& running) {
    Running oldest = std::move(running.front());
    running.pop_front();
    session_.done(oldest.step, oldest.step.tokens.size(), wait(std::move(oldest.pass)));
  }

  C& compute_;
  S& storage_;
  LoaderOptions options_;
  IoLanes<S> lanes_;
  PrefillSession<C, S, Sch> session_;
};

}  // namespace cake
