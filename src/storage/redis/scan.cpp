// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "scan.hpp"

#include <algorithm>
#include <utility>

#include "slots.hpp"
#include "src/storage/remote/attempts.hpp"
#include "src/storage/remote/text.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

using Kind = RespReply::Kind;

constexpr const char* kCount = "512";  // an answer has so many keys, and some more

bool all_digits(std::string_view text) {
  return !text.empty() && text.size() <= 20 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

std::optional<RedisScan::Place> RedisScan::place_of(const std::string& from) {
  if (from.empty()) return Place{};
  Place place;
  const std::size_t colon = from.find(':');
  if (colon == std::string::npos) return std::nullopt;
  const auto slot = whole_number<unsigned>(std::string_view(from).substr(0, colon));
  place.slot = slot.value_or(kRedisSlots);
  place.cursor = from.substr(colon + 1);
  const bool good = place.slot < kRedisSlots && all_digits(place.cursor);
  return good ? std::optional(place) : std::nullopt;
}

Result<std::vector<unsigned>> RedisScan::masters() {
  RedisRequest request;
  request.doing = "look at the slots";
  request.frame = {resp_command({"CLUSTER", "SLOTS"}), ""};
  request.expects = {Kind::array, Kind::array};
  const auto answer =
      client_.ask(std::move(request), deadline_after(client_.options().call_timeout));
  if (!answer->status()) {
    if (redis_is_alone(answer->reply())) return std::vector<unsigned>{0};
    return answer->status().error();
  }
  const auto topology = RedisTopology::of_slots(answer->reply(), client_.address().server());
  if (!topology) return topology.error();
  return topology->first_slots();
}

Result<RedisScan::Part> RedisScan::keys(const std::string& from) {
  const RedisAddress& address = client_.address();
  auto place = place_of(from);
  if (!place) {
    return Error{Errc::invalid_argument, 0,
                 "list of " + address.shown() + ": no part of it begins at \"" + from + "\""};
  }
  const auto nodes = masters();
  if (!nodes) return nodes.error();
  // Where the slots have moved, the node that has this one now is as good.
  if (from.empty() && !nodes->empty()) place->slot = nodes->front();
  RedisRequest request;
  request.doing = "list";
  request.key = address.pattern();
  request.slot = place->slot;
  request.frame = {
      resp_command({"SCAN", place->cursor, "MATCH", address.pattern(), "COUNT", kCount}), ""};
  request.expects = {Kind::array, Kind::array};
  const auto answer =
      client_.ask(std::move(request), deadline_after(client_.options().call_timeout));
  if (!answer->status()) return answer->status().error();
  const RespReply& reply = answer->reply();
  if (reply.items.size() != 2 || !all_digits(reply.items[0].text)) {
    return Error{Errc::io, 0,
                 "list of " + address.shown() +
                     ": the server answers SCAN with no list of keys; look at what lies between"};
  }
  Part part;
  for (const RespReply& item : reply.items[1].items) {
    if (const auto key = address.chunk_of(item.text)) {
      part.keys.push_back(*key);
    } else {
      ++part.others;
    }
  }
  if (reply.items[0].text != "0") {
    part.next = std::to_string(place->slot) + ":" + reply.items[0].text;
    return part;
  }
  const auto next = std::upper_bound(nodes->begin(), nodes->end(), place->slot);
  if (next != nodes->end()) part.next = std::to_string(*next) + ":0";
  return part;
}

}  // namespace cake::inline CAKE_ABI::detail
