// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "src/storage/remote/batch.hpp"

#include <algorithm>
#include <utility>

#include "cake/detail/guarded.hpp"
#include "cake/detail/remote_read.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::detail {

void RemoteBatch::ended(const Status& status, bool ends_all) noexcept {
  bool last = false;
  {
    const std::lock_guard lock(mutex_);
    if (!status && status_) {
      status_ = value_or([&] { return status; }, Status(error_of(status.code(), 0, {})));
    }
    last = done_ = --left_ == 0;
    if (last) changed_.notify_all();
  }
  if (ends_all && !last) cancel();
}

void RemoteBatch::cancel() noexcept {
  if (made_here.in_child() || canceled_.exchange(true)) return;
  for (const auto& each : drivers_) {
    if (const auto driver = each.lock()) driver->wake();
  }
}

Status RemoteBatch::reason() {
  const std::lock_guard lock(mutex_);
  return status_;
}

bool RemoteBatch::ready() {
  const std::lock_guard lock(mutex_);
  return done_;
}

bool RemoteBatch::wait_for(std::chrono::nanoseconds span) {
  // Longer than this would run over the clock's end.
  span = std::min<std::chrono::nanoseconds>(span, std::chrono::hours(24 * 365));
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, span, [&] { return done_; });
}

Status RemoteBatch::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return done_; });
  return status_;
}

// ---- the completion of a read ----

RemoteRead::RemoteRead(std::shared_ptr<RemoteBatch> batch) : batch_(std::move(batch)) {}
RemoteRead::RemoteRead(RemoteRead&&) noexcept = default;
RemoteRead& RemoteRead::operator=(RemoteRead&&) noexcept = default;
RemoteRead::~RemoteRead() = default;

// Without memory for it there is no batch. In a child process its lock may be held by a thread that
// does not exist there.
bool RemoteRead::ready() { return !batch_ || batch_->made_here.in_child() || batch_->ready(); }

Status RemoteRead::wait() {
  if (!batch_) return Error{Errc::out_of_memory, 0, "read"};
  CAKE_TRY(batch_->made_here.check("a read"));
  return batch_->wait();
}

bool RemoteRead::wait_for(std::chrono::nanoseconds span) {
  return !batch_ || batch_->made_here.in_child() || batch_->wait_for(span);
}

void RemoteRead::cancel() noexcept {
  if (batch_) batch_->cancel();
}

}  // namespace cake::inline CAKE_ABI::detail
