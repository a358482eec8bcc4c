// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include <memory>
#include <stop_token>
#include <utility>

#include "cake/detail/io_lanes_core.hpp"
#include "cake/detail/process.hpp"
#include "cake/detail/saver_core.hpp"
#include "cake/save.hpp"
#include "src/core/save_job.hpp"

namespace cake::inline CAKE_ABI {

SaveTicket::SaveTicket(std::shared_ptr<detail::SaveJob> job) : job_(std::move(job)) {}
SaveTicket::SaveTicket(SaveTicket&&) noexcept = default;
SaveTicket& SaveTicket::operator=(SaveTicket&& other) noexcept {
  SaveTicket old(std::move(*this));
  job_ = std::move(other.job_);
  return *this;
}

SaveTicket::~SaveTicket() {
  if (job_ == nullptr) return;
  if (job_->in_child()) {
    detail::abandon(std::move(job_));
  } else {
    job_->wait_done();
  }
}

bool SaveTicket::ready() const { return job_->in_child() || job_->done(); }

const SaveReport& SaveTicket::wait() {
  if (const Status here = job_->usable(); !here) {
    job_->report = SaveReport();
    job_->report.status = here;
  } else {
    job_->wait_done();
  }
  return job_->report;
}

void SaveTicket::wait_extracted() {
  if (!job_->in_child()) job_->wait_extracted();
}

SaveProgress SaveTicket::progress() const {
  return {job_->total, job_->taken, job_->stored, job_->stored_bytes};
}

void SaveTicket::request_stop() { job_->request_stop(); }

namespace detail {

SaveTicket save_beside(std::unique_ptr<SessionEngine> engine, IoLanesCore& lanes, Tokens tokens,
                       ChunkOptions chunks, std::stop_token stop) {
  return lanes.saver().save(std::move(engine), tokens, std::move(chunks), std::move(stop));
}

}  // namespace detail

}  // namespace cake::inline CAKE_ABI
