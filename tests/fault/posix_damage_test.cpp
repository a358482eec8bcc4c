// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Files of a store that are damaged on the disk, before or while they are read: the chunk is computed
// instead, the KV is right, and saving again puts the file right.
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "catch.hpp"
#include "disk_prompt.hpp"
#include "src/storage/posix/directory.hpp"
#include "tests/chunk/reseal.hpp"

namespace {

using namespace cake;
using fault::DiskPrompt;
using sample::Directory;
using sample::HookedCalls;
namespace fs = std::filesystem;

constexpr std::uint32_t kHit = 2;  // the chunk that is damaged

std::vector<char> content_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// In place: the file stays the same one.
void overwrite(const fs::path& file, std::uint64_t at, const char* bytes, std::size_t size) {
  std::fstream out(file, std::ios::binary | std::ios::in | std::ios::out);
  out.seekp(static_cast<std::streamoff>(at));
  out.write(bytes, static_cast<std::streamsize>(size));
  REQUIRE(out.good());
}

struct World {
  Directory directory;
  DiskPrompt prompt;
  World() {
    PosixStorage store(options());
    REQUIRE(prompt.save_missing(store) == DiskPrompt::kChunks);
  }
  PosixOptions options(std::shared_ptr<HookedCalls> calls = {}) const {
    return {
        .directory = directory.path(), .threads = 2, .op_bytes = 4096, .calls = std::move(calls)};
  }
  fs::path file(std::uint32_t chunk = kHit) const {
    return sample::file_of(directory.path(), prompt.keys[chunk]);
  }
  /// Runs the prompt over what is there now: that chunk only is computed, for one of these reasons.
  void costs_one_chunk(std::initializer_list<Errc> reasons,
                       std::shared_ptr<HookedCalls> calls = {}) {
    {
      PosixStorage store(options(std::move(calls)));
      const PrefillReport report = prompt.load(store);
      CHECK(DiskPrompt::computed(report) == std::vector<std::uint32_t>{kHit});
      const Errc why = report.chunks[kHit].load_error;
      INFO("load error " << static_cast<int>(why));
      CHECK(std::find(reasons.begin(), reasons.end(), why) != reasons.end());
    }
    PosixStorage store(options());
    CHECK(prompt.save_missing(store) == 1);
    CHECK(DiskPrompt::computed(prompt.load(store)).empty());
    CHECK(sample::count_files(directory.path()) == DiskPrompt::kChunks);
  }
  /// Calls that do something to the file once some of it was read.
  std::shared_ptr<HookedCalls> while_read(std::function<void()> change) {
    const auto calls = std::make_shared<HookedCalls>();
    calls->on_read = [this, change, reads = std::make_shared<std::atomic<int>>(0)](
                         std::size_t, off_t offset) -> HookedCalls::Answer {
      const bool late = offset >= static_cast<off_t>(prompt.object_bytes / 2);
      if (late && reads->fetch_add(1) == 0) change();
      return std::nullopt;
    };
    return calls;
  }
};

TEST_CASE("a file that is cut while it is read costs its chunk") {
  World world;
  // Whichever chunk is being read: all are cut to a half.
  std::vector<std::uint32_t> computed;
  PosixStorage store(world.options(world.while_read([&] {
    for (std::uint32_t c = 0; c < DiskPrompt::kChunks; ++c) {
      fs::resize_file(world.file(c), world.prompt.object_bytes / 2 / 4096 * 4096);
    }
  })));
  const PrefillReport report = world.prompt.load(store);
  computed = DiskPrompt::computed(report);
  REQUIRE_FALSE(computed.empty());
  for (const std::uint32_t c : computed) CHECK(report.chunks[c].load_error != Errc::ok);
  PosixStorage again(world.options());
  CHECK(world.prompt.save_missing(again) > 0);
  CHECK(DiskPrompt::computed(world.prompt.load(again)).empty());
}

TEST_CASE("a file that grows while it is read gives the chunk that it was") {
  World world;
  PosixStorage store(world.options(world.while_read([&] {
    for (std::uint32_t c = 0; c < DiskPrompt::kChunks; ++c) {
      fs::resize_file(world.file(c), world.prompt.object_bytes + 4096);
    }
  })));
  // DiskPrompt::load() checks the KV; what was looked up before may all be loaded.
  const PrefillReport report = world.prompt.load(store);
  for (const std::uint32_t c : DiskPrompt::computed(report)) {
    CHECK(report.chunks[c].load_error != Errc::ok);
  }
}

TEST_CASE("a file that is written over while it is read costs its chunk, and no wrong byte") {
  World world;
  const std::vector<char> noise(4096, 'x');
  std::atomic<int> times{0};
  PosixStorage store(world.options(world.while_read([&] {
    for (std::uint32_t c = 0; c < DiskPrompt::kChunks; ++c) {
      overwrite(world.file(c), 2 * 4096, noise.data(), noise.size());
      overwrite(world.file(c), world.prompt.object_bytes - 2 * 4096, noise.data(), noise.size());
    }
    ++times;
  })));
  const PrefillReport report = world.prompt.load(store);
  CHECK(times == 1);
  const auto computed = DiskPrompt::computed(report);
  CHECK(computed.size() >= DiskPrompt::kChunks - 2);  // some may have been read before
  for (const std::uint32_t c : computed) CHECK(report.chunks[c].load_error == Errc::corrupt);
}

TEST_CASE("a page or a block of zeros anywhere in a file costs its chunk") {
  World world;
  const std::vector<char> zeros(65536, 0);
  for (std::uint64_t at = 0; at < world.prompt.object_bytes; at += 4096) {
    INFO("page at " << at);
    overwrite(world.file(), at, zeros.data(), 4096);
    world.costs_one_chunk({Errc::corrupt, Errc::mismatch});
  }
  overwrite(world.file(), 0, zeros.data(), std::min<std::size_t>(65536, world.prompt.object_bytes));
  world.costs_one_chunk({Errc::corrupt, Errc::mismatch});
}

TEST_CASE("two pages of a file that changed places cost its chunk") {
  World world;
  const auto bytes = content_of(world.file());
  const std::uint64_t last = bytes.size() - 2 * 4096;
  overwrite(world.file(), 2 * 4096, bytes.data() + last, 4096);
  overwrite(world.file(), last, bytes.data() + 2 * 4096, 4096);
  world.costs_one_chunk({Errc::corrupt});
}

TEST_CASE("a page of another chunk in a file costs the chunk") {
  World world;
  const auto other = content_of(world.file(kHit + 1));
  for (std::uint64_t at = 0; at < other.size(); at += 3 * 4096) {
    overwrite(world.file(), at, other.data() + at, 4096);
    world.costs_one_chunk({Errc::corrupt, Errc::mismatch});
  }
}

TEST_CASE("another chunk's whole file under a chunk's name costs the chunk") {
  World world;
  fs::copy_file(world.file(kHit + 1), world.file(), fs::copy_options::overwrite_existing);
  world.costs_one_chunk({Errc::mismatch});
}

TEST_CASE("a file that is cut at any page, or a byte beside one, costs its chunk") {
  World world;
  for (std::uint64_t at = 0; at < world.prompt.object_bytes; at += 4096) {
    for (const int beside : {-1, 0, 1}) {
      if (at == 0 && beside < 0) continue;
      INFO("cut at " << at << " and " << beside);
      fs::resize_file(world.file(), at + static_cast<std::uint64_t>(beside));
      world.costs_one_chunk({Errc::corrupt, Errc::not_found, Errc::mismatch});
    }
  }
}

TEST_CASE("a file with anything behind its end costs its chunk") {
  World world;
  for (const std::uint64_t more : {1, 4095, 4096, 65536}) {
    INFO(more << " bytes more");
    fs::resize_file(world.file(), world.prompt.object_bytes + more);
    world.costs_one_chunk({Errc::corrupt, Errc::not_found, Errc::mismatch});
  }
}

TEST_CASE("a hole anywhere in a file costs its chunk") {
  World world;
  for (std::uint64_t at = 0; at < world.prompt.object_bytes; at += 2 * 4096) {
    INFO("hole at " << at);
    const int file = ::open(world.file().c_str(), O_RDWR | O_CLOEXEC);
    const int result =
        ::fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(at), 4096);
    ::close(file);
    if (result != 0) {
      std::printf("[no holes] skipped: this file system makes none\n");
      return;
    }
    world.costs_one_chunk({Errc::corrupt, Errc::mismatch});
  }
}

