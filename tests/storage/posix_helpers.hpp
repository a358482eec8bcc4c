// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// System calls that fail on order, and processes of their own, for the tests of PosixStorage.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <functional>
#include <optional>
#include <vector>

#include "cake/storage/posix.hpp"
#include "helpers.hpp"
#include "simulated_ring.hpp"
#include "src/storage/posix/calls.hpp"

namespace cake::inline CAKE_ABI::sample {

/// Each hook sees the call before the system does; what it returns, the call returns. Empty: go on.
struct HookedCalls : detail::PosixCalls {
  using Answer = std::optional<ssize_t>;
  std::function<Answer(const char* name, int flags)> on_open;
  std::function<Answer(std::size_t size, off_t offset)> on_read;
  std::function<Answer(std::size_t size, off_t offset)> on_write;
  std::function<Answer()> on_allocate, on_sync, on_link, on_rename, on_rename_over, on_lock;
  std::function<Answer(const char*name)> on_stat, on_unlink, on_make_directory;
  std::function<std::optional<detail::DirectAlignment>()> on_alignment;
  std::function<detail::FileSystemSpace()> on_space;
  std::function<std::int64_t()> on_now, on_running;
  // Without it a ring reads by read_at, and so with the hook of reads.
  std::function<std::unique_ptr<detail::Ring>(unsigned entries)> on_ring;

  int open_at(int directory, const char* name, int flags, mode_t mode) override {
    if (const auto a = on_open ? on_open(name, flags) : Answer()) return static_cast<int>(*a);
    return PosixCalls::open_at(directory, name, flags, mode);
  }
  int open_beneath(int directory, const char* path, int flags) override {
    if (const auto a = on_open ? on_open(path, flags) : Answer()) return static_cast<int>(*a);
    return PosixCalls::open_beneath(directory, path, flags);
  }
  ssize_t read_at(int file, void* out, std::size_t size, off_t offset) override {
    const auto a = on_read ? on_read(size, offset) : Answer();
    if (a && *a <= 0) return *a;
    // A positive answer is a short read: that many bytes, rightly read.
    return PosixCalls::read_at(file, out, a ? static_cast<std::size_t>(*a) : size, offset);
  }
  ssize_t write_at(int file, const void* bytes, std::size_t size, off_t offset) override {
    const auto a = on_write ? on_write(size, offset) : Answer();
    if (a && *a <= 0) return *a;
    return PosixCalls::write_at(file, bytes, a ? static_cast<std::size_t>(*a) : size, offset);
  }
  int allocate(int file, off_t size) override {
    if (const auto a = on_allocate ? on_allocate() : Answer()) return static_cast<int>(*a);
    return PosixCalls::allocate(file, size);
  }
  int sync(int file) override {
    if (const auto a = on_sync ? on_sync() : Answer()) return static_cast<int>(*a);
    return PosixCalls::sync(file);
  }
  int link_at(int from, const char* old_name, int to, const char* name, int flags) override {
    if (const auto a = on_link ? on_link() : Answer()) return static_cast<int>(*a);
    return PosixCalls::link_at(from, old_name, to, name, flags);
  }
  int rename_new(int from, const char* old_name, int to, const char* name) override {
    if (const auto a = on_rename ? on_rename() : Answer()) return static_cast<int>(*a);
    return PosixCalls::rename_new(from, old_name, to, name);
  }
  int rename_over(int from, const char* old_name, int to, const char* name) override {
    if (const auto a = on_rename_over ? on_rename_over() : Answer()) return static_cast<int>(*a);
    return PosixCalls::rename_over(from, old_name, to, name);
  }
  std::optional<detail::DirectAlignment> direct_alignment(int file) override {
    return on_alignment ? on_alignment() : PosixCalls::direct_alignment(file);
  }
  std::unique_ptr<detail::Ring> make_ring(unsigned entries) override {
    if (on_ring) return on_ring(entries);
    return std::make_unique<SimulatedRing>(*this, entries);
  }
  std::optional<detail::FileSystemSpace> space(int directory) override {
    return on_space ? on_space() : PosixCalls::space(directory);
  }
  std::int64_t now() override { return on_now ? on_now() : PosixCalls::now(); }
  std::int64_t seconds_running() override {
    return on_running ? on_running() : PosixCalls::seconds_running();
  }
  int lock(int file, int operation) override {
    if (const auto a = on_lock ? on_lock() : Answer()) return static_cast<int>(*a);
    return PosixCalls::lock(file, operation);
  }
  int stat_at(int directory, const char* name, struct stat* info) override {
    if (const auto a = on_stat ? on_stat(name) : Answer()) return static_cast<int>(*a);
    return PosixCalls::stat_at(directory, name, info);
  }
  int unlink_at(int directory, const char* name, int flags) override {
    if (const auto a = on_unlink ? on_unlink(name) : Answer()) return static_cast<int>(*a);
    return PosixCalls::unlink_at(directory, name, flags);
  }
  int make_directory(int directory, const char* name, mode_t mode) override {
    if (const auto a = on_make_directory ? on_make_directory(name) : Answer()) {
      return static_cast<int>(*a);
    }
    return PosixCalls::make_directory(directory, name, mode);
  }
};

/// True when the text has all the parts; says which one is missing.
inline bool says(const std::string& text, std::initializer_list<std::string> parts) {
  for (const auto& part : parts) {
    if (text.find(part) == std::string::npos) {
      std::fprintf(stderr, "missing '%s' in: %s\n", part.c_str(), text.c_str());
      return false;
    }
  }
  return true;
}

/// What the constructor says; empty when it takes the directory.
inline std::string complaint(const PosixOptions& options) {
  try {
    PosixStorage store(options);
    return {};
  } catch (const Exception& e) {
    return e.what();
  }
}

/// The answer of a system call that fails so.
inline HookedCalls::Answer fails(int number) {
  errno = number;
  return -1;
}

/// False: this machine has no such engine, and the test is skipped by name for it.
inline bool has(ReadEngine engine) {
  if (engine != ReadEngine::io_uring) return true;
  detail::PosixCalls calls;
  const Status ring = detail::probe_ring_in_memory(calls);
  if (!ring) std::printf("[no io_uring] skipped for it: %s\n", ring.error().context.c_str());
  return ring.has_value();
}

/// The engines that this machine has.
inline std::vector<ReadEngine> engines_here() {
  std::vector<ReadEngine> engines{ReadEngine::threads};
  if (has(ReadEngine::io_uring)) engines.push_back(ReadEngine::io_uring);
  return engines;
}

inline std::filesystem::path file_of(const std::filesystem::path& store, const ChunkKey& key) {
  const std::string hex = key.hex();
  return store / hex.substr(0, 2) / (hex + ".ckv");
}

/// Files in a store of any name, directories not counted; nor those that bounded stores share.
inline std::size_t count_files(const std::filesystem::path& store) {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(store)) {
    count += !entry.is_directory() && !entry.path().filename().string().starts_with(".evict.");
  }
  return count;
}

/// In a child process: ends it with a message when a check fails.
inline void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "in the child process: %s\n", what);
  ::_exit(1);
}

template <class F>
pid_t start_child(F&& f) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child != 0) return child;
  try {
    f();
  } catch (const std::exception& e) {
    expect(false, e.what());
  }
  ::_exit(0);
}

/// Exit code of a child; 128 + signal when one ended it.
inline int join_child(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

template <class F>
int in_child(F&& f) {
  return join_child(start_child(std::forward<F>(f)));
}

}  // namespace cake::inline CAKE_ABI::sample
