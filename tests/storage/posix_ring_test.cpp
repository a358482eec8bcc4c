// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Reading with io_uring: machines that forbid it, rings that refuse or fail, and rings that do not.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cstddef>
#include <mutex>
#include <set>
#include <utility>

#include "catch.hpp"
#include "posix_helpers.hpp"

namespace {

using namespace cake;
using detail::Ring;
using sample::Directory;
using sample::HookedCalls;
using sample::says;
using sample::SimulatedRing;

constexpr std::size_t kPages = 64;

struct Fixture {
  Directory directory;
  std::shared_ptr<HookedCalls> calls = std::make_shared<HookedCalls>();
  AlignedBuffer bytes = sample::content(1, kPages * 4096);

  PosixOptions options(ReadEngine engine = ReadEngine::io_uring, unsigned threads = 2) {
    return {.directory = directory.path(),
            .threads = threads,
            .op_bytes = 4096,
            .direct = DirectIo::off,
            .engine = engine,
            .calls = calls};
  }
  /// What the rings of the threads do; that of the constructor's probe works.
  void rings(std::function<void(SimulatedRing&)> change, unsigned most_entries = 64) {
    auto first = std::make_shared<std::atomic<bool>>(true);
    calls->on_ring = [this, change = std::move(change), most_entries, first](unsigned entries) {
      auto ring = std::make_unique<SimulatedRing>(*calls, std::min(entries, most_entries));
      if (!first->exchange(false)) change(*ring);
      return ring;
    };
  }
  bool reads(PosixStorage& store) {
    return sample::equal(sample::fetch(store, sample::key_of(1), bytes.size()).bytes(),
                         bytes.bytes());
  }
};

TEST_CASE("a machine that refuses io_uring is told by cause and remedy, and threads read instead") {
  struct Refusal {
    int number;
    std::initializer_list<std::string> said;
  };
  const Refusal refusals[] = {{EPERM, {"io_uring is forbidden", "seccomp", "io_uring_setup"}},
                              {ENOSYS, {"no io_uring"}},
                              {ENOMEM, {"ulimit -l"}},
                              {EMFILE, {"ulimit -n"}},
                              {EINVAL, {"io_uring does not work"}}};
  for (const auto& [number, said] : refusals) {
    const int refusal = number;
    Fixture f;
    // Some machines refuse the second ring, not the first.
    const bool at_probe = GENERATE(true, false);
    bool probed = false;
    std::mutex mutex;
    f.calls->on_ring = [&](unsigned entries) -> std::unique_ptr<Ring> {
      const std::lock_guard lock(mutex);
      if (!at_probe && !std::exchange(probed, true)) {
        return std::make_unique<SimulatedRing>(*f.calls, entries);
      }
      errno = refusal;
      return nullptr;
    };
    const std::string text = sample::complaint(f.options());
    CHECK(says(text, said));
    CHECK(says(text, {f.directory.path().string(), "ReadEngine::threads"}));
    probed = false;
    auto options = f.options(ReadEngine::automatic);
    options.direct = DirectIo::automatic;
    PosixStorage store(options);
    REQUIRE(store.write(sample::key_of(1), f.bytes.bytes()));
    CHECK(f.reads(store));
    CHECK(store.stats().engine == ReadEngine::threads);
    CHECK(store.stats().ring_reads == 0);
    if (store.direct()) CHECK(says(store.stats().engine_reason, said));
  }
}

TEST_CASE("a ring that reads something else than pread does is not used") {
  Fixture f;
  struct Wrong final : Ring {
    std::uint64_t tag = 0;
    bool over = false;
    bool prepare_read(int, void*, std::size_t, std::uint64_t, std::uint64_t name) override {
      tag = name;
      return over = true;
    }
    int submit() override { return 0; }
    unsigned unsubmitted() const override { return 0; }
    bool peek(detail::RingCompletion& completion) override {
      completion = {tag, 4096};  // and wrote nothing
      return std::exchange(over, false);
    }
    void wait(std::chrono::milliseconds) override {}
    void wake() noexcept override {}
  };
  f.calls->on_ring = [](unsigned) { return std::make_unique<Wrong>(); };
  CHECK(says(sample::complaint(f.options()), {"other bytes than pread"}));
}

TEST_CASE("O_DIRECT decides between io_uring and threads, and the store says why") {
  Fixture f;
  auto options = f.options(ReadEngine::automatic);
  SECTION("a store through the page cache") {
    PosixStorage store(options);
    REQUIRE(store.write(sample::key_of(1), f.bytes.bytes()));
    CHECK(f.reads(store));
    CHECK(store.stats().engine == ReadEngine::threads);
    CHECK(says(store.stats().engine_reason, {"page cache"}));
    CHECK(store.stats().ring_reads == 0);
  }
  SECTION("a store past it") {
    options.direct = DirectIo::automatic;
    PosixStorage store(options);
    if (!store.direct()) return;
    REQUIRE(store.write(sample::key_of(1), f.bytes.bytes()));
    CHECK(f.reads(store));
    CHECK(store.stats().engine == ReadEngine::io_uring);
    CHECK(says(store.stats().engine_reason, {"O_DIRECT"}));
    CHECK(store.stats().ring_reads == kPages);
    CHECK(store.stats().ring_refusals == 0);
    CHECK(store.stats().read_ops == kPages);
  }
  SECTION("a store that is told what to use") {
    options = f.options(ReadEngine::threads);
    options.direct = DirectIo::automatic;
    PosixStorage store(options);
    CHECK(says(store.stats().engine_reason, {"asked for"}));
    CHECK(store.stats().engine == ReadEngine::threads);
  }
}

TEST_CASE("a ring that is full or busy is asked again, and every byte is read once it takes it") {
  Fixture f;
  std::atomic<int> calls{0};
  SECTION("submissions are refused now and then") {
    const int number = GENERATE(EBUSY, EAGAIN, EINTR, ENOMEM);
    f.rings([&calls, number](SimulatedRing& ring) {
      ring.on_submit = [&calls, number] { return ++calls % 3 == 0 ? 0 : -number; };
    });
    PosixStorage store(f.options());
    REQUIRE(store.write(sample::key_of(1), f.bytes.bytes()));
    CHECK(f.reads(store));
    CHECK(store.stats().ring_reads == kPages);
    CHECK(store.stats().ring_refusals == 0);
    CHECK((store.stats().ring_retries > 0) == (number != EINTR));
  }
  SECTION("there is room for one only") {
    f.rings([](SimulatedRing&) {}, 1);
    PosixStorage store(f.options());
    REQUIRE(store.write(sample::key_of(1), f.bytes.bytes()));
    CHECK(f.reads(store));
    CHECK(store.stats().ring_reads + store.stats().ring_refusals == kPages);
  }
  SECTION("there is room for none") {
    f.rings([](SimulatedRing&) {}, 0);
    f.calls->on_ring = [&f, first = true](unsigned entries) mutable {
      return std::make_unique<SimulatedRing>(*f.calls, std::exchange(first, false) ? entries : 0);
    };
    PosixStorage store(f.options(ReadEngine::io_uring, 1));
    REQUIRE(store.write(sample::key_of(1), f.bytes.bytes()));
    CHECK(f.reads(store));
    CHECK(store.stats().ring_refusals == kPages);
  }
}

TEST_CASE("rings that never take anything are given up, and threads read on") {
  Fixture f;
  f.rings([](SimulatedRing& ring) { ring.on_submit = [] { return -EAGAIN; }; });
  std::vector<PosixRead> reads;
  const AlignedBuffer out(4 * f.bytes.size());
  {
    PosixStorage store(f.options());
    REQUIRE(store.write(sample::key_of(1), f.bytes.bytes()));
    CHECK(f.reads(store));
    CHECK(f.reads(store));
    CHECK(store.stats().ring_reads == 0);
    CHECK(store.stats().ring_refusals > 0);
  }
  // Given up only when the store ends, with reads that nobody waits for.
  f.rings([](SimulatedRing& ring) { ring.on_submit = [] { return -EAGAIN; }; });
  {
    PosixStorage store(f.options());
    for (std::size_t i = 0; i < 4; ++i) {
      reads.push_back(store.read(0, sample::key_of(1), 0,
                                 out.bytes().subspan(i * f.bytes.size(), f.bytes.size())));
    }
  }
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(reads[i].ready());
    CHECK(reads[i].wait());
    CHECK(sample::equal(out.bytes().subspan(i * f.bytes.size(), f.bytes.size()), f.bytes.bytes()));
  }
}

