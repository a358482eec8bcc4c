// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A saver, of whatever engines and store: all of Saver that is compiled once.
#pragma once

#include <memory>
#include <stop_token>

#include "cake/detail/lane_storage.hpp"
#include "cake/detail/session_engine.hpp"
#include "cake/export.hpp"
#include "cake/identity.hpp"
#include "cake/save.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI {

struct SaverOptions;
struct SaverStats;

namespace detail {

class IoLanesCore;

/// As Saver says.
class CAKE_API SaverCore {
 public:
  /// Into `storage`, or that of the lanes, which it borrows.
  SaverCore(std::unique_ptr<LaneStorage> storage, IoLanesCore* lanes, const SaverOptions& options);
  ~SaverCore();
  SaverCore(const SaverCore&) = delete;
  SaverCore& operator=(const SaverCore&) = delete;

  SaveTicket save(std::unique_ptr<SessionEngine> engine, Tokens tokens, ChunkOptions chunks,
                  std::stop_token stop);
  void flush();
  SaverStats stats() const;

 private:
  struct Inside;
  std::unique_ptr<Inside> inside_;
};

}  // namespace detail

}  // namespace cake::inline CAKE_ABI
