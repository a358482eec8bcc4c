// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Small vocabularies for tests of the tokenizer of the examples.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "examples/tokenizer.hpp"
#include "tiny_model.hpp"

namespace tiny {

using cake::Result;
using cake::TokenId;
using cake::examples::Tokenizer;

/// What a file says of its tokenizer. At first: one of bytes, without merges.
struct Vocabulary {
  std::string model = "gpt2", pre = "smollm", chat_template;
  std::vector<std::string> tokens, merges;
  std::vector<std::int32_t> types;
  std::set<std::string> known;
  std::optional<std::uint32_t> begin = 0;
  std::optional<bool> add_begin = false;
  std::function<void(tiny::Writer&)> more = [](tiny::Writer&) {};

  /// Printable ASCII stands for itself; "\u0120" is the space and "\u010a" the line break.
  Vocabulary() {
    special("<|endoftext|>");
    special("<|im_start|>");
    special("<|im_end|>");
    for (unsigned c = 0x21; c < 0x7f; ++c) token(std::string(1, static_cast<char>(c)));
    token("\u0120");
    token("\u010a");
    for (unsigned c = 0xa1; c < 0x100; ++c) {  // bytes beyond ASCII that stand for themselves
      if (c != 0xad) token({static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 63))});
    }
    for (unsigned c = 0x100; c < 0x144; ++c) {  // all other bytes
      token({static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 63))});
    }
  }
  void special(const std::string& text, std::int32_t type = 3) {
    tokens.push_back(text);
    types.push_back(type);
  }
  void token(const std::string& text) {
    if (!known.insert(text).second) return;
    tokens.push_back(text);
    types.push_back(1);
  }
  Vocabulary& merge(const std::string& left, const std::string& right) {
    token(left + right);
    merges.push_back(left + " " + right);
    return *this;
  }
  std::vector<std::byte> bytes() const {
    tiny::Writer file;
    file.string("tokenizer.ggml.model", model);
    if (!pre.empty()) file.string("tokenizer.ggml.pre", pre);
    file.strings("tokenizer.ggml.tokens", tokens).strings("tokenizer.ggml.merges", merges);
    if (!types.empty()) file.array("tokenizer.ggml.token_type", 5, types);
    if (begin) file.u32("tokenizer.ggml.bos_token_id", *begin);
    file.u32("tokenizer.ggml.eos_token_id", 2);
    if (add_begin) file.boolean("tokenizer.ggml.add_bos_token", *add_begin);
    more(file);
    if (!chat_template.empty()) file.string("tokenizer.chat_template", chat_template);
    return file.finish();
  }
  Result<Tokenizer> load() const { return Tokenizer::load(tiny::parse(bytes())); }
  /// Tokens, written with bars between them.
  std::string joined(const std::vector<TokenId>& ids) const {
    std::string out;
    for (const TokenId id : ids) {
      out += (out.empty() ? "" : "|") + tokens[static_cast<std::size_t>(id)];
    }
    return out;
  }
  std::string split(const std::string& text) const { return joined(load().value().encode(text)); }
  std::string chat(const std::string& message) const {
    return joined(load().value().encode_chat(message).value());
  }
};

inline constexpr const char* kChatMl =
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'}}";
inline constexpr const char* kLlama3 =
    "{{ '<|start_header_id|>' + role + '<|end_header_id|>\n\n' + content | trim + '<|eot_id|>' }}";

inline Vocabulary llama_3() {
  Vocabulary v;
  v.pre = "llama-bpe";
  v.add_begin.reset();
  for (const char* name : {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}) {
    v.special(name);
  }
  v.chat_template = kLlama3;
  return v;
}

}  // namespace tiny