TEST_CASE("what a ring cannot read a thread reads, and the disk's own errors stay errors") {
  for (const int number : {EAGAIN, EBUSY, ENOMEM, ENOSYS, EPERM, ECANCELED, EINVAL, EOPNOTSUPP}) {
    Fixture f;
    std::atomic<int> calls{0};
    f.rings([&calls, number](SimulatedRing& ring) {
      ring.on_result = [&calls, number](int result) { return ++calls % 2 == 0 ? -number : result; };
    });
    PosixStorage store(f.options());
    REQUIRE(store.write(sample::key_of(1), f.bytes.bytes()));
    CHECK(f.reads(store));
    CHECK(store.stats().ring_refusals == kPages / 2);
    CHECK(store.stats().ring_reads == kPages / 2);
  }
  for (const int number : {EIO, EBADF}) {
    Fixture f;
    f.rings([number](SimulatedRing& ring) { ring.on_result = [number](int) { return -number; }; });
    PosixStorage store(f.options());
    REQUIRE(store.write(sample::key_of(1), f.bytes.bytes()));
    const AlignedBuffer out(4096);
    const Status status = store.read(0, sample::key_of(1), 0, out.bytes()).wait();
    REQUIRE_FALSE(status);
    CHECK(status.error().native == number);
    CHECK(store.stats().ring_refusals == 0);
  }
}

