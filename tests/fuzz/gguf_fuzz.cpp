// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Fuzzing of the GGUF reader and of everything that trusts it. Run by libFuzzer (CAKE_BUILD_FUZZERS
// with clang), and for a while with seeded mutations by tests/llama/gguf_fuzz_test.cpp.
//
// Input: one byte of mode, then a file; with mode bit 0 the input is xored over the file of a tiny
// model, so that most of it is right.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cake/llama/weights.hpp"
#include "tests/llama/tiny_model.hpp"

namespace {

using namespace cake;
using namespace cake::llama;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

const std::vector<std::byte>& good_file() {
  static const std::vector<std::byte> file = [] {
    tiny::Shape shape;
    shape.layers = 1;
    shape.heads = 2;
    shape.kv_heads = 1;
    shape.embd = shape.ff = shape.vocab = 32;
    shape.type = tiny::Q4_1;
    tiny::Model model = tiny::make(shape);
    model.file.strings("tokenizer.ggml.tokens", {"a", "b", "ab"});
    model.file.array("tokenizer.ggml.token_type", 5, std::vector<std::int32_t>{1, 1, 1});
    return model.file.finish();
  }();
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const bool over_good = (data[0] & 1) != 0;
  ++data;
  --size;
  // Exactly as long as the input, so that a sanitizer sees a read beyond it.
  const std::size_t file_size = over_good ? good_file().size() : size;
  const std::unique_ptr<std::byte[]> bytes(new std::byte[file_size]);
  for (std::size_t i = 0; i < file_size; ++i) {
    bytes[i] = over_good ? good_file()[i] : std::byte{};
    if (i < size) bytes[i] ^= static_cast<std::byte>(data[i]);
  }
  const auto file = GgufFile::parse({bytes.get(), file_size}, "fuzz");
  if (!file) {
    require(!file.error().context.empty(), "an error that says nothing");
    return 0;
  }

  std::size_t room = 0;
  for (const GgufTensor& tensor : file->tensors()) {
    if (!tensor_type_supported(tensor.type)) continue;
    require(tensor.offset <= file_size && tensor.bytes <= file_size - tensor.offset,
            "a tensor outside the file");
    std::vector<float> values(tensor.elements);
    require(file->dequantise(tensor, values).has_value(), "a supported tensor was refused");
    room += tensor.elements * sizeof(float);
  }
  for (const char* key : {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "general.name",
                          "llama.block_count", "llama.rope.freq_base"}) {
    if (const auto all = file->strings(key)) {
      for (const std::string_view text : *all) {
        require(text.size() <= file_size, "a string longer than the file");
        room += std::count(text.begin(), text.end(), 'a') < 0;  // reads every byte
      }
    }
    const auto integers = file->integers(key);
    const auto numbers = file->numbers(key);
    require(!integers || numbers.has_value(), "integers that are no numbers");
    const auto text = file->string(key);
    require(!text || text->size() <= file_size, "a string longer than the file");
  }
  if (const auto weights = Weights::load(*file)) {
    const Config& config = (*weights)->config();
    require(config.n_heads % config.n_kv_heads == 0, "impossible heads");
    require((*weights)->bytes() <= room + (std::size_t{1} << 16) * (config.n_layers + 1),
            "more room than the file's tensors take");
  }
  return 0;
}
