// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Finding out whether reads may go through cuFile, by trying.
#pragma once

#include <memory>

#include "cake/storage/gds.hpp"
#include "files.hpp"

namespace cake::inline CAKE_ABI::detail {

/// How far it went, and what a store needs to read through cuFile afterwards.
struct GdsProbe {
  std::vector<GdsCheckResult> checks;
  GdsMode mode = GdsMode::none;
  std::shared_ptr<cufile::Api> api;
  std::unique_ptr<StoreDirectory> store;
  bool registered = false;  // the arena is; whoever takes the probe deregisters it
};

/// Probes until a check fails. Leaves nothing behind but the library, its open driver and, as
/// `registered` says, the registration of the arena.
GdsProbe probe_gds(const GdsOptions& options, DeviceStaging* staging);

}  // namespace cake::inline CAKE_ABI::detail
