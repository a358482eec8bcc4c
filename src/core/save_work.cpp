// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "src/core/save_work.hpp"

#include <algorithm>
#include <cstddef>
#include <string>

#include "cake/chunk/format.hpp"
#include "cake/chunk/tenant_keys.hpp"
#include "cake/detail/guarded.hpp"

namespace cake::inline CAKE_ABI::detail {

namespace {

/// So much is extracted at once, and then digested while it is in a cache. Smaller ones cost an engine
/// whose copies run on a device more than they give; behind larger ones its own small copies wait
/// (benchmarks/NOTES.md, Saving). Units: bytes
constexpr std::uint64_t kPiece = std::uint64_t{2} << 20;

/// The store took `written` chunks, and `there` of them are there.
Error lost_chunks(std::size_t written, std::uint32_t there) {
  return Error{Errc::not_found, 0,
               "save: the store took " + std::to_string(written) + " chunks and holds " +
                   std::to_string(there) +
                   " of them now; its capacity may be too small, or something removes its objects"};
}

}  // namespace

Status SaveWork::prepare(SaveReport& report, RecentKeys* asked, std::uint32_t write_after) {
  auto status = guarded(Errc::io, "save", [&] { return prepare_keys(); });
  if (status && !keys_.empty()) {
    status = guarded(Errc::io, "save", [&] { return ask_store(report, asked, write_after); });
  }
  if (!status && chunks_.chunk_tokens != 0) {
    report.present = report.held_back = 0;
    report.failed = static_cast<std::uint32_t>(tokens_.size() / chunks_.chunk_tokens);
  }
  return status;
}

Status SaveWork::prepare_keys() {
  layout_ = engine_.layout();
  fingerprint_ = engine_.fingerprint();
  if (!ChunkGeometry::fits(layout_, chunks_.chunk_tokens)) {
    return Error{Errc::invalid_argument, 0, "save: layout or chunk_tokens out of range"};
  }
  geometry_ = ChunkGeometry(layout_, chunks_.chunk_tokens, chunks_.cipher());
  root_ = root_key(fingerprint_, layout_, chunks_.chunk_tokens, chunks_.salt, chunks_.cipher());
  keys_ = prefix_chain(root_, tokens_, chunks_.chunk_tokens, chunks_.extra);
  todo_.reserve(keys_.size());
  return {};
}

Status SaveWork::ask_store(SaveReport& report, RecentKeys* asked, std::uint32_t write_after) {
  const auto stored = guarded(Errc::io, "save: lookup", [&] { return storage_.lookup_all(keys_); });
  if (!stored) return stored.error();
  for (std::uint32_t c = 0; c < keys_.size(); ++c) {
    const StoredChunk there = c < stored->size() ? (*stored)[c] : StoredChunk{};
    // What nobody here can decrypt is of no use, and would stay for ever.
    const bool useless = chunks_.keys != nullptr && chunks_.keys->unreadable(keys_[c]);
    const std::uint32_t held = there.stored() && !useless ? geometry_.held_by(there.size) : 0;
    if (held == layout_.n_layers) {
      ++report.present;
    } else if (asked != nullptr && asked->times(keys_[c]) < write_after) {
      ++report.held_back;
    } else {
      todo_.push_back({c, held, there.size});
    }
  }
  return {};
}

std::uint32_t SaveWork::extract(ChunkWriter& writer, const SaveChunk& what, Status& why) const {
  std::uint32_t got = 0;
  for (const std::uint32_t next : writer.geometry().held_counts()) {
    why = extract_layers(writer, what.chunk, {got, next});
    if (!why) {
      const bool gone = why.code() == Errc::not_found || why.code() == Errc::invalid_argument;
      return gone ? got : 0;
    }
    got = next;
  }
  return got;
}

/// Positions of stored_order(), in one call for each run of the model's layers, or piece of it.
Status SaveWork::extract_layers(ChunkWriter& writer, std::uint32_t chunk,
                                LayerRange positions) const {
  const KvRuns& runs = writer.geometry().runs();
  for (std::uint32_t at = positions.begin; at < positions.end;) {
    const std::uint32_t begin = at;
    const std::uint32_t first = runs.layer_at(at++);
    LayerRange layers{first, first + 1};
    const auto more = [&] {
      return at < positions.end && runs.layer_at(at) == layers.end &&
             (engine_.abilities.whole_chunks ||
              runs.begin_at(at + 1) - runs.begin_at(begin) <= kPiece);
    };
    for (; more(); ++at) ++layers.end;
    Status status = guarded(Errc::device, "save: extract", [&] {
      return engine_.extract(Slice{chunk, range_of(chunk), layers}, writer.payload());
    });
    if (!status) return status;
    writer.digest({begin, at});
  }
  return {};
}

ObjectRoom SaveWork::make_room(const SaveChunk& what) const noexcept {
  if (!storage_.abilities.write_in_place) return {};
  const std::uint64_t bytes = geometry_.object_bytes();
  Result<ObjectRoom> room = guarded(Errc::io, "save: room in the store",
                                    [&] { return storage_.make_room(keys_[what.chunk], bytes); });
  // Why there is none the write will say.
  if (!room || room->bytes().size() < bytes) return {};
  return std::move(*room);
}

Result<std::uint64_t> SaveWork::write(ChunkWriter& writer, const SaveChunk& what,
                                      std::uint32_t held, ObjectRoom room) const {
  const std::uint32_t c = what.chunk;
  // What is there under this key is not a chunk of this layout, or holds less than there is now,
  // and would stay for ever.
  if (what.stored_size != 0) {
    (void)guarded(Errc::io, "erase", [&] { return storage_.erase(keys_[c]); });
  }
  const TokenRange range = range_of(c);
  const auto object = guarded(Errc::io, "save", [&] {
    return writer.finish(
        {keys_[c], c == 0 ? root_ : keys_[c - 1], fingerprint_, tenant_tag(chunks_.salt),
         range.begin, tokens_.subspan(range.begin, range.size()), writer.geometry(), chunks_.keys},
        held);
  });
  if (!object) return object.error();
  const Status written = guarded(Errc::io, "save: write", [&] {
    return room.empty()
               ? storage_.write(keys_[c], *object)
               : storage_.publish(keys_[c], std::move(room), object->size(), writer.seal());
  });
  if (!written) return written.error();
  if (chunks_.keys != nullptr) chunks_.keys->note_written(keys_[c]);
  return object->size();
}

Status SaveWork::check(std::span<const Written> written, SaveReport& report) const {
  if (written.empty()) return {};
  const auto stored = guarded(Errc::io, "save: lookup", [&] {
    std::vector<ChunkKey> keys;
    for (const Written& w : written) keys.push_back(keys_[w.chunk]);
    return storage_.lookup_all(keys);
  });
  std::uint32_t there = 0;
  for (std::size_t i = 0; stored && i < std::min(stored->size(), written.size()); ++i) {
    if (!(*stored)[i].stored() || (*stored)[i].size != written[i].bytes) continue;
    ++there;
    report.bytes += written[i].bytes;
  }
  report.written = there;
  const auto lost = static_cast<std::uint32_t>(written.size()) - there;
  report.failed += lost;
  if (!stored) return stored.error();
  if (lost == 0) return {};
  return guarded(Errc::not_found, "save",
                 [&]() -> Status { return lost_chunks(written.size(), there); });
}

bool SaveTally::extracted(const SaveChunk& what, std::uint32_t got, const Status& why) {
  if (what.held != 0 && got <= what.held) {
    ++report_.present;
    return false;
  }
  if (got != 0) return true;
  note(why.error());
  ++report_.failed;
  return false;
}

void SaveTally::written(const SaveChunk& what, std::uint32_t got, std::uint32_t n_layers,
                        const Result<std::uint64_t>& bytes) {
  if (bytes) {
    refused_ = 0;
    report_.partial += got < n_layers;
    written_.push_back({what.chunk, *bytes});
    return;
  }
  if (bytes.error().code == Errc::out_of_memory) refused_ = kWritesRefused;
  if (refused_ < kWritesRefused) ++refused_;
  note(bytes.error());
  ++report_.failed;
}

}  // namespace cake::inline CAKE_ABI::detail
