// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Fuzzing of the object parser. Run by libFuzzer (CAKE_BUILD_FUZZERS with clang), and for a while
// with seeded mutations by tests/chunk/fuzz_test.cpp.
//
// Input: one byte of mode, then what the head of an object shall be. Mode bit 0: digests are made
// right first, so that the checks behind them are reached. Bit 1: the input is xored over a good
// head, so that most of it is right. Bit 2: an encrypted object is expected, of which nothing can be made
// right by who has no key.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "tests/chunk/reseal.hpp"
#include "tests/chunk/sample.hpp"

namespace {

using namespace cake;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

/// The head with the rest of the good object behind it. Where its own tables say that it is whole, and
/// they are the expected ones, every slice of it is good: the seal of an object stands for that.
void verify_whole(ConstBytes head, const sample::Chunk& good, bool parsed) {
  const std::size_t size =
      head.size() + (good.object.size() - std::min(good.object.size(), head.size()));
  const std::unique_ptr<std::byte[]> memory(new std::byte[size]);
  if (!head.empty()) std::memcpy(memory.get(), head.data(), head.size());
  if (size > head.size()) {
    std::memcpy(memory.get() + head.size(), good.object.data() + head.size(), size - head.size());
  }
  const std::span object(memory.get(), size);
  if (size >= 2 * sizeof(wire::Footer)) sample::reseal_footer(object);
  const auto seal = verify_object(object, good.identity.key);
  if (seal && parsed) require(sample::check(object, good.identity).has_value(), "a seal of damage");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const sample::Chunk plain = sample::make(1, {3, 2, 16, DType::bf16}, 32, 1);
  static const sample::Chunk sealed = sample::make_of(1, UniformKvLayout{3, 2, 16, DType::bf16}, 32,
                                                      1, "tenant", "model", sample::keys_of({1}));
  if (size == 0) return 0;
  const unsigned mode = *data++;
  --size;
  const sample::Chunk& good = (mode & 4) != 0 ? sealed : plain;
  const ChunkGeometry& geometry = good.geometry();

  // Exactly as long as the input, so that a sanitizer sees a read beyond it.
  const std::size_t head_size = (mode & 2) != 0 ? good.head().size() : size;
  const std::unique_ptr<std::byte[]> head(new std::byte[head_size]);
  const std::span bytes(head.get(), head_size);
  if ((mode & 2) != 0) {
    std::memcpy(head.get(), good.object.data(), head_size);
    for (std::size_t i = 0; i < size && i < head_size; ++i) {
      head[i] ^= static_cast<std::byte>(data[i]);
    }
  } else if (size != 0) {
    std::memcpy(head.get(), data, size);
  }
  if ((mode & 1) != 0) sample::reseal_head(bytes);

  if (const auto summary = peek_chunk(bytes); summary) {
    require(head_size >= 4096, "a summary of less than a header");
  }
  const auto tables = parse_chunk(bytes, good.object.size(), good.identity);
  verify_whole(bytes, good, tables.has_value());
  if (!tables) return 0;
  require(tables->parsed(), "success without tables");
  require(tables->geometry() == geometry, "a geometry that was not expected");
  const std::size_t at = geometry.tokens_offset();
  require(std::memcmp(head.get() + at, good.object.data() + at, 4 * good.tokens.size()) == 0,
          "other tokens were taken");
  const bool same = std::memcmp(head.get(), good.object.data(), geometry.head_bytes()) == 0;
  require(same || (mode & 5) == 1, "damage was taken");

  // Whatever the tables say now, verifying must end in an answer, and the right one.
  for (std::uint32_t layer = 0; layer < 3; ++layer) {
    const ByteRange range = geometry.read_range({layer, layer + 1});
    const ConstBytes slice = good.bytes().subspan(range.begin, range.size());
    std::vector<std::byte> out(geometry.payload_bytes({layer, layer + 1}));
    const auto view = geometry.encrypted()
                          ? open_slice(*tables, good.identity, {layer, layer + 1}, slice, out)
                          : verify_slice(*tables, good.identity, {layer, layer + 1}, slice);
    require(view.has_value() || !same, "a good slice was refused");
  }
  return 0;
}
