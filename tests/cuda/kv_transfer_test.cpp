// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Where the bytes of inserts and extracts go on a device, beside a model of the same in host
// memory, and what is refused. Built twice: for the GPU, and over a CUDA runtime of the test's own
// (fake_cuda.cpp) that every machine can run.
#include "cake/cuda/kv_transfer.hpp"

#include "kv_transfer_device.hpp"
#include "src/cuda/kv_transfer/kv_transfer_probe.hpp"
#include "tests/cuda/gpu.hpp"

using namespace kv_model;

namespace {

void check_page_size(std::uint32_t page_tokens, KvOrder order) {
  KvTransfer direct(small(0));
  KvTransfer staged(small(SIZE_MAX));
  KvTransfer chosen;
  KvTransfer* const transfers[] = {&direct, &staged, &chosen};
  unsigned turn = page_tokens;
  for (const Case& c : cases(page_tokens, order)) {
    Pools pools(c);
    DevicePools device(pools);
    for (const Where where : kEverywhere) {
      KvTransfer& transfer = *transfers[++turn % 3];
      INFO(c << "; view: " << kNames[static_cast<int>(where)] << "; "
             << (turn % 3 == 0   ? "direct"
                 : turn % 3 == 1 ? "staged"
                                 : "default"));
      pools.fill(turn);
      device.upload(pools);
      ViewMemory view(where, view_bytes(c, pools.run_bytes()), turn);
      const Status inserted = transfer
                                  .insert(pools.paged(device.bases()), pools.slice(),
                                          view_of(view.data(), c, pools.run_bytes()))
                                  .wait();
      REQUIRE(message(inserted) == "");
      pools.model(view_of(view.host(), c, pools.run_bytes()));
      REQUIRE(pools.difference(device.download()) == "");

      ViewMemory back(where, view.size(), 0);
      back.fill(0x5a);
      AlignedBuffer expected(view.size());
      std::memset(expected.data(), 0x5a, expected.size());
      pools.model(mutable_view_of(expected.data(), c, pools.run_bytes()));
      const Status extracted = transfer
                                   .extract(pools.paged(device.bases()), pools.slice(),
                                            mutable_view_of(back.data(), c, pools.run_bytes()))
                                   .wait();
      REQUIRE(message(extracted) == "");
      const std::byte* const got = back.host();
      for (std::size_t i = 0; i < view.size(); ++i) {
        if (got[i] == expected.data()[i]) continue;
        INFO("byte " << i << " of the view, in run " << i / (pools.run_bytes() + c.gap));
        REQUIRE(static_cast<int>(got[i]) == static_cast<int>(expected.data()[i]));
      }
    }
  }
  for (KvTransfer* t : {&direct, &staged}) CHECK(KvTransferProbe::idle_pieces(*t) == 2);
}

/// A shape with long runs: 8 heads of 128, as large models have.
Case wide(KvOrder order, std::uint32_t page_tokens, Table table) {
  Case c;
  c.order = order;
  c.page_tokens = page_tokens;
  c.tokens = {256, 512};
  c.n_layers = 3;
  c.layers = {0, 3};
  c.heads = 8;
  c.head_dim = 128;
  c.table = table;
  return c;
}

}  // namespace

TEST_CASE("bytes go where the layout says and nothing else is touched: short pages") {
  CAKE_NEEDS_GPU();
  for (const std::uint32_t page : {1u, 2u, 8u, 16u}) {
    check_page_size(page, KvOrder::nhd);
    check_page_size(page, KvOrder::hnd);
  }
}

TEST_CASE("bytes go where the layout says and nothing else is touched: long pages") {
  CAKE_NEEDS_GPU();
  for (const std::uint32_t page : {7u, 32u, 64u, 128u, 256u}) {
    check_page_size(page, KvOrder::nhd);
    check_page_size(page, KvOrder::hnd);
  }
}

TEST_CASE("a large model's chunk travels with the default options") {
  CAKE_NEEDS_GPU();
  KvTransfer transfer;
  for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
    for (const std::uint32_t page : {1u, 16u, 256u}) {
      for (const Where where : kEverywhere) {
        const Case c = wide(order, page, page == 16 ? Table::mixed : Table::shuffled);
        INFO(c << "; view: " << kNames[static_cast<int>(where)]);
        Pools pools(c);
        DevicePools device(pools);
        ViewMemory view(where, view_bytes(c, pools.run_bytes()), page);
        Transfer insert = transfer.insert(pools.paged(device.bases()), pools.slice(),
                                          view_of(view.data(), c, pools.run_bytes()));
        REQUIRE(insert.wait_for(std::chrono::nanoseconds::max()));
        CHECK(insert.ready());
        REQUIRE(message(insert.wait()) == "");
        pools.model(view_of(view.host(), c, pools.run_bytes()));
        REQUIRE(pools.difference(device.download()) == "");
        ViewMemory back(where, view.size(), 3);
        REQUIRE(message(transfer
                            .extract(pools.paged(device.bases()), pools.slice(),
                                     mutable_view_of(back.data(), c, pools.run_bytes()))
                            .wait()) == "");
        REQUIRE(std::memcmp(back.host(), view.host(), view.size()) == 0);
      }
    }
  }
}

