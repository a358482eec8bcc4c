// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// File systems that refuse O_DIRECT, at open or only later: the store goes on through the page
// cache, and says so.
#include "catch.hpp"
#include "posix_helpers.hpp"

namespace {

using namespace cake;
using sample::Directory;
using sample::HookedCalls;

struct Fixture {
  Directory directory;
  std::shared_ptr<HookedCalls> calls = std::make_shared<HookedCalls>();
  AlignedBuffer bytes = sample::content(1, 16 * 4096);
  ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::automatic, ReadEngine::io_uring);

  PosixStorage open(DirectIo direct = DirectIo::automatic) {
    return PosixStorage({.directory = directory.path(),
                         .op_bytes = 4096,
                         .direct = direct,
                         .engine = engine,
                         .calls = calls});
  }
  /// True when the object was written and read back whole.
  bool works(PosixStorage& store, std::uint64_t key) {
    return store.write(sample::key_of(key), bytes.bytes()).has_value() && reads(store, key);
  }
  bool reads(PosixStorage& store, std::uint64_t key) {
    return sample::equal(sample::fetch(store, sample::key_of(key), bytes.size()).bytes(),
                         bytes.bytes());
  }
  void refuse_at_open() {
    calls->on_open = [](const char*, int flags) {
      return (flags & O_DIRECT) != 0 ? sample::fails(EINVAL) : std::nullopt;
    };
  }
};

bool is_direct(int file) { return (::fcntl(file, F_GETFL) & O_DIRECT) != 0; }

/// Refuses transfers past the page cache, as some file systems do that take the flag at open.
struct RefusingCalls : HookedCalls {
  bool reads = false, writes = false;
  std::atomic<int> refused{0};
  ssize_t read_at(int file, void* out, std::size_t size, off_t offset) override {
    if (reads && is_direct(file)) return ++refused, *sample::fails(EINVAL);
    return HookedCalls::read_at(file, out, size, offset);
  }
  ssize_t write_at(int file, const void* in, std::size_t size, off_t offset) override {
    if (writes && is_direct(file)) return ++refused, *sample::fails(EINVAL);
    return HookedCalls::write_at(file, in, size, offset);
  }
};

TEST_CASE("without refusal nothing is counted, and O_DIRECT can be turned off") {
  Fixture f;
  auto store = f.open();
  CHECK(f.works(store, 1));
  CHECK(store.stats().direct == store.direct());
  CHECK(store.stats().direct_refusals == (store.direct() ? 0 : 1));
  auto off = f.open(DirectIo::off);
  CHECK_FALSE(off.direct());
  CHECK(f.reads(off, 1));
  CHECK(off.stats().direct_refusals == 0);
}

TEST_CASE("O_DIRECT refused when the store is opened means buffered, or no store") {
  Fixture f;
  SECTION("at open") { f.refuse_at_open(); }
  SECTION("at the first write or read") {
    auto refusing = std::make_shared<RefusingCalls>();
    SECTION("reads") { refusing->reads = true; }
    SECTION("writes") { refusing->writes = true; }
    f.calls = refusing;
  }
  auto store = f.open();
  CHECK_FALSE(store.direct());
  CHECK(store.stats().direct_refusals == 1);
  CHECK(f.works(store, 1));
  CHECK(store.stats().direct_refusals == 1);
  CHECK_THROWS_AS(f.open(DirectIo::on), Exception);
  CHECK(sample::count_files(f.directory.path()) == 1);
}

TEST_CASE("O_DIRECT refused at open later on means buffered from then on") {
  Fixture f;
  auto store = f.open();
  if (!store.direct()) {  // nothing is left to refuse on this file system
    CHECK(f.works(store, 1));
    return;
  }
  REQUIRE(f.works(store, 1));
  f.refuse_at_open();
  auto second = f.open(DirectIo::automatic);
  CHECK_FALSE(second.direct());
  CHECK(f.works(store, 2));  // the writer meets the refusal
  CHECK_FALSE(store.direct());
  CHECK(store.stats().direct_refusals == 1);

  f.calls->on_open = nullptr;
  auto reader = f.open();
  REQUIRE(reader.direct());
  f.refuse_at_open();
  CHECK(f.reads(reader, 1));  // the reader meets it
  CHECK_FALSE(reader.direct());
  CHECK(reader.stats().direct_refusals == 1);
}

TEST_CASE("O_DIRECT refused at the first read although open took it means buffered") {
  Fixture f;
  auto refusing = std::make_shared<RefusingCalls>();
  f.calls = refusing;
  auto store = f.open();
  if (!store.direct()) {
    CHECK(f.works(store, 1));
    return;
  }
  auto strict = f.open(DirectIo::on);
  REQUIRE(f.works(store, 1));
  REQUIRE(store.direct());
  refusing->reads = true;
  CHECK(f.reads(store, 1));
  CHECK_FALSE(store.direct());
  CHECK(refusing->refused > 0);
  const auto refusals = store.stats().direct_refusals;
  CHECK(refusals == 1);
  CHECK(f.works(store, 2));
  CHECK(store.stats().direct_refusals == refusals);

  CHECK(sample::read_code(strict, sample::key_of(1), 4096) == Errc::unsupported);
  refusing->writes = true;
  CHECK(strict.write(sample::key_of(3), f.bytes.bytes()).code() == Errc::unsupported);
  CHECK(sample::count_files(f.directory.path()) == 2);
}

TEST_CASE("O_DIRECT refused at the first write although open took it means buffered") {
  Fixture f;
  auto refusing = std::make_shared<RefusingCalls>();
  f.calls = refusing;
  auto store = f.open();
  if (!store.direct()) {
    CHECK(f.works(store, 1));
    return;
  }
  refusing->writes = true;
  CHECK(f.works(store, 1));
  CHECK_FALSE(store.direct());
  CHECK(refusing->refused == 1);
}

TEST_CASE("files whose direct reads need another alignment than a page are read buffered") {
  Fixture f;
  const detail::DirectAlignment good{512, 512}, page{4096, 4096};
  const detail::DirectAlignment none{0, 0}, block{512, 8192}, memory{65536, 4096};
  for (const auto& alignment : {none, block, memory}) {
    f.calls->on_alignment = nullptr;
    auto before = f.open();
    if (!before.direct()) return;
    REQUIRE(f.works(before, 1));
    f.calls->on_alignment = [&] { return alignment; };
    auto store = f.open();
    CHECK_FALSE(store.direct());
    CHECK(store.stats().direct_refusals == 1);
    CHECK(f.works(store, 2));
    CHECK(sample::says(sample::complaint({.directory = f.directory.path(),
                                          .direct = DirectIo::on,
                                          .engine = f.engine,
                                          .calls = f.calls}),
                       {"O_DIRECT", "DirectIo::automatic"}));
    // A store that was opened before meets it with the next file.
    CHECK(f.reads(before, 2));
    CHECK_FALSE(before.direct());
  }
  for (const auto& alignment : {good, page}) {
    f.calls->on_alignment = [&] { return alignment; };
    auto store = f.open();
    CHECK(store.direct());
    CHECK(f.works(store, 1));
    CHECK(store.stats().direct_refusals == 0);
  }
}

}  // namespace
