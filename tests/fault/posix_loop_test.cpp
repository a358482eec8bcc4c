// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A store on a disk of its own: an ext4 in a file, mounted in a mount namespace of a child process. It gets
// full, turns read-only, dies and loses its power. Needs root, mkfs.ext4 and loop devices; is skipped by
// name elsewhere.
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#include <atomic>
#include <vector>

#include "catch.hpp"
#include "disk_prompt.hpp"

#ifndef __SANITIZE_THREAD__  // which allows no threads after fork()
namespace {

using namespace cake;
using fault::DiskPrompt;
using sample::Directory;
using sample::expect;
using sample::HookedCalls;
namespace fs = std::filesystem;

constexpr int kNotHere = 77;

/// Ends the test case as skipped (ctest looks for the word in brackets).
#define CAKE_NEEDS_LOOP(code)                                                             \
  if ((code) == kNotHere) {                                                               \
    std::printf("[no loop mount] skipped: it needs root, mkfs.ext4 and a loop device\n"); \
    return;                                                                               \
  }                                                                                       \
  CHECK((code) == 0)

/// False: the program is not there, or it failed.
bool run(std::vector<std::string> words) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
    ::dup2(nowhere, 1);
    ::dup2(nowhere, 2);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  return sample::join_child(child) == 0;
}

/// An ext4 in a file; of a process that has a mount namespace of its own.
class Disk {
 public:
  explicit Disk(const fs::path& base) : image_(base / "image"), mounted_(base / "disk") {}

