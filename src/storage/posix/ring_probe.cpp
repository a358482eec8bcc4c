// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Whether io_uring works on this machine and in this directory: found out by using it.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <string>
#include <system_error>

#include "cake/detail/process.hpp"
#include "cake/staging.hpp"
#include "calls.hpp"
#include "directory.hpp"
#include "ring.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

constexpr std::chrono::milliseconds kLook{10};
// A ring that does not answer within ten seconds is not used.
constexpr int kMostLooks = 1000;

/// What the administrator has set: 0 allows it, 1 to a group, 2 to nobody. Empty: it cannot be known.
std::string sysctl_value() {
  std::string value;
  std::ifstream("/proc/sys/kernel/io_uring_disabled") >> value;
  return value;
}

std::string forbidden() {
  const std::string disabled = sysctl_value();
  if (disabled == "1") {
    return "the sysctl kernel.io_uring_disabled is 1; run: sysctl kernel.io_uring_disabled=0, or "
           "put "
           "this user into the group that kernel.io_uring_group names";
  }
  if (disabled == "2") {
    return "the sysctl kernel.io_uring_disabled is 2; run: sysctl kernel.io_uring_disabled=0";
  }
  return "a seccomp filter or security module forbids it, as in many containers; allow the calls "
         "io_uring_setup, io_uring_enter and io_uring_register there";
}

/// One read by the ring, also if it is interrupted. Bytes, or a negative errno.
int read_once(Ring& ring, int file, MutableBytes out) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    if (!ring.prepare_read(file, out.data(), out.size(), 0, 1)) return -EBUSY;
    for (int looks = 0; ring.unsubmitted() > 0; ++looks) {
      const int result = ring.submit();
      if (result < 0 && looks == kMostLooks) return result;
      if (result < 0) ring.wait(std::chrono::milliseconds(1));
    }
    RingCompletion over;
    for (int looks = 0; !ring.peek(over); ++looks) {
      if (looks == kMostLooks) return -ETIME;
      ring.wait(kLook);
    }
    if (over.result != -EINTR && over.result != -EAGAIN) return over.result;
  }
  return -EAGAIN;
}

}  // namespace

Error ring_refusal(int number) {
  if (!rings_built_in() && number == ENOSYS) {
    return {Errc::unsupported, number,
            "this build of cake has no io_uring; install liburing-dev and build it again, or use "
            "ReadEngine::threads"};
  }
  const std::string or_else = ", or use ReadEngine::threads";
  switch (number) {
    case EPERM:
    case EACCES:
      return {Errc::unsupported, number, "io_uring is forbidden: " + forbidden() + or_else};
    case ENOSYS:
      return {Errc::unsupported, number,
              "the system has no io_uring: the kernel is older than 5.6 or built without it, or a "
              "seccomp filter hides it; allow the call io_uring_setup there" +
                  or_else};
    case ENOMEM:
      return {Errc::out_of_memory, number,
              "io_uring gets no locked memory; raise the limit (ulimit -l)" + or_else};
    case EMFILE:
    case ENFILE:
      return {Errc::io, number,
              "io_uring gets no file descriptor; raise the limit (ulimit -n)" + or_else};
    default:
      return {Errc::unsupported, number,
              "io_uring does not work: " + std::generic_category().message(number) + or_else};
  }
}

Status probe_ring(PosixCalls& calls, int file, ConstBytes expected) {
  struct Probe {
    AlignedBuffer page;
    std::unique_ptr<Ring> ring;
  };
  auto probe = std::make_unique<Probe>(Probe{AlignedBuffer(expected.size()), nullptr});
  probe->ring = calls.make_ring(4);
  if (!probe->ring) return ring_refusal(errno);
  const int result = read_once(*probe->ring, file, probe->page.bytes());
  const std::byte* const page = probe->page.data();
  // A read that has not ended may still write to the page.
  if (result == -ETIME) abandon(std::move(probe));
  if (result < 0) return ring_refusal(-result);
  if (static_cast<std::size_t>(result) != expected.size() ||
      !std::equal(expected.begin(), expected.end(), page)) {
    return Error{Errc::unsupported, EIO,
                 "io_uring reads other bytes than pread does; use ReadEngine::threads"};
  }
  return {};
}

Status probe_ring_in_memory(PosixCalls& calls) {
  const AlignedBuffer page(kIoAlignment);
  std::fill(page.bytes().begin(), page.bytes().end(), std::byte{0x5a});
  const Fd file(::memfd_create("cake", MFD_CLOEXEC));
  if (!file) return ring_refusal(errno);
  if (::pwrite(file.get(), page.data(), page.size(), 0) != static_cast<ssize_t>(page.size())) {
    return ring_refusal(ENOMEM);
  }
  return probe_ring(calls, file.get(), page.bytes());
}

}  // namespace cake::inline CAKE_ABI::detail