TEST_CASE("each byte of a read is told once, before it is ready, by either engine") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  struct Told : PieceSink {
    std::mutex mutex;
    std::set<const std::byte*> pages;
    std::size_t bytes = 0;
    void arrived(ConstBytes piece) noexcept override {
      const std::lock_guard lock(mutex);
      bytes += piece.size();
      for (std::size_t at = 0; at < piece.size(); at += 4096) pages.insert(piece.data() + at);
    }
  };
  Fixture f;
  std::atomic<int> calls{0};
  f.rings([&calls](SimulatedRing& ring) {
    ring.on_result = [&calls](int result) { return ++calls % 5 == 0 ? -EAGAIN : result; };
  });
  PosixStorage store(f.options(engine));
  REQUIRE(store.write(sample::key_of(1), f.bytes.bytes()));
  const AlignedBuffer out(f.bytes.size());
  const auto told = std::make_shared<Told>();
  REQUIRE(store.read_pieces(0, sample::key_of(1), 0, out.bytes(), told).wait());
  CHECK(told->bytes == f.bytes.size());
  CHECK(told->pages.size() == kPages);
  CHECK(sample::equal(out.bytes(), f.bytes.bytes()));
}

TEST_CASE("reads are handed over in the order of their calls") {
  Fixture f;
  std::mutex mutex;
  std::vector<off_t> order;
  PosixStorage store(f.options(ReadEngine::io_uring, 1));
  REQUIRE(store.write(sample::key_of(1), f.bytes.bytes()));
  REQUIRE(f.reads(store));  // the file is open now
  struct Recording final : Ring {
    SimulatedRing ring;
    std::vector<off_t>& order;
    std::mutex& mutex;
    Recording(HookedCalls& all, unsigned entries, std::vector<off_t>& into, std::mutex& guard)
        : ring(all, entries), order(into), mutex(guard) {}
    bool prepare_read(int file, void* out, std::size_t size, std::uint64_t offset,
                      std::uint64_t tag) override {
      const std::lock_guard lock(mutex);
      order.push_back(static_cast<off_t>(offset));
      return ring.prepare_read(file, out, size, offset, tag);
    }
    int submit() override { return ring.submit(); }
    unsigned unsubmitted() const override { return ring.unsubmitted(); }
    bool peek(detail::RingCompletion& over) override { return ring.peek(over); }
    void wait(std::chrono::milliseconds most) override { ring.wait(most); }
    void wake() noexcept override { ring.wake(); }
  };
  f.calls->on_ring = [&](unsigned entries) {
    return std::make_unique<Recording>(*f.calls, entries, order, mutex);
  };
  PosixStorage recorded(f.options(ReadEngine::io_uring, 1));
  order.clear();
  const AlignedBuffer out(f.bytes.size());
  std::vector<PosixRead> reads;
  for (std::size_t i = 0; i < 4; ++i) {
    const std::size_t quarter = f.bytes.size() / 4;
    reads.push_back(recorded.read(0, sample::key_of(1), i * quarter,
                                  out.bytes().subspan(i * quarter, quarter)));
  }
  for (auto& read : reads) REQUIRE(read.wait());
  REQUIRE(order.size() == kPages);
  CHECK(std::is_sorted(order.begin(), order.end()));
}

