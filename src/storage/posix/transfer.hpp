// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One operation of a read, from its first byte to its last: what is left of it, and what an answer
// of the system means. Both engines carry out operations with it.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "directory.hpp"
#include "reader.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Thread:  Requires external synchronization
class Transfer {
 public:
  enum class Next {
    again,  // ask for rest() now
    later,  // ask for rest() after a while
    over,   // outcome() says how it ended
  };

  Transfer() = default;
  Transfer(OpenFile& file, std::uint64_t offset, MutableBytes out)
      : file_(&file), offset_(offset), out_(out) {}

  /// What is to be read now, and from where.
  MutableBytes rest() const { return out_.subspan(done_); }
  std::uint64_t offset() const { return offset_ + done_; }
  OpenFile& file() const { return *file_; }
  /// Call it before each question to the system: the file may lose O_DIRECT meanwhile.
  void ask() { direct_ = file_->direct; }
  bool direct() const { return direct_; }
  /// Takes the answer to a read of rest(): bytes, or a negative errno.
  Next answered(StoreDirectory& store, ssize_t answer);
  /// How it ended. Once.
  Status outcome();

 private:
  Next end(Status status) {
    status_ = std::move(status);
    return Next::over;
  }
  Next refused_direct(StoreDirectory& store);

  OpenFile* file_ = nullptr;
  std::uint64_t offset_ = 0;
  MutableBytes out_;
  std::size_t done_ = 0;
  int later_ = 0;
  bool direct_ = false;
  Status status_;
};

}  // namespace cake::inline CAKE_ABI::detail