TEST_CASE("a table longer than a kernel's arguments is used in windows") {
  CAKE_NEEDS_GPU();
  KvTransfer transfer(small(SIZE_MAX));
  for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
    Case c;
    c.order = order;
    c.page_tokens = 1;
    c.tokens = {3, 1400};
    c.head_dim = 8;
    for (const Where where : kEverywhere) {
      INFO(c << "; view: " << kNames[static_cast<int>(where)]);
      Pools pools(c);
      DevicePools device(pools);
      ViewMemory view(where, view_bytes(c, pools.run_bytes()), 5);
      REQUIRE(message(transfer
                          .insert(pools.paged(device.bases()), pools.slice(),
                                  view_of(view.data(), c, pools.run_bytes()))
                          .wait()) == "");
      pools.model(view_of(view.host(), c, pools.run_bytes()));
      REQUIRE(pools.difference(device.download()) == "");
    }
  }
}

TEST_CASE("what does not fit is refused with the numbers, before anything moves") {
  CAKE_NEEDS_GPU();
  Case c;
  Pools pools(c);
  DevicePools device(pools);
  PagedKv kv = pools.paged(device.bases());
  KvTransfer transfer;
  const std::size_t run = pools.run_bytes();
  ViewMemory view(Where::pinned, 4 * run, 1);
  const auto refused = [&](Transfer t, const std::string& what) {
    CHECK(t.ready());
    CHECK(t.wait_for(std::chrono::nanoseconds(0)));
    const Status status = t.wait();
    INFO(message(status));
    CHECK(status.code() == Errc::invalid_argument);
    CHECK(message(status).find(what) != std::string::npos);
  };
  refused(transfer.insert(kv, {0, {0, 1000}, {0, 2}}, KvView(view.data(), 0, run, run)),
          "tokens [0, 1000)");
  refused(transfer.insert(kv, {0, {0, 64}, {0, 3}}, KvView(view.data(), 0, run, run)),
          "layers [0, 3) of 2");
  refused(transfer.insert(kv, {0, {0, 63}, {0, 2}}, KvView(view.data(), 0, run, run)),
          "the view has 4096 bytes of plane 0 of layer 0; 63 tokens are 4032");
  refused(transfer.extract(kv, {0, {0, 64}, {0, 2}}, MutableKvView()), "the view has 0 bytes");
  {
    AlignedBuffer host(4096);
    std::vector<void*> pools_on_host(2, host.data());
    PagedKv wrong = kv;
    wrong.k = wrong.v = pools_on_host;
    refused(transfer.insert(wrong, pools.slice(), KvView(view.data(), 0, run, run)),
            "not device memory");
  }
  // An empty slice is done, whatever its view.
  CHECK(message(transfer.insert(kv, {0, {9, 9}, {0, 2}}, KvView()).wait()) == "");
  CHECK(message(transfer.insert(kv, {0, {0, 64}, {1, 1}}, KvView()).wait()) == "");
  CHECK(pools.difference(device.download()) == "");
  CHECK(cudaGetLastError() == cudaSuccess);
}

TEST_CASE("options that make no sense are refused by name") {
  const auto refused = [](auto change, const char* what) {
    KvTransferOptions options;
    change(options);
    try {
      const KvTransfer transfer(options);
      FAIL("taken: " << what);
    } catch (const Exception& e) {
      CHECK(e.error().code == Errc::invalid_argument);
      CHECK(e.error().context.find(what) != std::string::npos);
    }
  };
  refused([](auto& o) { o.streams = 0; }, "streams");
  refused([](auto& o) { o.pieces = 0; }, "pieces");
  refused([](auto& o) { o.piece_bytes = 100; }, "piece_bytes");
  refused([](auto& o) { o.piece_bytes = (16 << 20) + 1; }, "piece_bytes");
  refused([](auto& o) { o.batch_bytes = 1; }, "batch_bytes");
  refused([](auto& o) { o.batch_bytes = std::size_t{1} << 30; }, "batch_bytes");
  refused([](auto& o) { o.blocks = 0; }, "blocks");
  if (!usable()) {
    try {
      const KvTransfer transfer;
      FAIL("made without a device");
    } catch (const Exception& e) {
      CHECK(e.error().code == Errc::unsupported);
    }
  }
}
