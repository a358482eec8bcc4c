// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What sessions and saves ask of an engine's KV, of whatever type: they are compiled once.
#pragma once

#include <concepts>
#include <memory>
#include <utility>

#include "cake/engine.hpp"
#include "cake/identity.hpp"
#include "cake/kv_layout.hpp"
#include "cake/result.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// An insert that may still run, of whatever type. As a Completion.
class PendingInsert {
 public:
  PendingInsert() = default;
  PendingInsert(const PendingInsert&) = delete;
  PendingInsert& operator=(const PendingInsert&) = delete;
  virtual ~PendingInsert() = default;
  virtual bool ready() = 0;
  virtual Status wait() = 0;
};

template <Completion C>
class PendingInsertOf final : public PendingInsert {
 public:
  explicit PendingInsertOf(C completion) : completion_(std::move(completion)) {}
  bool ready() override {
    if constexpr (std::same_as<C, Status>) {
      return true;
    } else {
      return completion_.ready();
    }
  }
  Status wait() override { return cake::await_completion(std::move(completion_)); }

 private:
  C completion_;
};

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
  /// insert() that has only begun. Never null.
  virtual std::unique_ptr<PendingInsert> begin_insert(const Slice& slice, const KvView& view) = 0;
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
  std::unique_ptr<PendingInsert> begin_insert(const Slice& slice, const KvView& view) override {
    using C = decltype(memory_.insert(slice, view));
    return std::make_unique<PendingInsertOf<C>>(memory_.insert(slice, view));
  }
  Status extract(const Slice& slice, const MutableKvView& view) override {
    return cake::await_completion(memory_.extract(slice, view));
  }

 private:
  M& memory_;
};

}  // namespace cake::inline CAKE_ABI::detail
