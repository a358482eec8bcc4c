// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/storage/posix.hpp"

#include <fstream>
#include <semaphore>

#include "contract.hpp"
#include "posix_helpers.hpp"

namespace {

using namespace cake;
using sample::Directory;

TEST_CASE("a directory keeps the contract of a store, whichever way it reads and writes") {
  for (const ReadEngine engine : sample::engines_here()) {
    for (const bool temporary_names : {false, true}) {
      for (const DirectIo direct : {DirectIo::automatic, DirectIo::off}) {
        for (const std::size_t op_bytes : {std::size_t{4096}, std::size_t{1} << 20}) {
          const Directory directory;
          PosixStorage store({.directory = directory.path(),
                              .threads = 3,
                              .op_bytes = op_bytes,
                              .direct = direct,
                              .engine = engine,
                              .durable = temporary_names,
                              .force_temporary_names = temporary_names});
          sample::check_contract(store);
          CHECK(sample::count_files(directory.path()) == 0);
          CHECK(store.stats().engine == engine);
        }
      }
    }
  }
}

TEST_CASE("a directory serves whole objects to many threads at once") {
  for (const ReadEngine engine : sample::engines_here()) {
    for (const bool temporary_names : {false, true}) {
      const Directory directory;
      PosixStorage store({.directory = directory.path(),
                          .engine = engine,
                          .force_temporary_names = temporary_names});
      sample::check_concurrent(store, 400);
      CHECK(sample::count_files(directory.path()) == 0);
    }
  }
}

TEST_CASE("a store is found again by the next one that opens its directory") {
  const Directory directory;
  const auto path = directory.path() / "store/";
  const auto bytes = sample::content(1, 40960);
  PosixStorage({.directory = path}).write(sample::key_of(1), bytes.bytes()).value();
  PosixStorage store({.directory = path});
  CHECK(store.directory() == directory.path() / "store");
  CHECK(sample::look(store, sample::key_of(1)).size == 40960);
  CHECK(sample::equal(sample::fetch(store, sample::key_of(1), 40960).bytes(), bytes.bytes()));
  struct stat info {};
  REQUIRE(::stat((directory.path() / "store").c_str(), &info) == 0);
  CHECK((info.st_mode & 07777) == 0700);
  REQUIRE(::stat(sample::file_of(path, sample::key_of(1)).c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  CHECK(info.st_nlink == 1);
}

TEST_CASE("a read is split into operations, and all of them are over when it is ready") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  if (!sample::has(engine)) return;
  const Directory directory;
  PosixStorage store(
      {.directory = directory.path(), .threads = 4, .op_bytes = 8192, .engine = engine});
  const auto bytes = sample::content(1, 25 * 4096);
  REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
  CHECK(
      sample::equal(sample::fetch(store, sample::key_of(1), bytes.size()).bytes(), bytes.bytes()));
  const PosixStats stats = store.stats();
  CHECK(stats.reads == 1);
  CHECK(stats.read_ops == 13);
  CHECK(stats.read_bytes == bytes.size());
  CHECK(stats.published == 1);
  CHECK(stats.published_bytes == bytes.size());
}

TEST_CASE("what is not a multiple of a page is refused by name") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  if (!sample::has(engine)) return;
  const Directory directory;
  PosixStorage store({.directory = directory.path(), .engine = engine});
  const auto bytes = sample::content(1, 8192);
  CHECK(store.write(sample::key_of(1), bytes.bytes().first(4097)).code() == Errc::invalid_argument);
  REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
  const AlignedBuffer out(8192);
  const auto code = [&](std::uint64_t offset, MutableBytes to) {
    return store.read(0, sample::key_of(1), offset, to).wait().code();
  };
  CHECK(code(512, out.bytes().first(4096)) == Errc::invalid_argument);
  CHECK(code(0, out.bytes().first(100)) == Errc::invalid_argument);
  CHECK(code(0, out.bytes().subspan(8, 4096)) == Errc::invalid_argument);
  CHECK(code(0, {}) == Errc::ok);
}

TEST_CASE("bytes at any address can be written") {
  const Directory directory;
  PosixStorage store({.directory = directory.path()});
  const auto bytes = sample::content(1, 12288);
  REQUIRE(store.write(sample::key_of(1), bytes.bytes().subspan(1, 8192)));
  CHECK(sample::equal(sample::fetch(store, sample::key_of(1), 8192).bytes(),
                      bytes.bytes().subspan(1, 8192)));
}

TEST_CASE("a file truncated at any page is a miss") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  if (!sample::has(engine)) return;
  const Directory directory;
  PosixStorage store({.directory = directory.path(), .engine = engine});
  const auto chunk = sample::make(1);
  const ChunkKey key = chunk.identity.key;
  const auto path = sample::file_of(directory.path(), key);
  for (std::size_t size = 0; size < chunk.object.size(); size += 4096) {
    REQUIRE(store.erase(key));
    REQUIRE(store.write(key, chunk.object));
    // Open in the cache, as when it is truncated between lookup and read or between two reads.
    REQUIRE(sample::read_code(store, key, 4096) == Errc::ok);
    std::filesystem::resize_file(path, size);
    CHECK(sample::look(store, key).size == size);
    CHECK(sample::read_code(store, key, chunk.object.size()) == Errc::corrupt);
    PosixStorage fresh({.directory = directory.path(), .engine = engine});
    CHECK(sample::read_code(fresh, key, chunk.object.size()) == Errc::corrupt);
    if (size > 0) CHECK(sample::read_code(fresh, key, size) == Errc::ok);
  }
  std::filesystem::resize_file(path, 4095);
  CHECK_FALSE(sample::look(store, key).stored());
  std::filesystem::resize_file(path, chunk.object.size() + 1);
  CHECK_FALSE(sample::look(store, key).stored());
}

