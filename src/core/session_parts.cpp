// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A session's reads in parts: each is verified and inserted by the thread that read it.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cake/chunk/reader.hpp"
#include "cake/detail/guarded.hpp"
#include "cake/detail/parted_read.hpp"
#include "src/core/session_state.hpp"

namespace cake::inline CAKE_ABI::detail {

namespace {

/// Cuts a slice into parts of at most `most` bytes, but of a layer at least. Layers of a part follow
/// each other in the model, too, so that it is one insert.
std::vector<ReadPart> cut(const ChunkGeometry& geometry, LayerRange layers, std::uint64_t most) {
  const KvRuns& runs = geometry.runs();
  const auto payload = [&](LayerRange l) { return runs.begin_at(l.end) - runs.begin_at(l.begin); };
  std::vector<ReadPart> parts;
  for (std::uint32_t at = layers.begin; at < layers.end;) {
    LayerRange part{at, at + 1};
    while (part.end < layers.end && runs.layer_at(part.end) == runs.layer_at(part.end - 1) + 1 &&
           payload({part.begin, part.end + 1}) <= most) {
      ++part.end;
    }
    const ByteRange bytes = geometry.read_range(part);
    parts.push_back({part, bytes.begin, bytes.size()});
    at = part.end;
  }
  return parts;
}

}  // namespace

class SessionState::Parted final : public PartedRead {
 public:
  Parted(std::shared_ptr<SessionState> session, const ReadTicket& read)
      : session_(std::move(session)),
        read_(read),
        expected_(session_->identity(read.slice.chunk)),
        parts_(cut(expected_.geometry, read.slice.layers, session_->lanes_.part_bytes())),
        to_land_(parts_.size()),
        to_insert_(parts_.size()) {
    if (read.slice.layers.begin == 0) return;
    const std::lock_guard lock(session_->mutex_);
    const auto known = session_->parsed_.find(read.slice.chunk);
    if (known != session_->parsed_.end()) tables_ = known->second;
  }
  /// Some part was not inserted, for whatever reason: the last one who knew of the read is gone.
  ~Parted() override {
    if (to_insert_ != 0) {
      session_->failed(read_, error_of(Errc::timeout, 0, "read abandoned"));
    }
  }

  std::span<const ReadPart> parts() const noexcept override { return parts_; }
  std::uint64_t head_bytes() const noexcept override {
    return tables_ ? 0 : expected_.geometry.head_bytes();
  }

  bool open(ConstBytes head) noexcept override {
    const Status parsed = guarded(Errc::io, "the head of a chunk", [&]() -> Status {
      if (!tables_) {
        const auto& stored = session_->lookup_.stored[read_.slice.chunk];
        auto tables = parse_chunk(head, stored.size, expected_);
        if (!tables) return tables.error();
        tables_ = std::make_shared<const ChunkTables>(std::move(*tables));
      }
      if (read_.slice.layers.end == session_->lookup_.spec.n_layers) return {};
      const std::lock_guard lock(session_->mutex_);
      session_->parsed_[read_.slice.chunk] = tables_;
      return {};
    });
    if (!parsed) refuse(0, head, parsed.error());
    return parsed.has_value();
  }

  std::optional<SliceDigests> digests(std::size_t part, ConstBytes bytes) const noexcept override {
    std::optional<SliceDigests> result;
    if (expected_.geometry.encrypted()) return result;
    (void)value_or(
        [&] {
          result.emplace(expected_.geometry, parts_[part].layers, bytes);
          return true;
        },
        false);
    return result;
  }

