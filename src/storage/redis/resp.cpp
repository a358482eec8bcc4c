// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "resp.hpp"

#include <algorithm>
#include <cstring>
#include <optional>

#include "src/core/try.hpp"
#include "src/storage/remote/text.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

Error broken(const char* what) { return {Errc::corrupt, 0, what}; }

void append_argument(std::string& to, std::string_view argument) {
  to.append("$").append(std::to_string(argument.size())).append("\r\n");
  to.append(argument).append("\r\n");
}

}  // namespace

void RespParser::begin(MutableBytes out) {
  state_ = State::line;
  whole_ = dropped_ = value_ = false;
  out_ = out;
  line_.clear();
  length_ = left_ = text_ = items_ = 0;
  reply_ = {};
  at_ = &reply_;
  open_.clear();
}

void RespParser::drop() {
  dropped_ = true;
  out_ = {};
}

MutableBytes RespParser::gap() const {
  if (state_ != State::bulk || !value_ || dropped_) return {};
  return out_.subspan(length_ - left_, left_);
}

Result<std::size_t> RespParser::take(ConstBytes bytes) {
  std::size_t taken = 0;
  while (taken < bytes.size() && !whole_) {
    const ConstBytes rest = bytes.subspan(taken);
    if (state_ == State::line) {
      const auto line = take_line(rest);
      if (!line) return line.error();
      taken += *line;
    } else if (state_ == State::bulk && left_ > 0) {
      taken += take_bulk(rest);
    } else {
      // What ends a bulk string: CR LF.
      const char expected = state_ == State::bulk ? '\r' : '\n';
      if (static_cast<char>(rest[0]) != expected)
        return broken("a value is longer than it is said");
      ++taken;
      if (state_ == State::bulk) {
        state_ = State::end_of_bulk;
      } else {
        value_over();
      }
    }
  }
  return taken;
}

Result<std::size_t> RespParser::take_line(ConstBytes bytes) {
  const auto* const begin = reinterpret_cast<const char*>(bytes.data());
  const auto* const end = static_cast<const char*>(std::memchr(begin, '\n', bytes.size()));
  const std::size_t size = end != nullptr ? static_cast<std::size_t>(end - begin) : bytes.size();
  if (line_.size() + size > kMostLine) return broken("a line has no end");
  line_.append(begin, size);
  if (end == nullptr) return size;
  if (line_.empty() || line_.back() != '\r') return broken("a line does not end as lines do");
  line_.pop_back();
  if (line_.find('\r') != std::string::npos) return broken("a line does not end as lines do");
  CAKE_TRY(line_over());
  line_.clear();
  return size + 1;
}

std::size_t RespParser::take_bulk(ConstBytes bytes) {
  const std::size_t size = std::min(left_, bytes.size());
  if (!dropped_ && value_) {
    std::memcpy(out_.data() + (length_ - left_), bytes.data(), size);
  } else if (!dropped_) {
    at_->text.append(reinterpret_cast<const char*>(bytes.data()), size);
  }
  left_ -= size;
  return size;
}

Status RespParser::line_over() {
  if (line_.empty()) return broken("an empty line");
  const std::string_view rest = std::string_view(line_).substr(1);
  if (!open_.empty()) at_ = place();
  const auto text = [&](RespReply::Kind kind) {
    at_->kind = kind;
    at_->text = rest.substr(0, kMostShown);
    value_over();
  };
  const auto count = whole_number<std::int64_t>(rest);
  switch (line_[0]) {
    case '+':
      return text(RespReply::Kind::status), Status();
    case '-':
      return text(RespReply::Kind::error), Status();
    case ':':
      if (!count) return broken("a number is none");
      at_->kind = RespReply::Kind::integer;
      at_->integer = *count;
      value_over();
      return {};
    case '$':
    case '*':
      if (!count || *count < -1) return broken("a length is none");
      if (*count == -1) {
        at_->kind = RespReply::Kind::null;
        value_over();
        return {};
      }
      return line_[0] == '$' ? begin_bulk(*count) : begin_array(*count);
    default:
      return broken("a reply of a kind that is not known");
  }
}

/// The next part of the innermost array.
RespReply* RespParser::place() {
  Open& open = open_.back();
  --open.left;
  // What is dropped needs one place only.
  if (!dropped_ || open.array->items.empty()) open.array->items.emplace_back();
  return &(open.array->items.back() = {});
}

Status RespParser::begin_bulk(std::int64_t length) {
  at_->kind = RespReply::Kind::bulk;
  at_->integer = length;
  const auto bytes = static_cast<std::uint64_t>(length);
  value_ = open_.empty() && !out_.empty();
  if (!dropped_) {
    if (value_ && bytes > out_.size()) return broken("a value is longer than was asked for");
    if (!value_ && bytes > kMostText - text_) return broken("a text is longer than may be");
    if (!value_) text_ += bytes;
  }
  length_ = left_ = bytes;
  state_ = State::bulk;
  return {};
}

Status RespParser::begin_array(std::int64_t length) {
  at_->kind = RespReply::Kind::array;
  const auto items = static_cast<std::uint64_t>(length);
  if (open_.size() == kMostDepth || items > kMostItems - items_) {
    return broken("a list is longer or deeper than may be");
  }
  items_ += items;
  open_.push_back({at_, length});
  if (length == 0) value_over();
  return {};
}

/// And so is each array that it was the last part of.
void RespParser::value_over() {
  state_ = State::line;
  while (!open_.empty() && open_.back().left == 0) open_.pop_back();
  whole_ = open_.empty();
}

std::string resp_command(std::initializer_list<std::string_view> arguments) {
  std::string text("*");
  text.append(std::to_string(arguments.size())).append("\r\n");
  for (const std::string_view argument : arguments) append_argument(text, argument);
  return text;
}

RespFrame resp_frame(std::initializer_list<std::string_view> before, std::size_t size,
                     const std::vector<std::string>& after) {
  RespFrame frame;
  frame.head.append("*").append(std::to_string(before.size() + 1 + after.size())).append("\r\n");
  for (const std::string_view argument : before) append_argument(frame.head, argument);
  frame.head.append("$").append(std::to_string(size)).append("\r\n");
  frame.tail = "\r\n";
  for (const std::string& argument : after) append_argument(frame.tail, argument);
  return frame;
}

}  // namespace cake::inline CAKE_ABI::detail
