// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "tokenizer.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <queue>
#include <tuple>
#include <utility>

namespace cake::examples {
namespace {

constexpr TokenId kNone = -1;

/// A compiled regular expression over UTF-8 with Unicode classes.
class Pattern {
 public:
  explicit Pattern(const char* text) {
    int error = 0;
    PCRE2_SIZE at = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text), PCRE2_ZERO_TERMINATED,
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF, &error, &at,
                              nullptr));
    if (!code_) throw Exception({Errc::unsupported, error, "PCRE2 refused a regular expression"});
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // without it, it is only slower
  }

  /// Calls take(piece) for every match, and for what lies between matches, so that no byte is lost.
  template <class Take>
  void for_each(std::string_view text, Take take) const {
    const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match(
        pcre2_match_data_create_from_pattern(code_.get(), nullptr), pcre2_match_data_free);
    if (!match) throw std::bad_alloc();
    std::size_t done = 0;
    while (done < text.size()) {
      const int found = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                                    text.size(), done, 0, match.get(), nullptr);
      if (found == PCRE2_ERROR_NOMATCH) break;
      if (found < 0) throw Exception({Errc::unsupported, found, "PCRE2 could not match"});
      const PCRE2_SIZE* const span = pcre2_get_ovector_pointer(match.get());
      if (span[0] > done) take(text.substr(done, span[0] - done));
      take(text.substr(span[0], span[1] - span[0]));
      done = span[1];
    }
    if (done < text.size()) take(text.substr(done));
  }

 private:
  struct Free {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  };
  std::unique_ptr<pcre2_code, Free> code_;
};

constexpr const char* kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kEachDigit = R"(\p{N}|\P{N}+)";

/// GPT-2 writes each byte as one printable character: itself where it is one in Latin-1, else the
/// next one from U+0100 on.
std::array<std::string, 256> byte_alphabet() {
  std::array<std::string, 256> alphabet;
  unsigned next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    const unsigned code = printable ? byte : next++;
    if (code < 0x80) {
      alphabet[byte] = static_cast<char>(code);
    } else {
      alphabet[byte] = {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
    }
  }
  return alphabet;
}