TEST_CASE("links, pipes, directories and files that others may write are no objects") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  if (!sample::has(engine)) return;
  const Directory directory, elsewhere;
  PosixStorage store({.directory = directory.path(), .engine = engine});
  const auto bytes = sample::content(1, 8192);
  const ChunkKey key = sample::key_of(1);
  const auto path = sample::file_of(directory.path(), key);
  const auto refused = [&] {
    return !sample::look(store, key).stored() && sample::read_code(store, key, 4096) != Errc::ok;
  };
  REQUIRE(store.write(key, bytes.bytes()));
  const auto target = elsewhere.path() / "target";
  std::filesystem::rename(path, target);
  CHECK(refused());

  std::filesystem::create_symlink(target, path);
  CHECK(refused());
  std::filesystem::remove(path);
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  CHECK(refused());
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  CHECK(refused());
  CHECK_FALSE(store.write(key, bytes.bytes()));
  CHECK_FALSE(store.erase(key));
  std::filesystem::remove(path);

  std::filesystem::rename(target, path);
  CHECK(sample::read_code(store, key, 8192) == Errc::ok);
  for (const mode_t mode : {mode_t{0620}, mode_t{0602}, mode_t{0666}}) {
    REQUIRE(::chmod(path.c_str(), mode) == 0);
    PosixStorage fresh({.directory = directory.path(), .engine = engine});
    CHECK_FALSE(sample::look(fresh, key).stored());
    CHECK(sample::read_code(fresh, key, 4096) == Errc::io);
  }
  REQUIRE(::chmod(path.c_str(), 0600) == 0);
  if (::geteuid() == 0) {
    REQUIRE(::chown(path.c_str(), 12345, 12345) == 0);
    PosixStorage fresh({.directory = directory.path(), .engine = engine});
    CHECK_FALSE(sample::look(fresh, key).stored());
    CHECK(sample::read_code(fresh, key, 4096) == Errc::io);
  }
}

