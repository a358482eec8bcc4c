// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A server of somebody else as a process of the test: on loopback, gone at the end.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace cake_loopback_test {

/// Ports of loopback that are free now, as are those 10,000 above them, which some servers take, too.
inline std::vector<int> free_ports(std::size_t count) {
  const auto is_free = [](int port) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    const bool good = ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    ::close(fd);
    return good;
  };
  std::mt19937 random(std::random_device{}());
  std::uniform_int_distribution<int> any(12000, 22000);
  std::vector<int> ports;
  while (ports.size() < count) {
    const int port = any(random);
    if (std::find(ports.begin(), ports.end(), port) != ports.end()) continue;
    if (is_free(port) && is_free(port + 10000)) ports.push_back(port);
  }
  return ports;
}

class ChildProcess {
 public:
  ChildProcess() = default;
  ChildProcess(ChildProcess&& other) noexcept : process_(std::exchange(other.process_, 0)) {}
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess() { kill(); }

  /// `words`: the program and its arguments. What it prints is added to the file `log`.
  void start(const std::vector<std::string>& words, const std::string& log) {
    std::vector<char*> arguments;
    arguments.reserve(words.size() + 1);
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    const pid_t parent = ::getpid();
    process_ = ::fork();
    if (process_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // it does not survive the test
    const int out = ::open(log.c_str(), O_CREAT | O_WRONLY | O_APPEND, 0600);
    ::dup2(out, 1);
    ::dup2(out, 2);
    if (::getppid() == parent) ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  /// As by kill -9.
  void kill() {
    if (process_ <= 0) return;
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
    process_ = 0;
  }
  /// Stops it where it is, or lets it go on.
  void freeze(bool stopped) const { ::kill(process_, stopped ? SIGSTOP : SIGCONT); }
  /// False: it has ended by itself.
  bool runs() {
    if (process_ > 0 && ::waitpid(process_, nullptr, WNOHANG) == process_) process_ = 0;
    return process_ > 0;
  }

 private:
  pid_t process_ = 0;
};

}  // namespace cake_loopback_test