TEST_CASE("a file of an older or newer format, with right digests, costs its chunk") {
  World world;
  for (const auto major : {std::uint16_t{1}, std::uint16_t{3}}) {
    auto text = content_of(world.file());
    std::vector<std::byte> object(text.size());
    std::memcpy(object.data(), text.data(), text.size());
    wire::Header header;
    std::memcpy(&header, object.data(), sizeof header);
    header.major = major;
    std::memcpy(object.data(), &header, sizeof header);
    const std::size_t head =
        ChunkGeometry(testing::ToyEngine(1).layout(), DiskPrompt::kChunk).head_bytes();
    sample::reseal_head(std::span(object).first(head));
    sample::reseal_footer(object);
    overwrite(world.file(), 0, reinterpret_cast<const char*>(object.data()), object.size());
    PosixStorage store(world.options());
    const PrefillReport report = world.prompt.load(store);
    CHECK(DiskPrompt::computed(report) == std::vector<std::uint32_t>{kHit});
    CHECK(report.chunks[kHit].load_error == Errc::unsupported);
    overwrite(world.file(), 0, text.data(), text.size());
    CHECK(DiskPrompt::computed(world.prompt.load(store)).empty());
  }
}

TEST_CASE(
    "a device, a socket or a link to somebody else's file in an object's place is no object") {
  const Directory directory, elsewhere;
  PosixStorage store({.directory = directory.path(), .threads = 2});
  const auto bytes = sample::content(1, 8192);
  const ChunkKey key = sample::key_of(1);
  const auto path = sample::file_of(directory.path(), key);
  const auto refused_and_replaced = [&] {
    PosixStorage fresh({.directory = directory.path(), .threads = 2});
    CHECK_FALSE(sample::look(fresh, key).stored());
    CHECK(sample::read_code(fresh, key, 4096) != Errc::ok);
    REQUIRE(fresh.write_new(key, bytes.bytes()).value());
    CHECK(sample::equal(sample::fetch(fresh, key, 8192).bytes(), bytes.bytes()));
    fs::remove(path);
  };
  REQUIRE(store.write(key, bytes.bytes()));
  fs::remove(path);

  const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  const auto short_name = elsewhere.path() / "s";  // an object's path is too long for one
  std::strncpy(name.sun_path, short_name.c_str(), sizeof name.sun_path - 1);
  REQUIRE(::bind(socket, reinterpret_cast<const sockaddr*>(&name), sizeof name) == 0);
  ::close(socket);
  fs::rename(short_name, path);
  refused_and_replaced();

  if (::geteuid() != 0) return;
  if (::mknod(path.c_str(), S_IFCHR | 0600, makedev(1, 5)) == 0) refused_and_replaced();  // zeros
  std::ofstream(elsewhere.path() / "theirs") << std::string(8192, 'x');
  REQUIRE(::chown((elsewhere.path() / "theirs").c_str(), 12345, 12345) == 0);
  fs::create_hard_link(elsewhere.path() / "theirs", path);
  refused_and_replaced();
  CHECK(fs::file_size(elsewhere.path() / "theirs") == 8192);  // theirs is as it was
}

