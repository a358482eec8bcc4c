// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Inserts and extracts on a device, beside a model of the same in host memory. Built twice: for the
// GPU, and over a CUDA runtime of the test's own (fake_cuda.cpp) that every machine can run.
#include "cake/cuda/kv_transfer.hpp"

#include <atomic>
#include <thread>

#include "cake/cuda/pinned_staging.hpp"
#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "cake/testing.hpp"
#include "kv_transfer_model.hpp"
#include "src/cuda/kv_transfer_probe.hpp"
#include "tests/cuda/gpu.hpp"

using namespace kv_model;

namespace {

/// Copies of the model's pools in device memory.
class DevicePools {
 public:
  explicit DevicePools(const Pools& pools) {
    for (const AlignedBuffer& pool : pools.memory()) {
      memory_.emplace_back(pool.size());
      bases_.push_back(memory_.back().data());
    }
    upload(pools);
  }
  void upload(const Pools& pools) {
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      REQUIRE(cudaMemcpy(bases_[i], pools.memory()[i].data(), memory_[i].size(),
                         cudaMemcpyHostToDevice) == cudaSuccess);
    }
    // Copies from pageable memory may return before they are done.
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  }
  std::vector<AlignedBuffer> download() const {
    std::vector<AlignedBuffer> host;
    for (const DeviceBuffer& pool : memory_) {
      host.emplace_back(pool.size());
      REQUIRE(cudaMemcpy(host.back().data(), pool.data(), pool.size(), cudaMemcpyDeviceToHost) ==
              cudaSuccess);
    }
    return host;
  }
  const std::vector<void*>& bases() const { return bases_; }

 private:
  std::vector<DeviceBuffer> memory_;
  std::vector<void*> bases_;
};

enum class Where { pinned, pageable, device, device_crooked };
constexpr Where kEverywhere[] = {Where::pinned, Where::pageable, Where::device,
                                 Where::device_crooked};
constexpr const char* kNames[] = {"pinned", "pageable", "device", "device, 8 bytes off"};

/// Transfer memory of some kind, filled from a seed.
class ViewMemory {
 public:
  ViewMemory(Where where, std::size_t bytes, unsigned seed) : where_(where), host_(bytes) {
    std::uint32_t x = seed * 747796405u + 1;
    for (std::byte& b : host_.bytes()) b = static_cast<std::byte>((x = x * 1664525u + 1013) >> 24);
    if (where == Where::pinned) pinned_ = PinnedBuffer(bytes);
    if (where == Where::device || where == Where::device_crooked)
      device_ = DeviceBuffer(bytes + 16);
    put();
  }
  std::byte* data() const {
    if (where_ == Where::pinned) return pinned_.data();
    if (where_ == Where::pageable) return host_.data();
    return device_.as<std::byte>() + (where_ == Where::device ? 0 : 8);
  }
  std::size_t size() const { return host_.size(); }
  void fill(int byte) {
    std::memset(host_.data(), byte, host_.size());
    put();
  }
  /// The bytes in host memory, for the model.
  std::byte* host() {
    if (data() != host_.data()) {
      REQUIRE(cudaMemcpy(host_.data(), data(), host_.size(), cudaMemcpyDefault) == cudaSuccess);
    }
    return host_.data();
  }

 private:
  void put() {
    if (data() == host_.data()) return;
    REQUIRE(cudaMemcpy(data(), host_.data(), host_.size(), cudaMemcpyDefault) == cudaSuccess);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  }
  Where where_;
  AlignedBuffer host_;
  PinnedBuffer pinned_;
  DeviceBuffer device_;
};

/// Copies straight into pages, rows by kernel, and what the defaults choose; small pieces, so that
/// every transfer takes several.
KvTransferOptions small(std::size_t direct_bytes) {
  KvTransferOptions options;
  options.direct_bytes = direct_bytes;
  options.streams = 2;
  options.pieces = 2;
  options.piece_bytes = 8192;
  options.batch_bytes = 12'000;
  options.blocks = 3;
  return options;
}

std::string message(const Status& status) { return status ? "" : status.error().message(); }

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
        const std::byte* const quiet = back.host();
        for (std::size_t i = 0; i < back.size(); ++i) {
          if (quiet[i] != std::byte{0x77}) FAIL("an extract wrote after its end");
        }
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
        const std::byte* const now = back.host();
        if (inserted) {
          for (std::size_t i = 0; i < back.size(); ++i) {
            if (now[i] != std::byte{0x11}) FAIL("byte " << i << " is not what was inserted");
          }
          break;
        }
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
          "the view has 4096 bytes of K of layer 0; 63 tokens are 4032");
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

