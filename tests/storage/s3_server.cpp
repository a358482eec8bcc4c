// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "s3_server.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <stdexcept>

namespace cake_s3_test {
namespace {

const char* reason(int status) {
  return status < 300 ? "OK" : status < 400 ? "Elsewhere" : status < 500 ? "Refused" : "Failed";
}

std::string http_date() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[64];
  std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &utc);
  return text;
}

}  // namespace

struct Server::Connection {
  int fd = -1;
  SSL* ssl = nullptr;
  std::string ahead;  // read, and not yet used
  std::thread thread;

  ~Connection() {
    if (thread.joinable()) thread.join();
    if (ssl != nullptr) SSL_free(ssl);
    if (fd >= 0) ::close(fd);
  }
  bool fill() {
    char buffer[64 << 10];
    const auto n = ssl != nullptr ? static_cast<ssize_t>(SSL_read(ssl, buffer, sizeof buffer))
                                  : ::recv(fd, buffer, sizeof buffer, 0);
    if (n <= 0) return false;
    ahead.append(buffer, static_cast<std::size_t>(n));
    return true;
  }
  bool send(const char* data, std::size_t size) {
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
  bool send(const std::string& text) { return send(text.data(), text.size()); }
  void reset() const {
    const linger now{1, 0};
    ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  }
  /// The other side sees a reset. Its number stays taken, since others may look at it.
  void break_off() {
    reset();
    const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    ::dup2(nothing, fd);
    ::close(nothing);
  }
  /// One request; false at the end of the connection.
  bool read(Asked& asked);
};

bool Server::Connection::read(Asked& asked) {
  std::size_t end = 0;
  while ((end = ahead.find("\r\n\r\n")) == std::string::npos) {
    if (!fill()) return false;
    if (ahead[0] == '\x16') {  // TLS
      static_cast<void>(send("HTTP/1.1 400 Bad Request\r\n\r\n"));
      return false;
    }
  }
  const std::string head = ahead.substr(0, end + 2);
  ahead.erase(0, end + 4);
  std::size_t at = head.find("\r\n");
  const std::string first = head.substr(0, at);
  const std::size_t space = first.find(' ');
  asked.method = first.substr(0, space);
  const std::string target = first.substr(space + 1, first.rfind(' ') - space - 1);
  asked.path = target.substr(0, target.find('?'));
  if (asked.path.size() < target.size()) asked.query = target.substr(asked.path.size() + 1);
  for (at += 2; at < head.size();) {
    const std::size_t line_end = head.find("\r\n", at);
    const std::string line = head.substr(at, line_end - at);
    const std::size_t colon = line.find(':');
    std::string name = line.substr(0, colon);
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    asked.headers[name] =
        line.substr(std::min(line.size(), line.find_first_not_of(" ", colon + 1)));
    at = line_end + 2;
  }
  if (!asked.header("expect").empty() && !send("HTTP/1.1 100 Continue\r\n\r\n")) return false;
  const std::string length = asked.header("content-length");
  const std::size_t bytes = length.empty() ? 0 : std::stoull(length);
  while (ahead.size() < bytes) {
    if (!fill()) return false;
  }
  asked.body = ahead.substr(0, bytes);
  ahead.erase(0, bytes);
  return true;
}

Server::Server(Options options) : options_(std::move(options)) {
  if (options_.tls) set_up_tls();
  listen();
  acceptor_ = std::thread([this] { accept(); });
}

Server::~Server() {
  kill();
  if (!certificate_file_.empty()) ::unlink(certificate_file_.c_str());
}

void Server::listen() {
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

void Server::kill() {
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

std::string Server::endpoint() const {
  return (options_.tls ? "https://127.0.0.1:" : "http://127.0.0.1:") + std::to_string(port_);
}

void Server::misbehave(Fault fault) {
  const std::lock_guard lock(mutex_);
  fault_ = std::move(fault);
}
std::vector<std::string> Server::bad_signatures() const {
  const std::lock_guard lock(mutex_);
  return bad_;
}
std::vector<Asked> Server::log() const {
  const std::lock_guard lock(mutex_);
  return log_;
}
std::map<std::string, std::string> Server::objects() const {
  const std::lock_guard lock(mutex_);
  return objects_;
}
std::size_t Server::uploads() const {
  const std::lock_guard lock(mutex_);
  return uploads_.size();
}
void Server::put(const std::string& name, std::string bytes) {
  const std::lock_guard lock(mutex_);
  objects_[name] = std::move(bytes);
}

void Server::accept() {
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
    one.thread = std::thread([this, &one] { serve(one); });
  }
}

void Server::serve(Connection& connection) {
  sigset_t pipe;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
  if (tls_) {
    connection.ssl = SSL_new(tls_.get());
    SSL_set_fd(connection.ssl, connection.fd);
    if (SSL_accept(connection.ssl) != 1) {
      ::shutdown(connection.fd, SHUT_RDWR);
      return;
    }
  }
  for (;;) {
    Asked asked;
    if (stop_ || !connection.read(asked)) break;
    asked.number = ++requests_;
    std::string name;
    Answer made = answer(asked, name);
    Fault fault;
    {
      const std::lock_guard lock(mutex_);
      fault = fault_;
      Asked logged = asked;
      logged.body.clear();
      log_.push_back(std::move(logged));
    }
    if (asked.method == "HEAD") made.no_body = true;
    if (fault) fault(asked, made);
    if (!send_answer(connection, asked, made)) break;
  }
  ::shutdown(connection.fd, SHUT_RDWR);
}

/// Until the other side gives up.
void Server::hang(const Connection& connection) {
  char byte = 0;
  while (!stop_ && ::recv(connection.fd, &byte, 1, 0) > 0) {
  }
}

bool Server::send_answer(Connection& connection, const Asked& asked, const Answer& answer) {
  if (answer.reset_at_once) {
    connection.break_off();
    return false;
  }
  if (answer.hang_at_once) {
    hang(connection);
    return false;
  }
  if (!answer.raw.empty()) {
    static_cast<void>(connection.send(answer.raw));
    return false;
  }
  std::string head =
      "HTTP/1.1 " + std::to_string(answer.status) + " " + reason(answer.status) + "\r\n";
  bool dated = false;
  for (const auto& [name, value] : answer.headers) {
    head += name + ": " + value + "\r\n";
    dated = dated || name == "Date";
  }
  if (!dated) head += "Date: " + http_date() + "\r\n";
  head +=
      "Content-Length: " + std::to_string(answer.length.value_or(answer.body.size())) + "\r\n\r\n";
  if (!connection.send(head)) return false;
  if (answer.no_body || asked.method == "HEAD") return true;
  const std::size_t size = std::min(answer.cut.value_or(answer.body.size()), answer.body.size());
  const std::size_t step =
      answer.milliseconds_per_kilobyte != 0 ? 1024 : std::max<std::size_t>(size, 1);
  for (std::size_t at = 0; at < size; at += step) {
    if (!connection.send(answer.body.data() + at, std::min(step, size - at))) return false;
    if (answer.milliseconds_per_kilobyte == 0 || stop_) continue;
    std::this_thread::sleep_for(std::chrono::milliseconds(answer.milliseconds_per_kilobyte));
  }
  if (!answer.cut) return true;
  if (answer.then == Answer::Then::hang) hang(connection);
  if (answer.then == Answer::Then::reset) connection.break_off();
  return false;
}

Answer Server::answer(const Asked& asked, std::string& name) {
  Answer made;
  const std::string fault = signature_fault(asked, options_.keys);
  if (!fault.empty()) {
    const std::lock_guard lock(mutex_);
    bad_.push_back(asked.method + " " + asked.path + "?" + asked.query + ": " + fault);
    made.error(403, "SignatureDoesNotMatch");
    return made;
  }
  std::string path = asked.path;
  if (options_.host_suffix.empty()) {
    if (!path.starts_with("/" + options_.bucket + "/")) {
      made.error(404, "NoSuchBucket");
      return made;
    }
    path.erase(0, options_.bucket.size() + 1);
  } else if (!asked.header("host").starts_with(options_.bucket + "." + options_.host_suffix)) {
    made.error(404, "NoSuchBucket");
    return made;
  }
  name = path.substr(1);
  const std::lock_guard lock(mutex_);
  if (asked.query.find("upload") != std::string::npos) return parts(asked, name);
  if (asked.method == "GET" || asked.method == "HEAD") return get(asked, name);
  if (asked.method == "PUT") return store(asked, name, asked.body);
  if (asked.method == "DELETE") {
    objects_.erase(name);
    made.status = 204;
    return made;
  }
  made.error(405, "MethodNotAllowed");
  return made;
}

Answer Server::get(const Asked& asked, const std::string& name) {
  Answer made;
  const auto found = objects_.find(name);
  if (found == objects_.end()) {
    made.error(404, "NoSuchKey");
    return made;
  }
  const std::string& object = found->second;
  const std::string range = asked.header("range");
  if (range.empty() || asked.method == "HEAD") {
    made.length = object.size();
    if (asked.method != "HEAD") made.body = object;
    return made;
  }
  const std::size_t dash = range.find('-');
  const std::uint64_t first = std::stoull(range.substr(6, dash - 6));
  std::uint64_t last = std::stoull(range.substr(dash + 1));
  if (first >= object.size()) {
    made.error(416, "InvalidRange");
    return made;
  }
  last = std::min<std::uint64_t>(last, object.size() - 1);
  made.status = 206;
  made.set("Content-Range", "bytes " + std::to_string(first) + "-" + std::to_string(last) + "/" +
                                std::to_string(object.size()));
  made.body = object.substr(first, last - first + 1);
  return made;
}

Answer Server::store(const Asked& asked, const std::string& name, std::string bytes) {
  Answer made;
  const bool condition = asked.header("if-none-match") == "*" && !options_.ignores_conditions;
  if (condition && !options_.knows_conditions) {
    made.error(501, "NotImplemented");
  } else if (condition && objects_.contains(name)) {
    made.error(412, "PreconditionFailed");
  } else {
    made.set("ETag", "\"" + hex(sha256(bytes)).substr(0, 32) + "\"");
    objects_[name] = std::move(bytes);
  }
  return made;
}

Answer Server::parts(const Asked& asked, const std::string& name) {
  Answer made;
  const std::string id = parameter(asked.query, "uploadId");
  if (asked.method == "POST" && id.empty()) {
    const std::string made_id = "up.load_~" + std::to_string(++next_upload_);
    uploads_[made_id].name = name;
    made.body = "<InitiateMultipartUploadResult><UploadId>" + made_id +
                "</UploadId></InitiateMultipartUploadResult>";
    return made;
  }
  const auto found = uploads_.find(id);
  if (found == uploads_.end()) {
    made.error(404, "NoSuchUpload");
  } else if (asked.method == "PUT") {
    found->second.parts[std::stoi(parameter(asked.query, "partNumber"))] = asked.body;
    made.set("ETag", "\"" + hex(sha256(asked.body)).substr(0, 32) + "\"");
  } else if (asked.method == "DELETE") {
    uploads_.erase(found);
    made.status = 204;
  } else {
    std::string whole;
    for (const auto& [number, bytes] : found->second.parts) {
      const std::string etag = hex(sha256(bytes)).substr(0, 32);
      if (asked.body.find(etag) == std::string::npos) {
        made.error(400, "InvalidPart");
        return made;
      }
      whole += bytes;
    }
    made = store(asked, name, std::move(whole));
    if (made.status == 200) {
      uploads_.erase(found);
      made.body = "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>";
    }
  }
  return made;
}

/// A key and a certificate that it signs itself.
void Server::set_up_tls() {
  EVP_PKEY* const key = EVP_EC_gen("P-256");
  X509* const certificate = X509_new();
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_version(certificate, 2);
  X509_set_pubkey(certificate, key);
  X509_NAME* const name = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("test"), -1, -1, 0);
  X509_set_issuer_name(certificate, name);
  X509_EXTENSION* const host =
      X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "IP:127.0.0.1");
  X509_add_ext(certificate, host, -1);
  X509_EXTENSION_free(host);
  X509_sign(certificate, key, EVP_sha256());
  tls_.reset(SSL_CTX_new(TLS_server_method()));
  SSL_CTX_use_certificate(tls_.get(), certificate);
  SSL_CTX_use_PrivateKey(tls_.get(), key);
  std::string file = "/tmp/cake-test-ca-XXXXXX";
  const int fd = ::mkstemp(file.data());
  std::FILE* const out = ::fdopen(fd, "w");
  PEM_write_X509(out, certificate);
  std::fclose(out);
  certificate_file_ = file;
  X509_free(certificate);
  EVP_PKEY_free(key);
}

}  // namespace cake_s3_test
