// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A child process whose system calls are judged by its parent (seccomp, user notification): the call
// itself fails, is cut short or brings nothing, whoever in the process made it.
#pragma once

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "shared.hpp"
#include "tests/storage/posix_helpers.hpp"

namespace cake::inline CAKE_ABI::fault {

/// A system call that waits for a verdict.
struct SystemCall {
  long number = 0;  // SYS_pread64, ...
  std::uint64_t args[6] = {};
  std::string file;    // what the descriptor in the first argument is open on
  int file_flags = 0;  // of that descriptor: O_DIRECT and others
  /// Of an object, published or on its way: an unnamed file has a name with " (deleted)".
  bool of_object() const {
    return file.find(".ckv") != std::string::npos || file.find("(deleted)") != std::string::npos ||
           file.find("/.tmp-") != std::string::npos;
  }
};

/// What becomes of a system call.
struct Verdict {
  enum class Kind : std::uint8_t { proceed, fail, answer, shorten } kind = Kind::proceed;
  long value = 0;
};
inline Verdict proceed() { return {}; }
inline Verdict fail(int number) { return {Verdict::Kind::fail, number}; }
/// The call is not made; the process sees this result of it.
inline Verdict answer(long result) { return {Verdict::Kind::answer, result}; }
/// A pread64 of that many bytes instead, truly made.
inline Verdict shorten(std::size_t bytes) {
  return {Verdict::Kind::shorten, static_cast<long>(bytes)};
}
using Judge = std::function<Verdict(const SystemCall&)>;

/// What a child ends with where a process may have no such filter.
inline constexpr int kNotHere = 77;

namespace syscall_faults {

/// From now on these calls of this process wait for a verdict. The listener; -1: not allowed here.
inline int listen_for(std::initializer_list<long> calls) {
  std::vector<sock_filter> filter{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (const long call : calls) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(call), 0, 1));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF));
  }
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
  return static_cast<int>(
      ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program));
}

inline std::string file_of(pid_t process, std::uint64_t descriptor) {
  const std::string link = "/proc/" + std::to_string(process) + "/fd/" + std::to_string(descriptor);
  char name[4096];
  const ssize_t n = ::readlink(link.c_str(), name, sizeof name);
  return n < 0 ? std::string() : std::string(name, static_cast<std::size_t>(n));
}

inline int flags_of(pid_t process, std::uint64_t descriptor) {
  std::ifstream info("/proc/" + std::to_string(process) + "/fdinfo/" + std::to_string(descriptor));
  for (std::string word; info >> word;) {
    if (word == "flags:" && info >> word) return std::stoi(word, nullptr, 8);
  }
  return 0;
}

/// Reads for the process that waits: `bytes` of what it asked for. The result of its call.
inline long read_for(pid_t process, const SystemCall& call, std::size_t bytes) {
  const std::string link =
      "/proc/" + std::to_string(process) + "/fd/" + std::to_string(call.args[0]);
  const int file = ::open(link.c_str(), O_RDONLY | O_CLOEXEC);
  std::vector<char> read(std::min<std::size_t>(bytes, call.args[2]));
  const ssize_t n = ::pread(file, read.data(), read.size(), static_cast<off_t>(call.args[3]));
  ::close(file);
  if (n <= 0) return n;
  const iovec from{read.data(), static_cast<std::size_t>(n)};
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of the other process
  const iovec to{reinterpret_cast<void*>(call.args[1]), static_cast<std::size_t>(n)};
  return ::process_vm_writev(process, &from, 1, &to, 1, 0);
}

/// Takes one call and answers it. False: the process is gone.
inline bool judge_one(int listener, const Judge& judge) {
  pollfd events{listener, POLLIN, 0};
  if (::poll(&events, 1, -1) < 0) return errno == EINTR;
  if ((events.revents & POLLIN) == 0) return false;
  seccomp_notif notice{};
  if (::ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &notice) != 0) return true;  // it gave up
  const auto process = static_cast<pid_t>(notice.pid);
  SystemCall call;
  call.number = notice.data.nr;
  std::copy(std::begin(notice.data.args), std::end(notice.data.args), call.args);
  call.file = file_of(process, call.args[0]);
  call.file_flags = flags_of(process, call.args[0]);
  const Verdict verdict = judge(call);
  seccomp_notif_resp response{};
  response.id = notice.id;
  switch (verdict.kind) {
    case Verdict::Kind::proceed:
      response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
      break;
    case Verdict::Kind::fail:
      response.error = -static_cast<int>(verdict.value);
      break;
    case Verdict::Kind::answer:
      response.val = verdict.value;
      break;
    case Verdict::Kind::shorten:
      response.val = read_for(process, call, static_cast<std::size_t>(verdict.value));
      break;
  }
  ::ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
  return true;
}

/// The listener of a child, whose number it sends; -1: it has none.
inline int listener_of(pid_t child, int socket) {
  int number = -1;
  if (::read(socket, &number, sizeof number) != static_cast<ssize_t>(sizeof number)) return -1;
  if (number < 0) return -1;
  const int process = static_cast<int>(::syscall(SYS_pidfd_open, child, 0));
  const int listener = static_cast<int>(::syscall(SYS_pidfd_getfd, process, number, 0));
  ::close(process);
  return listener;
}

/// In the child: sends its listener to the parent, and waits until that has its own copy.
inline void hand_over(int listener, int socket) {
  char none = 0;
  if (listener < 0 || ::write(socket, &listener, sizeof listener) != sizeof listener) {
    ::_exit(kNotHere);
  }
  while (::read(socket, &none, 1) > 0) {
  }
  ::close(listener);
}

}  // namespace syscall_faults

/// Runs `body` in a child process, all of whose calls of these numbers, of all its threads, are judged
/// first; not read(2), which the child itself needs to begin. Its exit code as sample::join_child()
/// says it; kNotHere: this machine allows no such filter.
template <class Body>
int judged(std::initializer_list<long> calls, const Judge& judge, const Body& body) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return kNotHere;
  const pid_t child = sample::start_child([&] {
    ::close(ends[0]);
    syscall_faults::hand_over(syscall_faults::listen_for(calls), ends[1]);
    body();
  });
  ::close(ends[1]);
  const int listener = syscall_faults::listener_of(child, ends[0]);
  if (listener < 0) ::kill(child, SIGKILL);
  ::close(ends[0]);
  while (listener >= 0 && syscall_faults::judge_one(listener, judge)) {
  }
  if (listener >= 0) ::close(listener);
  const int code = sample::join_child(child);
  return listener < 0 ? kNotHere : code;
}

}  // namespace cake::inline CAKE_ABI::fault
