// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Transfers in flight: many at once, from several threads, failed in the middle, dropped. Built
// twice, as kv_transfer_test.cpp.
#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>

#include "kv_transfer_device.hpp"
#include "src/cuda/kv_transfer/kv_transfer_probe.hpp"
#include "tests/cuda/gpu.hpp"

using namespace kv_model;

TEST_CASE("many inserts in flight land each in its own pages") {
  CAKE_NEEDS_GPU();
  for (const std::size_t direct_bytes : {std::size_t{0}, SIZE_MAX}) {
    KvTransfer transfer(small(direct_bytes));
    Case c;
    c.tokens = {0, 512};
    Pools pools(c);
    DevicePools device(pools);
    const PagedKv kv = pools.paged(device.bases());
    const std::size_t run = pools.layout().run_bytes(32);
    std::vector<ViewMemory> views;
    std::vector<Transfer> running;
    std::vector<Case> parts;
    for (std::uint32_t i = 0; i < 16; ++i) {
      Case part = c;
      part.tokens = {32 * i, 32 * i + 32};
      parts.push_back(part);
      views.emplace_back(i % 3 == 0 ? Where::pageable : Where::pinned, 4 * run, 50 + i);
    }
    for (std::uint32_t i = 0; i < 16; ++i) {
      running.push_back(transfer.insert(kv, {i, parts[i].tokens, {0, 2}},
                                        view_of(views[i].data(), parts[i], run)));
    }
    for (Transfer& t : running) {
      Transfer moved = std::move(t);
      CHECK(t.ready());  // nothing is left in it
      CHECK(message(moved.wait()) == "");
      CHECK(moved.ready());
    }
    AlignedBuffer whole(4 * pools.run_bytes());
    ViewMemory back(Where::pinned, whole.size(), 0);
    REQUIRE(
        message(
            transfer.extract(kv, pools.slice(), mutable_view_of(back.data(), c, pools.run_bytes()))
                .wait()) == "");
    for (std::uint32_t i = 0; i < 16; ++i) {
      for (std::size_t side = 0; side < 4; ++side) {
        INFO("part " << i << ", run " << side);
        REQUIRE(std::memcmp(back.data() + side * pools.run_bytes() + i * run,
                            views[i].data() + side * run, run) == 0);
      }
    }
  }
}

