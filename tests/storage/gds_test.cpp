// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/storage/gds.hpp"

#include <sys/stat.h>

#include <fstream>
#include <thread>

#include "cake/testing/check_storage.hpp"
#include "catch.hpp"
#include "contract.hpp"
#include "gds_helpers.hpp"
#include "posix_helpers.hpp"

namespace {

using namespace cake;
using fault::FakeCufile;
using sample::Directory;
using sample::fake;
using sample::FakeDevice;
using sample::gds_options;
using sample::key_of;
using sample::NothingLeft;
using sample::ThroughDevice;

constexpr std::size_t kSize = std::size_t{80} * 4096;

/// A store on the device path that holds objects 0 to 3.
struct Store {
  NothingLeft end;
  Directory directory;
  FakeDevice device;
  GdsStorage storage;
  ThroughDevice through{storage, device};
  explicit Store(void (*change)(GdsOptions&) = [](GdsOptions&) {})
      : device(std::size_t{4} << 20), storage(options(change), &device) {
    INFO(storage.report().text());
    REQUIRE(storage.report().device);
    for (std::uint64_t i = 0; i < 4; ++i) {
      REQUIRE(storage.write(key_of(i), sample::content(i, kSize).bytes()));
    }
  }
  GdsOptions options(void (*change)(GdsOptions&)) const {
    GdsOptions options = gds_options(directory.path());
    options.op_bytes = std::size_t{16} * 4096;
    options.bounce_bytes = std::size_t{12} * 4096;
    options.max_errors = 3;
    change(options);
    return options;
  }
  /// The right bytes of object i arrive.
  bool good(std::uint64_t i, std::size_t size = kSize, std::uint64_t offset = 0) {
    return sample::equal(sample::fetch(through, key_of(i), size, offset).bytes(),
                         sample::content(i, kSize).bytes().subspan(offset, size));
  }
  void fail_reads(std::int64_t result, int number, std::uint64_t times, std::uint64_t after = 0) {
    fake().bad_result = result;
    fake().bad_errno = number;
    fake().good_reads = after;
    fake().bad_reads = times;
  }
};

TEST_CASE("a GDS store keeps the contract of a store, on both of its paths at once") {
  const NothingLeft end;
  const Directory directory;
  FakeDevice device(1 << 20);
  GdsStorage storage(gds_options(directory.path()), &device);
  REQUIRE(storage.report().device);
  sample::check_contract(storage);
  CHECK(storage.report().reads == 0);
  ThroughDevice through(storage, device);
  sample::check_contract(through);
  CHECK(storage.report().reads > 0);
  CHECK(storage.report().bounced == 0);
  sample::check_concurrent(through, 200);
  sample::check_concurrent(storage, 100);
  CHECK(storage.report().retried == 0);
  CHECK(storage.report().opens > 0);
  for (const std::string& failure : testing::check(storage)) FAIL_CHECK(failure);
  for (const std::string& failure : testing::check(through)) FAIL_CHECK(failure);
  CHECK(device.allocated == 0);
}

TEST_CASE("an object is read into device memory in operations, from any page on") {
  Store store;
  const std::uint64_t before = fake().reads;
  REQUIRE(store.good(0));
  CHECK(fake().reads - before == 5);
  CHECK(store.device.copied_in == 262144);  // the probe's; nothing came by the host
  for (const std::size_t page : {1u, 15u, 16u, 17u, 79u}) {
    CHECK(store.good(1, kSize - page * 4096, page * 4096));
  }
  const GdsReport report = store.storage.report();
  CHECK(report.reads == 6);
  CHECK(report.bytes == kSize + 5 * kSize - (1 + 15 + 16 + 17 + 79) * 4096);
  CHECK(report.opens == 2);
  CHECK(fake().handles == 2);
}

TEST_CASE("reads that end early are continued, also between pages") {
  Store store;
  for (const std::uint64_t most : {4096u, 5000u, 12289u, 61440u}) {
    fake().most_bytes = most;
    CHECK(store.good(2));
  }
  CHECK(store.storage.report().short_ops > 40);
  CHECK(store.storage.report().retried == 0);
}

TEST_CASE("a cuFile error costs one retry by POSIX calls, and the bytes are right") {
  const std::tuple<std::int64_t, int, std::uint64_t> failures[] = {
      {-1, EIO, 0}, {-1, EIO, 3}, {-1, EINVAL, 1}, {-5011, 0, 0}, {-5013, 0, 4}, {-5044, 0, 2}};
  for (const auto& [result, number, after] : failures) {
    Store store;
    store.fail_reads(result, number, 1, after);
    const std::uint64_t copied = store.device.copied_in;
    CHECK(store.good(0));
    GdsReport report = store.storage.report();
    CHECK(report.retried == 1);
    CHECK(report.bounced == 1);
    CHECK(report.reads == 0);
    CHECK(report.device);
    CHECK(store.device.copied_in - copied == kSize);
    CHECK(store.good(0));
    report = store.storage.report();
    CHECK(report.retried == 1);
    CHECK(report.reads == 1);
    CHECK(report.opens == 2);  // the file that failed was registered anew
  }
}

TEST_CASE("an interrupted read is made again and counts as no error") {
  Store store;
  store.fail_reads(-1, EINTR, 5);
  CHECK(store.good(0));
  CHECK(store.storage.report().retried == 0);
}

TEST_CASE("reads that return nothing or too much are cuFile errors") {
  Store store;
  fake().most_bytes = 512;
  CHECK(store.good(0));
  CHECK(store.storage.report().retried == 1);
  fake().most_bytes = 0;
  store.fail_reads(std::int64_t{1} << 30, 0, 1);
  CHECK(store.good(1));
  CHECK(store.storage.report().retried == 2);
}

TEST_CASE("a file that does not register any more is read by POSIX calls") {
  for (const int code : {5008, 5019, 5027, 5028}) {
    Store store;
    REQUIRE(store.good(0));
    fake().handle_register = code;
    CHECK(store.good(0));  // registered already
    CHECK(store.good(1));
    const GdsReport report = store.storage.report();
    CHECK(report.retried == 1);
    CHECK(report.reads == 2);
  }
}

TEST_CASE("too many errors demote the store for good, and everything stays readable") {
  Store store;
  REQUIRE(store.good(0));
  store.fail_reads(-5011, 0, FakeCufile::kAlways);
  for (int i = 0; i < 3; ++i) {
    CHECK(store.storage.report().device);
    CHECK(store.storage.device_staging() == &store.device);
    CHECK(store.good(1));
  }
  GdsReport report = store.storage.report();
  INFO(report.text());
  CHECK_FALSE(report.device);
  CHECK(report.demoted);
  CHECK(report.reason.find("given up after 3 cuFile errors") == 0);
  CHECK(report.reason.find("5011") != std::string::npos);
  CHECK(store.storage.path().find("POSIX: given up") == 0);
  CHECK(store.storage.device_staging() == nullptr);
  CHECK(fake().handles == 0);
  CHECK(fake().buffers == 1);  // until the store's end: nobody knows what is still under way
  fake().obey();
  const std::uint64_t reads = fake().reads;
  CHECK(store.good(2));
  CHECK(fake().reads == reads);
  report = store.storage.report();
  CHECK(report.retried == 3);
  CHECK(report.bounced == 4);
}

TEST_CASE("errors that lie further apart than the window demote nothing") {
  Store store([](GdsOptions& o) { o.error_window = std::chrono::nanoseconds(1); });
  store.fail_reads(-5011, 0, 20);
  for (int i = 0; i < 20; ++i) CHECK(store.good(1));
  CHECK(store.storage.report().device);
  CHECK(store.storage.report().retried == 20);
}

TEST_CASE("a file that nobody can read is not held against the library") {
  Store store;
  const auto file = sample::file_of(store.directory.path(), key_of(1));
  for (int i = 0; i < 10; ++i) {
    CHECK(sample::read_code(store.through, key_of(77), 4096) == Errc::not_found);
    CHECK(sample::read_code(store.through, key_of(1), 4096, kSize) == Errc::corrupt);
    CHECK(sample::read_code(store.through, key_of(1), kSize + 4096) == Errc::corrupt);
  }
  // Cut off under the open handle: noticed by its size, before or by the read.
  REQUIRE(store.good(1));
  std::filesystem::resize_file(file, kSize / 2);
  for (int i = 0; i < 10; ++i)
    CHECK(sample::read_code(store.through, key_of(1), kSize) == Errc::corrupt);
  REQUIRE(::chmod(file.c_str(), 0666) == 0);
  CHECK(sample::read_code(store.through, key_of(1), 4096) != Errc::not_found);
  CHECK(store.storage.report().device);
  CHECK(store.good(0));
}

TEST_CASE("what lies in the place of an object is not followed") {
  Store store;
  const auto file = sample::file_of(store.directory.path(), key_of(1));
  const auto other = sample::file_of(store.directory.path(), key_of(2));
  std::filesystem::remove(file);
  std::filesystem::create_symlink(other, file);
  CHECK(sample::read_code(store.through, key_of(1), 4096) == Errc::not_found);
  std::filesystem::remove(file);
  REQUIRE(::mkfifo(file.c_str(), 0600) == 0);
  CHECK(sample::read_code(store.through, key_of(1), 4096) == Errc::not_found);
}

TEST_CASE("a file that was replaced or written to is opened anew") {
  Store store;
  REQUIRE(store.good(1));
  REQUIRE(store.good(2));
  const auto one = sample::file_of(store.directory.path(), key_of(1));
  const auto two = sample::file_of(store.directory.path(), key_of(2));
  std::filesystem::rename(two, one);
  CHECK(sample::equal(sample::fetch(store.through, key_of(1), kSize).bytes(),
                      sample::content(2, kSize).bytes()));
  REQUIRE(store.good(3));
  const std::uint64_t opens = store.storage.report().opens;
  {
    std::fstream file(sample::file_of(store.directory.path(), key_of(3)),
                      std::ios::in | std::ios::out | std::ios::binary);
    file.put('x');
  }
  const auto now = sample::fetch(store.through, key_of(3), 4096);
  CHECK(now.bytes()[0] == std::byte{'x'});
  CHECK(store.storage.report().opens == opens + 1);
}

TEST_CASE("an erased object is closed at once, and at most 128 files stay registered") {
  Store store;
  REQUIRE(store.good(0));
  CHECK(fake().handles == 1);
  REQUIRE(store.storage.erase(key_of(0)));
  CHECK(fake().handles == 0);
  CHECK(sample::read_code(store.through, key_of(0), 4096) == Errc::not_found);
  // Removed by somebody else: closed when this store is next asked anything.
  REQUIRE(store.good(1));
  std::filesystem::remove(sample::file_of(store.directory.path(), key_of(1)));
  CHECK(sample::look(store.storage, key_of(1)).size == 0);
  CHECK(fake().handles == 0);
  for (std::uint64_t i = 100; i < 240; ++i) {
    REQUIRE(store.storage.write(key_of(i), sample::content(i, 4096).bytes()));
    REQUIRE(sample::fetch(store.through, key_of(i), 4096).size() == 4096);
  }
  CHECK(fake().handles <= 128);
  CHECK(fake().handles >= 1);
}

TEST_CASE("many threads read through one registered arena") {
  Store store;
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::uint64_t i = 0; i < 50; ++i) {
        if (!store.good((t + i) % 4)) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(store.storage.report().reads == 200);
}

TEST_CASE("errors and demotion in the middle of many threads' reads leave every byte right") {
  for (const std::uint64_t after : {0u, 7u, 40u, 90u}) {
    Store store;
    store.fail_reads(-1, EIO, FakeCufile::kAlways, after);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (std::uint64_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (std::uint64_t i = 0; i < 12; ++i) {
          if (!store.good((t + i) % 4)) ++wrong;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
    const GdsReport report = store.storage.report();
    CHECK(report.demoted);
    CHECK(report.reads + report.bounced == 48);
    CHECK(fake().handles == 0);
  }
}

TEST_CASE("a store's end waits for reads that hang, and nothing is deregistered under them") {
  const NothingLeft end;
  const Directory directory;
  FakeDevice device(1 << 20);
  std::optional<GdsStorage> storage(std::in_place, gds_options(directory.path()), &device);
  REQUIRE(storage->write(key_of(1), sample::content(1, 8192).bytes()));
  fake().hang = true;
  Status status = Error{Errc::timeout, 0, "never set"};
  const AlignedBuffer out(8192, &device);
  std::thread reader(
      [&] { status = cake::await_completion(storage->read(0, key_of(1), 0, out.bytes())); });
  while (fake().in_flight == 0) std::this_thread::yield();
  REQUIRE(storage->erase(key_of(1)));
  CHECK(fake().handles == 1);
  std::thread ending([&] { storage.reset(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(fake().buffers == 1);
  fake().hang = false;
  ending.join();
  reader.join();
  CHECK(status);
}

TEST_CASE("reads outside the rules are refused before anything is touched") {
  Store store;
  const AlignedBuffer part(8192, &store.device);
  const auto code = [&](std::uint32_t tier, std::uint64_t offset, MutableBytes out) {
    return cake::await_completion(store.storage.read(tier, key_of(0), offset, out)).code();
  };
  CHECK(code(1, 0, part.bytes()) == Errc::invalid_argument);
  CHECK(code(0, 512, part.bytes()) == Errc::invalid_argument);
  CHECK(code(0, 0, part.bytes().first(512)) == Errc::invalid_argument);
  CHECK(code(0, 0, part.bytes().subspan(512, 4096)) == Errc::invalid_argument);
  const auto arena = store.device.arena();
  CHECK(code(0, 0, {arena.data() + arena.size() - 4096, 8192}) == Errc::invalid_argument);
  CHECK(store.storage.report().reads == 0);
  CHECK(store.storage.report().bounced == 0);
}

TEST_CASE("a device that fails in the middle fails the read, and says so") {
  Store store;
  const AlignedBuffer part(kSize, &store.device);
  store.device.fail_use = true;
  CHECK(cake::await_completion(store.storage.read(0, key_of(0), 0, part.bytes())).code() ==
        Errc::device);
  store.device.fail_use = false;
  store.device.fail_copies = true;
  store.fail_reads(-5011, 0, 1);
  CHECK(cake::await_completion(store.storage.read(0, key_of(0), 0, part.bytes())).code() ==
        Errc::device);
}

}  // namespace
