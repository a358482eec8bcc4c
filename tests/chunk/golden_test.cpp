// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The promise of compatibility: objects that earlier builds wrote are read, and read right.
#include "golden.hpp"

#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "catch.hpp"

namespace {

using namespace cake;

std::filesystem::path file_of(const std::string& name) {
  return std::filesystem::path(CAKE_GOLDEN_DIR) / (name + ".txt");
}

std::vector<std::byte> stored(const golden::Case& one) {
  std::ifstream in(file_of(one.name));
  REQUIRE(in.is_open());
  return golden::from_text(in);
}

std::uint32_t held_of(const golden::Case& one) {
  return one.held == 0 ? one.layout.n_layers : one.held;
}

TEST_CASE("the writer makes byte for byte what the golden files hold") {
  for (const golden::Case& one : golden::cases()) {
    INFO(one.name);
    CHECK(golden::write(one) == stored(one));
  }
}

TEST_CASE("each golden file belongs to a case, and its version is in its name") {
  std::set<std::string> known;
  for (const golden::Case& one : golden::cases()) {
    INFO(one.name);
    CHECK(known.insert(one.name).second);
    const auto object = stored(one);
    const std::string version = std::to_string(std::to_integer<int>(object[8])) + "." +
                                std::to_string(std::to_integer<int>(object[10]));
    CHECK(one.name.starts_with(version + "_"));
  }
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(CAKE_GOLDEN_DIR)) {
    INFO(entry.path());
    CHECK(known.contains(entry.path().stem().string()));
    ++files;
  }
  CHECK(files == known.size());
}

TEST_CASE("the reader hands out the KV of each golden file, in slices of any layers") {
  for (const golden::Case& one : golden::cases()) {
    INFO(one.name);
    const auto object = stored(one);
    const golden::Expected expected(one);
    const ChunkGeometry& geometry = expected.identity.geometry;
    const auto tables = parse_chunk(ConstBytes(object).first(geometry.head_bytes()), object.size(),
                                    expected.identity);
    REQUIRE(tables);
    REQUIRE(tables->held() == held_of(one));
    for (std::uint32_t begin = 0; begin < held_of(one); ++begin) {
      for (std::uint32_t end = begin + 1; end <= held_of(one); ++end) {
        const ByteRange range = geometry.read_range({begin, end});
        const ConstBytes bytes = ConstBytes(object).subspan(range.begin, range.size());
        std::vector<std::byte> plain(geometry.payload_bytes({begin, end}));
        const auto view = one.encrypted
                              ? open_slice(*tables, expected.identity, {begin, end}, bytes, plain)
                              : verify_slice(*tables, expected.identity, {begin, end}, bytes);
        REQUIRE(view);
        for (std::uint32_t position = begin; position < end; ++position) {
          const std::uint32_t layer = geometry.runs().layer_at(position);
          for (std::uint32_t p = 0; p < one.layout.kind(layer).planes.size(); ++p) {
            const ConstBytes plane = view->plane(layer, p);
            REQUIRE_FALSE(plane.empty());
            std::size_t wrong = 0;
            for (std::size_t i = 0; i < plane.size(); ++i) {
              wrong += plane[i] != golden::kv_byte(layer, p, i);
            }
            REQUIRE(wrong == 0);
          }
        }
      }
    }
    CHECK(verify_object(object, expected.identity.key));
    CHECK(peek_chunk(object)->held == held_of(one));
  }
}

TEST_CASE("a golden file with one changed byte of header or tables is refused") {
  for (const golden::Case& one : golden::cases()) {
    INFO(one.name);
    auto object = stored(one);
    const golden::Expected expected(one);
    const std::uint64_t head = expected.identity.geometry.head_bytes();
    std::size_t taken = 0;
    for (std::uint64_t at = 0; at < head; ++at) {
      object[at] ^= static_cast<std::byte>(1 + at % 255);
      taken +=
          parse_chunk(ConstBytes(object).first(head), object.size(), expected.identity).has_value();
      object[at] ^= static_cast<std::byte>(1 + at % 255);
    }
    CHECK(taken == 0);
    CHECK(parse_chunk(ConstBytes(object).first(head), object.size(), expected.identity));
  }
}

}  // namespace
