// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A session as the I/O lanes see it.
#pragma once

#include <cstdint>
#include <optional>

#include "cake/detail/read_table.hpp"
#include "cake/result.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

/// A session as the lanes see it. The lanes share its ownership while a read of it is under way.
class LaneClient {
 public:
  virtual ~LaneClient() = default;
  /// Claims the next read for a lane that has room for `max_bytes`; `short_of_room` when there
  /// would be one for more bytes. Called with the lanes locked: must not call them.
  virtual std::optional<ReadTicket> next_read(LaneId lane, std::uint64_t max_bytes,
                                            bool& short_of_room) = 0;
  virtual bool wanted(std::uint64_t read) noexcept = 0;
  /// Takes the bytes of a good read. They are the lane's again when it returns, or, where
  /// keeps_bytes(), when it calls IoLanes::give_back().
  virtual void landed(const ReadTicket& read, MutableBytes bytes) noexcept = 0;
  virtual bool keeps_bytes() const noexcept = 0;
  virtual void failed(const ReadTicket& read, const Error& error) noexcept = 0;
  /// There was no memory for the read; it may be claimed again.
  virtual void returned(const ReadTicket& read) noexcept = 0;
};

}  // namespace cake::inline CAKE_ABI::detail
