// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Text to token ids and back, for the examples. Not part of the library: engines have their own.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "cake/reference/gguf.hpp"
#include "cake/result.hpp"
#include "cake/types.hpp"

namespace cake::examples {

/// Byte-level byte pair encoding with the vocabulary, merges and special tokens of a GGUF file.
/// Any bytes can be encoded, also such that are not UTF-8, and decode to themselves; only bytes
/// that the model has no token for are left out (unknown_bytes() counts them).
///
/// Thread:  const members: Safe for concurrent use
/// Source:  Sennrich et al. (arXiv 1508.07909); GPT-2's byte alphabet and regular expression
class Tokenizer {
 public:
  /// Copies what it needs out of the file. Every `tokenizer.` key is understood, or known to change
  /// nothing with the value that it has; any other is refused by name.
  ///
  /// Errors:  those of reference::check_model(); unsupported, by name (another kind of tokenizer,
  ///          missing or unknown pre-tokenizer, an unknown key); corrupt, not_found,
  ///          invalid_argument (damaged tables)
  static Result<Tokenizer> load(const reference::GgufFile& file);

  /// Special tokens that stand in the text are recognised. Starts with the begin-of-text token
  /// where the model wants one.
  std::vector<TokenId> encode(std::string_view text) const;
  /// One user message in the model's chat template, up to where the answer begins. Special tokens
  /// that the message names are text like any other: no document can end the user's turn.
  ///
  /// Errors:  as chat_prompt()
  Result<std::vector<TokenId>> encode_chat(std::string_view user_message) const;
  /// The bytes that the tokens stand for; special tokens give nothing.
  std::string decode(Tokens tokens) const;
  /// How many bytes of the text have no token.
  std::size_t unknown_bytes(std::string_view text) const;
  /// True for the tokens that end an answer.
  bool ends_answer(TokenId token) const;
  /// The text that encode_chat() encodes. Of Llama 3's templates the user's turn alone, without the
  /// system message with dates that some of them put first.
  ///
  /// Errors:  unsupported, when the model has no template, or another one than ChatML and Llama 3's
  Result<std::string> chat_prompt(std::string_view user_message) const;
  std::size_t size() const { return pieces_.size(); }

 private:
  struct Patterns;  // the pre-tokenizer's regular expressions
  struct Merge {
    std::uint32_t rank = 0;
    TokenId merged = 0;
  };
  /// A range of bytes in a text.
  struct Span {
    std::size_t begin = 0;
    std::size_t end = 0;
  };
  struct Chat {
    std::string text;
    Span message;  // where the user's message stands in it
  };
  Tokenizer() = default;
  Status load_vocabulary(const reference::GgufFile& file);
  Status load_token_ids(const reference::GgufFile& file);
  Status load_merges(const reference::GgufFile& file);
  Status load_patterns(const reference::GgufFile& file);
  Result<Chat> chat(std::string_view user_message) const;
  Result<Chat> chat_ml(std::string_view user_message) const;
  /// Control tokens are recognised where they touch nothing of `message`.
  std::vector<TokenId> encode(std::string_view text, Span message) const;
  void encode_text(std::string_view text, std::vector<TokenId>& out) const;
  void encode_piece(std::string_view piece, std::vector<TokenId>& out) const;

  std::vector<std::string> pieces_;  // bytes of each token; empty for special ones
  std::unordered_map<std::string, TokenId> ids_;
  std::array<TokenId, 256> byte_tokens_{};
  std::unordered_map<std::uint64_t, Merge> merges_;  // by left and right id
  struct Special {
    std::string text;
    TokenId id = -1;
    bool control = false;  // else a piece of text that is never cut
  };
  std::vector<Special> special_;            // longest first
  std::array<bool, 256> starts_special_{};  // by first byte
  std::shared_ptr<const Patterns> patterns_;
  std::string chat_template_;
  TokenId begin_ = -1;
  std::vector<TokenId> ends_;  // of an answer
  bool add_begin_ = false;
  bool whole_words_first_ = false;  // a piece that is a token is not put together by merges
};

}  // namespace cake::examples
