// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The lanes, of whatever store: all of IoLanes that is compiled once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "cake/calibration.hpp"
#include "cake/detail/lane_client.hpp"
#include "cake/detail/lane_storage.hpp"
#include "cake/export.hpp"

namespace cake::inline CAKE_ABI {

struct LaneOptions;

namespace detail {

/// As IoLanes says.
class CAKE_API IoLanesCore {
 public:
  IoLanesCore(std::unique_ptr<LaneStorage> storage, const LaneOptions& options);
  ~IoLanesCore();
  IoLanesCore(const IoLanesCore&) = delete;
  IoLanesCore& operator=(const IoLanesCore&) = delete;

  std::size_t threads() const;
  const std::shared_ptr<Calibration>& calibration() const;
  std::uint64_t free_staging_bytes() const;
  std::size_t quarantined() const;
  LaneHost& host() const;

 private:
  struct Inside;
  std::unique_ptr<Inside> inside_;
};

}  // namespace detail

}  // namespace cake::inline CAKE_ABI
