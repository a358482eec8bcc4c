// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Planes of any number and width, windows and states on a device, beside a model of the same in
// host memory, and what is refused. Built twice, as kv_transfer_test.cpp.
#include <functional>

#include "cake/cuda/kv_transfer.hpp"
#include "kv_planes_model.hpp"
#include "kv_transfer_device.hpp"
#include "src/cuda/kv_transfer/kv_transfer_probe.hpp"
#include "tests/catch.hpp"
#include "tests/cuda/gpu.hpp"

using namespace cake;
using namespace cake::cuda;
using kv_model::kEverywhere;
using kv_model::kNames;
using kv_model::message;
using kv_model::small;
using kv_model::ViewMemory;
using kv_model::Where;
using kv_planes::difference;
using kv_planes::Planes;

namespace {

/// The pools of a case in device memory.
class DevicePlanes {
 public:
  explicit DevicePlanes(Planes& planes) : memory_(planes.memory().size()) { upload(planes); }
  void upload(Planes& planes) {
    REQUIRE(cudaMemcpy(memory_.data(), planes.memory().data(), memory_.size(),
                       cudaMemcpyHostToDevice) == cudaSuccess);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  }
  AlignedBuffer download() const {
    AlignedBuffer host(memory_.size());
    REQUIRE(cudaMemcpy(host.data(), memory_.data(), memory_.size(), cudaMemcpyDeviceToHost) ==
            cudaSuccess);
    return host;
  }
  void* base() const { return memory_.data(); }

 private:
  DeviceBuffer memory_;
};

void check(KvTransfer& transfer, Planes& planes, DevicePlanes& device, Where where, unsigned seed) {
  planes.fill(seed);
  device.upload(planes);
  ViewMemory view(where, planes.view_bytes(), seed);
  const Status inserted =
      transfer.insert(planes.paged(device.base()), planes.slice(), planes.view_of(view.data()))
          .wait();
  REQUIRE(message(inserted) == "");
  planes.model(planes.view_of(view.host()));
  REQUIRE(difference(planes.memory().bytes(), device.download().bytes()) == "");

  ViewMemory back(where, view.size(), 0);
  back.fill(0x5a);
  AlignedBuffer expected(view.size());
  std::memset(expected.data(), 0x5a, expected.size());
  const Status extracted =
      transfer
          .extract(planes.paged(device.base()), planes.slice(), planes.mutable_view_of(back.data()))
          .wait();
  if (planes.lacks_pages()) {
    REQUIRE(extracted.code() == Errc::not_found);
  } else {
    REQUIRE(message(extracted) == "");
    planes.model(planes.mutable_view_of(expected.data()));
  }
  REQUIRE(difference(expected.bytes(), {back.host(), back.size()}) == "");
}

}  // namespace

TEST_CASE(
    "planes of any kind, windows and states go where the layout says, and nothing else is "
    "touched") {
  CAKE_NEEDS_GPU();
  KvTransfer direct(small(0));
  KvTransfer staged(small(SIZE_MAX));
  KvTransfer chosen;
  KvTransfer* const transfers[] = {&direct, &staged, &chosen};
  unsigned turn = 0;
  for (unsigned seed = 0; seed < 120; ++seed) {
    Planes planes(seed);
    DevicePlanes device(planes);
    for (const Where where : kEverywhere) {
      const unsigned which = ++turn % 3;
      INFO(planes.text() << "\n  view: " << kNames[static_cast<int>(where)] << "; "
                         << (which == 0   ? "direct"
                             : which == 1 ? "staged"
                                          : "default"));
      check(*transfers[which], planes, device, where, turn);
    }
  }
  for (KvTransfer* t : {&direct, &staged}) CHECK(KvTransferProbe::idle_pieces(*t) == 2);
}

namespace {

/// Layers that keep a latent, a window of K and V, nothing, and a state.
struct Mixed {
  Mixed() {
    const KvPlane row{1, 96};
    layout.n_layers = 4;
    layout.kinds = {{{row}}, {{{2, 32}, {2, 16}}, 24}, {}, {{{1, 4096}}, 0, true}};
    layout.kind_of = {0, 1, 2, 3};
    tables = {{16, 8, all}, {16, 4, window}, {64, 3, states}};
    memory = DeviceBuffer(1 << 16);
    auto* const base = memory.as<std::byte>();
    pools = {PlanePool::packed(base, row, 16), PlanePool::packed(base + 12288, {2, 32}, 16, 1),
             PlanePool::packed(base + 16384, {2, 16}, 16, 1),
             PlanePool::packed(base + 20480, {1, 4096}, 1, 2)};
  }
  PagedPlanes paged() const { return {layout, pools, tables}; }

  KvLayout layout;
  std::vector<std::int32_t> all{7, 1, 3, 2, 5, 4, 0, 6};
  std::vector<std::int32_t> window{-1, -1, 2, 1};
  std::vector<std::int32_t> states{0, -1, 2};
  std::vector<PageTable> tables;
  std::vector<PlanePool> pools;
  DeviceBuffer memory;
};

/// Slices of it that are refused.
struct Refusals {
  static void refused(const Status& status, const std::string& what,
                      Errc code = Errc::invalid_argument) {
    INFO(message(status));
    CHECK(status.code() == code);
    CHECK(message(status).find(what) != std::string::npos);
  }
  void changed(const std::function<void(Mixed&)>& change, const std::string& what) {
    Mixed other;
    change(other);
    refused(transfer.insert(other.paged(), slice, in).wait(), what);
  }

