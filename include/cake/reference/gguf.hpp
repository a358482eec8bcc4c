// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// GGUF files: metadata by key, tensors by name, quantised tensors turned into fp32. Every count,
// length and offset of the file is checked before it is used. The file is read, not mapped, so that
// a damaged or hostile file, or one that is truncated meanwhile, gives an error.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "cake/export.hpp"
#include "cake/identity.hpp"
#include "cake/result.hpp"

namespace cake::inline CAKE_ABI::reference {

/// Types of metadata values, by their number in the file.
enum class GgufType : std::uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};

/// "u32", "string" and so on.
CAKE_API std::string_view to_string(GgufType type);

/// "F32", "Q4_1", "Q6_K" and so on, by the number in the file, supported or not; "type 99" when no
/// such number is known.
CAKE_API std::string tensor_type_name(std::uint32_t type);

/// True for what dequantise() takes: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, and of the types
/// with blocks of 256 Q4_K, Q5_K and Q6_K.
CAKE_API bool tensor_type_supported(std::uint32_t type);
/// Their names, for messages.
CAKE_API std::string supported_tensor_types();

/// A name or value of a file, for a message: bytes that are no printable ASCII as \xNN, and only
/// the beginning of a long text.
CAKE_API std::string printable(std::string_view text);

/// One tensor's entry.
///
/// Shape:   shape[0] is the innermost dimension (a row's length), as the file has it
struct GgufTensor {
  std::string name;
  std::uint32_t n_dims = 0;
  std::array<std::uint64_t, 4> shape{1, 1, 1, 1};
  std::uint32_t type = 0;
  std::uint64_t elements = 0;
  std::uint64_t offset = 0;  // from the start of the file; 0 where the type is not supported
  std::uint64_t bytes = 0;   // 0 where the type is not supported: its size is not known
};

/// An opened GGUF file, versions 2 and 3, little-endian.
///
/// Views that its members return stay valid as long as the object, also after it was moved.
///
/// Thread:  const members: Safe for concurrent use
/// Source:  the GGUF specification of the ggml project (docs/gguf.md)
class CAKE_API GgufFile {
 public:
  /// Opens the file, reads its metadata and keeps it open; tensors are read when they are asked
  /// for.
  ///
  /// Errors:  not_found, io, out_of_memory; corrupt (not a GGUF file, damaged or cut short);
  ///          unsupported (version, byte order). The context names the file and what was wrong
  static Result<GgufFile> open(const std::filesystem::path& path);
  /// Parses bytes that the caller keeps alive; `name` stands in errors.
  static Result<GgufFile> parse(std::span<const std::byte> bytes, std::string name);

  const std::string& name() const { return name_; }
  std::uint32_t version() const { return version_; }
  /// Of the whole file, in bytes.
  std::uint64_t size() const { return size_; }
  /// SHA-256 of the whole file, read now.
  ///
  /// Errors:  io; corrupt (the file was cut short after it was opened)
  Result<Sha256Digest> digest() const;
  /// Whether the file still has the size and the time of the last change that it had when it was
  /// opened. Always ok for parsed bytes.
  ///
  /// Errors:  io; corrupt (somebody has changed it)
  Status unchanged() const;

  bool has(std::string_view key) const { return values_.contains(std::string(key)); }
  bool is_array(std::string_view key) const;
  /// All keys that begin so, in alphabetical order.
  std::vector<std::string> keys(std::string_view prefix) const;
  /// A value by key. Integers of any width convert where the value fits; a float does not become an
  /// integer.
  ///
  /// Errors:  not_found when the key is absent, invalid_argument when it is of another type or out
  ///          of range
  Result<std::uint64_t> integer(std::string_view key) const;
  Result<double> number(std::string_view key) const;
  Result<bool> boolean(std::string_view key) const;
  Result<std::string_view> string(std::string_view key) const;
  Result<std::vector<std::string_view>> strings(std::string_view key) const;
  Result<std::vector<std::int64_t>> integers(std::string_view key) const;
  Result<std::vector<double>> numbers(std::string_view key) const;

  std::span<const GgufTensor> tensors() const { return tensors_; }
  /// Null when there is none of that name.
  const GgufTensor* tensor(std::string_view name) const;
  /// Writes all elements of a tensor as fp32.
  ///
  /// Errors:  unsupported, naming the type; invalid_argument when out.size() is not
  ///          tensor.elements; io; corrupt (the file was cut short after it was opened)
  Status dequantise(const GgufTensor& tensor, std::span<float> out) const;

 private:
  struct Value {
    GgufType type = GgufType::u8;  // of the value, or of an array's elements
    bool is_array = false;         //
    std::uint64_t count = 1;       // elements
    std::uint64_t offset = 0;      // of the first element, from the start of the file
  };
  class Parser;
  struct OpenFile;

  GgufFile() = default;
  Error error(Errc code, std::string what) const;
  static Result<GgufFile> parsed(GgufFile file);
  /// Bytes of the file from `offset` on, whether they are in memory or not.
  Status read(std::uint64_t offset, std::span<std::byte> out) const;
  Result<const Value*> scalar(std::string_view key) const;
  Result<const Value*> array(std::string_view key) const;
  Result<std::int64_t> integer_at(std::string_view key, const Value& value,
                                  std::uint64_t index) const;
  Result<double> number_at(std::string_view key, const Value& value, std::uint64_t index) const;

  std::string name_;
  std::uint32_t version_ = 0;
  std::shared_ptr<const OpenFile> file_;          // null: bytes_ is everything
  std::shared_ptr<std::vector<std::byte>> head_;  // what was read of an open file: the metadata
  std::span<const std::byte> bytes_;              // that, or what the caller keeps alive
  std::uint64_t size_ = 0;
  std::unordered_map<std::string, Value> values_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string, std::size_t> tensor_index_;
};

}  // namespace cake::inline CAKE_ABI::reference
