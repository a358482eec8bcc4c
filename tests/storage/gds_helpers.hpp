// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A device for the tests of GdsStorage that need none: memory whose own addresses nobody can read.
#pragma once

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cake/chunk/digest.hpp"
#include "cake/detail/arena.hpp"
#include "cake/storage/gds.hpp"
#include "tests/catch.hpp"
#include "tests/fault/fake_cufile.hpp"
#include "tests/storage/gds_engine.hpp"
#include "tests/storage/helpers.hpp"

namespace cake::inline CAKE_ABI::sample {

/// Where a variant of the fake library lies: all, no_read or no_stats.
inline std::string fake_library(const std::string& variant = "all") {
  return std::string(CAKE_FAKE_CUFILE) + "/" + variant + "/libcufile.so.0";
}

/// The fake library's orders and counts. It stays loaded.
inline fault::FakeCufile& fake(const std::string& variant = "all") {
  void* const library = ::dlopen(fake_library(variant).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw std::runtime_error(::dlerror());
  void* const symbol = ::dlsym(library, "cake_fake_cufile");
  fault::FakeCufile* (*function)() = nullptr;
  std::memcpy(&function, &symbol, sizeof symbol);
  return *function();
}

/// The same pages mapped twice: arena() may not be touched, the shadow is where the bytes are. Code
/// that takes device memory for host memory ends with a signal.
class FakeDevice final : public DeviceStaging {
 public:
  explicit FakeDevice(std::size_t bytes, fault::FakeCufile* library = &fake())
      : file_(::memfd_create("cake-test", MFD_CLOEXEC)),
        bytes_(bytes),
        base_(map(PROT_NONE)),
        shadow_(map(PROT_READ | PROT_WRITE)),
        parts_({base_, bytes}),
        library_(library) {
    if (library_ != nullptr) library_->shadow = shadow_ - base_;
  }
  ~FakeDevice() override {
    ::munmap(base_, bytes_);
    ::munmap(shadow_, bytes_);
    ::close(file_);
  }

  std::byte* allocate(std::size_t bytes) override {
    std::byte* const part = parts_.take(bytes);
    std::memset(shadow(part), 0xd5, detail::align_up(bytes));  // what was there is of no use
    ++allocated;
    return part;
  }
  void release(std::byte* data, std::size_t bytes) noexcept override {
    parts_.give_back(data, bytes);
    --allocated;
  }
  std::span<std::byte> arena() const override { return {base_, bytes_}; }
  std::size_t largest_gap() const override { return parts_.largest_gap(); }
  Status use_on_this_thread() override { return fail_use ? broken() : Status(); }
  Status to_host(std::byte* host, const std::byte* device, std::size_t bytes) override {
    if (fail_copies) return broken();
    check(device, bytes);
    std::memcpy(host, shadow(device), bytes);
    return {};
  }
  Status from_host(std::byte* device, const std::byte* host, std::size_t bytes) override {
    if (fail_copies) return broken();
    check(device, bytes);
    std::memcpy(shadow(device), host, bytes);
    copied_in += bytes;
    return {};
  }
  Status crc32c(const std::byte* device, std::size_t run_bytes, std::size_t runs,
                std::size_t block_bytes, std::span<std::uint32_t> out) override {
    if (fail_digests) return broken();
    check(device, run_bytes * runs);
    std::size_t next = 0;
    for (std::size_t run = 0; run < runs; ++run) {
      for (std::size_t at = 0; at < run_bytes; at += block_bytes) {
        const std::byte* const block = shadow(device) + run * run_bytes + at;
        out[next++] = cake::crc32c({block, std::min(block_bytes, run_bytes - at)});
      }
    }
    if (next != out.size()) throw std::logic_error("digests: wrong number of results");
    ++digests;
    return {};
  }

  std::atomic<bool> fail_use{false}, fail_copies{false}, fail_digests{false};
  std::atomic<int> allocated{0}, digests{0};
  std::atomic<std::uint64_t> copied_in{0};

 private:
  static Status broken() { return Error{Errc::device, 700, "the device is lost, on order"}; }
  std::byte* map(int protection) {
    if (file_ < 0 || ::ftruncate(file_, static_cast<off_t>(bytes_)) != 0)
      throw std::runtime_error("no memory file");
    void* const at = ::mmap(nullptr, bytes_, protection, MAP_SHARED, file_, 0);
    if (at == MAP_FAILED) throw std::runtime_error("no mapping");
    return static_cast<std::byte*>(at);
  }
  std::byte* shadow(const std::byte* device) const { return shadow_ + (device - base_); }
  void check(const std::byte* device, std::size_t bytes) const {
    if (!contains(device) || bytes > bytes_ - static_cast<std::size_t>(device - base_))
      throw std::logic_error("no device memory");
  }
  int file_;
  std::size_t bytes_;
  std::byte* base_;
  std::byte* shadow_;
  detail::ArenaMap parts_;
  fault::FakeCufile* library_;
};

/// At the end of a test: nothing is registered any more, and no rule was broken.
struct NothingLeft {
  explicit NothingLeft(fault::FakeCufile& library = fake()) : library_(library) { library_.obey(); }
  ~NothingLeft() {
    CHECK(library_.handles == 0);
    CHECK(library_.buffers == 0);
    CHECK(library_.in_flight == 0);
    CHECK(library_.stats_level == 1);
    const char* const broken = library_.broken.exchange(nullptr);
    CHECK(std::string(broken == nullptr ? "" : broken).empty());
    library_.obey();
  }
  NothingLeft(const NothingLeft&) = delete;
  NothingLeft& operator=(const NothingLeft&) = delete;

 private:
  fault::FakeCufile& library_;
};

inline GdsOptions gds_options(const std::filesystem::path& directory) {
  GdsOptions options;
  options.posix.directory = directory;
  options.posix.threads = 3;
  options.library = fake_library();
  return options;
}

}  // namespace cake::inline CAKE_ABI::sample
