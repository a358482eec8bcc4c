// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/reference/gguf.hpp"

#include <sys/stat.h>

#include <cmath>
#include <filesystem>
#include <functional>

#include "catch.hpp"
#include "tiny_model.hpp"

namespace {

using namespace cake;
using namespace cake::reference;
using tiny::Writer;

std::vector<std::byte> of(std::size_t size) { return std::vector<std::byte>(size, std::byte{1}); }

Writer sample() {
  Writer file;
  file.value("a.u8", 0, std::uint8_t{200}).value("a.i8", 1, std::int8_t{-100});
  file.value("a.u16", 2, std::uint16_t{60000}).value("a.i16", 3, std::int16_t{-30000});
  file.u32("a.u32", 4000000000u).value("a.i32", 5, std::int32_t{-2000000000});
  file.f32("a.f32", 0.5f).boolean("a.yes", true).boolean("a.no", false);
  file.string("a.text", "eggs, flour");
  file.value("a.u64", 10, std::uint64_t{1} << 40).value("a.i64", 11, -(std::int64_t{1} << 40));
  file.value("a.f64", 12, 0.1).value("a.huge", 10, ~std::uint64_t{0});
  file.strings("a.list", {"one", "", "three"}).array("a.ints", 5, std::vector<std::int32_t>{-1, 7});
  file.array("a.floats", 6, std::vector<float>{1.5f, -2.5f});
  file.tensors.push_back({"x", {4, 2}, tiny::F32, of(32), 0});
  file.tensors.push_back({"y", {32}, tiny::Q8_0, of(34), 0});
  return file;
}

/// Parses, expects a refusal, and returns its text.
std::string refusal(const std::vector<std::byte>& bytes, Errc code = Errc::corrupt) {
  const auto file = GgufFile::parse(bytes, "bad.gguf");
  REQUIRE(!file.has_value());
  CHECK(file.error().code == code);
  CHECK(file.error().context.starts_with("bad.gguf: "));
  return file.error().context;
}
std::string refusal(const std::function<void(Writer&)>& change, Errc code = Errc::corrupt) {
  Writer file = sample();
  change(file);
  return refusal(file.finish(), code);
}
bool says(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("metadata of every type reads back") {
  for (const std::uint32_t version : {2u, 3u}) {
    Writer writer = sample();
    writer.version = version;
    const GgufFile file = tiny::parse(writer.finish());
    CHECK(file.version() == version);
    CHECK(file.integer("a.u8").value() == 200);
    CHECK(file.number("a.i8").value() == -100);
    CHECK(file.integer("a.u16").value() == 60000);
    CHECK(file.number("a.i16").value() == -30000);
    CHECK(file.integer("a.u32").value() == 4000000000u);
    CHECK(file.number("a.i32").value() == -2000000000);
    CHECK(file.number("a.f32").value() == 0.5);
    CHECK(file.number("a.f64").value() == 0.1);
    CHECK(file.boolean("a.yes").value());
    CHECK(!file.boolean("a.no").value());
    CHECK(file.string("a.text").value() == "eggs, flour");
    CHECK(file.integer("a.u64").value() == std::uint64_t{1} << 40);
    CHECK(file.number("a.i64").value() == -std::ldexp(1, 40));
    CHECK(file.strings("a.list").value() == std::vector<std::string_view>{"one", "", "three"});
    CHECK(file.integers("a.ints").value() == std::vector<std::int64_t>{-1, 7});
    CHECK(file.numbers("a.floats").value() == std::vector<double>{1.5, -2.5});
    CHECK(file.tensors().size() == 2);
    REQUIRE(file.tensor("x") != nullptr);
    CHECK(file.tensor("x")->elements == 8);
    CHECK(file.tensor("x")->offset % 32 == 0);
    CHECK(file.tensor("z") == nullptr);
  }
}

TEST_CASE("a value asked for as what it is not is refused, naming its key") {
  const GgufFile file = tiny::parse(sample().finish());
  CHECK(file.integer("a.none").error().code == Errc::not_found);
  CHECK(says(file.integer("a.none").error().context, "a.none"));
  CHECK(file.integer("a.i8").error().code == Errc::invalid_argument);  // negative
  CHECK(file.integer("a.f32").error().code == Errc::invalid_argument);
  CHECK(file.integer("a.huge").error().code == Errc::invalid_argument);
  CHECK(file.integer("a.list").error().code == Errc::invalid_argument);
  CHECK(file.string("a.u8").error().code == Errc::invalid_argument);
  CHECK(file.strings("a.text").error().code == Errc::invalid_argument);
  CHECK(file.strings("a.ints").error().code == Errc::invalid_argument);
  CHECK(file.integers("a.floats").error().code == Errc::invalid_argument);
  CHECK(file.integers("a.list").error().code == Errc::invalid_argument);
  CHECK(file.numbers("a.text").error().code == Errc::invalid_argument);
}

TEST_CASE("tensors of every supported type become fp32") {
  std::mt19937 random(7);
  for (const std::uint32_t type :
       {tiny::F32, tiny::F16, tiny::BF16, tiny::Q8_0, tiny::Q4_0, tiny::Q4_1, tiny::Q5_0,
        tiny::Q5_1, tiny::Q4_K, tiny::Q5_K, tiny::Q6_K}) {
    const tiny::Encoded data = tiny::encode(type, 768 * 3, random, 0.7);
    Writer writer;
    writer.tensors.push_back({"w", {768, 3}, type, data.bytes, 0});
    const GgufFile file = tiny::parse(writer.finish());
    std::vector<float> values(768 * 3);
    REQUIRE(file.dequantise(*file.tensor("w"), values).has_value());
    for (std::size_t i = 0; i < values.size(); ++i) {
      INFO(tensor_type_name(type) << " element " << i);
      REQUIRE(double{values[i]} == Approx(data.values[i]).epsilon(1e-6).margin(1e-6));
    }
    CHECK(file.dequantise(*file.tensor("w"), {values.data(), 10}).code() == Errc::invalid_argument);
  }
}

TEST_CASE("blocks have the values that the format's own tools give them") {
  // Bytes 11, 48, 85 ..., with scale 1/16 and minimum 1/4; values by the ggml project's Python
  // tools.
  struct Block {
    std::uint32_t type;
    std::size_t bytes;
    std::vector<std::size_t> halves;
    double sum;
    std::vector<std::pair<std::size_t, float>> some;
  };
  const Block blocks[] = {
      {tiny::Q5_0, 22, {0}, 0.9375, {{0, 0.5625f}, {1, -0.125f}, {16, 0.875f}, {31, 0.0625f}}},
      {tiny::Q5_1, 24, {0, 2}, 39.5625, {{0, 1.4375f}, {1, 1.75f}, {15, 2.125f}, {31, 0.5625f}}},
      {tiny::Q4_K,
       144,
       {0, 2},
       1554.5,
       {{0, 8.5625f}, {32, -4.75f}, {127, -2.375f}, {160, 26.25f}, {200, 4.9375f}, {255, -4.625f}}},
      {tiny::Q5_K,
       176,
       {0, 2},
       5415.5,
       {{0, 39.5625f}, {32, 1.75f}, {127, -7.625f}, {160, 3.75f}, {191, 33.75f}, {255, -0.875f}}},
      {tiny::Q6_K,
       210,
       {208},
       288.25,
       {{0, -89.4375f},
        {16, -27.0f},
        {63, -36.25f},
        {64, -190.0f},
        {128, -21.9375f},
        {255, -3.75f}}},
  };
  for (const Block& block : blocks) {
    std::vector<std::byte> data(block.bytes);
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 37 + 11);
    for (std::size_t h = 0; h < block.halves.size(); ++h) {
      const std::uint16_t half = h == 0 ? 0x2c00 : 0x3400;  // 1/16, 1/4
      std::memcpy(&data[block.halves[h]], &half, 2);
    }
    const std::size_t n = block.bytes < 100 ? 32 : 256;
    Writer writer;
    writer.tensors.push_back({"w", {n}, block.type, data, 0});
    const GgufFile file = tiny::parse(writer.finish());
    std::vector<float> values(n);
    REQUIRE(file.dequantise(*file.tensor("w"), values).has_value());
    INFO(tensor_type_name(block.type));
    double sum = 0;
    for (const float v : values) sum += double{v};
    CHECK(sum == block.sum);
    for (const auto& [at, value] : block.some) CHECK(values[at] == value);
  }
}

TEST_CASE("a tensor longer than what is read at once is whole") {
  std::mt19937 random(8);
  for (const std::uint32_t type : {tiny::F32, tiny::Q5_0, tiny::Q6_K}) {
    const tiny::Encoded data = tiny::encode(type, 256 * 5000, random, 0.7);
    Writer writer;
    writer.string("a.long", std::string(3 << 20, 'x'));  // and so is the metadata
    writer.tensors.push_back({"w", {256, 5000}, type, data.bytes, 0});
    const tiny::TemporaryFile path(writer.finish());
    const GgufFile file = GgufFile::open(path.path()).value();
    // NOLINTNEXTLINE(performance-unnecessary-copy-initialization): a copy is what is tested
    const GgufFile copy = file;
    std::vector<float> values(256 * 5000);
    REQUIRE(copy.dequantise(*copy.tensor("w"), values).has_value());
    bool same = true;
    for (std::size_t i = 0; i < values.size(); ++i) {
      same = same &&
             std::abs(double{values[i]} - data.values[i]) <= 1e-6 * (1 + std::abs(data.values[i]));
    }
    CHECK(same);
    CHECK(copy.string("a.long").value().size() == 3 << 20);
    CHECK(copy.size() == std::filesystem::file_size(path.path()));
  }
}

TEST_CASE("tensors of other types can be listed, and are refused by name") {
  Writer writer = sample();
  writer.tensors.push_back({"q", {256}, tiny::Q3_K, of(110), 0});
  writer.tensors.push_back({"r", {256}, 99, of(64), 0});
  const GgufFile file = tiny::parse(writer.finish());
  std::vector<float> values(256);
  const Status q = file.dequantise(*file.tensor("q"), values);
  CHECK(q.code() == Errc::unsupported);
  CHECK(says(q.error().context, "Q3_K"));
  CHECK(says(q.error().context, "\"q\""));
  CHECK(says(file.dequantise(*file.tensor("r"), values).error().context, "type 99"));
}

TEST_CASE("a file cut short anywhere is refused") {
  const std::vector<std::byte> whole = sample().finish();
  REQUIRE(GgufFile::parse(whole, "whole").has_value());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    INFO("cut to " << size << " of " << whole.size());
    REQUIRE(!refusal(std::vector<std::byte>(whole.begin(),
                                            whole.begin() + static_cast<std::ptrdiff_t>(size)))
                 .empty());
  }
}

