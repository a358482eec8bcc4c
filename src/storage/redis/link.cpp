// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "link.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <system_error>

#include "src/storage/remote/text.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

using Then = RedisProblem::Then;

constexpr const char* kUnreachable =
    "the server cannot be reached; look whether it runs, and at HOST and PORT of the URL";
constexpr const char* kBroke = "the connection broke; look at the server and the network";

std::string because(const char* what, std::string_view why) {
  return std::string(what) + " (" + printable_text(why, 160) + ")";
}

void use_file(bool good, const char* member, const std::string& file, const char* what) {
  if (good) return;
  ERR_clear_error();
  throw Exception({Errc::invalid_argument, 0,
                   std::string("RedisOptions::") + member + " is " + printable_text(file, 200) +
                       ", which cannot be read, or is not " + what});
}

bool is_address(const std::string& host) {
  in6_addr any;
  return ::inet_pton(AF_INET, host.c_str(), &any) == 1 ||
         ::inet_pton(AF_INET6, host.c_str(), &any) == 1;
}

}  // namespace

// ---- TLS ----

RedisTls::RedisTls(const RedisOptions& options)
    : context_(SSL_CTX_new(TLS_client_method()), SSL_CTX_free) {
  SSL_CTX* const context = context_.get();
  if (context == nullptr) throw Exception({Errc::out_of_memory, 0, "RedisStorage: OpenSSL"});
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(context, 1);
  if (options.ca_file.empty()) {
    SSL_CTX_set_default_verify_paths(context);
  } else {
    use_file(SSL_CTX_load_verify_locations(context, options.ca_file.c_str(), nullptr) == 1,
             "ca_file (CAKE_REDIS_CA_FILE)", options.ca_file, "a list of certificates");
  }
  const std::string& own = options.certificate_file;
  if (own.empty() != options.key_file.empty()) {
    throw Exception({Errc::invalid_argument, 0,
                     "RedisOptions::certificate_file and key_file go together; one is missing"});
  }
  if (own.empty()) return;
  use_file(SSL_CTX_use_certificate_chain_file(context, own.c_str()) == 1,
           "certificate_file (CAKE_REDIS_CERTIFICATE_FILE)", own, "a certificate");
  use_file(SSL_CTX_use_PrivateKey_file(context, options.key_file.c_str(), SSL_FILETYPE_PEM) == 1 &&
               SSL_CTX_check_private_key(context) == 1,
           "key_file (CAKE_REDIS_KEY_FILE)", options.key_file, "the key of the certificate");
}

ssl_st* RedisTls::open(const std::string& host) const {
  SSL* const ssl = SSL_new(context_.get());
  if (ssl == nullptr) return nullptr;
  bool good = false;
  if (is_address(host)) {
    good = X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host.c_str()) == 1;
  } else {
    good =
        SSL_set1_host(ssl, host.c_str()) == 1 && SSL_set_tlsext_host_name(ssl, host.c_str()) == 1;
  }
  if (good) return ssl;
  SSL_free(ssl);
  ERR_clear_error();
  return nullptr;
}

// ---- the connection ----

void RedisLink::close() noexcept {
  if (ssl_ != nullptr) SSL_free(ssl_);
  if (fd_ >= 0) ::close(fd_);
  ssl_ = nullptr;
  fd_ = -1;
}

bool RedisLink::begin(const sockaddr_storage& to, socklen_t size, const RedisTls* tls,
                      const std::string& host, std::chrono::milliseconds most_unacknowledged) {
  close();
  cause_.reset();
  connected_ = owes_write_ = false;
  waits_for_write_ = true;
  fd_ = ::socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd_ < 0) {
    cause_ = RedisCause{Errc::io, because("no socket; raise the limit of open files (ulimit -n)",
                                          std::generic_category().message(errno))};
    return false;
  }
  const int on = 1;
  ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(fd_, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  const auto most =
      static_cast<unsigned>(std::clamp<std::int64_t>(most_unacknowledged.count(), 1, INT_MAX));
  ::setsockopt(fd_, IPPROTO_TCP, TCP_USER_TIMEOUT, &most, sizeof most);
  if (tls != nullptr) {
    ssl_ = tls->open(host);
    if (ssl_ == nullptr || SSL_set_fd(ssl_, fd_) != 1) {
      cause_ = RedisCause{Errc::out_of_memory, "no memory for TLS", Then::nothing};
      return false;
    }
    SSL_set_connect_state(ssl_);
  }
  if (::connect(fd_, reinterpret_cast<const sockaddr*>(&to), size) == 0 || errno == EINPROGRESS) {
    return true;
  }
  broke(errno);
  return false;
}

