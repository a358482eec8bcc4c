// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "cake/detail/guarded.hpp"
#include "cake/detail/lane_client.hpp"
#include "cake/detail/process.hpp"
#include "cake/save.hpp"

namespace cake::inline CAKE_ABI {

struct SaveTicket::State {
  struct PassOn {
    std::stop_source* to;
    void operator()() const { to->request_stop(); }
  };

  void run() noexcept {
    SaveReport made;
    try {
      made = save();
    } catch (...) {
      made.status = detail::caught(Errc::device, "save");
    }
    const std::lock_guard lock(mutex);
    report = std::move(made);
    done = true;
    changed.notify_all();
  }
  SaveReport save() {
    const Status usable = detail::guarded(Errc::device, "save", [&]() -> Status {
      if (auto status = lanes.host().usable(); !status) return status;
      return detail::fits_staging(engine->layout(), chunks.chunk_tokens,
                                  engine->abilities.whole_chunks, lanes.host().staging_budget());
    });
    if (!usable) return detail::save_refused(usable.error(), tokens, chunks);
    return detail::save_chunks(*engine, lanes.storage(), tokens, chunks, stop.get_token());
  }

  const std::unique_ptr<detail::SessionEngine> engine;
  detail::IoLanesCore& lanes;
  const std::vector<TokenId> tokens;
  const ChunkOptions chunks;
  std::stop_source stop = {};
  std::optional<std::stop_callback<PassOn>> caller = {};  // ends before `stop`
  detail::ForkGuard made_here = {};
  mutable std::mutex mutex = {};
  std::condition_variable changed = {};
  bool done = false;
  SaveReport report = {};
  std::thread thread = {};
};

SaveTicket::SaveTicket(std::unique_ptr<detail::SessionEngine> engine, detail::IoLanesCore& lanes,
                       Tokens tokens, ChunkOptions chunks, std::stop_token stop)
    : state_(
          new State{std::move(engine), lanes, {tokens.begin(), tokens.end()}, std::move(chunks)}) {
  State* const state = state_.get();
  state->caller.emplace(std::move(stop), State::PassOn{&state->stop});
  if (!state->engine->abilities.insert_on_caller) {
    try {
      state->thread = std::thread([state] { state->run(); });
      return;
    } catch (const std::system_error&) {  // the system has no thread left: here, then
    }
  }
  state->run();
}

SaveTicket::SaveTicket(SaveTicket&&) noexcept = default;
SaveTicket& SaveTicket::operator=(SaveTicket&& other) noexcept {
  SaveTicket old(std::move(*this));
  state_ = std::move(other.state_);
  return *this;
}

SaveTicket::~SaveTicket() {
  if (state_ == nullptr) return;
  if (state_->made_here.in_child()) {
    detail::abandon(std::move(state_));
  } else if (state_->thread.joinable()) {
    state_->thread.join();
  }
}

bool SaveTicket::ready() const {
  if (state_->made_here.in_child()) return true;
  const std::lock_guard lock(state_->mutex);
  return state_->done;
}

const SaveReport& SaveTicket::wait() {
  if (const Status here = state_->made_here.check("a SaveTicket"); !here) {
    state_->report = SaveReport();
    state_->report.status = here;
    return state_->report;
  }
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return state_->done; });
  return state_->report;
}

void SaveTicket::request_stop() { state_->stop.request_stop(); }

}  // namespace cake::inline CAKE_ABI