TEST_CASE("links are not followed by old kernels either, nor a directory that others may write") {
  for (const bool old_kernel : {false, true}) {
    const Directory directory, elsewhere;
    const auto calls = std::make_shared<sample::HookedCalls>();
    if (old_kernel) {
      calls->on_open = [](const char* path, int) {
        const bool beneath = std::string_view(path).find('/') != std::string_view::npos;
        return beneath ? sample::fails(ENOSYS) : std::nullopt;
      };
    }
    PosixStorage store({.directory = directory.path(), .calls = calls});
    const auto bytes = sample::content(1, 8192);
    const ChunkKey key = sample::key_of(1);
    REQUIRE(store.write(key, bytes.bytes()));
    REQUIRE(sample::read_code(store, key, 8192) == Errc::ok);
    const auto fan_out = sample::file_of(directory.path(), key).parent_path();
    REQUIRE(::chmod(fan_out.c_str(), 0777) == 0);
    CHECK_FALSE(sample::look(store, key).stored());
    CHECK_FALSE(store.write(key, bytes.bytes()));
    REQUIRE(::chmod(fan_out.c_str(), 0700) == 0);
    CHECK(sample::look(store, key).stored());

    // A link in the place of the file, to a file that could be read.
    const auto file = sample::file_of(directory.path(), key);
    std::filesystem::rename(file, elsewhere.path() / "object");
    std::filesystem::create_symlink(elsewhere.path() / "object", file);
    CHECK_FALSE(sample::look(store, key).stored());
    PosixStorage other({.directory = directory.path(), .calls = calls});
    CHECK(sample::read_code(other, key, 8192) != Errc::ok);
    std::filesystem::rename(elsewhere.path() / "object", file);
    CHECK(sample::read_code(other, key, 8192) == Errc::ok);

    std::filesystem::rename(fan_out, elsewhere.path() / "moved");
    std::filesystem::create_directory_symlink(elsewhere.path() / "moved", fan_out);
    PosixStorage fresh({.directory = directory.path(), .calls = calls});
    CHECK_FALSE(sample::look(fresh, key).stored());
    CHECK(sample::read_code(fresh, key, 8192) != Errc::ok);
    CHECK_FALSE(fresh.write(sample::key_of(1), bytes.bytes()));
  }
}

TEST_CASE("what lookup would not serve does not keep its key from being stored") {
  const Directory directory;
  PosixStorage store({.directory = directory.path()});
  const auto bytes = sample::content(1, 8192);
  const ChunkKey key = sample::key_of(1);
  const auto path = sample::file_of(directory.path(), key);
  const auto repaired = [&] {
    REQUIRE(store.write(key, bytes.bytes()));
    return sample::equal(sample::fetch(store, key, 8192).bytes(), bytes.bytes());
  };
  REQUIRE(repaired());
  std::filesystem::resize_file(path, 5000);
  CHECK(repaired());
  std::filesystem::resize_file(path, 0);
  CHECK(repaired());
  REQUIRE(::chmod(path.c_str(), 0666) == 0);
  CHECK(repaired());
  std::filesystem::remove(path);
  std::filesystem::create_symlink("/nowhere", path);
  CHECK(repaired());
}

TEST_CASE("a replaced file is read anew, an unlinked one is gone") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  if (!sample::has(engine)) return;
  const Directory directory;
  PosixStorage store({.directory = directory.path(), .engine = engine});
  const auto first = sample::content(1, 8192), second = sample::content(2, 8192);
  const ChunkKey key = sample::key_of(1), other = sample::key_of(2);
  const auto path = sample::file_of(directory.path(), key);
  REQUIRE(store.write(key, first.bytes()));
  REQUIRE(store.write(other, second.bytes()));
  CHECK(sample::equal(sample::fetch(store, key, 8192).bytes(), first.bytes()));
  CHECK(sample::equal(sample::fetch(store, key, 8192).bytes(), first.bytes()));
  CHECK(store.stats().opens == 1);  // kept open meanwhile
  std::filesystem::rename(sample::file_of(directory.path(), other), path);
  CHECK(sample::equal(sample::fetch(store, key, 8192).bytes(), second.bytes()));
  std::filesystem::remove(path);
  CHECK(sample::read_code(store, key, 8192) == Errc::not_found);
  CHECK(store.stats().opens == 2);
}