TEST_CASE("names that lead elsewhere cannot be made of keys, nor are they taken for one") {
  using detail::StoreDirectory;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const std::string name = StoreDirectory::file_name(sample::key_of(seed));
    CHECK(name.size() == 68);
    CHECK(name.find_first_not_of("0123456789abcdef") == 64);
    CHECK(StoreDirectory::key_of(name) == sample::key_of(seed));
  }
  const std::string hex(64, 'a');
  const std::string others[] = {"../" + hex + ".ckv",
                                hex.substr(3) + "/../.ckv",
                                "..",
                                hex + std::string(1, '\0') + ".ckv",
                                hex + hex + ".ckv",
                                std::string(5000, 'a') + ".ckv",
                                hex.substr(1) + ".ckv",
                                hex + ".ckv/",
                                hex + ".ckv.tmp",
                                std::string(64, '\0') + ".ckv",
                                "/" + hex.substr(1) + ".ckv",
                                hex};
  for (const std::string& other : others) CHECK_FALSE(StoreDirectory::key_of(other));
  for (const char* folder : {"..", ".", "", "a", "aaa", "/a", "a/", "g0", "a\n"}) {
    CHECK_FALSE(StoreDirectory::folder_of(folder));
  }
}

TEST_CASE("a directory that vanishes in the middle of a prefill leaves the rest to compute") {
  World world;
  PosixStorage store(
      world.options(world.while_read([&] { fs::remove_all(world.directory.path()); })));
  const PrefillReport report = world.prompt.load(store);  // the KV is right
  CHECK(report.lookup);
  fs::create_directory(world.directory.path());
  REQUIRE(::chmod(world.directory.path().c_str(), 0700) == 0);
  CHECK(world.prompt.save_missing(store) == DiskPrompt::kChunks);
  CHECK(DiskPrompt::computed(world.prompt.load(store)).empty());
}

