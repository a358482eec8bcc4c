// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a server of Redis sends: replies, split where the first two bytes of the input say, with room for
// a value of 512 bytes. However it is split, the same comes of it; texts made of it are printable and of a
// bounded length; a list of slots names nodes or is refused.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "src/storage/redis/reply.hpp"
#include "src/storage/redis/resp.hpp"
#include "src/storage/redis/slots.hpp"

using namespace cake::detail;

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

std::string shown(const RespReply& reply) {
  std::string text = std::to_string(static_cast<int>(reply.kind)) + ":" +
                     std::to_string(reply.integer) + ":" + reply.text + "[";
  for (const RespReply& each : reply.items) text += shown(each);
  return text + "]";
}

/// What comes of the input in steps of `step` bytes.
std::string parsed(cake::ConstBytes input, std::size_t step, bool direct) {
  RespParser parser;
  std::array<std::byte, 512 + 64> room{};
  const cake::MutableBytes out(room.data(), 512);
  std::string all;
  for (int replies = 0; !input.empty() && replies < 64; ++replies) {
    parser.begin(out);
    while (!parser.whole()) {
      if (input.empty()) return all;
      cake::ConstBytes next = input.first(std::min(step, input.size()));
      if (direct && !parser.gap().empty()) {
        next = next.first(std::min(next.size(), parser.gap().size()));
        std::copy(next.begin(), next.end(), parser.gap().begin());
        parser.filled(next.size());
        input = input.subspan(next.size());
        continue;
      }
      const auto taken = parser.take(next);
      if (!taken) return all + "!";
      require(*taken <= next.size() && (*taken == next.size() || parser.whole()));
      input = input.subspan(*taken);
    }
    require(parser.landed() <= 512);
    all += shown(parser.reply());
    all.append(reinterpret_cast<const char*>(room.data()), parser.landed());
    require(
        std::all_of(room.begin() + 512, room.end(), [](std::byte b) { return b == std::byte{0}; }));
  }
  return all;
}

void use(const RespReply& reply) {
  const RedisEndpoint self{"host", 6379};
  const auto topology = RedisTopology::of_slots(reply, self);
  if (topology) {
    for (const RedisEndpoint& node : topology->nodes()) {
      require(node.port != 0 && !node.host.empty() && node.host.size() <= 253);
    }
  }
  static_cast<void>(redis_is_alone(reply));
  const RedisProblem problem = redis_refused(reply.text, {"read", "redis://host:6379/p:{k}", self});
  const std::string& text = problem.error.context;
  require(std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; }));
  require(text.size() < 1000 && problem.error.code != cake::Errc::ok);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::size_t step = 1 + (data[0] | data[1] << 8) % 1500;
  const cake::ConstBytes input(reinterpret_cast<const std::byte*>(data) + 2, size - 2);
  const std::string once = parsed(input, input.size(), false);
  require(parsed(input, step, false) == once);
  require(parsed(input, step, true) == once);
  RespParser parser;
  parser.begin();
  const auto taken = parser.take(input);
  if (taken && parser.whole()) use(parser.reply());
  parser.begin();
  parser.drop();
  static_cast<void>(parser.take(input));
  return 0;
}
