// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "client.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

using std::chrono::nanoseconds;

void check(bool good, const std::string& what) {
  if (!good) throw Exception({Errc::invalid_argument, 0, "S3Options::" + what});
}

/// Nothing that could end a header, or begin another one.
bool one_word(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
}

void check_credentials(const S3Credentials& credentials, bool anonymous) {
  const bool there = !credentials.access_key.empty() && !credentials.secret_key.empty();
  check(there || anonymous,
        "credentials are missing; set access_key and secret_key (AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY), or anonymous");
  check(one_word(credentials.access_key) && one_word(credentials.secret_key) &&
            one_word(credentials.session_token),
        "credentials have a blank or a character that is not ASCII; look at how they were read");
}

const S3Options& checked(const S3Options& o) {
  constexpr std::size_t kMiB = std::size_t{1} << 20;
  check_credentials(o.credentials, o.anonymous);
  check(o.threads >= 1 && o.threads <= 16, "threads is not between 1 and 16");
  check(o.connections >= 1 && o.connections <= 256, "connections is not between 1 and 256");
  check(o.write_connections >= 1 && o.write_connections <= 64,
        "write_connections is not between 1 and 64");
  check(o.lookup_connections >= 1 && o.lookup_connections <= 256,
        "lookup_connections is not between 1 and 256");
  check(o.piece_bytes % kMiB == 0 && o.piece_bytes >= kMiB && o.piece_bytes <= 64 * kMiB,
        "piece_bytes is no multiple of 1 MiB from 1 to 64 MiB");
  check(o.part_bytes >= 5 * kMiB && o.part_bytes <= 1024 * kMiB,
        "part_bytes is not between 5 MiB and 1 GiB");
  check(o.multipart_above >= o.part_bytes, "multipart_above is less than part_bytes");
  check(o.attempts >= 1 && o.attempts <= 100, "attempts is not between 1 and 100");
  for (const auto& [span, name] :
       {std::pair{o.read_timeout, "read_timeout"}, std::pair{o.write_timeout, "write_timeout"},
        std::pair{o.call_timeout, "call_timeout"}, std::pair{o.connect_timeout, "connect_timeout"},
        std::pair{o.stall_timeout, "stall_timeout"}}) {
    check(span > nanoseconds(0), std::string(name) + " is not above 0");
  }
  return o;
}

/// Once for the process, and never undone: others may use libcurl, too.
void use_curl(const S3Options& options, bool encrypted) {
  static const CURLcode global = curl_global_init(CURL_GLOBAL_DEFAULT);
  const curl_version_info_data* const info = curl_version_info(CURLVERSION_NOW);
  CURL* const handle = global == CURLE_OK ? curl_easy_init() : nullptr;
  if (handle == nullptr) throw Exception({Errc::out_of_memory, 0, "S3Storage: libcurl"});
  const bool tls = (info->features & CURL_VERSION_SSL) != 0;
  const bool ca = options.ca_file.empty() ||
                  curl_easy_setopt(handle, CURLOPT_CAINFO, options.ca_file.c_str()) == CURLE_OK;
  const bool signs = curl_easy_setopt(handle, CURLOPT_AWS_SIGV4, "aws:amz") == CURLE_OK;
  curl_easy_cleanup(handle);
  const std::string which = std::string("S3Storage: libcurl ") + info->version;
  if (!signs)
    throw Exception({Errc::unsupported, 0, which + " cannot sign requests; use 7.88 or newer"});
  if (encrypted && (!tls || !ca)) {
    throw Exception({Errc::unsupported, 0, which + " has no TLS, or takes no file of authorities"});
  }
}

}  // namespace

S3Client::S3Client(const S3Options& options) : address_(checked(options)) {
  use_curl(options, address_.encrypted());
  common_.options = options;
  common_.options.credentials = {};
  common_.bucket = options.bucket;
  common_.user_agent = "cake/" + std::to_string(CAKE_VERSION_MAJOR) + "." +
                       std::to_string(CAKE_VERSION_MINOR) + "." +
                       std::to_string(CAKE_VERSION_PATCH);
  common_.credentials = std::make_shared<const S3Credentials>(options.credentials);
  const auto share = [&](unsigned all) { return (all + options.threads - 1) / options.threads; };
  const std::array most{share(options.connections), share(options.write_connections),
                        share(options.lookup_connections)};
  for (unsigned i = 0; i < options.threads; ++i) {
    drivers_.add(std::make_shared<S3Driver>(common_, most));
  }
}

void S3Client::set_credentials(S3Credentials credentials) {
  check_credentials(credentials, common_.options.anonymous);
  auto next = std::make_shared<const S3Credentials>(std::move(credentials));
  const std::lock_guard lock(common_.mutex);
  common_.credentials.swap(next);
}

S3Request S3Client::request(S3Request::Method method, S3Request::Share share, std::string doing,
                            std::string url) const {
  S3Request made;
  made.method = method;
  made.share = share;
  made.doing = std::move(doing);
  made.url = std::move(url);
  return made;
}

std::string S3Client::digest_of(ConstBytes bytes) const {
  if (address_.encrypted()) return "UNSIGNED-PAYLOAD";
  return ChunkKey{Sha256().update(bytes).finish()}.hex();
}

}  // namespace cake::inline CAKE_ABI::detail
