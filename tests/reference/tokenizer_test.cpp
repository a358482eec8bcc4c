// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The tokenizer of the examples, on small vocabularies. reference_test.cpp has the real one.
#include "examples/tokenizer.hpp"

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>

#include "catch.hpp"
#include "vocabulary.hpp"

using namespace cake;
using examples::Tokenizer;
using tiny::kChatMl;
using tiny::kLlama3;
using tiny::llama_3;
using tiny::Vocabulary;

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
  v.chat_template =
      "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'}}";
  CHECK(v.load().value().chat_prompt("hi").value() ==
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
  v.chat_template += "{{ '<|im_start|>system\nBe brief<|im_end|>\n' }}";
  CHECK(v.load().value().chat_prompt("hi").value() ==
        "<|im_start|>system\nBe "
        "brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
}

TEST_CASE("special tokens that a document names are text") {
  Vocabulary v;
  v.chat_template = kChatMl;
  const std::string plain =
      "<|im_start|>|u|s|e|r|\u010a|%|<|im_end|>|\u010a|<|im_start|>|a|s|s|i|s|t|a|n|t|\u010a";
  const auto around = [&](const std::string& message) {
    return std::string(plain).replace(plain.find('%'), 1, message);
  };
  CHECK(v.chat("a") == around("a"));
  CHECK(v.chat("a<|im_end|>b") == around("a|<|||i|m|_|e|n|d|||>|b"));
  CHECK(v.chat("<|im_start|>") == around("<|||i|m|_|s|t|a|r|t|||>"));
  CHECK(v.chat("<|endoftext|>") == around("<|||e|n|d|o|f|t|e|x|t|||>"));
  CHECK(v.chat("<|im_end|") == around("<|||i|m|_|e|n|d||"));
  // The text between two control tokens is cut as a whole, as where the model was trained.
  v.merge("\u010a", "\u010a");
  CHECK(v.chat("\n\na").find("r|\u010a\u010a|\u010a|a") != std::string::npos);
  // Tokens that are pieces of text and no control tokens are recognised everywhere.
  Vocabulary u;
  u.chat_template = kChatMl;
  u.special("<tab>", 4);
  CHECK(u.chat("a<tab>b") == around("a|<tab>|b"));
  CHECK(u.split("a<tab>b") == "a|<tab>|b");
}

TEST_CASE("Llama 3's template: one user's turn, trimmed") {
  const Vocabulary v = llama_3();
  const std::string expected =
      "<|endoftext|>|<|start_header_id|>|u|s|e|r|<|end_header_id|>|\u010a|\u010a|h|i|<|eot_id|>|"
      "<|start_header_id|>|a|s|s|i|s|t|a|n|t|<|end_header_id|>|\u010a|\u010a";
  CHECK(v.chat("hi") == expected);
  CHECK(v.chat(" \n hi\t\n") == expected);
  CHECK(v.chat("<|eot_id|>").find("|<|eot_id|>|<|start_header_id|>") != std::string::npos);
  CHECK(v.chat("<|eot_id|>").find("<|||e|o|t|_|i|d|||>") != std::string::npos);
  CHECK(v.load().value().ends_answer(static_cast<TokenId>(v.tokens.size() - 1)));
  CHECK(v.load().value().encode_chat(" ").has_value());
}

TEST_CASE("a chat that the model has no template or no tokens for is refused, with a remedy") {
  const auto refusal = [](const Vocabulary& v) {
    const auto chat = v.load().value().encode_chat("hi");
    REQUIRE(!chat.has_value());
    CHECK(chat.error().code == Errc::unsupported);
    CHECK(chat.error().context.find("--prompt-file") != std::string::npos);
    return chat.error().context;
  };
  Vocabulary v;
  CHECK(refusal(v).find("no chat template") != std::string::npos);
  v.chat_template = "[INST] {{ message }} [/INST]";
  CHECK(refusal(v).find("neither ChatML nor Llama 3") != std::string::npos);
  v.chat_template = kLlama3;
  CHECK(refusal(v).find("<|start_header_id|>") != std::string::npos);
  v = Vocabulary();
  v.chat_template = kChatMl;
  v.types[1] = 1;  // <|im_start|> is no control token
  CHECK(refusal(v).find("<|im_start|>") != std::string::npos);
}

TEST_CASE(
    "whether a text begins with a token of its own is the file's word, or the model family's") {
  Vocabulary v;
  v.add_begin.reset();
  CHECK(v.split("a") == "a");
  v.pre = "llama-bpe";
  CHECK(v.split("a") == "<|endoftext|>|a");
  v.add_begin = false;
  CHECK(v.split("a") == "a");
}

TEST_CASE("bytes without a token are counted") {
  Vocabulary v;
  CHECK(v.load().value().unknown_bytes(std::string("a\x01\xff", 3)) == 0);
  v.tokens.pop_back();
  v.types.pop_back();
  const Tokenizer lacking = v.load().value();
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  CHECK(lacking.unknown_bytes(all + all) == 2);
  CHECK(lacking.encode(all).size() == 255);
}

TEST_CASE("keys that change no token are accepted") {
  Vocabulary v;
  v.more = [](tiny::Writer& f) {
    f.boolean("tokenizer.ggml.add_eos_token", false);
    f.boolean("tokenizer.ggml.add_space_prefix", false);
    f.u32("tokenizer.ggml.unknown_token_id", 0).u32("tokenizer.ggml.padding_token_id", 2);
    f.u32("tokenizer.ggml.seperator_token_id", 1).u32("tokenizer.ggml.eot_token_id", 2);
    f.array("tokenizer.ggml.scores", 6, std::vector<float>(3, 0.0f));
    f.string("tokenizer.huggingface.json", "{}").string("tokenizer.chat_template.tool_use", "x");
    f.strings("tokenizer.chat_templates", {"tool_use"});
  };
  CHECK(v.split("ab") == "a|b");
}

namespace {

Error refusal(const std::function<void(Vocabulary&)>& change) {
  Vocabulary v;
  change(v);
  const auto tokenizer = v.load();
  REQUIRE(!tokenizer.has_value());
  return tokenizer.error();
}

void check_refusal(const std::string& text, const std::function<void(Vocabulary&)>& change) {
  const Error error = refusal(change);
  INFO(error.context);
  CHECK(error.context.find(text) != std::string::npos);
  CHECK(error.context.starts_with("tiny.gguf: "));
}

std::function<void(Vocabulary&)> with_key(const std::function<void(tiny::Writer&)>& more) {
  return [more](Vocabulary& v) { v.more = more; };
}

}  // namespace

TEST_CASE("tokenizers that would give wrong tokens are refused by name") {
  const Error kind = refusal([](Vocabulary& v) { v.model = "llama"; });
  CHECK(kind.code == Errc::unsupported);
  CHECK(kind.context.find("\"llama\"") != std::string::npos);
  const Error pre = refusal([](Vocabulary& v) { v.pre = "tekken"; });
  CHECK(pre.code == Errc::unsupported);
  CHECK(pre.context.find("\"tekken\"") != std::string::npos);
  CHECK(refusal([](Vocabulary& v) { v.types.pop_back(); }).code == Errc::corrupt);
  check_refusal("\"tokenizer.ggml.pre\" is missing", [](Vocabulary& v) { v.pre.clear(); });
  check_refusal("--pre-tokenizer", [](Vocabulary& v) { v.pre.clear(); });
  check_refusal("token_type\" is missing", [](Vocabulary& v) { v.types.clear(); });
  check_refusal("unknown type 9", [](Vocabulary& v) { v.types[5] = 9; });
  check_refusal("unknown type 0", [](Vocabulary& v) { v.types[5] = 0; });
  check_refusal("bos_token_id, which names it, is missing", [](Vocabulary& v) {
    v.begin.reset();
    v.add_begin = true;
  });
  check_refusal("tokenizer.ggml.bos_token_id is 70000", [](Vocabulary& v) { v.begin = 70000; });
  for (const char* flag :
       {"add_eos_token", "add_space_prefix", "remove_extra_whitespaces", "add_sep_token"}) {
    const std::string name = std::string("tokenizer.ggml.") + flag;
    check_refusal(name + " is true", with_key([=](tiny::Writer& f) { f.boolean(name, true); }));
    check_refusal(name, with_key([=](tiny::Writer& f) { f.string(name, "yes"); }));
  }
  check_refusal("\"tokenizer.ggml.precompiled_charsmap\" is not known",
                with_key([](tiny::Writer& f) {
                  f.array("tokenizer.ggml.precompiled_charsmap", 0, std::vector<std::uint8_t>{1});
                }));
  check_refusal("\"tokenizer.rwkv.world\" is not known",
                with_key([](tiny::Writer& f) { f.string("tokenizer.rwkv.world", "x"); }));
  check_refusal("eot_token_id is 70000",
                with_key([](tiny::Writer& f) { f.u32("tokenizer.ggml.eot_token_id", 70000); }));
}

TEST_CASE("a tokenizer's refusal names the architecture or the part of a split file first") {
  // The architecture comes first, and so does a part of a split file.
  check_refusal("architecture \"qwen2\" is not supported", [](Vocabulary& v) {
    v.pre = "qwen2";
    v.more = [](tiny::Writer& f) { f.string("general.architecture", "qwen2"); };
  });
  check_refusal("part 2 of 2", [](Vocabulary& v) {
    v.model = "";
    v.more = [](tiny::Writer& f) {
      f.value("split.no", 2, std::uint16_t{1}).value("split.count", 2, std::uint16_t{2});
    };
  });
  check_refusal("token_embd.weight 7 rows", with_key([](tiny::Writer& f) {
                  f.tensors.push_back(
                      {"token_embd.weight", {4, 7}, tiny::F32, std::vector<std::byte>(112), 0});
                }));
  CHECK(refusal([](Vocabulary& v) { v.merges.emplace_back("a nothing"); }).code == Errc::corrupt);
  CHECK(refusal([](Vocabulary& v) { v.merges.emplace_back("ab"); }).code == Errc::corrupt);
  const auto none = Tokenizer::load(tiny::parse(tiny::make().file.finish()));
  REQUIRE(!none.has_value());
  CHECK(none.error().code == Errc::not_found);
}

TEST_CASE("mutated files never lead the tokenizer astray") {
  Vocabulary v = llama_3();
  v.chat_template += kChatMl;
  v.merge("a", "b").merge("ab", "a").special("<tab>", 4);
  const std::vector<std::byte> good = v.bytes();
  const std::string text = "aba <|im_end|>\xff<tab> 12\n" + std::string("\0", 1);
  std::mt19937 random(20261125);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random()) % n; };
  std::size_t loaded = 0;
  for (int run = 0; run < 20000; ++run) {
    auto bytes = std::make_unique<std::byte[]>(good.size());  // a sanitizer sees a read beyond it
    std::copy(good.begin(), good.end(), bytes.get());
    for (std::size_t change = 1 + below(3); change-- > 0;) {
      const std::size_t at = below(good.size());
      if (below(3) == 0) {  // another number
        const std::uint32_t number = below(2) == 0 ? ~0u : static_cast<std::uint32_t>(below(300));
        std::memcpy(&bytes[std::min(at, good.size() - 4)], &number, 4);
      } else {
        bytes[at] ^= static_cast<std::byte>(1u << below(8));
      }
    }
    const auto file = reference::GgufFile::parse({bytes.get(), good.size()}, "fuzz");
    if (!file) continue;
    const auto tokenizer = Tokenizer::load(*file);
    if (!tokenizer) {
      REQUIRE(!tokenizer.error().context.empty());
      continue;
    }
    ++loaded;
    for (const TokenId id : tokenizer->encode(text)) {
      REQUIRE(id >= 0);
      REQUIRE(static_cast<std::size_t>(id) < tokenizer->size());
    }
    (void)tokenizer->decode(tokenizer->encode(text));
    if (const auto chat = tokenizer->encode_chat(text)) REQUIRE(!chat->empty());
  }
  CHECK(loaded > 1000);
}
