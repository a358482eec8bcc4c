// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The lanes, of whatever store: all of IoLanes that is compiled once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cake/detail/lane_storage.hpp"
#include "cake/export.hpp"
#include "cake/result.hpp"
#include "cake/scheduler/link_estimator.hpp"

namespace cake::inline CAKE_ABI {

class Calibration;
class DeviceStaging;
struct LaneOptions;
struct LanesState;

namespace detail {

class LaneHost;
class SaverCore;

/// As IoLanes says.
class CAKE_API IoLanesCore {
 public:
  IoLanesCore(std::unique_ptr<LaneStorage> storage, const LaneOptions& options);
  ~IoLanesCore();
  IoLanesCore(const IoLanesCore&) = delete;
  IoLanesCore& operator=(const IoLanesCore&) = delete;

  std::uint32_t lane_count() const;
  std::size_t threads() const;
  DeviceStaging* device() const;
  Status usable() const;
  std::vector<LinkEstimate> rates() const;
  std::uint64_t staging_bytes() const;
  const std::shared_ptr<Calibration>& calibration() const;
  std::uint64_t free_staging_bytes() const;
  std::size_t quarantined() const;
  LanesState state() const;
  LaneHost& host() const;
  LaneStorage& storage() const;
  /// With default options; made by the first call. In a child process it refuses every save, as the
  /// lanes are not usable there.
  SaverCore& saver();

 private:
  struct Inside;
  std::unique_ptr<Inside> inside_;
};

}  // namespace detail

}  // namespace cake::inline CAKE_ABI
