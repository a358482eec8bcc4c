// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Processes that are killed exactly before, after or in the middle of one system call of publishing,
// replacing, erasing, evicting, trimming and saving: at each call of the short ones, at seeded ones of
// the long ones. CAKE_KILL_POINTS: how many points in all, 500 by default.
#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <random>
#include <type_traits>

#include "catch.hpp"
#include "disk_prompt.hpp"
#include "shared.hpp"

namespace {

using namespace cake;
using fault::DiskPrompt;
using sample::Directory;
using sample::expect;
namespace fs = std::filesystem;

enum class When : std::uint8_t { before, after, halfway };

/// Counts the calls since it was armed, and kills its process at one of them.
class DyingCalls final : public detail::PosixCalls {
 public:
  DyingCalls(std::atomic<long>& count, long at, When when) : count_(&count), at_(at), when_(when) {}
  void arm() { armed_ = true; }

  int open_at(int directory, const char* name, int flags, mode_t mode) override {
    return at([&] { return PosixCalls::open_at(directory, name, flags, mode); });
  }
  int open_beneath(int directory, const char* path, int flags) override {
    return at([&] { return PosixCalls::open_beneath(directory, path, flags); });
  }
  ssize_t read_at(int file, void* out, std::size_t size, off_t offset) override {
    return at([&] { return PosixCalls::read_at(file, out, size, offset); });
  }
  ssize_t write_at(int file, const void* bytes, std::size_t size, off_t offset) override {
    const auto write = [&](std::size_t n) { return PosixCalls::write_at(file, bytes, n, offset); };
    return at([&] { return write(size); }, [&] { return write(size / 2 / 4096 * 4096); });
  }
  int allocate(int file, off_t size) override {
    return at([&] { return PosixCalls::allocate(file, size); });
  }
  int sync(int file) override {
    return at([&] { return PosixCalls::sync(file); });
  }
  int link_at(int from, const char* old_name, int to, const char* name, int flags) override {
    return at([&] { return PosixCalls::link_at(from, old_name, to, name, flags); });
  }
  int rename_new(int from, const char* old_name, int to, const char* name) override {
    return at([&] { return PosixCalls::rename_new(from, old_name, to, name); });
  }
  int rename_over(int from, const char* old_name, int to, const char* name) override {
    return at([&] { return PosixCalls::rename_over(from, old_name, to, name); });
  }
  int stat_at(int directory, const char* name, struct stat* info) override {
    return at([&] { return PosixCalls::stat_at(directory, name, info); });
  }
  int make_directory(int directory, const char* name, mode_t mode) override {
    return at([&] { return PosixCalls::make_directory(directory, name, mode); });
  }
  int unlink_at(int directory, const char* name, int flags) override {
    return at([&] { return PosixCalls::unlink_at(directory, name, flags); });
  }
  int lock(int file, int operation) override {
    return at([&] { return PosixCalls::lock(file, operation); });
  }

 private:
  template <class Call>
  std::invoke_result_t<Call> at(const Call& call) {
    return at(call, call);
  }
  template <class Call, class Half>
  std::invoke_result_t<Call> at(const Call& call, const Half& half) {
    const bool here = armed_ && count_->fetch_add(1) == at_;
    if (!here) return call();
    if (when_ == When::after) static_cast<void>(call());
    if (when_ == When::halfway) static_cast<void>(half());
    ::kill(::getpid(), SIGKILL);
    for (;;) ::pause();
  }