TEST_CASE("operations of a read that end in the opposite order bring every byte to its place") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  constexpr int kOperations = 8;
  const Directory directory;
  const auto calls = std::make_shared<HookedCalls>();
  PosixStorage store({.directory = directory.path(),
                      .threads = kOperations,
                      .op_bytes = 4096,
                      .engine = engine,
                      .calls = calls});
  const auto bytes = sample::content(1, (kOperations + 1) * 4096);
  REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
  std::mutex mutex;
  std::condition_variable changed;
  int arrived = 0;
  off_t next = kOperations * 4096;  // the last one goes first
  std::vector<off_t> order;
  calls->on_read = [&](std::size_t, off_t offset) -> HookedCalls::Answer {
    std::unique_lock lock(mutex);
    ++arrived;
    changed.notify_all();
    changed.wait(lock, [&] { return arrived == kOperations && next == offset; });
    order.push_back(offset);
    next -= 4096;
    changed.notify_all();
    return std::nullopt;
  };
  // From page 1 of the object, to page 1 of a buffer.
  const AlignedBuffer out((kOperations + 1) * 4096);
  REQUIRE(store.read(0, sample::key_of(1), 4096, out.bytes().subspan(4096)).wait());
  CHECK(std::is_sorted(order.rbegin(), order.rend()));
  CHECK(order.size() == kOperations);
  CHECK(sample::equal(out.bytes().subspan(4096), bytes.bytes().subspan(4096)));
}

TEST_CASE("operations from page 1 of an object to page 1 of a buffer are right by either engine") {
  const ReadEngine engine = GENERATE(ReadEngine::threads, ReadEngine::io_uring);
  if (!sample::has(engine)) return;
  const Directory directory;
  PosixStorage store(
      {.directory = directory.path(), .threads = 2, .op_bytes = 8192, .engine = engine});
  const auto bytes = sample::content(1, 16 * 4096);
  REQUIRE(store.write(sample::key_of(1), bytes.bytes()));
  for (std::size_t pages = 1; pages <= 15; ++pages) {
    const AlignedBuffer out(17 * 4096);
    std::memset(out.data(), 0x5a, out.size());
    const auto to = out.bytes().subspan(4096, pages * 4096);
    REQUIRE(store.read(0, sample::key_of(1), 4096, to).wait());
    CHECK(sample::equal(to, bytes.bytes().subspan(4096, pages * 4096)));
    const auto untouched = [](ConstBytes part) {
      return std::all_of(part.begin(), part.end(),
                         [](std::byte b) { return b == std::byte{0x5a}; });
    };
    CHECK(untouched(out.bytes().first(4096)));
    CHECK(untouched(out.bytes().subspan((pages + 1) * 4096)));
  }
}

}  // namespace