/// Stops in the first read until it is let go.
struct Stopped {
  std::binary_semaphore reached{0}, go{0};
  std::atomic<bool> armed{false};
  std::shared_ptr<sample::HookedCalls> calls = std::make_shared<sample::HookedCalls>();
  Stopped() {
    calls->on_read = [this](std::size_t, off_t) -> sample::HookedCalls::Answer {
      if (armed.exchange(false)) {
        reached.release();
        go.acquire();
      }
      return std::nullopt;
    };
  }
};

TEST_CASE("a read that has begun ends well although its file was unlinked") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  const Directory directory;
  Stopped stopped;
  PosixStorage store(
      {.directory = directory.path(), .op_bytes = 4096, .engine = engine, .calls = stopped.calls});
  const auto bytes = sample::content(1, 16 * 4096);
  REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
  const AlignedBuffer out(bytes.size());
  stopped.armed = true;
  auto read = store.read(0, sample::key_of(1), 0, out.bytes());
  stopped.reached.acquire();
  CHECK_FALSE(read.ready());
  CHECK_FALSE(read.wait_for(std::chrono::milliseconds(1)));
  REQUIRE(store.erase(sample::key_of(1)));
  CHECK_FALSE(sample::look(store, sample::key_of(1)).stored());
  stopped.go.release();
  CHECK(read.wait_for(std::chrono::nanoseconds::max()));
  CHECK(read.ready());
  CHECK(read.wait());
  CHECK(sample::equal(out.bytes(), bytes.bytes()));
}

TEST_CASE("a read's parts come before those of a later one, whichever was split first") {
  constexpr std::size_t kHalf = 16 * 4096;
  const Directory directory;
  const auto calls = std::make_shared<sample::HookedCalls>();
  PosixStorage store({.directory = directory.path(),
                      .threads = 2,
                      .op_bytes = 4096,
                      .engine = ReadEngine::threads,
                      .calls = calls});
  const auto bytes = sample::content(1, 2 * kHalf);
  REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
  const AlignedBuffer out(bytes.size());
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<off_t> order;
  calls->on_read = [&](std::size_t, off_t offset) -> std::optional<ssize_t> {
    std::unique_lock lock(mutex);
    order.push_back(offset);
    changed.notify_all();
    changed.wait(lock, [&] { return order.size() >= 2; });
    return std::nullopt;
  };
  auto first = store.read(0, sample::key_of(1), 0, out.bytes().first(kHalf));
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return !order.empty(); });  // it is split
  }
  auto second = store.read(0, sample::key_of(1), kHalf, out.bytes().subspan(kHalf));
  REQUIRE(first.wait());
  REQUIRE(second.wait());
  REQUIRE(order.size() == 32);
  // Behind the first part of each. Two threads may have swapped neighbours.
  const auto late = std::count_if(order.begin() + 2, order.begin() + 16,
                                  [](off_t at) { return at >= static_cast<off_t>(kHalf); });
  CHECK(late <= 1);
}