  std::atomic<long>* count_;
  long at_;
  When when_;
  std::atomic<bool> armed_{false};
};

/// Objects of one size, and what is done to a directory with some of them.
const std::vector<sample::Chunk>& chunks() {
  static const std::vector<sample::Chunk> all = [] {
    std::vector<sample::Chunk> made;
    for (std::uint32_t i = 0; i < 10; ++i)
      made.push_back(sample::make(i, sample::kSmall, 16, i % 3));
    return made;
  }();
  return all;
}
std::uint64_t object_bytes() { return chunks()[0].object.size(); }

void put(PosixStorage& store, std::size_t chunk) {
  expect(store.write(chunks()[chunk].identity.key, chunks()[chunk].object).has_value(), "write");
}

struct Scenario {
  const char* what;
  bool long_one;           // points of it are drawn, and not all taken
  std::size_t there;       // so many objects are there before
  std::uint64_t capacity;  // in objects
  bool damaged;            // the first one is
  bool saves;              // a prompt
  void (*act)(PosixStorage&, DiskPrompt&);
};

const Scenario kScenarios[] = {
    {"publishing an object", false, 1, 0, false, false,
     [](PosixStorage& store, DiskPrompt&) { put(store, 5); }},
    {"publishing what is there", false, 1, 0, false, false,
     [](PosixStorage& store, DiskPrompt&) { put(store, 0); }},
    {"replacing a damaged object", false, 1, 0, true, false,
     [](PosixStorage& store, DiskPrompt&) { put(store, 0); }},
    {"erasing an object", false, 2, 0, false, false,
     [](PosixStorage& store, DiskPrompt&) {
       expect(store.erase(chunks()[0].identity.key).has_value(), "erase");
     }},
    {"publishing into a full store", true, 4, 4, false, false,
     [](PosixStorage& store, DiskPrompt&) { put(store, 5); }},
    {"publishing again and again into a full store", true, 4, 4, false, false,
     [](PosixStorage& store, DiskPrompt&) {
       for (std::size_t i = 0; i < 30; ++i) put(store, i % 10);
     }},
    {"trimming", true, 8, 0, false, false,
     [](PosixStorage& store, DiskPrompt&) {
       expect(store.trim(3 * object_bytes()).has_value(), "trim");
     }},
    {"saving a prompt", true, 0, 0, false, true,
     [](PosixStorage& store, DiskPrompt& prompt) { prompt.save_missing(store); }},
    {"saving a prompt into a full store", true, 6, 6, false, true,
     [](PosixStorage& store, DiskPrompt& prompt) {
       static_cast<void>(prompt.save(store));  // its own first chunks may have to go again
     }},
};

struct Way {
  const Scenario* scenario;
  bool named, durable;
};

struct Point {
  Way way;
  long call;
  When when;
};

/// In memory, which lasts as long as the machine does, and so longer than a process. One way is tried on
/// the disk, where room is set aside as well.
fs::path place_of(const Way& way) {
  const fs::path memory = "/dev/shm";
  const bool on_disk = way.scenario == &kScenarios[0] && !way.durable;
  return on_disk || ::access(memory.c_str(), W_OK) != 0 ? fs::temp_directory_path() : memory;
}

class Stage {
 public:
  explicit Stage(const Way& way) : directory_(place_of(way)), way_(way) {
    PosixStorage store({.directory = directory_.path(), .threads = 1});
    for (std::size_t i = 0; i < way.scenario->there; ++i) put(store, i);
    if (way.scenario->damaged) {
      const auto file = sample::file_of(directory_.path(), chunks()[0].identity.key);
      std::fstream out(file, std::ios::binary | std::ios::in | std::ios::out);
      out.seekp(100);
      out.put('x');
      REQUIRE(out.good());
    }
  }

  /// In a child: acts, and dies at that call. How many calls there were.
  long act(long call, When when) {
    const fault::Shared<std::atomic<long>> count;
    const int code = sample::in_child([&] {
      const auto calls = std::make_shared<DyingCalls>(*count, call, when);
      PosixStorage store(options(calls));
      calls->arm();
      way_.scenario->act(store, prompt());
    });
    died_ = code == 128 + SIGKILL;
    // One opening in 256 leaves the folder of the object that is written then, so that some calls are not made.
    REQUIRE((died_ || (code == 0 && *count <= call) || (code == 0 && call < 0)));
    return *count;
  }
  bool died() const { return died_; }

  /// Whole objects or none, nothing else, and the next process goes on.
  void check() {
    const std::size_t before = sample::count_files(directory_.path());
    PosixStorage store(options());
    std::size_t found = 0, damaged = 0;
    for (const sample::Chunk& chunk : chunks()) {
      Errc code = Errc::ok;
      const auto bytes = sample::fetch(store, chunk.identity.key, chunk.object.size(), 0, &code);
      if (!sample::look(store, chunk.identity.key).stored()) {
        REQUIRE(code == Errc::not_found);
        continue;
      }
      REQUIRE(code == Errc::ok);
      ++found;
      if (sample::equal(bytes.bytes(), chunk.object)) continue;
      ++damaged;  // the old one; a reader sees that it is none
      REQUIRE(sample::check(bytes.bytes(), chunk.identity).code() == Errc::corrupt);
    }
    REQUIRE(damaged <= (way_.scenario->damaged ? 1 : 0));
    if (way_.scenario->saves) found += chunks_of_prompt(store);
    const std::size_t files = sample::count_files(directory_.path());
    REQUIRE(files == found);
    REQUIRE(store.stats().leftovers == before - files);
    if (!way_.named && !way_.scenario->damaged) REQUIRE(store.stats().leftovers == 0);
    REQUIRE(bytes_there() <= capacity());
    go_on(store);
  }

