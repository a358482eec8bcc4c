// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Fuzzing of the GGUF reader and of everything that trusts it. Run by libFuzzer (CAKE_BUILD_FUZZERS
// with clang), and for a while with seeded mutations by tests/reference/gguf_fuzz_test.cpp.
//
// Input: one byte of mode, then a file. Bits of the mode:
//   1  the input is xored over a good file, so that most of it is right
//   2  ... over a file with one tensor of each type, and not over that of a tiny model
//   4  the file is opened as well, where it is read and not in memory; both must say the same
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "cake/reference/weights.hpp"
#include "tests/reference/tiny_model.hpp"

namespace {

using namespace cake;
using namespace cake::reference;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

/// What real files carry beside the model, each at a value that changes nothing.
void add_metadata(tiny::Writer& file) {
  file.strings("tokenizer.ggml.tokens", {"a", "b", "ab"});
  file.array("tokenizer.ggml.token_type", 5, std::vector<std::int32_t>{1, 1, 1});
  file.value("split.count", 2, std::uint16_t{1}).string("general.type", "model");
  file.u32("general.quantization_version", 2).u32("llama.vocab_size", 32);
  file.boolean("llama.attention.causal", true).u32("llama.expert_count", 0);
  file.f32("llama.logit_scale", 1).f32("llama.rope.scaling.factor", 2);
  file.u32("llama.attention.sliding_window", 512);
  file.array("llama.rope.dimension_sections", 5, std::vector<std::int32_t>{0, 0});
}

const std::vector<std::byte>& good_model() {
  static const std::vector<std::byte> file = [] {
    tiny::Shape shape;
    shape.layers = 1;
    shape.heads = 2;
    shape.kv_heads = 1;
    shape.embd = shape.ff = shape.vocab = 32;
    shape.type = tiny::Q4_1;
    tiny::Model model = tiny::make(shape);
    add_metadata(model.file);
    return model.file.finish();
  }();
  return file;
}

const std::vector<std::byte>& every_type() {
  static const std::vector<std::byte> file = [] {
    tiny::Writer writer;
    std::mt19937 random(5);
    for (const std::uint32_t type :
         {tiny::F32, tiny::F16, tiny::Q4_0, tiny::Q4_1, tiny::Q5_0, tiny::Q5_1, tiny::Q8_0,
          tiny::Q4_K, tiny::Q5_K, tiny::Q6_K, tiny::BF16}) {
      writer.tensors.push_back(
          {tensor_type_name(type), {256}, type, tiny::encode(type, 256, random, 1.0).bytes, 0});
    }
    writer.string("general.architecture", "llama");
    writer.array("llama.attention.head_count_kv", 5, std::vector<std::int32_t>{2, 2, 2});
    add_metadata(writer);
    return writer.finish();
  }();
  return file;
}

bool same(const float* a, const float* b, std::size_t n) {
  return std::memcmp(a, b, n * sizeof(float)) == 0;
}

/// A file of the same bytes says the same.
void compare_with_file(const std::byte* bytes, std::size_t size, const Result<GgufFile>& parsed) {
  const int fd = ::memfd_create("gguf_fuzz", MFD_CLOEXEC);
  require(fd >= 0 && ::write(fd, bytes, size) == static_cast<ssize_t>(size), "no memory file");
  const auto opened = GgufFile::open("/proc/self/fd/" + std::to_string(fd));
  ::close(fd);
  require(opened.has_value() == parsed.has_value(), "a file that is read and one in memory differ");
  if (!opened) {
    require(size == 0 || opened.error().code == parsed.error().code, "errors differ");
    return;
  }
  require(opened->digest().value() == parsed->digest().value(), "digests differ");
  require(opened->keys("") == parsed->keys(""), "keys differ");
  for (std::size_t i = 0; i < parsed->tensors().size(); ++i) {
    const GgufTensor& tensor = parsed->tensors()[i];
    if (!tensor_type_supported(tensor.type)) continue;
    std::vector<float> a(tensor.elements);
    std::vector<float> b(tensor.elements);
    require(parsed->dequantise(tensor, a).has_value(), "a supported tensor was refused");
    require(opened->dequantise(opened->tensors()[i], b).has_value(), "a tensor could not be read");
    require(same(a.data(), b.data(), a.size()), "values differ");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const bool over_good = (data[0] & 1) != 0;
  const bool also_as_file = (data[0] & 4) != 0;
  const std::vector<std::byte>& good = (data[0] & 2) != 0 ? every_type() : good_model();
  ++data;
  --size;
  // Exactly as long as the input, so that a sanitizer sees a read beyond it.
  const std::size_t file_size = over_good ? good.size() : size;
  const std::unique_ptr<std::byte[]> bytes(new std::byte[file_size]);
  for (std::size_t i = 0; i < file_size; ++i) {
    bytes[i] = over_good ? good[i] : std::byte{};
    if (i < size) bytes[i] ^= static_cast<std::byte>(data[i]);
  }
  const auto file = GgufFile::parse({bytes.get(), file_size}, "fuzz");
  if (also_as_file && file_size > 0) compare_with_file(bytes.get(), file_size, file);
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
  const auto config = read_config(*file);
  require(config.has_value() || !config.error().context.empty(), "an error that says nothing");
  if (const auto weights = Weights::load(*file)) {
    require(config.has_value(), "weights without a configuration");
    const Config& c = (*weights)->config();
    require(c.n_heads % c.n_kv_heads == 0, "impossible heads");
    require((*weights)->bytes() <= room + (std::size_t{1} << 16) * (c.n_layers + 1),
            "more room than the file's tensors take");
  }
  return 0;
}
