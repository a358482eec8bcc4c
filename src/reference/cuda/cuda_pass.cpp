// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cuda_pass.hpp"

#include <chrono>
#include <thread>
#include <utility>

namespace cake::inline CAKE_ABI::reference {

CudaPass::CudaPass(Error error) : status_(std::move(error)) {}
CudaPass::CudaPass(std::shared_ptr<Work> work) : work_(std::move(work)) {}
CudaPass::CudaPass(CudaPass&&) noexcept = default;
CudaPass& CudaPass::operator=(CudaPass&&) noexcept = default;
CudaPass::~CudaPass() = default;

bool CudaPass::ready() const { return work_ == nullptr || work_->event.ready(); }

bool CudaPass::wait_for(std::chrono::nanoseconds span) const {
  const auto end = std::chrono::steady_clock::now() + span;
  while (!ready()) {
    if (std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  return true;
}

Status CudaPass::wait() {
  if (work_ == nullptr) return status_;
  const std::shared_ptr<Work> work = std::move(work_);
  const Status device = work->event.wait();
  status_ = work->status ? device : work->status;
  if (!device) work->presence->forget(work->range);  // nobody knows what was written
  cuda_impl::Outcome& outcome = *work->outcome;
  if (status_ && work->ends && outcome.step == work->step) {
    outcome.has_logits = true;
    outcome.position = work->range.end;
  }
  return status_;
}

}  // namespace cake::inline CAKE_ABI::reference