 private:
  std::uint64_t capacity() const {
    const std::uint64_t bytes = way_.scenario->capacity * object_bytes();
    return bytes == 0 ? ~std::uint64_t{0} : bytes;
  }
  PosixOptions options(std::shared_ptr<detail::PosixCalls> calls = {}) const {
    return {.directory = directory_.path(),
            .threads = 1,
            .durable = way_.durable,
            .capacity_bytes = way_.scenario->capacity * object_bytes(),
            .force_temporary_names = way_.named,
            .calls = std::move(calls)};
  }
  static DiskPrompt& prompt() {
    static DiskPrompt one;
    return one;
  }
  /// Of objects. What was written to be one and has no name yet counts when it has.
  std::uint64_t bytes_there() const {
    std::uint64_t bytes = 0;
    for (const auto& entry : fs::recursive_directory_iterator(directory_.path())) {
      if (entry.path().extension() == ".ckv") bytes += entry.file_size();
    }
    return bytes;
  }
  /// Those that are there; a prefill over them gives the right KV.
  static std::size_t chunks_of_prompt(PosixStorage& store) {
    REQUIRE(prompt().load(store).failed_loads == 0);
    std::size_t found = 0;
    for (const ChunkKey& key : prompt().keys) found += sample::look(store, key).stored();
    return found;
  }
  /// As if nothing had been: all can be stored, and is whole.
  void go_on(PosixStorage& store) const {
    for (const std::size_t i : {0u, 5u, 9u}) {
      put(store, i);
      const auto& chunk = chunks()[i];
      REQUIRE(sample::equal(sample::fetch(store, chunk.identity.key, chunk.object.size()).bytes(),
                            chunk.object));
      REQUIRE(bytes_there() <= capacity());
    }
    for (const auto& entry : fs::recursive_directory_iterator(directory_.path())) {
      REQUIRE_FALSE(entry.path().filename().string().starts_with(".tmp"));
    }
  }

  Directory directory_;
  Way way_;
  bool died_ = false;
};

std::vector<Way> all_ways() {
  std::vector<Way> ways;
  for (const Scenario& scenario : kScenarios) {
    for (const bool named : {false, true}) {
      for (const bool durable : {false, true}) {
        if (scenario.long_one && durable) continue;
        ways.push_back({&scenario, named, durable});
      }
    }
  }
  return ways;
}

std::size_t wanted_points() {
  const char* const text = std::getenv("CAKE_KILL_POINTS");
  return text == nullptr ? 500 : std::strtoul(text, nullptr, 10);
}

/// Each moment of each call of the short scenarios, and as many of the others as are wanted.
std::vector<Point> choose_points(std::mt19937& random) {
  std::vector<Point> points;
  std::vector<std::pair<Way, long>> drawn;
  for (const Way& way : all_ways()) {
    const long calls = Stage(way).act(-1, When::before);
    REQUIRE(calls > 1);
    if (way.scenario->long_one) {
      drawn.emplace_back(way, calls);
      continue;
    }
    for (long call = 0; call < calls; ++call) {
      points.push_back({way, call, When::before});
      points.push_back({way, call, When::halfway});
    }
    points.push_back({way, calls - 1, When::after});
  }
  std::shuffle(points.begin(), points.end(), random);
  const std::size_t all = wanted_points();
  for (std::size_t i = 0; points.size() < all; ++i) {
    const auto& [way, calls] = drawn[i % drawn.size()];
    points.push_back({way, static_cast<long>(random() % static_cast<unsigned long>(calls)),
                      static_cast<When>(random() % 3)});
  }
  return points;
}

TEST_CASE("a process killed at any system call of a write leaves old, new or nothing") {
  constexpr unsigned kSeed = 20261130;
  std::mt19937 random(kSeed);
  const std::vector<Point> points = choose_points(random);
  REQUIRE(points.size() >= wanted_points());
  std::size_t died = 0;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const Point& point = points[i];
    INFO("seed " << kSeed << ", point " << i << ": " << point.way.scenario->what << ", named "
                 << point.way.named << ", durable " << point.way.durable << ", call " << point.call
                 << ", moment " << static_cast<int>(point.when));
    Stage stage(point.way);
    stage.act(point.call, point.when);
    died += stage.died();
    stage.check();
  }
  CHECK(died > points.size() * 9 / 10);
}

}  // namespace