TEST_CASE("impossible contents are refused, saying what is wrong") {
  CHECK(says(refusal([](Writer& f) { f.magic = 0x12345678; }), "not a GGUF file"));
  CHECK(says(refusal([](Writer& f) { f.version = 1; }, Errc::unsupported), "version 1"));
  CHECK(says(refusal([](Writer& f) { f.version = 4; }, Errc::unsupported), "version 4"));
  CHECK(says(refusal([](Writer& f) { f.version = 0x03000000; }, Errc::unsupported), "big-endian"));
  CHECK(says(refusal([](Writer& f) { f.extra_tensors = std::int64_t{1} << 62; }),
             "tensors, more than"));
  CHECK(says(refusal([](Writer& f) { f.extra_values = -1000; }), "metadata entries, more than"));
  CHECK(says(refusal([](Writer& f) { f.extra_values = 1; }), ""));
  CHECK(says(refusal([](Writer& f) { f.u32("a.u8", 1); }), "\"a.u8\" is there twice"));
  CHECK(says(refusal([](Writer& f) { f.bytes("b", 13, {0, 0, 0, 0}); }), "unknown type 13"));
  CHECK(says(refusal([](Writer& f) {
               f.bytes("b", 8, {255, 255, 255, 255, 255, 255, 255, 255});
             }),
             "cut short in metadata value \"b\""));
  CHECK(says(refusal([](Writer& f) {
               f.bytes("b", 9, {10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20});
             }),
             "cut short in metadata value \"b\""));  // 2^61 elements of 8 bytes
  CHECK(says(refusal(
                 [](Writer& f) {
                   f.bytes("b", 9, {9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0});
                 },
                 Errc::unsupported),
             "array of arrays"));
  CHECK(says(refusal([](Writer& f) { f.u32("general.alignment", 48); }), "general.alignment 48"));
  CHECK(says(refusal([](Writer& f) { f.u32("general.alignment", 1); }), "general.alignment 1"));

  CHECK(says(refusal([](Writer& f) { f.tensor("x").shape = {4, 0}; }), "impossible shape"));
  CHECK(says(refusal([](Writer& f) {
               f.tensor("x").shape = {std::uint64_t{1} << 63, 2};
             }),
             "impossible shape"));
  CHECK(says(refusal([](Writer& f) {
               f.tensor("x").shape = {1u << 31, 1u << 31, 1u << 31};
             }),
             "impossible shape"));
  CHECK(says(refusal([](Writer& f) { f.tensor("x").shape = {}; }), "0 dimensions"));
  CHECK(says(refusal([](Writer& f) { f.tensor("x").shape = {1, 1, 1, 1, 1}; }), "5 dimensions"));
  CHECK(says(refusal([](Writer& f) { f.tensor("y").shape = {33}; }), "Q8_0 blocks"));
  CHECK(says(refusal([](Writer& f) { f.tensor("y").name = "x"; }), "\"x\" is there twice"));
  CHECK(says(refusal([](Writer& f) { f.tensor("x").shift = 4; }), "not aligned"));
  CHECK(says(refusal([](Writer& f) { f.tensor("y").shift = 32; }), "past the end"));
  CHECK(says(refusal([](Writer& f) { f.tensor("y").shift = -64; }), "past the end"));  // wraps
  CHECK(says(refusal([](Writer& f) { f.tensor("y").shift = -32; }), "overlap"));
  CHECK(says(refusal([](Writer& f) { f.tensor("y").shape = {3200}; }), "past the end"));
}