TEST_CASE("four threads insert and extract at once, with one piece of staging between them") {
  CAKE_NEEDS_GPU();
  for (const std::size_t direct_bytes : {std::size_t{0}, SIZE_MAX}) {
    KvTransferOptions options = small(direct_bytes);
    options.pieces = 1;
    KvTransfer transfer(options);
    Case c;
    c.tokens = {0, 400};
    Pools pools(c);
    DevicePools device(pools);
    const PagedKv kv = pools.paged(device.bases());
    std::atomic<int> wrong{0};
    std::vector<std::vector<ViewMemory>> views(4);
    std::vector<std::vector<ViewMemory>> backs(4);
    const std::size_t run = pools.layout().run_bytes(100);
    for (unsigned t = 0; t < 4; ++t) {
      for (unsigned i = 0; i < 12; ++i) {
        const Where where = kEverywhere[(t + i) % 2];  // host memory, to be compared at once
        views[t].emplace_back(where, 4 * run, 100 * t + i);
        backs[t].emplace_back(where, 4 * run, 7);
      }
    }
    std::vector<std::thread> threads;
    for (std::uint32_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        const Slice own{t, {100 * t, 100 * t + 100}, {0, 2}};
        for (unsigned i = 0; i < 12; ++i) {
          Transfer in = transfer.insert(kv, own, KvView(views[t][i].data(), 0, run, run));
          if (!in.wait()) ++wrong;
          Transfer out = transfer.extract(kv, own, MutableKvView(backs[t][i].data(), 0, run, run));
          if (!out.wait()) ++wrong;
          if (std::memcmp(views[t][i].data(), backs[t][i].data(), 4 * run) != 0) ++wrong;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
    CHECK(KvTransferProbe::idle_pieces(transfer) == 1);
    CHECK(pools.table().size() == 26);
  }
}

namespace {

bool all_are(ViewMemory& memory, std::byte value) {
  const std::byte* const bytes = memory.host();
  return std::all_of(bytes, bytes + memory.size(), [=](std::byte b) { return b == value; });
}

}  // namespace

TEST_CASE("a failure in the middle leaves nothing in flight, and the next transfer runs") {
  CAKE_NEEDS_GPU();
  for (const std::size_t direct_bytes : {std::size_t{0}, SIZE_MAX}) {
    for (const Where where : kEverywhere) {
      KvTransfer transfer(small(direct_bytes));
      Case c;
      c.tokens = {5, 305};
      Pools pools(c);
      DevicePools device(pools);
      const PagedKv kv = pools.paged(device.bases());
      int failed = 0;
      for (int calls = 0; calls < 40; ++calls) {
        INFO(kNames[static_cast<int>(where)] << ", direct from " << direct_bytes
                                             << ", failing call " << calls);
        ViewMemory view(where, view_bytes(c, pools.run_bytes()), 1);
        view.fill(0x11);
        KvTransferProbe::fail_after(transfer, calls);
        const Status inserted =
            transfer.insert(kv, pools.slice(), view_of(view.data(), c, pools.run_bytes())).wait();
        view.fill(0xee);  // whatever is still in flight would bring this
        REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
        ViewMemory back(where, view.size(), 2);
        KvTransferProbe::fail_after(transfer, calls);
        const Status extracted =
            transfer.extract(kv, pools.slice(), mutable_view_of(back.data(), c, pools.run_bytes()))
                .wait();
        back.fill(0x77);  // and this would be overwritten
        REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
        CHECK(all_are(back, std::byte{0x77}));  // an extract wrote nothing after its end
        KvTransferProbe::fail_after(transfer, -1);
        CHECK(KvTransferProbe::idle_pieces(transfer) == 2);
        if (!inserted) {
          ++failed;
          CHECK(inserted.code() == Errc::device);
          CHECK(!inserted.error().context.empty());
        }
        CHECK(inserted.has_value() == extracted.has_value());
        REQUIRE(message(transfer
                            .extract(kv, pools.slice(),
                                     mutable_view_of(back.data(), c, pools.run_bytes()))
                            .wait()) == "");
        if (inserted) {
          CHECK(all_are(back, std::byte{0x11}));
          break;
        }
        const std::byte* const now = back.host();
        AlignedBuffer before(back.size());
        pools.model(mutable_view_of(before.data(), c, pools.run_bytes()));
        for (std::size_t i = 0; i < back.size(); ++i) {
          if (now[i] != std::byte{0x11} && now[i] != before.data()[i]) {
            FAIL("byte " << i << " is neither old nor new");
          }
        }
      }
      CHECK(failed >= 2);
      CHECK(failed < 40);
    }
  }
}

TEST_CASE("a transfer that is dropped or outlives its maker is waited for") {
  CAKE_NEEDS_GPU();
  Case c;
  c.tokens = {0, 200};
  for (const std::size_t direct_bytes : {std::size_t{0}, SIZE_MAX}) {
    Pools pools(c);
    DevicePools device(pools);
    const PagedKv kv = pools.paged(device.bases());
    ViewMemory view(Where::pinned, view_bytes(c, pools.run_bytes()), 1);
    pools.model(view_of(view.host(), c, pools.run_bytes()));
    auto transfer = std::make_unique<KvTransfer>(small(direct_bytes));
    (void)transfer->insert(kv, pools.slice(), view_of(view.data(), c, pools.run_bytes()));
    view.fill(0);
    CHECK(pools.difference(device.download()) == "");

    ViewMemory second(Where::pinned, view.size(), 2);
    pools.model(view_of(second.host(), c, pools.run_bytes()));
    Transfer late =
        transfer->insert(kv, pools.slice(), view_of(second.data(), c, pools.run_bytes()));
    transfer.reset();
    CHECK(late.ready());
    second.fill(0);
    CHECK(message(late.wait()) == "");
    CHECK(pools.difference(device.download()) == "");

    KvTransfer other(small(direct_bytes));
    ViewMemory third(Where::pinned, view.size(), 3);
    pools.model(view_of(third.host(), c, pools.run_bytes()));
    Transfer over = other.insert(kv, pools.slice(), view_of(third.data(), c, pools.run_bytes()));
    over = Transfer();  // assigning drops what was there
    third.fill(0);
    CHECK(pools.difference(device.download()) == "");
  }
}