TEST_CASE("a store waits for reads that nobody waits for any more") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  if (!sample::has(engine)) return;
  const Directory directory;
  const auto bytes = sample::content(1, 64 * 4096);
  const AlignedBuffer out(bytes.size());
  std::memset(out.data(), 0, out.size());
  std::vector<PosixRead> kept;
  {
    PosixStorage store(
        {.directory = directory.path(), .threads = 2, .op_bytes = 4096, .engine = engine});
    REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
    for (int i = 0; i < 4; ++i) {
      // Dropped at once: the read runs on into its own part of the buffer.
      const auto part = out.bytes().subspan(static_cast<std::size_t>(i) * 16 * 4096, 16 * 4096);
      auto dropped = store.read(0, sample::key_of(1), static_cast<std::uint64_t>(i) * 65536, part);
      if (i == 3) kept.push_back(std::move(dropped));
    }
  }
  CHECK(sample::equal(out.bytes(), bytes.bytes()));
  CHECK(kept[0].ready());
  CHECK(kept[0].wait());
}

TEST_CASE("reads that fail in the middle end with that failure, and only once all is over") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  const Directory directory;
  const auto calls = std::make_shared<sample::HookedCalls>();
  PosixStorage store(
      {.directory = directory.path(), .op_bytes = 4096, .engine = engine, .calls = calls});
  const auto bytes = sample::content(1, 16 * 4096);
  REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
  for (off_t bad = 0; bad < 16 * 4096; bad += 4096) {
    calls->on_read = [bad](std::size_t, off_t offset) {
      return offset == bad ? sample::fails(EIO) : std::nullopt;
    };
    const AlignedBuffer out(bytes.size());
    auto read = store.read(0, sample::key_of(1), 0, out.bytes());
    const Status status = read.wait();
    REQUIRE(status.code() == Errc::io);
    REQUIRE(status.error().native == EIO);
  }
}

TEST_CASE("interrupted and short reads are continued, with and without the page cache") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  for (const DirectIo direct : {DirectIo::automatic, DirectIo::off}) {
    for (const ssize_t shorter : {1, 511, 512, 4095, 4096, 6000}) {
      const Directory directory;
      const auto calls = std::make_shared<sample::HookedCalls>();
      PosixStorage store(
          {.directory = directory.path(), .direct = direct, .engine = engine, .calls = calls});
      const auto bytes = sample::content(1, 16 * 4096);
      REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
      std::atomic<int> n{0};
      const bool aligned = store.direct();
      std::atomic<int> astray{0};
      calls->on_read = [&](std::size_t size, off_t offset) -> sample::HookedCalls::Answer {
        const int now = n++;
        astray += offset % 4096 != 0;
        if (now % 3 == 0) return sample::fails(EINTR);
        // Past the page cache a read may end within a page, but at a sector.
        const ssize_t unit = aligned ? 512 : 1;
        const ssize_t answer = (shorter + unit - 1) / unit * unit;
        if (now < 30 && static_cast<ssize_t>(size) > answer) return answer;
        return std::nullopt;
      };
      REQUIRE(sample::equal(sample::fetch(store, sample::key_of(1), bytes.size()).bytes(),
                            bytes.bytes()));
      CHECK(store.stats().short_reads > 0);
      if (aligned && shorter >= 4096) CHECK(astray == 0);  // direct reads stay at pages
    }
  }
}

TEST_CASE("with no file left to open, a store closes the ones it keeps and goes on") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  const Directory directory;
  const auto calls = std::make_shared<sample::HookedCalls>();
  std::atomic<bool> once{false};
  calls->on_open = [&](const char* path, int flags) -> sample::HookedCalls::Answer {
    const bool reading = std::string_view(path).ends_with(".ckv") && (flags & O_CREAT) == 0;
    return reading && once.exchange(false) ? sample::fails(EMFILE) : std::nullopt;
  };
  PosixStorage store({.directory = directory.path(), .engine = engine, .calls = calls});
  const auto bytes = sample::content(1, 4096);
  REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
  once = true;
  CHECK(sample::read_code(store, sample::key_of(1), 4096) == Errc::ok);
  CHECK_FALSE(once);
  calls->on_open = [&](const char*, int) { return sample::fails(EMFILE); };
  CHECK(sample::read_code(store, sample::key_of(2), 4096) == Errc::io);
}

}  // namespace
