// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "slots.hpp"

#include <algorithm>
#include <array>
#include <set>

#include "src/storage/remote/text.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

/// CRC-16/XMODEM: polynomial 0x1021, begun with 0, the highest bit first.
constexpr std::array<std::uint16_t, 256> make_table() {
  std::array<std::uint16_t, 256> table{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    unsigned crc = byte << 8;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 0x8000) != 0 ? (crc << 1) ^ 0x1021 : crc << 1;
    table[byte] = static_cast<std::uint16_t>(crc);
  }
  return table;
}
constexpr auto kTable = make_table();

unsigned crc16(std::string_view text) {
  unsigned crc = 0;
  for (const char c : text) {
    crc = ((crc << 8) & 0xffff) ^ kTable[((crc >> 8) ^ static_cast<unsigned char>(c)) & 0xff];
  }
  return crc;
}

Error no_slots() { return {Errc::corrupt, 0, "the list of slots is none"}; }

bool is_host(std::string_view text) {
  return text.size() <= 253 && host_text(text) && text.find_first_of("[]") == std::string::npos;
}

/// A node in an answer to CLUSTER SLOTS: address, port, and more.
Result<RedisEndpoint> node_of(const RespReply& reply, const RedisEndpoint& self) {
  using Kind = RespReply::Kind;
  if (reply.kind != Kind::array || reply.items.size() < 2) return no_slots();
  const RespReply& host = reply.items[0];
  const RespReply& port = reply.items[1];
  if (port.kind != Kind::integer || port.integer < 1 || port.integer > 65535) return no_slots();
  RedisEndpoint node{self.host, static_cast<std::uint16_t>(port.integer)};
  if (host.kind != Kind::bulk && host.kind != Kind::null) return no_slots();
  if (!host.text.empty() && host.text != "?") node.host = host.text;
  if (!is_host(node.host)) return no_slots();
  return node;
}

}  // namespace

std::string RedisEndpoint::shown() const {
  const bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<RedisEndpoint> redis_endpoint(std::string_view text, const RedisEndpoint& self) {
  const std::size_t colon = text.rfind(':');
  const Error bad{Errc::corrupt, 0, "an address of a node is none"};
  if (colon == std::string_view::npos) return bad;
  std::string_view host = text.substr(0, colon);
  const auto port = whole_number<std::uint16_t>(text.substr(colon + 1));
  if (!port || *port == 0) return bad;
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  if (host.empty() || host == "?") host = self.host;
  if (!is_host(host)) return bad;
  return RedisEndpoint{std::string(host), *port};
}

unsigned redis_slot(std::string_view key) {
  const std::size_t open = key.find('{');
  if (open != std::string_view::npos) {
    const std::size_t close = key.find('}', open + 1);
    if (close != std::string_view::npos && close > open + 1) {
      key = key.substr(open + 1, close - open - 1);
    }
  }
  return crc16(key) % kRedisSlots;
}

RedisTopology RedisTopology::of_one(const RedisEndpoint& node) {
  RedisTopology topology;
  topology.nodes_.push_back(node);
  return topology;
}

Result<RedisTopology> RedisTopology::of_slots(const RespReply& reply, const RedisEndpoint& self) {
  using Kind = RespReply::Kind;
  RedisTopology topology;
  topology.cluster_ = true;
  topology.owner_.assign(kRedisSlots, kNobody);
  if (reply.kind != Kind::array) return no_slots();
  for (const RespReply& range : reply.items) {
    if (range.kind != Kind::array || range.items.size() < 3) return no_slots();
    const RespReply& first = range.items[0];
    const RespReply& last = range.items[1];
    if (first.kind != Kind::integer || last.kind != Kind::integer || first.integer < 0 ||
        first.integer > last.integer || last.integer >= kRedisSlots) {
      return no_slots();
    }
    for (std::size_t i = 2; i < range.items.size(); ++i) {
      const auto node = node_of(range.items[i], self);
      if (!node) return node.error();
      const std::uint16_t index = topology.index_of(*node);
      if (index == kNobody) return no_slots();
      if (i != 2) continue;  // a replica
      std::fill(topology.owner_.begin() + first.integer, topology.owner_.begin() + last.integer + 1,
                index);
    }
  }
  return topology;
}

std::uint16_t RedisTopology::index_of(const RedisEndpoint& node) {
  const auto found = std::find(nodes_.begin(), nodes_.end(), node);
  if (found != nodes_.end()) return static_cast<std::uint16_t>(found - nodes_.begin());
  if (nodes_.size() >= kMostNodes) return kNobody;
  nodes_.push_back(node);
  return static_cast<std::uint16_t>(nodes_.size() - 1);
}

const RedisEndpoint* RedisTopology::owner(unsigned slot) const {
  if (nodes_.empty()) return nullptr;
  if (owner_.empty()) return &nodes_.front();
  const std::uint16_t index = owner_[slot];
  return index == kNobody ? nullptr : &nodes_[index];
}

bool RedisTopology::move(unsigned slot, const RedisEndpoint& to) {
  const std::uint16_t index = index_of(to);
  if (index == kNobody || slot >= owner_.size()) return false;
  owner_[slot] = index;
  return true;
}

std::size_t RedisTopology::masters() const {
  if (owner_.empty()) return nodes_.size();
  std::set<std::uint16_t> different(owner_.begin(), owner_.end());
  different.erase(kNobody);
  return different.size();
}

std::vector<unsigned> RedisTopology::first_slots() const {
  if (owner_.empty()) return {0};
  std::vector<unsigned> first;
  std::set<std::uint16_t> seen{kNobody};
  for (unsigned slot = 0; slot < kRedisSlots; ++slot) {
    if (seen.insert(owner_[slot]).second) first.push_back(slot);
  }
  return first;
}

bool RedisTopology::knows(const RedisEndpoint& node) const {
  return std::find(nodes_.begin(), nodes_.end(), node) != nodes_.end();
}

}  // namespace cake::inline CAKE_ABI::detail
