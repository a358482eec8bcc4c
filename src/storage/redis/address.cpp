// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "address.hpp"

#include <algorithm>

#include "src/storage/remote/text.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Exception({Errc::invalid_argument, 0, "RedisOptions::" + what});
}

}  // namespace

RedisAddress::RedisAddress(const RedisOptions& options) : server_{options.host, options.port} {
  if (options.host.size() > 253 || !host_text(options.host) ||
      options.host.find_first_of("[]") != std::string::npos) {
    refuse("host is \"" + printable_text(options.host, 80) +
           "\"; it is a name, or an address without brackets");
  }
  if (options.port == 0) refuse("port is 0; that of a server is 1 to 65535");
  const auto prefix = name_prefix(options.prefix);
  const bool digits = std::all_of(options.prefix.begin(), options.prefix.end(),
                                  [](char c) { return (c >= '0' && c <= '9') || c == '/'; });
  if (!prefix || prefix->empty()) {
    refuse("prefix is \"" + printable_text(options.prefix, 80) +
           "\"; it takes 1 to 512 letters, digits and . _ ~ - / , and no part \"..\"");
  }
  if (digits) {
    refuse("prefix is \"" + printable_text(options.prefix, 80) +
           "\", which other programs take for the number of a database; cake has none, and wants a "
           "letter in it");
  }
  prefix_ = *prefix + ":{";
  base_ = (options.tls ? "rediss://" : "redis://") + server_.shown();
  shown_ = base_ + "/" + *prefix;
}

std::optional<ChunkKey> RedisAddress::chunk_of(std::string_view key) const {
  if (!key.starts_with(prefix_) || !key.ends_with('}')) return std::nullopt;
  key.remove_prefix(prefix_.size());
  key.remove_suffix(1);
  return ChunkKey::from_hex(key);
}

}  // namespace cake::inline CAKE_ABI::detail
