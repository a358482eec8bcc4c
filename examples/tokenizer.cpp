// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "tokenizer.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <queue>
#include <tuple>
#include <utility>

#include "cake/reference/config.hpp"

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

Error refused(const reference::GgufFile& file, Errc code, const std::string& what) {
  return {code, 0, file.name() + ": " + what};
}

/// What a key does that Tokenizer does not read.
enum class Effect { understood, none, off_when_false };
struct Key {
  std::string_view name;
  Effect effect;
};

/// Source:  the keys that the ggml project's converters write (facts: names and defaults)
constexpr Key kKeys[] = {
    {"tokenizer.ggml.model", Effect::understood},
    {"tokenizer.ggml.pre", Effect::understood},
    {"tokenizer.ggml.tokens", Effect::understood},
    {"tokenizer.ggml.token_type", Effect::understood},
    {"tokenizer.ggml.merges", Effect::understood},
    {"tokenizer.ggml.bos_token_id", Effect::understood},
    {"tokenizer.ggml.eos_token_id", Effect::understood},
    {"tokenizer.ggml.eot_token_id", Effect::understood},
    {"tokenizer.ggml.eom_token_id", Effect::understood},
    {"tokenizer.ggml.add_bos_token", Effect::understood},
    {"tokenizer.chat_template", Effect::understood},
    {"tokenizer.ggml.add_eos_token", Effect::off_when_false},
    {"tokenizer.ggml.add_sep_token", Effect::off_when_false},
    {"tokenizer.ggml.add_space_prefix", Effect::off_when_false},
    {"tokenizer.ggml.remove_extra_whitespaces", Effect::off_when_false},
    // Ids of tokens that nothing here writes, other forms of the same tokenizer, other templates.
    {"tokenizer.ggml.unknown_token_id", Effect::none},
    {"tokenizer.ggml.seperator_token_id", Effect::none},
    {"tokenizer.ggml.separator_token_id", Effect::none},
    {"tokenizer.ggml.padding_token_id", Effect::none},
    {"tokenizer.ggml.cls_token_id", Effect::none},
    {"tokenizer.ggml.mask_token_id", Effect::none},
    {"tokenizer.ggml.prefix_token_id", Effect::none},
    {"tokenizer.ggml.suffix_token_id", Effect::none},
    {"tokenizer.ggml.middle_token_id", Effect::none},
    {"tokenizer.ggml.fim_pre_token_id", Effect::none},
    {"tokenizer.ggml.fim_suf_token_id", Effect::none},
    {"tokenizer.ggml.fim_mid_token_id", Effect::none},
    {"tokenizer.ggml.fim_pad_token_id", Effect::none},
    {"tokenizer.ggml.fim_rep_token_id", Effect::none},
    {"tokenizer.ggml.fim_sep_token_id", Effect::none},
    {"tokenizer.ggml.scores", Effect::none},
    {"tokenizer.ggml.added_tokens", Effect::none},
    {"tokenizer.ggml.token_type_count", Effect::none},
    {"tokenizer.huggingface.json", Effect::none},
    {"tokenizer.chat_templates", Effect::none},
};

Status check_keys(const reference::GgufFile& file) {
  for (const std::string& key : file.keys("tokenizer.")) {
    if (key.starts_with("tokenizer.chat_template.")) continue;  // others beside the usual one
    const auto* const known = std::find_if(std::begin(kKeys), std::end(kKeys),
                                           [&](const Key& k) { return k.name == key; });
    if (known == std::end(kKeys)) {
      return refused(file, Errc::unsupported,
                     "metadata \"" + reference::printable(key) +
                         "\" is not known; ignoring it could give wrong tokens");
    }
    if (known->effect != Effect::off_when_false) continue;
    const auto value = file.boolean(key);
    if (!value) return value.error();
    if (*value) {
      return refused(file, Errc::unsupported,
                     key + " is true, which changes the tokens and is not supported");
    }
  }
  return {};
}

