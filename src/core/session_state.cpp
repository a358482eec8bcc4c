// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "src/core/session_state.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "cake/calibration.hpp"
#include "cake/chunk/format.hpp"
#include "cake/detail/guarded.hpp"
#include "cake/detail/landing.hpp"
#include "cake/identity.hpp"
#include "cake/report.hpp"

namespace cake::inline CAKE_ABI::detail {

void SessionState::begin(Tokens tokens, const ChunkOptions& chunks, const PrefillOptions& prompt) {
  tokens_ = std::make_shared<const std::vector<TokenId>>(tokens.begin(), tokens.end());
  const KvLayout layout = engine_.layout();
  fingerprint_ = engine_.fingerprint();
  tenant_ = tenant_tag(chunks.salt);
  keys_ = chunks.keys;
  root_ = root_key(fingerprint_, layout, chunks.chunk_tokens, chunks.salt, chunks.cipher());
  lookup_ =
      plan_request({.tokens = tokens,
                    .resident = prompt.resident,
                    .chunks = chunks,
                    .max_step_tokens = options_.max_step_tokens,
                    .may_gate = engine_.gates && options_.gated_steps},
                   root_, ChunkGeometry(layout, chunks.chunk_tokens, chunks.cipher()), n_lanes_);
  PrefillSpec& spec = lookup_.spec;
  spec.reads_at_once = lanes_.reads_at_once();
  spec.lateness = kLateness;
  spec.whole_chunks = can_.whole_chunks;
  spec.smallest_step = can_.smallest_step;
  spec.max_overlap_tokens = can_.max_overlap_tokens;
  spec.wide_gated_steps = can_.wide_gated_steps;
  const std::uint64_t ends = spec.head_bytes + spec.foot_bytes;
  const std::uint64_t staging = lanes_.staging_budget();
  if (!lookup_.keys.empty() && !prompt.stop.stop_requested()) {
    if (staging < smallest_load(lookup_.geometry, can_.whole_chunks)) {
      load_error_ = no_room(lookup_, staging);
    } else if (keys_ != nullptr && lanes_.landing_device() != nullptr) {
      load_error_ = encrypted_on_device();
    } else {
      Status problem;
      lookup_.take(lanes_.lookup(lookup_.keys, lookup_.geometry, options_.lookup_timeout,
                                 prompt.stop, problem));
      if (lookup_.status) lookup_.status = problem;
    }
  }
  core_.calibrate(lanes_.calibration().compute(fingerprint_));
  core_.begin(spec, lookup_.stored, lanes_.rates());
  const std::uint64_t layers =
      (staging - std::min(staging, ends)) / lookup_.geometry.largest_layer();
  core_.set_read_layers(static_cast<std::uint32_t>(std::min<std::uint64_t>(layers, ~0u)));
  largest_read_ = std::min(spec.read_bytes({0, spec.n_layers}), staging);
  part_bytes_ = largest_part();
  for (LaneId l = 0; l < n_lanes_; ++l) {
    carried_before_[l] = lanes_.carried(l);
    left_[l] = core_.left_to_load(l);
  }
  load_by_ = loads_end_by(prompt.ttft_target);
  planning_ = now();
  woken_ = planning_;  // they are when they get the session
}

Step SessionState::next(std::uint32_t budget, bool may_gate) {
  drive();
  const std::uint32_t down = lanes_down();
  insert_pending();
  see_others();
  Step step;
  {
    const Asking asking(*this);
    step = ask_for_step(budget, may_gate, down);
  }
  // A step that computes gives the lanes no new work; a step that waits for them may.
  if (step.kind == Step::Kind::wait) {
    lanes_.wake(*this);
    if (lanes_down() != down) step.until = Time{0};  // reads that hang were given up just now
  }
  return step;
}

/// What the lanes carry for other sessions first.
void SessionState::see_others() {
  for (LaneId l = 0; l < n_lanes_; ++l) {
    const std::uint64_t ahead = lanes_.ahead(*this, l);
    if (ahead == 0 && !others_ahead_) continue;
    others_ahead_ = true;
    const Change change(*this);
    core_.set_lane_ahead(l, ahead, now());
  }
}

/// Bit set of the lanes over which nothing will come for now.
std::uint32_t SessionState::lanes_down() const noexcept {
  std::uint32_t down = 0;
  for (LaneId l = 0; l < n_lanes_; ++l) {
    down |= std::uint32_t{lanes_.down(l, largest_read_)} << l;
  }
  return down;
}

void SessionState::done(const Step& step, std::uint32_t tokens, const Status& status) {
  const Time ended = now();
  {
    const Change change(*this);
    if (!status && status.code() != Errc::superseded && error_) {
      const Error& why = status.error();
      error_ = error_of(why.code, why.native, why.context);
    }
    core_.done(step.id, tokens, status.code(), ended);
  }
  // A whole step tells the lanes little; after tiny ones not each is worth a wake-up.
  if (status && tokens == step.tokens.size() && ended < woken_ + kWakePause) return;
  woken_ = ended;
  lanes_.wake(*this);
}

void SessionState::wait(Time until) {
  drive();
  std::unique_lock lock(mutex_);
  if (!core_.view().running().empty()) until = std::min(until, now() + kStepPoll);
  while (core_.version() == seen_ && pending_.empty() && !core_.idle()) {
    const Time at = now();
    const Time end = std::min(until, core_.next_deadline());
    if (at >= end) break;
    sleeps_until_ = end;
    pause(lock, end - at);
    sleeps_until_ = Time{0};
  }
  lock.unlock();
  insert_pending();
}

void SessionState::cancel() noexcept {
  {
    const Change change(*this);
    core_.cancel();
  }
  announce();
}

void SessionState::close() noexcept {
  drive();
  {
    const Change change(*this);
    core_.close();
    closed_ = true;
    changed_.notify_all();
  }
  std::unique_lock lock(mutex_);
  while (core_.inserting() != 0 || in_gate_ != 0) {
    if (!pending_.empty()) {
      lock.unlock();
      insert_pending();
      lock.lock();
    } else {
      changed_.wait(lock);
    }
  }
  lock.unlock();
  plain_.clear();  // a gate may keep this longer than there is staging memory
  const Asking asking(*this);
}

PrefillReport SessionState::report() {
  std::lock_guard lock(mutex_);
  PrefillReport report = core_.report(now());
  report.planning = planning_;
  report.lookup = lookup_.status;
  if (!load_error_) report.load_error = load_error_;
  if (!report.status && !error_) {
    report.status = Error{report.status.error().code, 0, error_.error().message()};
  }
  return report;
}

void SessionState::teach() {
  std::lock_guard lock(mutex_);
  Calibration& calibration = lanes_.calibration();
  for (LaneId l = 0; l < n_lanes_; ++l) {
    calibration.learn(l, core_.view().lane(l), now());
  }
  core_.ended();
  if (const ComputeCostEstimator* compute = core_.measured_compute()) {
    calibration.learn(fingerprint_, *compute);
  }
}

std::optional<ReadTicket> SessionState::next_read(LaneId lane, std::uint64_t max_bytes,
                                                  bool& short_of_room) {
  const Asking asking(*this, std::try_to_lock);
  if (!asking.taken()) return std::nullopt;  // whoever has it wakes the lanes when he is done
  const std::uint64_t ahead = lanes_.ahead(*this, lane);
  for (int i = 0; i < kAskAgain; ++i) {
    SessionCore::LoadQuestion question;
    {
      const Change change(*this);
      core_.set_lane_ahead(lane, ahead, now());
      note_others(lane);
      // An engine that does not come to insert keeps no more than half of the staging memory.
      if (!pending_.empty() && 2 * pending_bytes_ >= lanes_.staging_budget()) return std::nullopt;
      wanted_reads_.reserve(core_.reads().size() + 1);
      question = core_.begin_load(lane, now());
    }
    const auto answer = core_.ask(question);  // without the lock, which others need
    const Change change(*this);
    auto ticket = core_.end_load(question, answer, max_bytes, now(), short_of_room);
    if (ticket) {
      ticket->key = lookup_.keys[ticket->slice.chunk];
      if (core_.next_deadline() < sleeps_until_) changed_.notify_all();
      return ticket;
    }
    const bool changed = question.version != core_.version();
    if (core_.lanes_declined() || changed) changed_.notify_all();  // compute goes on by itself
    if (short_of_room || !question.ask || !changed) break;
  }
  return std::nullopt;
}

void SessionState::held_up(const ReadTicket& read) noexcept {
  const Change change(*this);
  core_.held_up(read.id);
}

void SessionState::begun(const ReadTicket& read) noexcept {
  const Change change(*this);
  core_.begun(read.id, now());
}

void SessionState::returned(const ReadTicket& read) noexcept {
  const Change change(*this);
  core_.returned(read.id, now());
}

void SessionState::failed(const ReadTicket& read, const Error& why) noexcept {
  // What is there is of no use to anybody: gone, so that the next save can put it right, and
  // gone before the run can end. Once nobody waits for the read, a save may have done so.
  // Whoever the lane read it for does so for those who joined.
  const bool damaged = why.code == Errc::corrupt || why.code == Errc::mismatch;
  if (damaged && !read.joined && wanted(read.id)) {
    lanes_.discard(read.lane, read.key);
  }
  {
    const Change change(*this);
    if (core_.failed(read.id, why.code, now()) && core_.first_failure() == read.id) {
      load_error_ = error_of(why.code, why.native, why.context);
    }
  }
  announce();
}

std::shared_ptr<DigestingSink> SessionState::sink(const ReadTicket& read, ConstBytes out) noexcept {
  if (keys_ != nullptr) return nullptr;  // its key comes with its head
  return value_or(
      [&] { return std::make_shared<DigestingSink>(lookup_.geometry, read.slice.layers, out); },
      std::shared_ptr<DigestingSink>());
}

bool SessionState::landed(const ReadTicket& read, const Landed& landed) noexcept {
  Result<Taken> taken =
      guarded(Errc::io, "a chunk that was read", [&] { return take(read, landed); });
  if (!taken) failed(read, taken.error());
  if (!taken || !taken->inserts) {
    release(read, false);
    return false;
  }
  if (can_.insert_on_caller) {
    announce();  // the driving thread has to insert it
    return false;
  }
  lanes_.wake(*this);  // the link has room for another read; for compute nothing is new yet
  const Status inserted = insert(read.slice, taken->view);
  plain_.give_back(std::move(taken->plain));
  finish_insert(read.id, inserted);
  return taken->whole;
}

/// What this session has claimed of the same bytes, to be read for it alone.
std::optional<ReadTicket> SessionState::claimed(const ReadTicket& other) const {
  for (const ReadEntry& own : core_.reads()) {
    const ReadTicket& mine = own.ticket;
    if (own.phase == ReadPhase::reading && !mine.joined && mine.lane == other.lane &&
        mine.slice == other.slice) {
      return mine;
    }
  }
  return std::nullopt;
}

std::optional<ReadTicket> SessionState::join(const ReadTicket& other) noexcept {
  const std::uint32_t chunk = other.slice.chunk;
  // A key stands for one place in one prefix: the same chunk has the same number in both prompts.
  if (chunk >= lookup_.keys.size() || lookup_.keys[chunk] != other.key) return std::nullopt;
  if (lookup_.stored.size() <= chunk || keeps_bytes()) return std::nullopt;
  return value_or(
      [&] {
        const Change change(*this);
        if (closed_) return std::optional<ReadTicket>();
        wanted_reads_.reserve(core_.reads().size() + 1);
        auto ticket = claimed(other);
        if (!ticket) ticket = core_.join(other.slice, other.lane, now());
        if (ticket) ticket->key = other.key;
        return ticket;
      },
      std::optional<ReadTicket>());
}

bool SessionState::wait_layer(std::uint64_t step, std::uint32_t layer) {
  std::unique_lock lock(mutex_);
  ++in_gate_;
  bool open = false;
  for (;;) {
    if (driver_.load() == std::this_thread::get_id() && !pending_.empty()) {
      lock.unlock();
      insert_pending();
      lock.lock();
    }
    core_.expire(now());
    publish();
    const GateAnswer gate = core_.gate(step, layer, now());
    open = gate == GateAnswer::open;
    if (gate != GateAnswer::shut || closed_) break;
    const std::uint64_t seen = core_.version();
    const bool reconsider = core_.gate_until() <= now();
    lock.unlock();
    lanes_.wake(*this);
    if (reconsider) reconsider_gate();
    lock.lock();
    if (core_.version() == seen && !closed_) {
      const Time until = std::min(core_.next_deadline(), core_.gate_until());
      pause(lock, std::max(Time(1), std::min<Time>(until - now(), kGatePoll)));
    }
  }
  open = open && !closed_;
  if (--in_gate_ == 0 && closed_) changed_.notify_all();
  return open;
}

void SessionState::reconsider_gate() {
  const Asking asking(*this);
  SessionCore::GateQuestion question;
  {
    const Change change(*this);
    question = core_.begin_gate(now());
  }
  if (!question.ask) return;
  const Time until = core_.ask(question);
  const Change change(*this);
  core_.end_gate(question, until, now());
}

Step SessionState::ask_for_step(std::uint32_t budget, bool may_gate, std::uint32_t down) {
  for (;;) {
    SessionCore::StepQuestion question;
    {
      const Change change(*this);
      for (LaneId l = 0; l < n_lanes_; ++l) {
        core_.set_lane_down(l, (down >> l & 1) != 0);
      }
      question = core_.begin_step(budget, may_gate, now());
      seen_ = question.version;
    }
    if (question.answer) return *question.answer;
    const auto answer = core_.ask(question);
    const Change change(*this);
    if (const auto step = core_.end_step(question, answer, now())) return *step;
  }
}

void SessionState::publish() {
  if (published_ == core_.version()) return;
  published_ = core_.version();
  for (LaneId l = 0; l < n_lanes_; ++l) {
    left_[l].store(core_.left_to_load(l), std::memory_order_relaxed);
  }
  if (core_.reads().empty() && !reads_published_) return;
  reads_published_ = !core_.reads().empty();
  wanted_reads_.publish(core_.reads());
}

Time SessionState::loads_end_by(Time target) const {
  if (target >= std::chrono::hours(1)) return kNever;
  const PrefillSpec& spec = lookup_.spec;
  double suffix = 0;  // seconds
  if (const ComputeCostEstimator* compute = core_.measured_compute()) {
    suffix = compute->current().passes(spec.prefix_end(), spec.n_tokens,
                                       std::max(1u, spec.max_step_tokens));
  }
  return std::chrono::duration_cast<Time>(start_.time_since_epoch()) + target -
         from_seconds(suffix);
}

void SessionState::pause(std::unique_lock<std::mutex>& lock, Time span) {
  if (span > std::chrono::hours(1)) {
    changed_.wait(lock);
  } else {
    changed_.wait_for(lock, span);
  }
}

void SessionState::announce() noexcept {
  changed_.notify_all();
  lanes_.wake(*this);
}

ChunkIdentity SessionState::identity(std::uint32_t chunk) const {
  const TokenRange range = lookup_.spec.object_range(chunk);
  return {lookup_.keys[chunk], chunk == 0 ? root_ : lookup_.keys[chunk - 1],
          fingerprint_,        tenant_,
          range.begin,         Tokens(*tokens_).subspan(range.begin, range.size()),
          lookup_.geometry,    keys_};
}

Result<SessionState::Taken> SessionState::take(const ReadTicket& read, const Landed& landed) {
  Taken taken;
  const std::uint32_t chunk = read.slice.chunk;
  const LayerRange layers = read.slice.layers;
  std::shared_ptr<const ChunkTables> tables;
  {
    std::lock_guard lock(mutex_);
    if (core_.find(read.id) == nullptr) return taken;
    const auto known = parsed_.find(chunk);
    if (layers.begin > 0 && known != parsed_.end()) tables = known->second;
  }
  const ChunkGeometry& geometry = lookup_.geometry;
  if (keys_ != nullptr) taken.plain = plain_.take(geometry.payload_bytes(layers));
  const Result<KvView> view =
      verify_landed(landed, layers, lookup_.stored[chunk].size, identity(chunk),
                    lanes_.landing_device(), tables, taken.plain.bytes());
  if (!view) return why_not(read, landed.bytes, view.error());
  taken.view = *view;
  taken.whole = !landed.lent && landed.bytes.size() == lookup_.stored[chunk].size;
  const Change change(*this);
  if (layers.end < lookup_.spec.n_layers) parsed_[chunk] = tables;
  if (can_.insert_on_caller) pending_.reserve(pending_.size() + 1);
  // Nothing from here on needs memory.
  note_others(read.lane);
  taken.inserts = core_.begin_insert(read.id, now(), landed.lent && !can_.insert_on_caller);
  if (can_.insert_on_caller && taken.inserts) {
    pending_.push_back({read, taken.view, taken.whole, std::move(taken.plain)});
    pending_bytes_ += read.bytes;
  }
  return taken;
}

Status SessionState::insert(const Slice& slice, const KvView& view) noexcept {
  const KvRuns& runs = lookup_.geometry.runs();
  const std::uint32_t end = slice.layers.end;
  for (std::uint32_t at = slice.layers.begin; at < end;) {
    const std::uint32_t first = runs.layer_at(at++);
    LayerRange layers{first, first + 1};
    for (; at < end && runs.layer_at(at) == layers.end; ++at) ++layers.end;
    Status status = guarded(Errc::device, "insert", [&] {
      return engine_.insert({slice.chunk, slice.tokens, layers}, view);
    });
    if (!status) return status;
  }
  return {};
}

void SessionState::finish_insert(std::uint64_t id, const Status& status) noexcept {
  {
    const Change change(*this);
    note_inserted(id, status);
  }
  announce();
}

void SessionState::note_inserted(std::uint64_t id, const Status& status) {
  if (const ReadEntry* entry = core_.find(id)) note_others(entry->ticket.lane);
  core_.inserted(id, status.has_value(), now());
  if (status || core_.first_failure() != id) return;
  const Error& why = status.error();
  load_error_ = error_of(why.code, why.native, why.context);
}

void SessionState::insert_pending() noexcept {
  if (!can_.insert_on_caller) return;
  for (;;) {
    std::unique_lock lock(mutex_);
    if (pending_.empty()) return;
    Pending next = std::move(pending_.front());
    pending_.erase(pending_.begin());
    pending_bytes_ -= next.read.bytes;
    lock.unlock();
    const Status inserted = insert(next.read.slice, next.view);
    plain_.give_back(std::move(next.plain));
    finish_insert(next.read.id, inserted);
    release(next.read, next.whole);
  }
}

void SessionState::release(const ReadTicket& read, bool whole) noexcept {
  if (can_.insert_on_caller) lanes_.give_back(*this, read, whole);
}

Error SessionState::why_not(const ReadTicket& read, ConstBytes bytes, const Error& why) {
  const bool damaged = why.code == Errc::corrupt || why.code == Errc::mismatch;
  if (damaged && lanes_.stored_bytes_differ(read.key, read.offset, bytes)) {
    return error_of(Errc::device, 0,
                    "the bytes received of a chunk differ from the stored ones (transport error)");
  }
  return why;
}

}  // namespace cake::inline CAKE_ABI::detail