  std::unique_ptr<PendingInsert> landed(std::size_t part, MutableBytes bytes,
                                        const SliceDigests* digests) noexcept override {
    const LayerRange layers = parts_[part].layers;
    const Result<KvView> view = guarded(Errc::io, "a part of a chunk", [&] {
      const ChunkGeometry& geometry = expected_.geometry;
      if (geometry.encrypted()) {
        return open_slice(
            *tables_, expected_, layers, bytes,
            bytes.subspan(geometry.payload_in(layers), geometry.payload_bytes(layers)));
      }
      return digests != nullptr ? verify_slice(*tables_, expected_, layers, bytes, *digests)
                                : verify_slice(*tables_, expected_, layers, bytes);
    });
    if (!view) {
      refuse(parts_[part].offset, bytes, view.error());
      return nullptr;
    }
    bool last = false;
    {
      const Change change(*session_);
      if (!session_->core_.begin_part(read_.id)) return nullptr;
      last = --to_land_ == 0;
      if (last) {
        session_->note_others(read_.lane);
        (void)session_->core_.begin_insert(read_.id, session_->now());
      }
    }
    if (last) session_->lanes_.wake(*session_);  // the link has room for another read
    return begin_insert(layers, *view);
  }

  bool inserted(const Status& status) noexcept override {
    bool ended = false;
    bool tell = false;
    {
      const Change change(*session_);
      SessionCore& core = session_->core_;
      const std::uint64_t before = core.version();
      if (!status && outcome_) outcome_ = status;
      core.end_part(read_.slice.chunk);
      if (to_land_ != 0) {
        --to_insert_;
        if (!outcome_) fail();
      } else if (--to_insert_ == 0) {
        ended = true;
        session_->note_inserted(read_.id, outcome_);
      }
      tell = core.version() != before || core.inserting() == 0;
    }
    if (tell) session_->announce();
    return ended && outcome_ && read_.bytes == session_->lookup_.stored[read_.slice.chunk].size;
  }

  void failed(const Error& why) noexcept override {
    if (!refused_) session_->failed(read_, why);
  }

 private:
  /// Bytes that are not what was stored. Their object may be erased before the session hears of it, and reads of
  /// other parts fail then: what they say is not the reason.
  void refuse(std::uint64_t offset, ConstBytes bytes, const Error& why) noexcept {
    refused_ = true;
    ReadTicket own = read_;
    own.offset = offset;
    session_->failed(read_, session_->why_not(own, bytes, why));
  }

  std::unique_ptr<PendingInsert> begin_insert(LayerRange layers, const KvView& view) noexcept {
    const std::uint32_t first = expected_.geometry.runs().layer_at(layers.begin);
    const Slice slice{read_.slice.chunk, read_.slice.tokens, {first, first + layers.size()}};
    std::unique_ptr<PendingInsert> pending;
    const Status begun = guarded(Errc::device, "insert", [&]() -> Status {
      pending = session_->engine_.begin_insert(slice, view);
      return {};
    });
    if (!begun) (void)inserted(begun);
    return pending;
  }

  /// The rest of the read is of no use. With the lock.
  void fail() {
    const Error& why = outcome_.error();
    if (session_->core_.failed(read_.id, why.code, session_->now()) &&
        session_->core_.first_failure() == read_.id) {
      session_->load_error_ = error_of(why.code, why.native, why.context);
    }
  }

  const std::shared_ptr<SessionState> session_;
  const ReadTicket read_;
  const ChunkIdentity expected_;
  const std::vector<ReadPart> parts_;
  std::shared_ptr<const ChunkTables> tables_;  // from open() on
  std::atomic<bool> refused_{false};
  // Under the session's lock:
  std::size_t to_land_;
  std::size_t to_insert_;
  Status outcome_;  // the first insert that failed
};

std::shared_ptr<PartedRead> SessionState::in_parts(const ReadTicket& read) noexcept {
  return value_or([&] { return std::make_shared<Parted>(shared_from_this(), read); },
                  std::shared_ptr<Parted>());
}

std::uint64_t SessionState::largest_part() const {
  if (!can_.inserts_parts || lanes_.landing_device() != nullptr || lanes_.part_bytes() == 0) {
    return 0;
  }
  const ChunkGeometry& geometry = lookup_.geometry;
  if (!geometry.valid()) return 0;
  const std::uint64_t bytes = std::max(lanes_.part_bytes(), geometry.largest_layer()) +
                              geometry.head_bytes() + lookup_.spec.foot_bytes;
  return bytes <= lanes_.staging_budget() ? bytes : 0;
}

}  // namespace cake::inline CAKE_ABI::detail