std::uint64_t pair_of(TokenId left, TokenId right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

/// Each expression cuts what the one before left.
struct Tokenizer::Patterns {
  std::vector<Pattern> steps;
};

Result<Tokenizer> Tokenizer::load(const llama::GgufFile& file) {
  const auto kind = file.string("tokenizer.ggml.model");
  if (!kind) return kind.error();
  if (*kind != "gpt2") {
    return Error{Errc::unsupported, 0,
                 file.name() + ": the tokenizer is of the kind \"" + std::string(*kind) +
                     "\"; only byte-level BPE (\"gpt2\") is supported"};
  }
  Tokenizer tokenizer;
  if (auto status = tokenizer.load_vocabulary(file); !status) return status.error();
  if (auto status = tokenizer.load_merges(file); !status) return status.error();
  if (auto status = tokenizer.load_patterns(file); !status) return status.error();
  if (file.has("tokenizer.chat_template")) {
    tokenizer.chat_template_ = file.string("tokenizer.chat_template").value_or("");
  }
  return tokenizer;
}

Status Tokenizer::load_vocabulary(const llama::GgufFile& file) {
  const auto tokens = file.strings("tokenizer.ggml.tokens");
  if (!tokens) return tokens.error();
  std::vector<std::int64_t> types(tokens->size(), 1);
  if (file.has("tokenizer.ggml.token_type")) {
    auto given = file.integers("tokenizer.ggml.token_type");
    if (!given) return given.error();
    if (given->size() != tokens->size()) {
      return Error{Errc::corrupt, 0, file.name() + ": as many token types as tokens are needed"};
    }
    types = *std::move(given);
  }
  const auto alphabet = byte_alphabet();
  std::unordered_map<std::string_view, char> bytes;
  for (unsigned byte = 0; byte < 256; ++byte) bytes[alphabet[byte]] = static_cast<char>(byte);

  pieces_.resize(tokens->size());
  for (std::size_t id = 0; id < tokens->size(); ++id) {
    const std::string_view token = (*tokens)[id];
    ids_.emplace(token, static_cast<TokenId>(id));
    constexpr std::int64_t kControl = 3, kUserDefined = 4;
    if (types[id] == kControl || types[id] == kUserDefined) {
      if (token.empty()) continue;
      special_.emplace_back(token, static_cast<TokenId>(id));
      starts_special_[static_cast<unsigned char>(token[0])] = true;
      if (types[id] == kUserDefined) pieces_[id] = token;
      continue;
    }
    for (std::size_t i = 0; i < token.size();) {
      const std::size_t length = static_cast<unsigned char>(token[i]) < 0x80 ? 1 : 2;
      const auto byte = bytes.find(token.substr(i, length));
      if (byte != bytes.end()) {
        pieces_[id] += byte->second;
      } else {  // no byte-level token: taken as it is
        pieces_[id] = token;
        break;
      }
      i += length;
    }
  }
  std::sort(special_.begin(), special_.end(),
            [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
  for (unsigned byte = 0; byte < 256; ++byte) {
    const auto found = ids_.find(alphabet[byte]);
    byte_tokens_[byte] = found == ids_.end() ? kNone : found->second;
  }

  const auto id_of = [&](const char* key) {
    const auto id = file.integer(key);
    return id && *id < tokens->size() ? static_cast<TokenId>(*id) : kNone;
  };
  begin_ = id_of("tokenizer.ggml.bos_token_id");
  end_ = id_of("tokenizer.ggml.eos_token_id");
  add_begin_ = begin_ != kNone && file.boolean("tokenizer.ggml.add_bos_token").value_or(false);
  return {};
}

Status Tokenizer::load_merges(const llama::GgufFile& file) {
  const auto merges = file.strings("tokenizer.ggml.merges");
  if (!merges) return merges.error();
  for (std::size_t rank = 0; rank < merges->size(); ++rank) {
    const std::string_view merge = (*merges)[rank];
    const std::size_t space = merge.find(' ', 1);
    if (space != std::string_view::npos) {
      const std::string left(merge.substr(0, space));
      const std::string right(merge.substr(space + 1));
      const auto l = ids_.find(left), r = ids_.find(right), both = ids_.find(left + right);
      if (l != ids_.end() && r != ids_.end() && both != ids_.end()) {
        merges_.emplace(pair_of(l->second, r->second),
                        Merge{static_cast<std::uint32_t>(rank), both->second});
        continue;
      }
    }
    return Error{
        Errc::corrupt, 0,
        file.name() + ": merge \"" + std::string(merge) + "\" joins no two tokens to a third"};
  }
  return {};
}

Status Tokenizer::load_patterns(const llama::GgufFile& file) {
  std::string name = "gpt-2";
  if (file.has("tokenizer.ggml.pre")) {
    const auto given = file.string("tokenizer.ggml.pre");
    if (!given) return given.error();
    name = *given;
  }
  auto patterns = std::make_shared<Patterns>();
  if (name == "smollm") {
    patterns->steps.emplace_back(kEachDigit);
    patterns->steps.emplace_back(kGpt2);
  } else if (name == "gpt-2") {
    patterns->steps.emplace_back(kGpt2);
  } else if (name == "llama-bpe" || name == "llama3" || name == "llama-v3") {
    patterns->steps.emplace_back(kLlama3);
    whole_words_first_ = true;
  } else {
    return Error{Errc::unsupported, 0,
                 file.name() + ": the pre-tokenizer \"" + name +
                     "\" is not supported; smollm, gpt-2 and llama-bpe are"};
  }
  patterns_ = std::move(patterns);
  return {};
}

std::vector<TokenId> Tokenizer::encode(std::string_view text) const {
  std::vector<TokenId> tokens;
  if (add_begin_) tokens.push_back(begin_);
  std::size_t plain = 0;  // where text that is not encoded yet begins
  for (std::size_t i = 0; i < text.size();) {
    const std::pair<std::string, TokenId>* found = nullptr;
    if (starts_special_[static_cast<unsigned char>(text[i])]) {
      for (const auto& special : special_) {
        if (text.substr(i).starts_with(special.first)) {
          found = &special;
          break;
        }
      }
    }
    if (found == nullptr) {
      ++i;
      continue;
    }
    encode_text(text.substr(plain, i - plain), tokens);
    if (!(add_begin_ && i == 0 && found->second == begin_)) tokens.push_back(found->second);
    i += found->first.size();
    plain = i;
  }
  encode_text(text.substr(plain), tokens);
  return tokens;
}

void Tokenizer::encode_text(std::string_view text, std::vector<TokenId>& out) const {
  const auto& steps = patterns_->steps;
  const auto cut = [&](const auto& self, std::string_view piece, std::size_t step) -> void {
    if (step == steps.size()) return encode_piece(piece, out);
    steps[step].for_each(piece, [&](std::string_view part) { self(self, part, step + 1); });
  };
  cut(cut, text, 0);
}

/// Joins neighbours, always the pair that stands first in the list of merges, until none is left.
/// A heap of candidate pairs over a linked list keeps long pieces from taking quadratic time.
void Tokenizer::encode_piece(std::string_view piece, std::vector<TokenId>& out) const {
  struct Symbol {
    TokenId id;
    std::size_t previous, next;
  };
  constexpr std::size_t kEnd = static_cast<std::size_t>(-1);
  std::vector<Symbol> symbols;
  std::string spelled;
  for (const char c : piece) {
    const TokenId id = byte_tokens_[static_cast<unsigned char>(c)];
    if (id != kNone) symbols.push_back({id, symbols.size() - 1, symbols.size() + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = kEnd;
  if (whole_words_first_) {
    static const auto alphabet = byte_alphabet();
    for (const char c : piece) spelled += alphabet[static_cast<unsigned char>(c)];
    if (const auto whole = ids_.find(spelled); whole != ids_.end()) {
      out.push_back(whole->second);
      return;
    }
  }

  // (rank, position of the left one, both ids as they were: an entry is stale if they changed)
  using Candidate = std::tuple<std::uint32_t, std::size_t, std::uint64_t>;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto offer = [&](std::size_t left) {
    if (left == kEnd || symbols[left].next == kEnd) return;
    const std::uint64_t pair = pair_of(symbols[left].id, symbols[symbols[left].next].id);
    if (const auto merge = merges_.find(pair); merge != merges_.end()) {
      candidates.emplace(merge->second.rank, left, pair);
    }
  };
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) offer(i);
  while (!candidates.empty()) {
    const auto [rank, left, pair] = candidates.top();
    candidates.pop();
    Symbol& symbol = symbols[left];
    if (symbol.id == kNone || symbol.next == kEnd ||
        pair_of(symbol.id, symbols[symbol.next].id) != pair) {
      continue;
    }
    Symbol& right = symbols[symbol.next];
    symbol.id = merges_.at(pair).merged;
    symbol.next = right.next;
    right.id = kNone;
    if (right.next != kEnd) symbols[right.next].previous = left;
    offer(symbol.previous);
    offer(left);
  }
  for (std::size_t i = 0; i != kEnd; i = symbols[i].next) out.push_back(symbols[i].id);
}

std::string Tokenizer::decode(Tokens tokens) const {
  std::string text;
  for (const TokenId token : tokens) {
    if (token >= 0 && static_cast<std::size_t>(token) < pieces_.size()) {
      text += pieces_[static_cast<std::size_t>(token)];
    }
  }
  return text;
}

bool Tokenizer::ends_answer(TokenId token) const {
  if (token == end_) return true;
  const auto is = [&](const char* name) {
    const auto found = ids_.find(name);
    return found != ids_.end() && found->second == token;
  };
  return is("<|im_end|>") || is("<|endoftext|>") || is("<|eot_id|>");
}

Result<std::string> Tokenizer::chat_prompt(std::string_view user_message) const {
  if (chat_template_.find("<|im_start|>") == std::string::npos) {
    return Error{Errc::unsupported, 0, "the model's chat template is not ChatML"};
  }
  // Some templates begin with a system message of their own when the chat has none. It stands there
  // as a literal: '<|im_start|>system\nTEXT<|im_end|>\n', with the line breaks written out or not.
  std::string prompt;
  const std::string_view intro = "<|im_start|>system";
  if (const std::size_t at = chat_template_.find(intro); at != std::string::npos) {
    const std::size_t end = chat_template_.find("<|im_end|>", at);
    std::string text = chat_template_.substr(at + intro.size(), end - at - intro.size());
    if (text.starts_with("\\n")) text.replace(0, 2, "\n");
    if (end != std::string::npos && text.find('\'') == std::string::npos) {
      prompt = std::string(intro) + text + "<|im_end|>\n";
    }
  }
  prompt += "<|im_start|>user\n";
  prompt += user_message;
  prompt += "<|im_end|>\n<|im_start|>assistant\n";
  return prompt;
}

}  // namespace cake::examples
