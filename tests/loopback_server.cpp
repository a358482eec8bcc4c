// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "loopback_server.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

namespace cake_loopback_test {

LoopbackServer::Connection::~Connection() {
  if (thread.joinable()) thread.join();
  if (ssl != nullptr) SSL_free(ssl);
  if (fd >= 0) ::close(fd);
}

bool LoopbackServer::Connection::fill() {
  char buffer[64 << 10];
  const auto n = ssl != nullptr ? static_cast<ssize_t>(SSL_read(ssl, buffer, sizeof buffer))
                                : ::recv(fd, buffer, sizeof buffer, 0);
  if (n <= 0) return false;
  ahead.append(buffer, static_cast<std::size_t>(n));
  return true;
}

bool LoopbackServer::Connection::send(const char* data, std::size_t size) {
  while (size > 0) {
    const std::size_t step = std::min(size, std::size_t{1} << 20);
    const auto n = ssl != nullptr
                       ? static_cast<ssize_t>(SSL_write(ssl, data, static_cast<int>(step)))
                       : ::send(fd, data, step, MSG_NOSIGNAL);
    if (n <= 0) return false;
    data += n;
    size -= static_cast<std::size_t>(n);
  }
  return true;
}

void LoopbackServer::Connection::reset() const {
  const linger now{1, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

void LoopbackServer::Connection::break_off() {
  reset();
  const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ::dup2(nothing, fd);
  ::close(nothing);
}

LoopbackServer::LoopbackServer(bool tls) {
  if (tls) {
    certificate_.emplace();
    tls_.reset(SSL_CTX_new(TLS_server_method()));
    SSL_CTX_use_certificate_file(tls_.get(), certificate_->file().c_str(), SSL_FILETYPE_PEM);
    SSL_CTX_use_PrivateKey_file(tls_.get(), certificate_->key_file().c_str(), SSL_FILETYPE_PEM);
  }
  listen();
}

void LoopbackServer::begin() {
  acceptor_ = std::thread([this] { accept(); });
}

void LoopbackServer::listen() {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (listener_ < 0 || ::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(listener_, 128) != 0 ||
      ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    throw std::runtime_error("the test's server cannot listen on loopback");
  }
  port_ = ntohs(address.sin_port);
}

void LoopbackServer::kill() {
  stop_ = true;
  if (acceptor_.joinable()) {
    ::shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    ::close(listener_);
  }
  std::vector<std::unique_ptr<Connection>> all;
  {
    const std::lock_guard lock(mutex_);
    all.swap(open_);
  }
  for (const auto& each : all) {
    each->reset();
    ::shutdown(each->fd, SHUT_RDWR);
  }
}

void LoopbackServer::accept() {
  while (!stop_) {
    const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) continue;
    ++accepted_;
    const int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    auto connection = std::make_unique<Connection>();
    connection->fd = fd;
    Connection& one = *connection;
    const std::lock_guard lock(mutex_);
    open_.push_back(std::move(connection));
    one.thread = std::thread([this, &one] { run(one); });
  }
}

void LoopbackServer::run(Connection& connection) {
  sigset_t pipe;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
  bool good = true;
  if (tls_) {
    connection.ssl = SSL_new(tls_.get());
    SSL_set_fd(connection.ssl, connection.fd);
    good = SSL_accept(connection.ssl) == 1;
  }
  if (good) serve(connection);
  ::shutdown(connection.fd, SHUT_RDWR);
}

void LoopbackServer::hang(const Connection& connection) const {
  char byte = 0;
  while (!stop_ && ::recv(connection.fd, &byte, 1, 0) > 0) {
  }
}

}  // namespace cake_loopback_test