void RedisLink::broke(int number) {
  const std::string why = std::generic_category().message(number);
  cause_ = RedisCause{Errc::io, because(connected_ ? kBroke : kUnreachable, why)};
  cause_->no_way = !connected_;
}

bool RedisLink::establish() {
  if (cause_) return false;
  if (!connected_) {
    int number = 0;
    socklen_t size = sizeof number;
    if (::getsockopt(fd_, SOL_SOCKET, SO_ERROR, &number, &size) != 0) number = errno;
    if (number != 0) {
      broke(number);
      return false;
    }
    // Ready for something, and not yet connected: it was woken too early.
    sockaddr_storage peer;
    size = sizeof peer;
    if (::getpeername(fd_, reinterpret_cast<sockaddr*>(&peer), &size) != 0) return false;
    connected_ = true;
    waits_for_write_ = false;
  }
  return ssl_ == nullptr || SSL_is_init_finished(ssl_) == 1 || shake_hands();
}

bool RedisLink::shake_hands() {
  ERR_clear_error();
  const int result = SSL_do_handshake(ssl_);
  waits_for_write_ = false;
  if (result == 1) return true;
  const long verified = SSL_get_verify_result(ssl_);
  note(result);
  if (cause_ && verified != X509_V_OK) {
    cause_ = RedisCause{
        Errc::io,
        because(
            "the server's certificate is not trusted; name its authority by "
            "RedisOptions::ca_file (CAKE_REDIS_CA_FILE), and the server as the certificate does",
            X509_verify_cert_error_string(verified)),
        Then::nothing};
  }
  if (cause_) cause_->no_way = true;
  return false;
}

void RedisLink::note(int result) {
  const int number = errno;
  const int error = SSL_get_error(ssl_, result);
  waits_for_write_ = error == SSL_ERROR_WANT_WRITE;
  if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return;
  const unsigned long code = ERR_peek_error();
  const bool begun = SSL_is_init_finished(ssl_) == 1;
  if (error == SSL_ERROR_SSL && ERR_GET_REASON(code) == SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED) {
    cause_ = RedisCause{Errc::io,
                        "the server asks for a certificate; set RedisOptions::certificate_file and "
                        "key_file (CAKE_REDIS_CERTIFICATE_FILE, CAKE_REDIS_KEY_FILE)",
                        Then::nothing};
  } else if (error == SSL_ERROR_SSL) {
    const char* const why = ERR_reason_error_string(code);
    cause_ = RedisCause{
        Errc::io, because(begun ? "TLS broke; look at the server and the network"
                                : "no TLS with the server; look whether the URL should begin with "
                                  "redis://, and at the server's certificates",
                          why != nullptr ? why : "no reason")};
  } else if (error == SSL_ERROR_SYSCALL && number != 0) {
    broke(number);
  } else {
    cause_ = RedisCause{Errc::io, because(begun ? kBroke
                                                : "no TLS with the server; look whether the URL "
                                                  "should begin with redis://",
                                          "it closed the connection")};
  }
  ERR_clear_error();
}

std::size_t RedisLink::read(MutableBytes first, MutableBytes second) {
  if (ssl_ != nullptr) {
    const MutableBytes to = first.empty() ? second : first;
    ERR_clear_error();
    errno = 0;
    std::size_t bytes = 0;
    const int result = SSL_read_ex(ssl_, to.data(), to.size(), &bytes);
    if (result == 1) return bytes;
    note(result);
    return 0;
  }
  iovec parts[2] = {{first.data(), first.size()}, {second.data(), second.size()}};
  for (;;) {
    const auto bytes = ::readv(fd_, parts, 2);
    if (bytes > 0) return static_cast<std::size_t>(bytes);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return 0;
    if (bytes < 0) {
      broke(errno);
    } else {
      cause_ = RedisCause{Errc::io, because(kBroke, "the server closed it")};
    }
    return 0;
  }
}

std::size_t RedisLink::write(std::span<const iovec> parts) {
  if (ssl_ == nullptr) {
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(parts.data());
    message.msg_iovlen = parts.size();
    for (;;) {
      const auto bytes = ::sendmsg(fd_, &message, MSG_NOSIGNAL);
      if (bytes >= 0) return static_cast<std::size_t>(bytes);
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) broke(errno);
      return 0;
    }
  }
  std::size_t taken = 0;
  for (const iovec& part : parts) {
    std::size_t bytes = 0;
    ERR_clear_error();
    errno = 0;
    const int result = SSL_write_ex(ssl_, part.iov_base, part.iov_len, &bytes);
    owes_write_ = result != 1;
    if (result != 1) {
      note(result);
      break;
    }
    taken += bytes;
    if (bytes < part.iov_len) break;
  }
  return taken;
}

}  // namespace cake::inline CAKE_ABI::detail