  KvTransfer transfer;
  Mixed mixed;
  Slice slice{0, {0, 64}, {0, 4}};
  std::shared_ptr<const KvRuns> runs = std::make_shared<const KvRuns>(mixed.layout, 64);
  ViewMemory view{Where::pinned, runs->begin_at(4), 1};
  KvView in{view.data(), 0, runs};
  MutableKvView out{view.data(), 0, runs};
};

}  // namespace

TEST_CASE("planes that do not fit are refused with what is wrong, before anything moves") {
  CAKE_NEEDS_GPU();
  Refusals r;
  Mixed& mixed = r.mixed;
  KvTransfer& transfer = r.transfer;
  const Slice& slice = r.slice;
  const KvView& in = r.in;
  CHECK(message(mixed.paged().check()) == "");
  CHECK(message(transfer.insert(mixed.paged(), slice, in).wait()) == "");
  CHECK(message(transfer.insert(mixed.paged(), {0, {9, 9}, {0, 4}}, KvView()).wait()) == "");
  CHECK(message(transfer.insert(mixed.paged(), {0, {0, 64}, {2, 3}}, KvView()).wait()) == "");

  r.changed([](Mixed& m) { m.pools.pop_back(); }, "3 pools for the 4 planes of all layers");
  r.changed([](Mixed& m) { m.pools[1].table = 3; }, "table 3 of 3");
  r.changed([](Mixed& m) { m.pools[2].base = nullptr; }, "plane 1 of layer 1 has no pool");
  r.changed([](Mixed& m) { m.pools[2].page = 256; },
            "stride of one page of plane 1 of layer 1 is 256 bytes, but one has 512");
  r.changed([](Mixed& m) { m.pools[2].token = 8; },
            "stride of one token of plane 1 of layer 1 is 8");
  r.changed([](Mixed& m) { m.tables[0].page_tokens = 0; },
            "page_tokens of plane 0 of layer 0 are 0");
  r.changed([](Mixed& m) { m.all[2] = 8; }, "block_table[2] is 8 of 8 pages (layer 0)");
  r.changed([](Mixed& m) { m.all[2] = -1; }, "block_table[2] is -1 of 8 pages (layer 0)");
  r.changed([](Mixed& m) { m.tables[0].pages = m.tables[0].pages.first(3); }, "hold 48 (layer 0)");
  r.changed([](Mixed& m) { m.window[2] = 1; },
            "page 1 of layer 1 is there twice for tokens [0, 64)");
  r.changed([](Mixed& m) { m.window[3] = -2; }, "block_table[3] is -2 of 4 pages (layer 1)");
  r.changed([](Mixed& m) { m.layout.kinds[3].planes[0].row_bytes = 4095; },
            "the view has 4096 bytes of plane 0 of layer 3; a state has 4095");
  r.changed([](Mixed& m) { m.layout.kinds[1].window = 0; }, "block_table[0] is -1");
  r.changed(
      [](Mixed& m) {
        m.layout.kinds[1].planes.pop_back();
        m.pools.erase(m.pools.begin() + 2);
      },
      "the view has a plane 1 of layer 1, and the pages have none");
  r.refused(transfer.insert(mixed.paged(), {0, {0, 64}, {0, 5}}, in).wait(), "layers [0, 5) of 4");
  r.refused(transfer.insert(mixed.paged(), {0, {0, 63}, {0, 4}}, in).wait(),
            "the view has 6144 bytes of plane 0 of layer 0; 63 tokens are 6048");
}

TEST_CASE(
    "windows and states that have no page are refused, and an extract says that they are not "
    "there") {
  CAKE_NEEDS_GPU();
  Refusals r;
  const auto insert = [&](const Slice& slice) {
    return r.transfer.insert(r.mixed.paged(), slice, r.in).wait();
  };
  const auto extract = [&](const Slice& slice) {
    return r.transfer.extract(r.mixed.paged(), slice, r.out).wait();
  };
  r.refused(extract(r.slice),
            "tokens [0, 16) have left the window of layer 1: block_table[0] is -1",
            Errc::not_found);
  CHECK(message(extract({0, {0, 64}, {0, 1}})) == "");
  CHECK(message(extract({0, {0, 64}, {2, 4}})) == "");
  const Slice state{1, {64, 128}, {3, 4}};
  r.refused(extract(state),
            "the state of layer 3 behind token 128 has no page: block_table[1] is -1",
            Errc::not_found);
  r.refused(insert(state), "block_table[1] is -1");
  r.refused(extract({1, {36, 100}, {3, 4}}), "those behind every 64 tokens", Errc::not_found);
  r.refused(extract({1, {192, 256}, {3, 4}}), "has 3 entries", Errc::not_found);
}
