// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// PrefillSession, of whatever engine, store and scheduler: all of it that is compiled once.
#pragma once

#include <cstdint>
#include <memory>

#include "cake/detail/io_lanes_core.hpp"
#include "cake/detail/session_engine.hpp"
#include "cake/detail/session_scheduler.hpp"
#include "cake/engine.hpp"
#include "cake/export.hpp"
#include "cake/identity.hpp"
#include "cake/queued.hpp"
#include "cake/report.hpp"
#include "cake/result.hpp"
#include "cake/save.hpp"
#include "cake/scheduler.hpp"
#include "cake/session_options.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Each member is as PrefillSession says.
///
/// Needs:   engine, lanes and scheduler outlive it; each run has a copy of the scheduler
class CAKE_API SessionRun {
 public:
  SessionRun(SessionEngine& engine, IoLanesCore& lanes, const AnyScheduler& scheduler,
             ChunkOptions chunks, const SessionOptions& options);
  ~SessionRun();
  SessionRun(const SessionRun&) = delete;
  SessionRun& operator=(const SessionRun&) = delete;

  void begin(Tokens tokens, const PrefillOptions& prompt);
  Step next(std::uint32_t budget, bool may_gate);
  LayerGate gate(const Step& step);
  void done(const Step& step, std::uint32_t tokens, const Status& status);
  void wait(Time until);
  Time now() const;
  PrefillReport finish();
  PromptNeeds needs(Tokens tokens, const PrefillOptions& prompt) const;
  PrefetchTicket prefetch(Tokens tokens, const PrefetchOptions& options) const;
  SaveReport save(Tokens tokens, const SaveOptions& options);

  const ChunkOptions& chunks() const;
  const SessionOptions& options() const;

 private:
  struct Inside;
  std::unique_ptr<Inside> inside_;
};

}  // namespace cake::inline CAKE_ABI::detail
