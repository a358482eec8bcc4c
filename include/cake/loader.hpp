// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The loader: engine, store and scheduler in one object. prefill() makes a prompt's KV resident as
// fast as computing and loading together can, save() stores it for the next time. A thin face of
// PrefillSession; engines with a loop of their own use that instead.
#pragma once

#include <memory>
#include <utility>

#include "cake/engine.hpp"
#include "cake/io_lanes.hpp"
#include "cake/queued.hpp"
#include "cake/save.hpp"
#include "cake/scheduler.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/session.hpp"
#include "cake/storage_backend.hpp"

namespace cake::inline CAKE_ABI {

struct LoaderOptions {
  ChunkOptions chunks = {};
  LaneOptions lanes = {};
  SessionOptions session = {};
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
/// Needs:   engine, and store or lanes outlive it
/// Thread:  one at a time; several loaders may share a store, or lanes
template <ComputeBackend C, StorageBackend S, Scheduler Sch = MeetInTheMiddleScheduler>
class Loader {
 public:
  /// With lanes of its own.
  Loader(C& compute, S& storage, LoaderOptions options = {}, Sch scheduler = Sch())
      : own_(std::make_unique<IoLanes<S>>(storage, lane_options(compute, options.lanes))),
        lanes_(*own_),
        session_(compute, lanes_, std::move(options.chunks), std::move(scheduler),
                 options.session) {}
  /// Borrows the lanes of the process, as a session does.
  Loader(C& compute, IoLanes<S>& lanes, ChunkOptions chunks = {}, Sch scheduler = Sch(),
         const SessionOptions& options = {})
      : lanes_(lanes), session_(compute, lanes, std::move(chunks), std::move(scheduler), options) {}

  /// As cake::prefill().
  PrefillReport prefill(Tokens tokens, const PrefillOptions& options = {}) {
    return cake::prefill(session_, tokens, options);
  }

  /// What a prompt that waits would need, for admit(), as PrefillSession::needs().
  PromptNeeds needs(Tokens tokens, const PrefillOptions& options = {}) const {
    return session_.needs(tokens, options);
  }

  /// Brings what is stored of a prompt that waits into the fastest tier, as PrefillSession::prefetch().
  PrefetchTicket prefetch(Tokens tokens, const PrefetchOptions& options = {}) const {
    return session_.prefetch(tokens, options);
  }

  /// Stores every full chunk of the tokens that is not stored yet. They are the last prompt's, its
  /// beginning, or go on with it; their KV must be resident in the engine. (A token that was
  /// sampled and not yet decoded has none.)
  ///
  /// Errors:  in the report, as PrefillSession::save(); none is thrown
  SaveReport save(Tokens tokens, const SaveOptions& options = {}) {
    return session_.save(tokens, options);
  }

  IoLanes<S>& lanes() { return lanes_; }
  const ChunkOptions& chunks() const { return session_.chunks(); }

 private:
  std::unique_ptr<IoLanes<S>> own_;  // none: borrowed
  IoLanes<S>& lanes_;
  PrefillSession<C, S, Sch> session_;
};

}  // namespace cake::inline CAKE_ABI