namespace {

/// An engine over pages in device memory, with a model that is computed on the host: the KV of a
/// token depends on all KV before it.
class PagedEngine {
 public:
  explicit PagedEngine(const Case& c) : case_(c), pools_(c), device_(pools_) {
    kv_ = pools_.paged(device_.bases());
  }
  KvLayout layout() const { return kv_.layout; }
  ModelFingerprint fingerprint() const {
    return FingerprintBuilder().add("weights", "paged test").finish();
  }
  StagingMemory* staging_memory() { return &staging_; }
  Transfer insert(const Slice& slice, const KvView& view) {
    return transfer_.insert(kv_, slice, view);
  }
  Transfer extract(const Slice& slice, const MutableKvView& view) {
    return transfer_.extract(kv_, slice, view);
  }
  Status prefill(Tokens tokens, TokenRange range) {
    const LayerRange layers{0, case_.n_layers};
    std::uint32_t sum = 1;
    if (range.begin != 0) {
      const Slice before{0, {0, range.begin}, layers};
      testing::detail::Runs runs(layout(), before);
      if (auto status = extract(before, runs.view()).wait(); !status) return status;
      for (const std::byte b : runs.bytes()) sum += static_cast<std::uint32_t>(b) * 2654435761u;
    }
    for (std::uint32_t t = range.begin; t < range.end; ++t) {
      const Slice one{0, {t, t + 1}, layers};
      testing::detail::Runs runs(layout(), one);
      testing::detail::fill(runs.bytes(), sum + static_cast<std::uint32_t>(tokens[t]));
      if (auto status = insert(one, runs.const_view()).wait(); !status) return status;
      for (const std::byte b : runs.bytes()) sum += static_cast<std::uint32_t>(b) * 2654435761u;
    }
    return {};
  }
  const PinnedStaging& staging() const { return staging_; }

 private:
  Case case_;
  Pools pools_;
  DevicePools device_;
  PagedKv kv_;
  PinnedStaging staging_;
  KvTransfer transfer_;
};
static_assert(ComputeBackend<PagedEngine>);

std::vector<TokenId> prompt_of(std::uint32_t n) {
  std::vector<TokenId> prompt(n);
  for (std::uint32_t i = 0; i < n; ++i) prompt[i] = static_cast<TokenId>(i * i % 101);
  return prompt;
}

}  // namespace

TEST_CASE("an engine over pages keeps the rules of the contract") {
  CAKE_NEEDS_GPU();
  for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
    Case c;
    c.order = order;
    c.tokens = {0, 90};
    PagedEngine engine(c);
    for (const std::string& failure : testing::check(engine, prompt_of(90))) FAIL_CHECK(failure);
  }
}

TEST_CASE("KV that the loader brings back through pinned staging is bit-equal to KV computed") {
  CAKE_NEEDS_GPU();
  Case c;
  c.tokens = {0, 250};
  const auto prompt = prompt_of(250);
  MemoryStorage storage;
  const LoaderOptions options{.chunk_tokens = 32, .max_step_tokens = 32};
  testing::detail::Runs computed({2, 2, 16, DType::bf16, KvOrder::nhd}, {0, {0, 250}, {0, 2}});
  testing::detail::Runs loaded({2, 2, 16, DType::bf16, KvOrder::nhd}, {0, {0, 250}, {0, 2}});
  {
    PagedEngine engine(c);
    Loader loader(engine, storage, options);
    const PrefillReport report = loader.prefill(prompt);
    REQUIRE(message(report.status) == "");
    CHECK(report.tokens_computed == 250);
    const SaveReport saved = loader.save(prompt);
    REQUIRE(message(saved.status) == "");
    CHECK(saved.written == 7);
    REQUIRE(message(engine.extract({0, {0, 250}, {0, 2}}, computed.view()).wait()) == "");
  }
  Case other = c;
  other.seed = 77;  // other pages
  PagedEngine engine(other);
  {
    Loader loader(engine, storage, options, LoadOnlyScheduler());
    const PrefillReport report = loader.prefill(prompt);
    REQUIRE(message(report.status) == "");
    CHECK(report.tokens_loaded == 7 * 32);
    CHECK(engine.staging().kept() + engine.staging().in_use() > 0);
  }
  CHECK(engine.staging().in_use() == 0);
  REQUIRE(message(engine.extract({0, {0, 250}, {0, 2}}, loaded.view()).wait()) == "");
  CHECK(std::memcmp(computed.bytes().data(), loaded.bytes().data(), computed.bytes().size()) == 0);
}
