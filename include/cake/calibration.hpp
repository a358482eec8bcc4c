// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What was measured while serving: the rate of each storage tier, and what a compute pass of each model
// costs. One object for a process; sessions start from it and teach it. A file keeps it over a restart.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cake/export.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"
#include "cake/scheduler/compute_cost.hpp"
#include "cake/scheduler/link_estimator.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

/// See the file's head. Lanes are given one and share it with all their sessions:
///
///     auto loaded = cake::Calibration::load("/var/lib/engine/calibration");
///     if (!loaded && loaded.error().code != cake::Errc::not_found) warn(loaded.error().message());
///     auto calibration = loaded.value_or(std::make_shared<cake::Calibration>());
///     cake::IoLanes lanes(storage, {.calibration = calibration});
///     ...
///     calibration->save("/var/lib/engine/calibration").value();   // now and then, and at the end
///
/// A file belongs to one storage on one machine. Compute costs are kept by the model's fingerprint: what
/// was measured for another model is kept, and not used.
///
/// Thread:  Safe for concurrent use
class CAKE_API Calibration {
 public:
  /// Of a tier of which nothing is known.
  static constexpr LinkEstimate kUnknownTier = {1e9, std::chrono::microseconds(100), Time{0}};

  /// `tier`: what is assumed of every tier until it was measured.
  explicit Calibration(const LinkEstimate& tier = kUnknownTier);
  /// `tiers`: what is assumed of each. Only a storage with as many tiers takes it.
  explicit Calibration(std::vector<LinkEstimate> tiers);
  Calibration(const Calibration&) = delete;
  Calibration& operator=(const Calibration&) = delete;
  ~Calibration();

  /// What save() has written.
  ///
  /// Errors:  not_found when there is no such file; corrupt when it is damaged or no calibration;
  ///          unsupported when another version of the library has written it; else io
  static Result<std::shared_ptr<Calibration>> load(const std::string& file);
  /// Writes a file beside it and renames that, so that the file is whole at all times. Its folder must be there.
  ///
  /// Errors:  io, out_of_memory
  Status save(const std::string& file) const;

  /// Lanes over a storage with `n` tiers begin to use it.
  ///
  /// Errors:  mismatch when it was measured for another number of tiers
  Status use(std::uint32_t n);

  /// Takes over what `other` knows of models, and nothing of its storage: for the same device over another storage.
  void take_models(const Calibration& other);

  // ---- for sessions ----

  /// What is known of each tier. Empty before use().
  std::vector<LinkEstimate> tiers() const;
  /// Beside what others have told meanwhile. A tier that does not exist teaches nothing.
  void learn(LaneId tier, const LinkEstimator& measured, Time now);

  /// What passes of this model cost; none: no session has measured it.
  std::optional<ComputeCostEstimator> compute(const ModelFingerprint& model) const;
  /// What a session has measured that began with what compute() said then. Passes that others have
  /// measured meanwhile count as well.
  void learn(const ModelFingerprint& model, const ComputeCostEstimator& measured);

 private:
  std::string text() const;
  static Result<std::shared_ptr<Calibration>> parse(std::string_view text, const std::string& name);

  mutable std::mutex mutex_;
  LinkEstimate unknown_;
  std::vector<LinkEstimate> tiers_;
  std::map<ModelFingerprint, ComputeCostEstimator> compute_;
};

}  // namespace cake::inline CAKE_ABI