  bool make(std::uint64_t bytes, const std::string& inodes) {
    if (::geteuid() != 0 || ::unshare(CLONE_NEWNS) != 0) return false;
    if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return false;
    fs::create_directory(mounted_);
    const int file = ::open(image_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    const bool made = ::ftruncate(file, static_cast<off_t>(bytes)) == 0;
    ::close(file);
    return made && run({"mkfs.ext4", "-q", "-F", "-N", inodes, image_.string()}) && mount();
  }
  bool mount() { return run({"mount", "-o", "loop", image_.string(), mounted_.string()}); }
  void unmount() const { expect(::umount(mounted_.c_str()) == 0, "umount"); }
  void remount(bool read_only) const {
    const unsigned long flags =
        MS_REMOUNT | (read_only ? static_cast<unsigned long>(MS_RDONLY) : 0ul);
    expect(::mount("none", mounted_.c_str(), nullptr, flags, nullptr) == 0, "remount");
  }
  /// As when its power fails: nothing more is written to it, not even what it had promised itself.
  void cut_off() const {
    const int folder = ::open(mounted_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    std::uint32_t without_flush = 2;
    expect(::ioctl(folder, _IOR('X', 125, std::uint32_t), &without_flush) == 0,
           "EXT4_IOC_SHUTDOWN");
    ::close(folder);
  }
  fs::path store() const { return mounted_ / "store"; }

 private:
  fs::path image_, mounted_;
};

/// Runs `body` in a child process that has such a disk.
template <class Body>
int on_disk(std::uint64_t bytes, const std::string& inodes, const Body& body) {
  const Directory base;
  return sample::in_child([&] {
    Disk disk(base.path());
    if (!disk.make(bytes, inodes)) ::_exit(kNotHere);
    body(disk);
  });
}

/// How many of the first `count` objects are whole; none may be anything but whole or not there.
std::uint64_t whole(PosixStorage& store, std::uint64_t count, std::size_t size) {
  std::uint64_t found = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    Errc code = Errc::ok;
    const auto bytes = sample::fetch(store, sample::key_of(i), size, 0, &code);
    if (code == Errc::not_found) continue;
    expect(sample::equal(bytes.bytes(), sample::content(i, size).bytes()), "whole");
    ++found;
  }
  return found;
}

TEST_CASE("a disk that is full keeps nothing of what does not fit, and all that did") {
  constexpr std::size_t kSize = 256 << 10;
  for (const bool named : {false, true}) {
    const int code = on_disk(16 << 20, "512", [&](Disk& disk) {
      PosixStorage store({.directory = disk.store(), .threads = 2, .force_temporary_names = named});
      std::uint64_t count = 0;
      Status status;
      while (count < 1000 &&
             (status = store.write(sample::key_of(count), sample::content(count, kSize).bytes()))) {
        ++count;
      }
      expect(count > 8 && count < 1000, "it is full at some time");
      expect(status.code() == Errc::out_of_memory && status.error().native == ENOSPC, "no room");
      expect(sample::count_files(disk.store()) == count, "nothing is left behind");
      expect(whole(store, count + 1, kSize) == count, "the others are whole");
      expect(store.erase(sample::key_of(0)).has_value(), "erase");
      expect(store.write(sample::key_of(0), sample::content(0, kSize).bytes()).has_value(), "room");
    });
    CAKE_NEEDS_LOOP(code);
  }
}

TEST_CASE("a disk that can have no more files keeps nothing of the next one") {
  constexpr std::size_t kSize = 8192;
  for (const bool named : {false, true}) {
    const int code = on_disk(16 << 20, "80", [&](Disk& disk) {
      PosixStorage store({.directory = disk.store(), .threads = 2, .force_temporary_names = named});
      std::uint64_t count = 0;
      Status status;
      while (count < 1000 &&
             (status = store.write(sample::key_of(count), sample::content(count, kSize).bytes()))) {
        ++count;
      }
      expect(count > 8 && count < 1000, "it is full at some time");
      expect(status.code() == Errc::out_of_memory && status.error().native == ENOSPC, "no room");
      expect(sample::count_files(disk.store()) == count, "nothing is left behind");
      expect(whole(store, count + 1, kSize) == count, "the others are whole");
    });
    CAKE_NEEDS_LOOP(code);
  }
}

TEST_CASE("a disk that turns read-only serves on, and takes writes once it can be written again") {
  const int code = on_disk(16 << 20, "512", [](Disk& disk) {
    DiskPrompt prompt;
    // Bounded, so that a write would evict, too.
    PosixStorage store({.directory = disk.store(), .threads = 2, .capacity_bytes = 1 << 20});
    prompt.save_missing(store);
    disk.remount(true);
    expect(DiskPrompt::computed(prompt.load(store)).empty(), "served");
    const Status status = store.write(sample::key_of(1), sample::content(1, 8192).bytes());
    expect(!status && status.error().native == EROFS, "told");
    expect(!store.erase(prompt.keys[0]), "nothing is erased");
    disk.remount(false);
    expect(store.write(sample::key_of(1), sample::content(1, 8192).bytes()).has_value(), "again");
    expect(DiskPrompt::computed(prompt.load(store)).empty(), "all is there");
  });
  CAKE_NEEDS_LOOP(code);
}

TEST_CASE("a disk that dies in the middle of a prefill leaves the rest to compute") {
  const int code = on_disk(32 << 20, "512", [](Disk& disk) {
    DiskPrompt prompt;
    {
      const auto calls = std::make_shared<HookedCalls>();
      PosixStorage store({.directory = disk.store(),
                          .threads = 2,
                          .op_bytes = 4096,
                          .durable = true,
                          .calls = calls});
      prompt.save_missing(store);
      std::atomic<int> reads{0};
      calls->on_read = [&](std::size_t, off_t) -> HookedCalls::Answer {
        if (++reads == 20) disk.cut_off();
        return std::nullopt;
      };
      const PrefillReport report = prompt.load(store);  // the KV is right
      expect(!DiskPrompt::computed(report).empty(), "some chunks are computed");
      for (const std::uint32_t c : DiskPrompt::computed(report)) {
        expect(report.chunks[c].load_error != Errc::ok, "for a reason");
      }
      expect(!store.write(sample::key_of(1), sample::content(1, 8192).bytes()), "a write is told");
    }
    disk.unmount();
    expect(disk.mount(), "mount");
    PosixStorage store({.directory = disk.store(), .threads = 2});
    expect(DiskPrompt::computed(prompt.load(store)).empty(), "all is there again");
  });
  CAKE_NEEDS_LOOP(code);
}

TEST_CASE(
    "after the power of a real disk failed durable objects are whole, others whole or not there") {
  constexpr std::size_t kSize = 64 << 10;
  constexpr std::uint64_t kCount = 12;
  for (const bool durable : {true, false}) {
    for (const bool named : {false, true}) {
      const int code = on_disk(32 << 20, "512", [&](Disk& disk) {
        {
          PosixStorage store({.directory = disk.store(),
                              .threads = 1,
                              .durable = durable,
                              .force_temporary_names = named});
          for (std::uint64_t i = 0; i < kCount; ++i) {
            expect(store.write(sample::key_of(i), sample::content(i, kSize).bytes()).has_value(),
                   "write");
          }
          disk.cut_off();
        }
        disk.unmount();
        expect(disk.mount(), "mount");
        PosixStorage store({.directory = disk.store(), .threads = 1});
        if (durable) expect(whole(store, kCount, kSize) == kCount, "all are there");
        // What was never synced may be a file of zeros; a reader of chunks sees that it is none.
        const std::size_t files = sample::count_files(disk.store());
        expect(files <= kCount, "no leftovers");
        for (std::uint64_t i = 0; i < kCount; ++i) {
          const auto bytes = sample::content(i, kSize);
          expect(store.erase(sample::key_of(i)).has_value(), "erase");
          expect(store.write(sample::key_of(i), bytes.bytes()).has_value(), "write");
        }
        expect(whole(store, kCount, kSize) == kCount, "the store goes on");
      });
      CAKE_NEEDS_LOOP(code);
    }
  }
}

}  // namespace
#endif
