// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a session asks of a scheduler, of whatever type: sessions are compiled once.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "cake/scheduler.hpp"
#include "cake/scheduler/compute_cost.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Errors:  exceptions of the scheduler are passed on
/// Thread:  as the scheduler
class SessionScheduler {
 public:
  SessionScheduler() = default;
  SessionScheduler& operator=(const SessionScheduler&) = delete;
  virtual ~SessionScheduler() = default;

  /// Another one in the same state.
  virtual std::unique_ptr<SessionScheduler> copy() const = 0;

  virtual void begin(const PrefillSpec& spec) = 0;
  virtual Step next_step(const RunView& view, std::uint32_t budget, Time now) = 0;
  virtual std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) = 0;

  // What a scheduler may leave out:

  /// Else none.
  virtual std::optional<Step> step_at_once(const RunView& view, std::uint32_t budget, Time now) = 0;
  /// Else never.
  virtual Time gate_until(const RunView& view, Time now) = 0;
  virtual bool reconsiders_gates() const = 0;
  /// Else 0.
  virtual std::uint32_t predicted_meet(const RunView& view, Time now) = 0;
  /// The report's seconds of compute; else as they are.
  virtual void tell_compute_cost(double& per_token, double& per_position) const = 0;
  virtual void calibrate(const ComputeCostEstimator& measured) = 0;
  virtual void ended(const RunView& view) = 0;
  /// Null: it measures nothing.
  virtual const ComputeCostEstimator* measured_compute() const = 0;

 protected:
  SessionScheduler(const SessionScheduler&) = default;
};

template <Scheduler S>
class SessionSchedulerOf final : public SessionScheduler {
 public:
  explicit SessionSchedulerOf(S scheduler) : scheduler_(std::move(scheduler)) {}

  const S& scheduler() const { return scheduler_; }

  std::unique_ptr<SessionScheduler> copy() const override {
    return std::make_unique<SessionSchedulerOf>(*this);
  }
  void begin(const PrefillSpec& spec) override { scheduler_.begin(spec); }
  Step next_step(const RunView& view, std::uint32_t budget, Time now) override {
    return scheduler_.next_step(view, budget, now);
  }
  std::optional<LoadRequest> next_load(const RunView& view, LaneId lane, Time now) override {
    return scheduler_.next_load(view, lane, now);
  }
  std::optional<Step> step_at_once([[maybe_unused]] const RunView& view,
                                   [[maybe_unused]] std::uint32_t budget,
                                   [[maybe_unused]] Time now) override {
    if constexpr (AnswersAtOnce<S>) {
      return scheduler_.step_at_once(view, budget, now);
    } else {
      return std::nullopt;
    }
  }
  Time gate_until([[maybe_unused]] const RunView& view, [[maybe_unused]] Time now) override {
    if constexpr (ReconsidersGates<S>) {
      return scheduler_.gate_until(view, now);
    } else {
      return kNever;
    }
  }
  bool reconsiders_gates() const override { return ReconsidersGates<S>; }
  std::uint32_t predicted_meet([[maybe_unused]] const RunView& view,
                               [[maybe_unused]] Time now) override {
    if constexpr (PredictsMeet<S>) {
      return scheduler_.predicted_meet(view, now);
    } else {
      return 0;
    }
  }
  void tell_compute_cost([[maybe_unused]] double& per_token,
                         [[maybe_unused]] double& per_position) const override {
    if constexpr (TellsComputeCost<S>) {
      per_token = scheduler_.compute_cost().per_token;
      per_position = scheduler_.compute_cost().per_position;
    }
  }
  void calibrate([[maybe_unused]] const ComputeCostEstimator& measured) override {
    if constexpr (requires { scheduler_.calibrate(measured); }) scheduler_.calibrate(measured);
  }
  void ended([[maybe_unused]] const RunView& view) override {
    if constexpr (SeesTheEnd<S>) scheduler_.ended(view);
  }
  const ComputeCostEstimator* measured_compute() const override {
    if constexpr (requires {
                    {
                      scheduler_.measured_compute()
                      } -> std::convertible_to<const ComputeCostEstimator*>;
                  }) {
      return scheduler_.measured_compute();
    } else {
      return nullptr;
    }
  }

 private:
  S scheduler_;
};

/// A scheduler of any type, as a value. Empty once it was moved from.
class AnyScheduler {
 public:
  template <Scheduler S>
  explicit AnyScheduler(S scheduler)
      : scheduler_(std::make_unique<SessionSchedulerOf<S>>(std::move(scheduler))) {}
  AnyScheduler(const AnyScheduler& other) : scheduler_(other.scheduler_->copy()) {}
  AnyScheduler(AnyScheduler&&) noexcept = default;
  AnyScheduler& operator=(AnyScheduler other) noexcept {
    scheduler_ = std::move(other.scheduler_);
    return *this;
  }
  ~AnyScheduler() = default;

  SessionScheduler* operator->() { return scheduler_.get(); }
  const SessionScheduler* operator->() const { return scheduler_.get(); }
  /// Needs:   it is one of this type
  template <Scheduler S>
  const S& as() const {
    return static_cast<const SessionSchedulerOf<S>&>(*scheduler_).scheduler();
  }

 private:
  std::unique_ptr<SessionScheduler> scheduler_;
};

}  // namespace cake::inline CAKE_ABI::detail
