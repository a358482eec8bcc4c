// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "s3_server.hpp"

#include <algorithm>
#include <chrono>
#include <ctime>

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

/// One request; false at the end of the connection.
bool Server::read(Connection& from, Asked& asked) {
  std::string& ahead = from.ahead;
  std::size_t end = 0;
  while ((end = ahead.find("\r\n\r\n")) == std::string::npos) {
    if (!from.fill()) return false;
    if (ahead[0] == '\x16') {  // TLS
      static_cast<void>(from.send("HTTP/1.1 400 Bad Request\r\n\r\n"));
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
  if (!asked.header("expect").empty() && !from.send("HTTP/1.1 100 Continue\r\n\r\n")) return false;
  const std::string length = asked.header("content-length");
  const std::size_t bytes = length.empty() ? 0 : std::stoull(length);
  while (ahead.size() < bytes) {
    if (!from.fill()) return false;
  }
  asked.body = ahead.substr(0, bytes);
  ahead.erase(0, bytes);
  return true;
}

Server::Server(Options options) : LoopbackServer(options.tls), options_(std::move(options)) {
  begin();
}

Server::~Server() { kill(); }

std::string Server::endpoint() const {
  return (options_.tls ? "https://127.0.0.1:" : "http://127.0.0.1:") + std::to_string(port());
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

void Server::serve(Connection& connection) {
  for (;;) {
    Asked asked;
    if (stopping() || !read(connection, asked)) break;
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
  return send(connection, answer.body, answer);
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
  if (asked.query.find("list-type=2") != std::string::npos) return list(asked);
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

Answer Server::list(const Asked& asked) const {
  const std::string prefix = parameter(asked.query, "prefix");
  const std::size_t most = std::min<std::size_t>(
      options_.most_names, std::stoul("0" + parameter(asked.query, "max-keys")));
  std::size_t named = 0;
  bool more = false;
  Answer made;
  made.body = "<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"http://s3/\">";
  for (auto at = objects_.upper_bound(parameter(asked.query, "start-after")); at != objects_.end();
       ++at) {
    const auto& [name, bytes] = *at;
    if (!name.starts_with(prefix)) continue;
    more = named == most;
    if (more) break;
    ++named;
    made.body += "<Contents><Key>" + name +
                 "</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified><Size>" +
                 std::to_string(bytes.size()) + "</Size></Contents>";
  }
  made.body += std::string("<IsTruncated>") + (more ? "true" : "false") +
               "</IsTruncated></ListBucketResult>";
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

}  // namespace cake_s3_test
