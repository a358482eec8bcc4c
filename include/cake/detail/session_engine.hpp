// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What sessions and saves ask of an engine's KV, of whatever type: they are compiled once.
#pragma once

#include "cake/engine.hpp"
#include "cake/identity.hpp"
#include "cake/kv_layout.hpp"
#include "cake/result.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// insert() and extract() return when their completion is ready.
///
/// Errors:  exceptions of the engine are passed on
/// Thread:  as the engine
class SessionEngine {
 public:
  SessionEngine(const EngineAbilities& can, bool takes_gates)
      : abilities(can), gates(takes_gates) {}
  SessionEngine(const SessionEngine&) = delete;
  SessionEngine& operator=(const SessionEngine&) = delete;
  virtual ~SessionEngine() = default;

  virtual KvLayout layout() = 0;
  virtual ModelFingerprint fingerprint() = 0;
  virtual Status insert(const Slice& slice, const KvView& view) = 0;
  virtual Status extract(const Slice& slice, const MutableKvView& view) = 0;

  const EngineAbilities abilities;
  const bool gates;
};

template <KvMemory M>
class SessionEngineOf final : public SessionEngine {
 public:
  explicit SessionEngineOf(M& memory)
      : SessionEngine(engine_traits<M>::abilities, engine_traits<M>::gates()), memory_(memory) {}

  KvLayout layout() override { return memory_.layout(); }
  ModelFingerprint fingerprint() override { return memory_.fingerprint(); }
  Status insert(const Slice& slice, const KvView& view) override {
    return cake::await_completion(memory_.insert(slice, view));
  }
  Status extract(const Slice& slice, const MutableKvView& view) override {
    return cake::await_completion(memory_.extract(slice, view));
  }

 private:
  M& memory_;
};

}  // namespace cake::inline CAKE_ABI::detail
