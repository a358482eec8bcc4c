// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Processes that save, load, evict and trim in one directory for a long time, within a bound:
//
//     soak [--seconds 600] [--processes 8] [--capacity OBJECTS] [--over OBJECTS] [--seed N] [--directory DIR]
//
// All processes are stopped now and then, and what lies in the directory is summed up. Fails when it is
// more than the capacity and --over objects for each process (by default the sixteenth of the capacity
// that PosixStorage says, and one object), when a byte is wrong, when a call fails, or when a descriptor,
// a mapping or a temporary file is left at the end.
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "shared.hpp"
#include "tests/storage/posix_helpers.hpp"

namespace {

using namespace cake;
using sample::expect;
using Clock = std::chrono::steady_clock;
namespace fs = std::filesystem;

constexpr std::size_t kMostProcesses = 64;
constexpr std::uint32_t kChunks = 96;

struct Options {
  double seconds = 600;
  std::size_t processes = 8;
  std::uint64_t capacity = 24;  // largest objects
  double over = -1;             // largest objects for each process; -1: as documented
  unsigned seed = 1;
  fs::path directory;
};

struct Counts {
  std::atomic<std::uint64_t> saved, there, loaded, missing, erased, trimmed, reopened, evicted;
};
using AllCounts = std::array<Counts, kMostProcesses>;

/// Objects of several sizes, of several prompts.
std::vector<sample::Chunk> make_chunks() {
  std::vector<sample::Chunk> chunks;
  for (std::uint32_t i = 0; i < kChunks; ++i) {
    const std::uint32_t tokens = i % 3 == 0 ? 128 : 32;
    chunks.push_back(sample::make(i, {4, 2, 32, DType::bf16}, tokens, i % 5));
  }
  return chunks;
}

std::uint64_t largest(const std::vector<sample::Chunk>& chunks) {
  std::uint64_t most = 0;
  for (const auto& chunk : chunks) most = std::max<std::uint64_t>(most, chunk.object.size());
  return most;
}

/// Open descriptors of this process, and mappings of a store's files or of rings.
struct Held {
  std::size_t descriptors = 0, mappings = 0;
};
Held held_by_this_process() {
  Held held;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    static_cast<void>(entry);
    ++held.descriptors;
  }
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    held.mappings += line.find(".ckv") != std::string::npos ||
                     line.find("io_uring") != std::string::npos ||
                     line.find("(deleted)") != std::string::npos;
  }
  return held;
}

/// One of the processes.
class Worker {
 public:
  Worker(const Options& options, std::size_t number, const std::vector<sample::Chunk>& chunks,
         Counts& counts)
      : options_(options),
        number_(number),
        chunks_(chunks),
        counts_(counts),
        random_(options.seed * 1000 + static_cast<unsigned>(number)) {}

  void work(Clock::time_point until) {
    const Held before = held_by_this_process();
    open();
    while (Clock::now() < until) step();
    close();
    const Held after = held_by_this_process();
    expect(after.descriptors == before.descriptors, "a descriptor is left open");
    expect(after.mappings == before.mappings, "a mapping is left");
  }

 private:
  std::uint64_t capacity() const { return options_.capacity * largest(chunks_); }
  void open() {
    store_.emplace(PosixOptions{.directory = options_.directory / "store",
                                .threads = 2,
                                .capacity_bytes = capacity(),
                                .force_temporary_names = number_ % 3 == 1});
  }
  void close() {
    counts_.evicted += store_->stats().evicted;
    expect(store_->stats().eviction_failures == 0, "an object could not be evicted");
    store_.reset();
  }
  const sample::Chunk& any() { return chunks_[random_() % chunks_.size()]; }

  void step() {
    const auto dice = random_() % 1000;
    if (dice < 480) {
      const sample::Chunk& chunk = any();
      const auto written = store_->write_new(chunk.identity.key, chunk.object);
      expect(written.has_value(), written ? "" : written.error().message().c_str());
      ++(*written ? counts_.saved : counts_.there);
    } else if (dice < 980) {
      load(any());
    } else if (dice < 992) {
      expect(store_->erase(any().identity.key).has_value(), "erase");
      ++counts_.erased;
    } else if (dice < 997) {
      const auto trimmed = store_->trim(capacity() / (1 + random_() % 4));
      expect(trimmed.has_value(), trimmed ? "" : trimmed.error().message().c_str());
      ++counts_.trimmed;
    } else {
      close();
      open();
      ++counts_.reopened;
    }
  }
  void load(const sample::Chunk& chunk) {
    Errc code = Errc::ok;
    const auto bytes = sample::fetch(*store_, chunk.identity.key, chunk.object.size(), 0, &code);
    if (code == Errc::not_found) {
      ++counts_.missing;
      return;
    }
    expect(code == Errc::ok, "a read failed");
    expect(sample::check(bytes.bytes(), chunk.identity).has_value(), "an object is damaged");
    expect(sample::equal(bytes.bytes(), chunk.object), "a wrong byte");
    ++counts_.loaded;
  }

  const Options& options_;
  std::size_t number_;
  const std::vector<sample::Chunk>& chunks_;
  Counts& counts_;
  std::mt19937 random_;
  std::optional<PosixStorage> store_;
};