TEST_CASE("a read of the kernel's ring that hangs holds neither others nor the thread") {
  if (!sample::has(ReadEngine::io_uring)) return;
  detail::PosixCalls calls;
  const auto ring = calls.make_ring(4);
  REQUIRE(ring);
  int pipe[2];
  REQUIRE(::pipe2(pipe, O_CLOEXEC) == 0);
  const Directory directory;
  const int file = ::open((directory.path() / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  REQUIRE(::pwrite(file, "abcd", 4, 0) == 4);
  char late[4] = {}, now[4] = {};
  REQUIRE(ring->prepare_read(pipe[0], late, 4, 0, 7));
  REQUIRE(ring->prepare_read(file, now, 4, 0, 8));
  REQUIRE(ring->submit() == 0);
  CHECK(ring->unsubmitted() == 0);
  const auto next = [&] {
    detail::RingCompletion over;
    while (!ring->peek(over)) ring->wait(std::chrono::milliseconds(100));
    return over;
  };
  const auto first = next();
  CHECK(first.tag == 8);
  CHECK(first.result == 4);
  CHECK(std::string_view(now, 4) == "abcd");
  ring->wake();
  ring->wait(std::chrono::hours(1));  // ended by wake()
  REQUIRE(::write(pipe[1], "efgh", 4) == 4);
  const auto second = next();
  CHECK(second.tag == 7);
  CHECK(std::string_view(late, 4) == "efgh");
  for (const int end : {pipe[0], pipe[1], file}) ::close(end);
}

#ifndef __SANITIZE_THREAD__  // which allows no threads after fork()
/// From now on this process may not set up a ring, as in most containers.
bool forbid_rings(int number) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(number)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog program{4, filter};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

TEST_CASE("in a container whose seccomp filter forbids io_uring a store reads with threads") {
  const Directory directory;
  const auto bytes = sample::content(1, 8192);
  for (const int number : {EPERM, ENOSYS}) {
    const int code = sample::in_child([&] {
      if (!forbid_rings(number)) ::_exit(77);
      PosixStorage store({.directory = directory.path(), .threads = 2});
      sample::expect(store.write(sample::key_of(1), bytes.bytes()).has_value(), "write");
      sample::expect(sample::read_code(store, sample::key_of(1), 8192) == Errc::ok, "read");
      sample::expect(store.stats().engine == ReadEngine::threads, "threads");
      const auto text =
          sample::complaint({.directory = directory.path(), .engine = ReadEngine::io_uring});
      sample::expect(says(text, {"io_uring", "ReadEngine::threads"}), "insisted on");
      if (detail::rings_built_in()) sample::expect(says(text, {"seccomp"}), "the cause");
    });
    if (code == 77) {
      std::printf("[no seccomp] skipped: this process may set no filter\n");
      return;
    }
    CHECK(code == 0);
  }
}
#endif

}  // namespace
