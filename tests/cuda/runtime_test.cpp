// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/cuda/runtime.hpp"

#include <cstring>

#include "tests/cuda/gpu.hpp"

using namespace cake;
using namespace cake::cuda;

TEST_CASE("a machine that cannot run kernels says what is missing") {
  const Status status = usable();
  if (status) {
    const DeviceInfo info = device_info().value();
    CHECK(info.major >= 8);
    CHECK(info.multiprocessors > 0);
    CHECK(!info.name.empty());
  } else {
    CHECK(status.code() == Errc::unsupported);
    CHECK(!status.error().context.empty());
    CHECK(device_info().error().code == Errc::unsupported);
  }
}

TEST_CASE("CUDA errors keep their number and say what was being done") {
  const Status memory = to_status(cudaErrorMemoryAllocation, "pages");
  REQUIRE(!memory);
  CHECK(memory.code() == Errc::out_of_memory);
  CHECK(memory.error().native == static_cast<int>(cudaErrorMemoryAllocation));
  CHECK(memory.error().context.find("pages") == 0);
  CHECK(to_status(cudaErrorInvalidValue, "x").code() == Errc::device);
  CHECK(to_status(cudaSuccess, "x").has_value());
}

TEST_CASE("bytes travel to the device and back in stream order") {
  CAKE_NEEDS_GPU();
  const Stream stream;
  const Event event(true);
  PinnedBuffer host(1 << 20);
  PinnedBuffer back(1 << 20);
  DeviceBuffer device(1 << 20);
  for (std::size_t i = 0; i < host.size(); ++i) host.data()[i] = static_cast<std::byte>(i * 7);
  REQUIRE(cudaMemcpyAsync(device.data(), host.data(), host.size(), cudaMemcpyDefault,
                          stream.get()) == cudaSuccess);
  REQUIRE(cudaMemcpyAsync(back.data(), device.data(), host.size(), cudaMemcpyDefault,
                          stream.get()) == cudaSuccess);
  REQUIRE(event.record(stream.get()));
  REQUIRE(event.wait());
  CHECK(event.ready());
  CHECK(std::memcmp(host.data(), back.data(), host.size()) == 0);
}

TEST_CASE("more memory than the device has is refused, and nothing is broken after it") {
  CAKE_NEEDS_GPU();
  const std::size_t all = device_info().value().memory_bytes;
  try {
    const DeviceBuffer buffer(2 * all);
    FAIL("twice the memory was given");
  } catch (const Exception& e) {
    CHECK(e.error().code == Errc::out_of_memory);
  }
  CHECK(DeviceBuffer(4096).data() != nullptr);
  CHECK(cudaGetLastError() == cudaSuccess);
}
