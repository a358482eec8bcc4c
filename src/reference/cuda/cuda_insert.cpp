// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cuda_insert.hpp"

#include <chrono>
#include <new>
#include <utility>

namespace cake::inline CAKE_ABI::reference {

CudaInsert::CudaInsert(Error error) : status_(std::move(error)) {}
CudaInsert::CudaInsert(std::unique_ptr<Work> work) : work_(std::move(work)) {}
CudaInsert::CudaInsert(CudaInsert&&) noexcept = default;
CudaInsert& CudaInsert::operator=(CudaInsert&& other) noexcept {
  if (this == &other) return *this;
  if (work_ != nullptr) (void)wait();
  status_ = std::move(other.status_);
  work_ = std::move(other.work_);
  return *this;
}
CudaInsert::~CudaInsert() {
  if (work_ != nullptr) (void)wait();
}

bool CudaInsert::ready() { return work_ == nullptr || work_->copy.ready(); }

bool CudaInsert::wait_for(std::chrono::nanoseconds span) {
  return work_ == nullptr || work_->copy.wait_for(span);
}

Status CudaInsert::wait() {
  if (work_ == nullptr) return status_;
  const std::unique_ptr<Work> work = std::move(work_);
  status_ = work->copy.wait();
  const Slice& slice = work->slice;
  try {
    if (status_) work->presence->add(slice.tokens, slice.layers);
  } catch (const std::bad_alloc&) {
    status_ = Error{Errc::out_of_memory, 0, "record which KV was inserted: no host memory"};
  }
  // A copy that failed on its way may have written a part.
  if (!status_ && status_.code() != Errc::invalid_argument) {
    work->presence->forget(slice.tokens, slice.layers);
  }
  return status_;
}

}  // namespace cake::inline CAKE_ABI::reference
