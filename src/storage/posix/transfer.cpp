// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "transfer.hpp"

#include <fcntl.h>

#include <cerrno>

#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

// A read that is told to come later tries again so many times.
constexpr int kMostLater = 1000;

void clear_direct(OpenFile& file) {
  ::fcntl(file.fd.get(), F_SETFL, ::fcntl(file.fd.get(), F_GETFL) & ~O_DIRECT);
}

}  // namespace

/// Taken at open and refused at use. The flag follows the file's own state: whoever sees it down
/// meets no refusal any more.
Transfer::Next Transfer::refused_direct(StoreDirectory& store) {
  if (store.options().direct == DirectIo::on) {
    store.give_up_direct();
    return end(Error{Errc::unsupported, EINVAL, "the file system refuses O_DIRECT"});
  }
  clear_direct(*file_);
  if (file_->direct.exchange(false)) store.give_up_direct();  // once for this file
  return Next::again;
}

Status Transfer::outcome() {
  Status status = std::move(status_);
  return status;
}

Transfer::Next Transfer::answered(StoreDirectory& store, ssize_t answer) {
  if (answer == -EINTR) return Next::again;
  // Some mounts know O_NONBLOCK.
  if (answer == -EAGAIN && later_++ < kMostLater) return Next::later;
  if ((answer == -EINVAL || answer == -EOPNOTSUPP) && direct_) return refused_direct(store);
  if (answer < 0) return end(system_error(static_cast<int>(-answer), "cannot read a stored chunk"));
  if (answer == 0) return end(Error{Errc::corrupt, 0, "a stored chunk ends before its size"});
  ++store.counters().read_ops;
  const auto got = static_cast<std::size_t>(answer);
  if (got == rest().size()) {
    store.counters().read_bytes += out_.size();
    return end({});
  }
  ++store.counters().short_reads;
  // Past the page cache a read must go on at a page.
  const std::size_t whole = direct_ ? got / kIoAlignment * kIoAlignment : got;
  if (whole == 0) {
    clear_direct(*file_);
    file_->direct = false;
  }
  done_ += whole;
  return Next::again;
}

}  // namespace cake::inline CAKE_ABI::detail