std::uint64_t pair_of(TokenId left, TokenId right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

/// Each expression cuts what the one before left.
struct Tokenizer::Patterns {
  std::vector<Pattern> steps;
};

Result<Tokenizer> Tokenizer::load(const reference::GgufFile& file) {
  // A file that is no Llama model says that first, and not which tokenizer it lacks.
  if (file.has("general.architecture") || file.has("split.count")) {
    if (auto status = reference::check_model(file); !status) return status.error();
  }
  const auto kind = file.string("tokenizer.ggml.model");
  if (!kind) return kind.error();
  if (*kind != "gpt2") {
    return refused(file, Errc::unsupported,
                   "the tokenizer is of the kind \"" + reference::printable(*kind) +
                       "\"; only byte-level BPE (\"gpt2\") is supported");
  }
  if (auto status = check_keys(file); !status) return status.error();
  Tokenizer tokenizer;
  if (auto status = tokenizer.load_vocabulary(file); !status) return status.error();
  if (auto status = tokenizer.load_merges(file); !status) return status.error();
  if (auto status = tokenizer.load_patterns(file); !status) return status.error();
  if (auto status = tokenizer.load_token_ids(file); !status) return status.error();
  if (file.has("tokenizer.chat_template")) {
    const auto given = file.string("tokenizer.chat_template");
    if (!given) return given.error();
    tokenizer.chat_template_ = *given;
  }
  return tokenizer;
}

Status Tokenizer::load_vocabulary(const reference::GgufFile& file) {
  const auto tokens = file.strings("tokenizer.ggml.tokens");
  if (!tokens) return tokens.error();
  if (const auto* embedding = file.tensor("token_embd.weight");
      embedding != nullptr && embedding->shape[1] != tokens->size()) {
    return refused(file, Errc::corrupt,
                   "tokenizer.ggml.tokens has " + std::to_string(tokens->size()) +
                       " tokens, token_embd.weight " + std::to_string(embedding->shape[1]) +
                       " rows");
  }
  // Without types, control tokens could not be told from text.
  const auto types = file.integers("tokenizer.ggml.token_type");
  if (!types) return types.error();
  if (types->size() != tokens->size()) {
    return refused(file, Errc::corrupt,
                   "tokenizer.ggml.token_type has " + std::to_string(types->size()) +
                       " types for " + std::to_string(tokens->size()) + " tokens");
  }
  const auto alphabet = byte_alphabet();
  std::unordered_map<std::string_view, char> bytes;
  for (unsigned byte = 0; byte < 256; ++byte) bytes[alphabet[byte]] = static_cast<char>(byte);

  pieces_.resize(tokens->size());
  for (std::size_t id = 0; id < tokens->size(); ++id) {
    const std::string_view token = (*tokens)[id];
    const std::int64_t type = (*types)[id];
    constexpr std::int64_t kNormal = 1, kControl = 3, kUserDefined = 4, kByte = 6;
    if (type < kNormal || type > kByte) {
      return refused(file, Errc::corrupt,
                     "token " + std::to_string(id) + " has the unknown type " +
                         std::to_string(type) + " (tokenizer.ggml.token_type)");
    }
    ids_.emplace(token, static_cast<TokenId>(id));
    if (type == kControl || type == kUserDefined) {
      if (token.empty()) continue;
      special_.push_back({std::string(token), static_cast<TokenId>(id), type == kControl});
      starts_special_[static_cast<unsigned char>(token[0])] = true;
      if (type == kUserDefined) pieces_[id] = token;
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
            [](const Special& a, const Special& b) { return a.text.size() > b.text.size(); });
  for (unsigned byte = 0; byte < 256; ++byte) {
    const auto found = ids_.find(alphabet[byte]);
    byte_tokens_[byte] = found == ids_.end() ? kNone : found->second;
  }
  return {};
}

/// Needs load_patterns(): some pre-tokenizers begin a text with a token unless the file forbids it.
Status Tokenizer::load_token_ids(const reference::GgufFile& file) {
  Status status;
  const auto id_of = [&](const char* key) {
    if (!file.has(key)) return kNone;
    const auto id = file.integer(key);
    if (!id) {
      status = id.error();
    } else if (*id >= pieces_.size()) {
      status = refused(file, Errc::corrupt,
                       std::string(key) + " is " + std::to_string(*id) + ", but there are " +
                           std::to_string(pieces_.size()) + " tokens");
    } else {
      return static_cast<TokenId>(*id);
    }
    return kNone;
  };
  begin_ = id_of("tokenizer.ggml.bos_token_id");
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    if (const TokenId id = id_of(key); id != kNone) ends_.push_back(id);
  }
  for (const char* name : {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>"}) {
    if (const auto found = ids_.find(name); found != ids_.end()) ends_.push_back(found->second);
  }
  if (!status) return status;
  if (file.has("tokenizer.ggml.add_bos_token")) {
    const auto add = file.boolean("tokenizer.ggml.add_bos_token");
    if (!add) return add.error();
    add_begin_ = *add;
  }
  if (add_begin_ && begin_ == kNone) {
    return refused(file, Errc::corrupt,
                   "a text begins with a token of its own, but tokenizer.ggml.bos_token_id, which "
                   "names it, is missing");
  }
  return {};
}

Status Tokenizer::load_merges(const reference::GgufFile& file) {
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
    return refused(file, Errc::corrupt,
                   "merge \"" + reference::printable(merge) + "\" joins no two tokens to a third");
  }
  return {};
}

Status Tokenizer::load_patterns(const reference::GgufFile& file) {
  if (!file.has("tokenizer.ggml.pre")) {
    return refused(file, Errc::unsupported,
                   "metadata \"tokenizer.ggml.pre\" is missing, so it is not known how text is "
                   "cut before it is encoded, and a guess could give wrong tokens. Convert the "
                   "model again, or add the key with gguf_new_metadata.py --pre-tokenizer (of the "
                   "Python package gguf): llama-bpe for Llama 3, smollm for SmolLM");
  }
  const auto given = file.string("tokenizer.ggml.pre");
  if (!given) return given.error();
  const std::string_view name = *given;
  auto patterns = std::make_shared<Patterns>();
  if (name == "smollm") {
    patterns->steps.emplace_back(kEachDigit);
    patterns->steps.emplace_back(kGpt2);
  } else if (name == "gpt-2") {
    patterns->steps.emplace_back(kGpt2);
  } else if (name == "llama-bpe" || name == "llama3" || name == "llama-v3") {
    patterns->steps.emplace_back(kLlama3);
    whole_words_first_ = true;
    add_begin_ = true;
  } else {
    return refused(file, Errc::unsupported,
                   "the pre-tokenizer \"" + reference::printable(name) +
                       "\" is not supported; smollm, gpt-2 and llama-bpe are");
  }
  patterns_ = std::move(patterns);
  return {};
}

std::vector<TokenId> Tokenizer::encode(std::string_view text) const { return encode(text, Span{}); }

Result<std::vector<TokenId>> Tokenizer::encode_chat(std::string_view user_message) const {
  const auto whole = chat(user_message);
  if (!whole) return whole.error();
  return encode(whole->text, whole->message);
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, Span message) const {
  std::vector<TokenId> tokens;
  if (add_begin_) tokens.push_back(begin_);
  std::size_t plain = 0;  // where text that is not encoded yet begins
  for (std::size_t i = 0; i < text.size();) {
    const Special* found = nullptr;
    if (starts_special_[static_cast<unsigned char>(text[i])]) {
      for (const Special& special : special_) {
        const bool touches = i < message.end && i + special.text.size() > message.begin;
        if (special.control && touches) continue;
        if (text.substr(i).starts_with(special.text)) {
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
    if (!(add_begin_ && i == 0 && found->id == begin_)) tokens.push_back(found->id);
    i += found->text.size();
    plain = i;
  }
  encode_text(text.substr(plain), tokens);
  return tokens;
}

std::size_t Tokenizer::unknown_bytes(std::string_view text) const {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [&](char c) {
    return byte_tokens_[static_cast<unsigned char>(c)] == kNone;
  }));
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
  return std::find(ends_.begin(), ends_.end(), token) != ends_.end();
}

Result<std::string> Tokenizer::chat_prompt(std::string_view user_message) const {
  auto whole = chat(user_message);
  if (!whole) return whole.error();
  return std::move(whole->text);
}

Result<Tokenizer::Chat> Tokenizer::chat(std::string_view user_message) const {
  const auto uses = [&](const char* token) {
    return chat_template_.find(token) != std::string::npos;
  };
  constexpr const char* kRemedy =
      "give the whole prompt, template and all, with --prompt-file FILE";
  if (chat_template_.empty()) {
    return Error{Errc::unsupported, 0, std::string("the model has no chat template; ") + kRemedy};
  }
  const bool llama_3 = uses("<|start_header_id|>");
  if (!llama_3 && !uses("<|im_start|>")) {
    return Error{
        Errc::unsupported, 0,
        std::string("the model's chat template is neither ChatML nor Llama 3's; ") + kRemedy};
  }
  using Names = std::initializer_list<const char*>;
  const Names chat_ml_tokens = {"<|im_start|>", "<|im_end|>"};
  const Names llama_3_tokens = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};
  for (const char* name : llama_3 ? llama_3_tokens : chat_ml_tokens) {
    const bool known = std::any_of(special_.begin(), special_.end(),
                                   [&](const Special& s) { return s.control && s.text == name; });
    if (known) continue;
    return Error{Errc::unsupported, 0,
                 std::string("the model's chat template needs ") + name +
                     ", which is no control token of this model; " + kRemedy};
  }
  if (!llama_3) return chat_ml(user_message);
  constexpr std::string_view kBlanks = " \t\r\n\v\f";  // the template trims messages
  const std::size_t first = user_message.find_first_not_of(kBlanks);
  user_message =
      first == std::string_view::npos
          ? std::string_view()
          : user_message.substr(first, user_message.find_last_not_of(kBlanks) - first + 1);
  Chat chat;
  chat.text = "<|start_header_id|>user<|end_header_id|>\n\n";
  chat.message = {chat.text.size(), chat.text.size() + user_message.size()};
  chat.text += user_message;
  chat.text += "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";
  return chat;
}

Result<Tokenizer::Chat> Tokenizer::chat_ml(std::string_view user_message) const {
  // Some templates begin with a system message of their own when the chat has none. It stands there
  // as a literal: '<|im_start|>system\nTEXT<|im_end|>\n', with the line breaks written out or not.
  Chat chat;
  const std::string_view intro = "<|im_start|>system";
  if (const std::size_t at = chat_template_.find(intro); at != std::string::npos) {
    const std::size_t end = chat_template_.find("<|im_end|>", at);
    std::string text = chat_template_.substr(at + intro.size(), end - at - intro.size());
    if (text.starts_with("\\n")) text.replace(0, 2, "\n");
    if (end != std::string::npos && text.find('\'') == std::string::npos) {
      chat.text = std::string(intro) + text + "<|im_end|>\n";
    }
  }
  chat.text += "<|im_start|>user\n";
  chat.message = {chat.text.size(), chat.text.size() + user_message.size()};
  chat.text += user_message;
  chat.text += "<|im_end|>\n<|im_start|>assistant\n";
  return chat;
}

}  // namespace cake::examples
