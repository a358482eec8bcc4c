// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/cuda/kv_transfer.hpp"

#include <new>
#include <string>
#include <type_traits>
#include <utility>

#include "kv_transfer_impl.hpp"
#include "kv_transfer_operation.hpp"
#include "kv_transfer_plan.hpp"
#include "kv_transfer_probe.hpp"
#include "kv_transfer_runs.hpp"
#include "src/cuda/runtime/current_device.hpp"
#include "src/cuda/runtime/event_wait.hpp"

namespace cake::inline CAKE_ABI::cuda {
namespace {

using namespace transfer;

constexpr std::size_t kMostBytes = std::size_t{16} << 20;  // of one enqueued copy

template <class Byte>
Transfer run(Impl& impl, const PagedKv& kv, const Slice& slice, const BasicKvView<Byte>& view) {
  constexpr bool kInsert = std::is_const_v<Byte>;
  const Streams* streams = nullptr;
  Error failure;
  try {
    const CurrentDevice current(impl.device);
    if (!current.status()) return Transfer(current.status().error());
    const auto shape = shape_of(kv, slice);
    if (!shape) return Transfer(shape.error());
    if (shape->tokens == 0 || slice.layers.empty()) return {};
    if (shape->row_bytes > impl.options.piece_bytes) {
      return Transfer(refuse("piece_bytes is " + std::to_string(impl.options.piece_bytes) +
                             "; one row has " + std::to_string(shape->row_bytes)));
    }
    const auto runs = runs_of(kv, slice, view, *shape, impl.device);
    if (!runs) return Transfer(runs.error());
    Event done;
    streams = &impl.streams[impl.turn.fetch_add(1) % impl.streams.size()];
    Operation operation(impl, *streams, *shape, *runs);
    const Stream* last = nullptr;
    Status status = kInsert ? operation.insert(last) : operation.extract(last);
    if (status) status = done.record(last->get());
    if (status) return Transfer(std::move(done));
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
  done_.reset();
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
  for (const Streams& streams : impl_->streams) streams.drain();
}

Transfer KvTransfer::insert(const PagedKv& kv, const Slice& slice, const KvView& view) {
  return run(*impl_, kv, slice, view);
}
Transfer KvTransfer::extract(const PagedKv& kv, const Slice& slice, const MutableKvView& view) {
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
