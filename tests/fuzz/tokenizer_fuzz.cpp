// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Fuzzing of the tokenizer of the examples: of what a file says of it, and of texts.
//
// Input: two bytes, how long the first part is; a first part, which is xored over the end of a good file;
// then a text. Without a first part the file is good: then every text comes back as it was, but for
// special tokens, which stand for nothing.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/reference/vocabulary.hpp"

namespace {

using namespace cake;
using examples::Tokenizer;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

const std::vector<std::byte>& good_file() {
  static const std::vector<std::byte> file = [] {
    tiny::Vocabulary v = tiny::llama_3();
    v.chat_template += tiny::kChatMl;
    v.merge("a", "b").merge("ab", "a").merge("t", "h").merge("th", "e").merge("\u0120", "the");
    v.special("<tab>", 4);
    return v.bytes();
  }();
  return file;
}

/// What must hold of any tokenizer that was taken.
std::vector<TokenId> encoded(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<TokenId> ids = tokenizer.encode(text);
  for (const TokenId id : ids) {
    require(id >= 0 && static_cast<std::size_t>(id) < tokenizer.size(), "no such token");
    static_cast<void>(tokenizer.ends_answer(id));
  }
  require(ids.size() <= text.size() + 1, "more tokens than bytes");
  require(tokenizer.unknown_bytes(text) <= text.size(), "more unknown bytes than bytes");
  if (const auto chat = tokenizer.encode_chat(text)) {
    for (const TokenId id : *chat) {
      require(id >= 0 && static_cast<std::size_t>(id) < tokenizer.size(), "no such token");
    }
  } else {
    require(!chat.error().context.empty(), "an error that says nothing");
  }
  return ids;
}

/// Without a special token in it a text is its tokens.
void come_back(const Tokenizer& tokenizer, std::string_view text) {
  const std::string back = tokenizer.decode(encoded(tokenizer, text));
  require(tokenizer.unknown_bytes(text) == 0, "a byte without a token");
  require(back.size() <= text.size(), "more bytes than there were");
  if (text.find('<') == std::string_view::npos) require(back == text, "another text");
}

void with_other_file(const std::uint8_t* mask, std::size_t size, std::string_view text) {
  const std::vector<std::byte>& good = good_file();
  // Exactly as long as the file, so that a sanitizer sees a read beyond it.
  const std::unique_ptr<std::byte[]> bytes(new std::byte[good.size()]);
  std::copy(good.begin(), good.end(), bytes.get());
  const std::size_t used = std::min(size, good.size());
  for (std::size_t i = 0; i < used; ++i) {
    bytes[good.size() - used + i] ^= static_cast<std::byte>(mask[i]);
  }
  const auto file = reference::GgufFile::parse({bytes.get(), good.size()}, "fuzz");
  if (!file) return;
  const auto tokenizer = Tokenizer::load(*file);
  if (!tokenizer) {
    require(!tokenizer.error().context.empty(), "an error that says nothing");
    return;
  }
  static_cast<void>(tokenizer->decode(encoded(*tokenizer, text)));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Tokenizer good =
      Tokenizer::load(reference::GgufFile::parse(good_file(), "good").value()).value();
  if (size < 2) return 0;
  const std::size_t mask = std::min<std::size_t>(data[0] | data[1] << 8, size - 2);
  const std::string_view text(reinterpret_cast<const char*>(data) + 2 + mask, size - 2 - mask);
  if (mask == 0) {
    come_back(good, text);
  } else {
    with_other_file(data + 2, mask, text);
  }
  return 0;
}