TEST_CASE("another alignment is obeyed") {
  Writer writer = sample();
  writer.alignment = 128;
  writer.u32("general.alignment", 128);
  const GgufFile file = tiny::parse(writer.finish());
  CHECK(file.tensor("x")->offset % 128 == 0);
  CHECK(file.tensor("y")->offset == file.tensor("x")->offset + 128);
}

TEST_CASE("a damaged byte never leads the parser astray") {
  const std::vector<std::byte> whole = sample().finish();
  std::size_t parsed = 0;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const unsigned mask : {0x01u, 0x80u, 0xffu}) {
      std::vector<std::byte> bytes = whole;
      bytes[at] ^= static_cast<std::byte>(mask);
      const auto file = GgufFile::parse(bytes, "bad.gguf");
      if (!file) {
        REQUIRE(!file.error().context.empty());
        continue;
      }
      ++parsed;
      for (const GgufTensor& tensor : file->tensors()) {
        std::vector<float> values(tensor.elements);
        REQUIRE(file->dequantise(tensor, values).has_value() == tensor_type_supported(tensor.type));
      }
    }
  }
  CHECK(parsed > 0);  // a changed value or a longer name of a key is no error
}

TEST_CASE("files that cannot be opened are refused, naming them") {
  const auto missing = GgufFile::open("/nowhere/model.gguf");
  REQUIRE(!missing.has_value());
  CHECK(missing.error().code == Errc::not_found);
  CHECK(says(missing.error().context, "/nowhere/model.gguf"));
  CHECK(GgufFile::open(std::filesystem::temp_directory_path()).error().code ==
        Errc::invalid_argument);

  const tiny::TemporaryFile empty({});
  CHECK(says(GgufFile::open(empty.path()).error().context, "empty"));
  const tiny::TemporaryFile noise(of(100));
  CHECK(says(GgufFile::open(noise.path()).error().context, "not a GGUF file"));

  const tiny::TemporaryFile good(sample().finish());
  auto file = GgufFile::open(good.path());
  REQUIRE(file.has_value());
  const GgufFile moved = *std::move(file);
  CHECK(moved.string("a.text").value() == "eggs, flour");
  CHECK(moved.name() == good.path().string());
}

TEST_CASE("names out of a file cannot spoil a message") {
  CHECK(printable("plain") == "plain");
  CHECK(printable("a\x1b[2J\n\xff") == "a\\x1b[2J\\x0a\\xff");
  CHECK(printable(std::string(1000, 'x')) == std::string(100, 'x') + "...");
  const std::string text = refusal([](Writer& f) { f.tensor("y").name = "x"; });
  CHECK(text.size() < 200);
  const std::string long_name =
      refusal([](Writer& f) { f.tensor("x").name = f.tensor("y").name = std::string(4000, '\n'); });
  CHECK(long_name.size() < 700);
  CHECK(long_name.find('\n') == std::string::npos);
}

TEST_CASE("what is no regular file is refused at once") {
  const auto pipe = std::filesystem::temp_directory_path() /
                    ("cake_pipe_" + std::to_string(::getpid()) + ".gguf");
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(says(GgufFile::open(pipe).error().context, "not a regular file"));
  std::filesystem::remove(pipe);
  CHECK(says(GgufFile::open(std::filesystem::temp_directory_path()).error().context, "directory"));
}
