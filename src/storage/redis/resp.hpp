// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// RESP2, the protocol of Redis and Valkey. A value goes from the socket to where it is wanted; all
// else that a server may send is bounded before memory is taken for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "cake/result.hpp"
#include "cake/types.hpp"

namespace cake::inline CAKE_ABI::detail {

struct RespReply {
  enum class Kind : std::uint8_t { none, status, error, integer, bulk, null, array };
  Kind kind = Kind::none;
  std::int64_t integer = 0;  // also the length of a bulk string
  std::string text =
      {};  // of status, error (their first 512 bytes) and of a bulk string that is kept
  std::vector<RespReply> items = {};
};

/// Reads one reply after the other.
///
/// Thread:  Requires external synchronization
class RespParser {
 public:
  static constexpr std::size_t kMostLine = std::size_t{16} << 10;
  static constexpr std::size_t kMostShown = 512;                  // that is kept of a line
  static constexpr std::size_t kMostText = std::size_t{1} << 20;  // of a reply's bulk strings
  static constexpr std::size_t kMostItems = std::size_t{1} << 17;
  static constexpr std::size_t kMostDepth = 8;

  /// The next reply is kept; where it is a bulk string and `out` is not empty, it goes there.
  void begin(MutableBytes out = {});
  /// What is still to come of this reply goes nowhere, however long it is.
  void drop();
  /// Takes bytes of the reply, and returns how many: fewer than there are where it is whole.
  ///
  /// Errors:  corrupt: it is no RESP2, or longer than may be
  Result<std::size_t> take(ConstBytes bytes);
  bool whole() const { return whole_; }
  /// Where the next bytes of the value go: they may be read there, and told of by filled().
  MutableBytes gap() const;
  void filled(std::size_t bytes) { left_ -= bytes; }
  /// Bytes of the value that are in `out`.
  std::size_t landed() const { return value_ ? length_ - left_ : 0; }
  RespReply& reply() { return reply_; }

 private:
  enum class State : std::uint8_t { line, bulk, end_of_bulk };
  struct Open {
    RespReply* array;
    std::int64_t left;
  };
  Status line_over();
  Status begin_bulk(std::int64_t length);
  Status begin_array(std::int64_t length);
  Result<std::size_t> take_line(ConstBytes bytes);
  std::size_t take_bulk(ConstBytes bytes);
  void value_over();
  RespReply* place();

  State state_ = State::line;
  bool whole_ = false;
  bool dropped_ = false;
  bool value_ = false;  // the bulk string goes to out_
  MutableBytes out_;
  std::string line_;
  std::size_t length_ = 0;  // of the bulk string
  std::size_t left_ = 0;    // of it
  std::size_t text_ = 0;    // bytes of text so far
  std::size_t items_ = 0;
  RespReply reply_;
  RespReply* at_ = nullptr;  // the reply, or its part, that comes next
  std::vector<Open> open_;
};

/// A command with its arguments.
std::string resp_command(std::initializer_list<std::string_view> arguments);

/// A command whose last but `after` arguments is `size` bytes that are sent between head and tail.
struct RespFrame {
  std::string head;
  std::string tail;
};
RespFrame resp_frame(std::initializer_list<std::string_view> before, std::size_t size,
                     const std::vector<std::string>& after);

}  // namespace cake::inline CAKE_ABI::detail