/// What lies in a directory while nobody writes.
struct Sum {
  std::uint64_t bytes = 0;
  std::size_t temporary = 0;
};
Sum sum_of(const fs::path& store) {
  Sum sum;
  for (const auto& entry : fs::recursive_directory_iterator(store)) {
    if (!entry.is_regular_file()) continue;
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".ckv")) sum.bytes += entry.file_size();
    sum.temporary += name.starts_with(".tmp");
  }
  return sum;
}

/// Stops all that still run, looks, and lets them go on. False: none runs any more.
bool watch(std::vector<pid_t>& running, const fs::path& store, std::uint64_t& most, bool& failed) {
  std::vector<pid_t> still;
  for (const pid_t process : running) ::kill(process, SIGSTOP);
  for (const pid_t process : running) {
    int status = 0;
    if (::waitpid(process, &status, WUNTRACED) != process) continue;
    if (WIFSTOPPED(status)) {
      still.push_back(process);
    } else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      failed = true;
    }
  }
  if (fs::exists(store)) most = std::max(most, sum_of(store).bytes);
  for (const pid_t process : still) ::kill(process, SIGCONT);
  running = still;
  return !running.empty();
}

/// False: something is left that should not be, or a chunk is not whole.
bool good_at_the_end(const fs::path& path, const std::vector<sample::Chunk>& chunks) {
  const std::size_t temporary = sum_of(path).temporary;
  if (temporary != 0) std::printf("FAILED: %zu temporary files are left\n", temporary);
  bool good = temporary == 0;
  PosixStorage store({.directory = path});
  for (const sample::Chunk& chunk : chunks) {
    if (!sample::look(store, chunk.identity.key).stored()) continue;
    const auto bytes = sample::fetch(store, chunk.identity.key, chunk.object.size());
    if (sample::equal(bytes.bytes(), chunk.object)) continue;
    std::printf("FAILED: %s is not whole\n", chunk.identity.key.hex().c_str());
    good = false;
  }
  return good;
}

void tell(const AllCounts& counts, std::uint64_t capacity, std::uint64_t most,
          std::uint64_t allowed, std::uint64_t object) {
  const auto sum = [&](auto member) {
    std::uint64_t all = 0;
    for (const Counts& each : counts) all += each.*member;
    return static_cast<unsigned long long>(all);
  };
  std::printf("saved %llu, there already %llu, loaded %llu, not found %llu, erased %llu\n",
              sum(&Counts::saved), sum(&Counts::there), sum(&Counts::loaded), sum(&Counts::missing),
              sum(&Counts::erased));
  std::printf("trims %llu, stores opened anew %llu, evicted %llu\n", sum(&Counts::trimmed),
              sum(&Counts::reopened), sum(&Counts::evicted));
  const double over = most > capacity ? static_cast<double>(most - capacity) : 0;
  std::printf(
      "capacity %llu bytes, at most there %llu (%.1f of the largest object over), allowed %llu\n",
      static_cast<unsigned long long>(capacity), static_cast<unsigned long long>(most),
      over / static_cast<double>(object), static_cast<unsigned long long>(allowed));
}

int soak(const Options& options) {
  const auto chunks = make_chunks();
  const std::uint64_t object = largest(chunks);
  const std::uint64_t capacity = options.capacity * object;
  const double each = options.over < 0
                          ? static_cast<double>(capacity) / 16 + static_cast<double>(object)
                          : options.over * static_cast<double>(object);
  const auto allowed =
      capacity + static_cast<std::uint64_t>(static_cast<double>(options.processes) * each);
  const fault::Shared<AllCounts> counts;
  const auto until = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                        std::chrono::duration<double>(options.seconds));
  std::vector<pid_t> running;
  for (std::size_t i = 0; i < options.processes; ++i) {
    running.push_back(
        sample::start_child([&] { Worker(options, i, chunks, (*counts)[i]).work(until); }));
  }
  std::uint64_t most = 0;
  bool failed = false;
  const fs::path store = options.directory / "store";
  do {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  } while (watch(running, store, most, failed));
  tell(*counts, capacity, most, allowed, object);
  if (failed) std::printf("FAILED: a process failed\n");
  if (most > allowed) std::printf("FAILED: more than is allowed\n");
  const bool good = good_at_the_end(store, chunks) && !failed && most <= allowed;
  std::printf(good ? "good\n" : "not good\n");
  return good ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const char* const value = argv[i + 1];
    if (name == "--seconds")
      options.seconds = std::strtod(value, nullptr);
    else if (name == "--processes")
      options.processes = std::strtoul(value, nullptr, 10);
    else if (name == "--capacity")
      options.capacity = std::strtoull(value, nullptr, 10);
    else if (name == "--over")
      options.over = std::strtod(value, nullptr);
    else if (name == "--seed")
      options.seed = static_cast<unsigned>(std::strtoul(value, nullptr, 10));
    else if (name == "--directory")
      options.directory = value;
    else
      argc = 0;
  }
  if (argc % 2 != 1 || options.processes == 0 || options.processes > kMostProcesses) {
    std::fprintf(stderr,
                 "usage: soak [--seconds N] [--processes 1..64] [--capacity OBJECTS] "
                 "[--over OBJECTS] [--seed N] [--directory DIR]\n");
    return 2;
  }
  const sample::Directory own(options.directory.empty() ? fs::temp_directory_path()
                                                        : options.directory);
  options.directory = own.path();
  return soak(options);
}
