// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The tokenizer of the examples, on small vocabularies. reference_test.cpp has the real one.
#include "examples/tokenizer.hpp"

#include <functional>
#include <set>

#include "catch.hpp"
#include "tiny_model.hpp"

namespace {

using namespace cake;
using examples::Tokenizer;

struct Vocabulary {
  std::string model = "gpt2", pre = "smollm", chat_template;
  std::vector<std::string> tokens, merges;
  std::vector<std::int32_t> types;
  std::set<std::string> known;
  bool add_begin = false;

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
  void special(const std::string& text) {
    tokens.push_back(text);
    types.push_back(3);
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
  Result<Tokenizer> load() const {
    tiny::Writer file;
    file.string("tokenizer.ggml.model", model).string("tokenizer.ggml.pre", pre);
    file.strings("tokenizer.ggml.tokens", tokens).strings("tokenizer.ggml.merges", merges);
    file.array("tokenizer.ggml.token_type", 5, types);
    file.u32("tokenizer.ggml.bos_token_id", 0).u32("tokenizer.ggml.eos_token_id", 2);
    file.boolean("tokenizer.ggml.add_bos_token", add_begin);
    if (!chat_template.empty()) file.string("tokenizer.chat_template", chat_template);
    return Tokenizer::load(tiny::parse(file.finish()));
  }
  /// The tokens of a text, written with bars between them.
  std::string split(const std::string& text) const {
    std::string out;
    for (const TokenId id : load().value().encode(text)) {
      out += (out.empty() ? "" : "|") + tokens[static_cast<std::size_t>(id)];
    }
    return out;
  }
};

}  // namespace

TEST_CASE("merges go by rank, then from the left") {
  Vocabulary v;
  v.merge("a", "b").merge("b", "c").merge("ab", "c").merge("a", "a");
  CHECK(v.split("abc") == "abc");
  CHECK(v.split("bc") == "bc");
  CHECK(v.split("aabc") == "a|abc");
  CHECK(v.split("aaaa") == "aa|aa");
  CHECK(v.split("aaa") == "aa|a");
  CHECK(v.split("bcab") == "bc|ab");
}

TEST_CASE("the pre-tokenizer decides what can merge") {
  Vocabulary v;
  v.merge("\u0120", "1")
      .merge("1", "2")
      .merge("\u0120", "a")
      .merge("a", "1")
      .merge("\u0120", "\u0120");
  CHECK(v.split("a12 1 a") ==
        "a|1|2|\u0120|1|\u0120a");  // smollm: each digit alone, before all else
  v.pre = "gpt-2";
  CHECK(v.split("a12 1 a") == "a|12|\u01201|\u0120a");
  CHECK(v.split("   a") == "\u0120\u0120|\u0120a");  // the last space goes with the word
  v.pre = "llama-bpe";
  CHECK(v.split("a12 1 a") ==
        "a|12|\u0120|1|\u0120a");  // numbers take no space, up to three digits
}

TEST_CASE("a piece that is a token is taken whole where the model wants that") {
  Vocabulary v;
  v.token("xyz");  // no merges lead to it
  CHECK(v.split("xyz") == "x|y|z");
  v.pre = "llama-bpe";
  CHECK(v.split("xyz") == "xyz");
}

TEST_CASE("special tokens are recognised, the longest first, and decode to nothing") {
  Vocabulary v;
  v.special("<|im_end|>x");
  const Tokenizer tokenizer = v.load().value();
  CHECK(v.split("<|im_start|>a<|im_end|>xb<|im_end|>") ==
        "<|im_start|>|a|<|im_end|>x|b|<|im_end|>");
  CHECK(v.split("<|im_start") == "<|||i|m|_|s|t|a|r|t");
  CHECK(tokenizer.decode(tokenizer.encode("<|im_start|>a<|im_end|>")) == "a");
  CHECK(tokenizer.ends_answer(2));
  CHECK(tokenizer.ends_answer(0));
  CHECK(!tokenizer.ends_answer(1));
  CHECK(tokenizer.decode(std::vector<TokenId>{-1, 1 << 20}).empty());
}

TEST_CASE("the begin-of-text token comes first, once") {
  Vocabulary v;
  v.add_begin = true;
  CHECK(v.split("a") == "<|endoftext|>|a");
  CHECK(v.split("<|endoftext|>a") == "<|endoftext|>|a");
  CHECK(v.split("") == "<|endoftext|>");
}

TEST_CASE("any bytes decode to themselves") {
  Vocabulary v;
  v.merge("a", "b");
  const Tokenizer tokenizer = v.load().value();
  std::mt19937 random(1);
  for (std::size_t size = 0; size < 300; ++size) {
    std::string text(size, ' ');
    for (char& c : text) c = static_cast<char>(random());
    if (size % 3 == 0) text += "\xe6\x97\xa5 a\tb\r\n\xf0\x9f\x98\x80";
    REQUIRE(tokenizer.decode(tokenizer.encode(text)) == text);
  }
}

TEST_CASE("a word of 200,000 letters is encoded without quadratic work") {
  Vocabulary v;
  v.merge("a", "a").merge("aa", "aa").merge("aaaa", "aaaa");
  const auto tokens = v.load().value().encode(std::string(200000, 'a'));
  CHECK(tokens.size() == 25000);
}

TEST_CASE("chat templates") {
  Vocabulary v;
  CHECK(v.load().value().chat_prompt("hi").error().code == Errc::unsupported);
  v.chat_template =
      "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'}}";
  CHECK(v.load().value().chat_prompt("hi").value() ==
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
  v.chat_template += "{{ '<|im_start|>system\nBe brief<|im_end|>\n' }}";
  CHECK(v.load().value().chat_prompt("hi").value() ==
        "<|im_start|>system\nBe "
        "brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
}

TEST_CASE("tokenizers that would give wrong tokens are refused by name") {
  const auto refusal = [](const std::function<void(Vocabulary&)>& change) {
    Vocabulary v;
    change(v);
    const auto tokenizer = v.load();
    REQUIRE(!tokenizer.has_value());
    return tokenizer.error();
  };
  const Error kind = refusal([](Vocabulary& v) { v.model = "llama"; });
  CHECK(kind.code == Errc::unsupported);
  CHECK(kind.context.find("\"llama\"") != std::string::npos);
  const Error pre = refusal([](Vocabulary& v) { v.pre = "tekken"; });
  CHECK(pre.code == Errc::unsupported);
  CHECK(pre.context.find("\"tekken\"") != std::string::npos);
  CHECK(refusal([](Vocabulary& v) { v.types.pop_back(); }).code == Errc::corrupt);
  CHECK(refusal([](Vocabulary& v) { v.merges.emplace_back("a nothing"); }).code == Errc::corrupt);
  CHECK(refusal([](Vocabulary& v) { v.merges.emplace_back("ab"); }).code == Errc::corrupt);
  const auto none = Tokenizer::load(tiny::parse(tiny::make().file.finish()));
  REQUIRE(!none.has_value());
  CHECK(none.error().code == Errc::not_found);
}
