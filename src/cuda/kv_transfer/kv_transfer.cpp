// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/cuda/kv_transfer.hpp"

#include <algorithm>
#include <iterator>
#include <new>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "event_pool.hpp"
#include "kv_transfer_impl.hpp"
#include "kv_transfer_memory.hpp"
#include "kv_transfer_operation.hpp"
#include "kv_transfer_probe.hpp"
#include "kv_transfer_runs.hpp"
#include "src/core/try.hpp"
#include "src/cuda/runtime/current_device.hpp"
#include "src/cuda/runtime/event_wait.hpp"

namespace cake::inline CAKE_ABI::cuda {
namespace {

using namespace transfer;

constexpr std::size_t kMostBytes = std::size_t{16} << 20;  // of one enqueued copy

/// Enqueues all groups in one pair of streams and records `done` behind them.
Status enqueue(Impl& impl, const Streams& streams, std::span<const Group> groups, Memory memory,
               bool insert, const Event& done) {
  const Stream* last = nullptr;
  bool both = false;
  for (const Group& group : groups) {
    const Stream* end = nullptr;
    Operation operation(impl, streams, group, memory);
    CAKE_TRY(insert ? operation.insert(end) : operation.extract(end));
    both = both || (last != nullptr && last != end);
    last = end;
  }
  if (both) {
    const Event other;
    CAKE_TRY(other.record((last == &streams.copy ? streams.move : streams.copy).get()));
    CAKE_TRY(other.gate(last->get()));
  }
  return done.record(last->get());
}

template <class Pages, class Byte>
Transfer run(Impl& impl, const Pages& kv, const Slice& slice, const BasicKvView<Byte>& view) {
  constexpr bool kInsert = std::is_const_v<Byte>;
  const Streams* streams = nullptr;
  Error failure;
  try {
    const CurrentDevice current(impl.device);
    if (!current.status()) return Transfer(current.status().error());
    auto groups = groups_of(kv, slice, view, impl.options.piece_bytes);
    if (!groups) return Transfer(groups.error());
    if (groups->empty()) return {};
    const auto memory = memory_of(*groups, impl.device);
    if (!memory) return Transfer(memory.error());
    if (*memory == Memory::device) {
      std::vector<Group> even;
      for (const Group& group : *groups)
        std::ranges::move(evenly_spaced(group), std::back_inserter(even));
      *groups = std::move(even);
    }
    Event done = impl.events->take();
    streams = &(kInsert ? impl.inserts : impl.extracts).next();
    const Status status = enqueue(impl, *streams, *groups, *memory, kInsert, done);
    if (status) return Transfer(std::move(done), impl.events);
    failure = status.error();
  } catch (const Exception& e) {
    failure = e.error();
  } catch (const std::bad_alloc&) {
    failure = Error{Errc::out_of_memory, 0, "KV transfer"};
  } catch (const std::exception& e) {
    failure = Error{Errc::device, 0, std::string("KV transfer: ") + e.what()};
  }
  if (streams != nullptr) streams->drain();  // what was enqueued before the failure
  return Transfer(std::move(failure));
}

}  // namespace

bool Transfer::ready() { return !done_ || passed(*done_); }

bool Transfer::wait_for(std::chrono::nanoseconds span) {
  if (!done_) return true;
  const auto now = Clock::now();
  const bool long_time = span >= Clock::time_point::max() - now;
  return passed_by(*done_, long_time ? Clock::time_point::max() : now + span);
}

Status Transfer::wait() {
  if (!done_) return status_;
  status_ = wait_for_event(*done_);
  if (status_ && pool_) pool_->give_back(std::move(*done_));
  done_.reset();
  pool_.reset();
  return status_;
}

KvTransfer::KvTransfer(const KvTransferOptions& options) {
  const auto need = [](bool good, const char* what) {
    if (!good)
      throw Exception(Error{Errc::invalid_argument, 0, std::string("KvTransfer: ") + what});
  };
  need(options.streams >= 1 && options.streams <= 16, "streams: 1 to 16");
  need(options.pieces >= 1 && options.pieces <= 256, "pieces: 1 to 256");
  need(options.piece_bytes >= 4096 && options.piece_bytes <= kMostBytes,
       "piece_bytes: 4 KiB to 16 MiB");
  need(options.batch_bytes >= 4096 && options.batch_bytes <= kMostBytes,
       "batch_bytes: 4 KiB to 16 MiB");
  need(options.blocks >= 1 && options.blocks <= 4096, "blocks: 1 to 4096");
  if (auto status = usable(); !status) throw Exception(status.error());
  impl_ = std::make_unique<Impl>(options);
}

KvTransfer::~KvTransfer() {
  for (const Direction* direction : {&impl_->inserts, &impl_->extracts}) {
    for (const Streams& streams : direction->streams) streams.drain();
  }
}

Transfer KvTransfer::insert(const PagedKv& kv, const Slice& slice, const KvView& view) {
  return run(*impl_, kv, slice, view);
}
Transfer KvTransfer::extract(const PagedKv& kv, const Slice& slice, const MutableKvView& view) {
  return run(*impl_, kv, slice, view);
}
Transfer KvTransfer::insert(const PagedPlanes& kv, const Slice& slice, const KvView& view) {
  return run(*impl_, kv, slice, view);
}
Transfer KvTransfer::extract(const PagedPlanes& kv, const Slice& slice, const MutableKvView& view) {
  return run(*impl_, kv, slice, view);
}

void KvTransferProbe::fail_after(KvTransfer& transfer, int calls) {
  transfer.impl_->fail_after = calls;
}
std::size_t KvTransferProbe::idle_pieces(KvTransfer& transfer) {
  const std::lock_guard lock(transfer.impl_->mutex);
  return transfer.impl_->idle.size();
}

}  // namespace cake::inline CAKE_ABI::cuda
