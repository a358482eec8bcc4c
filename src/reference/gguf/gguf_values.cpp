// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Typed access to what the parser has already checked.
#include <algorithm>
#include <cstring>
#include <limits>

#include "cake/reference/gguf.hpp"
#include "gguf_types.hpp"

namespace cake::inline CAKE_ABI::reference {
namespace {

template <class T>
T load(std::span<const std::byte> bytes, std::uint64_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

}  // namespace

const GgufTensor* GgufFile::tensor(std::string_view name) const {
  const auto found = tensor_index_.find(std::string(name));
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

bool GgufFile::is_array(std::string_view key) const {
  const auto found = values_.find(std::string(key));
  return found != values_.end() && found->second.is_array;
}

std::vector<std::string> GgufFile::keys(std::string_view prefix) const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : values_) {
    if (key.starts_with(prefix)) keys.push_back(key);
  }
  std::sort(keys.begin(), keys.end());
  return keys;
}

Result<const GgufFile::Value*> GgufFile::scalar(std::string_view key) const {
  const auto found = values_.find(std::string(key));
  if (found == values_.end()) {
    return error(Errc::not_found, "metadata \"" + printable(key) + "\" is missing");
  }
  if (found->second.is_array) {
    return error(Errc::invalid_argument, "metadata \"" + printable(key) + "\" is an array");
  }
  return &found->second;
}

Result<const GgufFile::Value*> GgufFile::array(std::string_view key) const {
  const auto found = values_.find(std::string(key));
  if (found == values_.end()) {
    return error(Errc::not_found, "metadata \"" + printable(key) + "\" is missing");
  }
  if (!found->second.is_array) {
    return error(Errc::invalid_argument, "metadata \"" + printable(key) + "\" is no array");
  }
  return &found->second;
}

Result<std::int64_t> GgufFile::integer_at(std::string_view key, const Value& value,
                                          std::uint64_t index) const {
  const std::uint64_t at = value.offset + index * width_of(value.type);
  switch (value.type) {
    case GgufType::u8:
    case GgufType::boolean:
      return std::int64_t{load<std::uint8_t>(bytes_, at)};
    case GgufType::i8:
      return std::int64_t{load<std::int8_t>(bytes_, at)};
    case GgufType::u16:
      return std::int64_t{load<std::uint16_t>(bytes_, at)};
    case GgufType::i16:
      return std::int64_t{load<std::int16_t>(bytes_, at)};
    case GgufType::u32:
      return std::int64_t{load<std::uint32_t>(bytes_, at)};
    case GgufType::i32:
      return std::int64_t{load<std::int32_t>(bytes_, at)};
    case GgufType::i64:
      return load<std::int64_t>(bytes_, at);
    case GgufType::u64: {
      const auto wide = load<std::uint64_t>(bytes_, at);
      if (wide <= std::uint64_t{std::numeric_limits<std::int64_t>::max()}) {
        return static_cast<std::int64_t>(wide);
      }
      return error(Errc::invalid_argument, "metadata \"" + printable(key) + "\" is out of range");
    }
    default:
      return error(Errc::invalid_argument, "metadata \"" + printable(key) + "\" is a " +
                                               std::string(to_string(value.type)) +
                                               ", not an integer");
  }
}

Result<double> GgufFile::number_at(std::string_view key, const Value& value,
                                   std::uint64_t index) const {
  const std::uint64_t at = value.offset + index * width_of(value.type);
  if (value.type == GgufType::f32) return double{load<float>(bytes_, at)};
  if (value.type == GgufType::f64) return load<double>(bytes_, at);
  const auto whole = integer_at(key, value, index);
  if (!whole) return whole.error();
  return static_cast<double>(*whole);
}

Result<std::uint64_t> GgufFile::integer(std::string_view key) const {
  const auto value = scalar(key);
  if (!value) return value.error();
  const auto number = integer_at(key, **value, 0);
  if (!number) return number.error();
  if (*number < 0) {
    return error(Errc::invalid_argument, "metadata \"" + printable(key) + "\" is negative");
  }
  return static_cast<std::uint64_t>(*number);
}

Result<double> GgufFile::number(std::string_view key) const {
  const auto value = scalar(key);
  if (!value) return value.error();
  return number_at(key, **value, 0);
}

Result<bool> GgufFile::boolean(std::string_view key) const {
  const auto value = integer(key);
  if (!value) return value.error();
  return *value != 0;
}

Result<std::string_view> GgufFile::string(std::string_view key) const {
  const auto value = scalar(key);
  if (!value) return value.error();
  if ((*value)->type != GgufType::string) {
    return error(Errc::invalid_argument, "metadata \"" + printable(key) + "\" is no string");
  }
  const auto size = load<std::uint64_t>(bytes_, (*value)->offset);
  return std::string_view(reinterpret_cast<const char*>(bytes_.data()) + (*value)->offset + 8,
                          size);
}

Result<std::vector<std::string_view>> GgufFile::strings(std::string_view key) const {
  const auto value = array(key);
  if (!value) return value.error();
  if ((*value)->type != GgufType::string) {
    return error(Errc::invalid_argument, "metadata \"" + printable(key) + "\" holds no strings");
  }
  std::vector<std::string_view> strings;
  strings.reserve((*value)->count);
  std::uint64_t at = (*value)->offset;  // lengths were checked when the file was parsed
  for (std::uint64_t i = 0; i < (*value)->count; ++i) {
    const auto size = load<std::uint64_t>(bytes_, at);
    strings.emplace_back(reinterpret_cast<const char*>(bytes_.data()) + at + 8, size);
    at += 8 + size;
  }
  return strings;
}

Result<std::vector<std::int64_t>> GgufFile::integers(std::string_view key) const {
  const auto value = array(key);
  if (!value) return value.error();
  std::vector<std::int64_t> integers;
  for (std::uint64_t i = 0; i < (*value)->count; ++i) {
    const auto number = integer_at(key, **value, i);
    if (!number) return number.error();
    integers.push_back(*number);
  }
  return integers;
}

Result<std::vector<double>> GgufFile::numbers(std::string_view key) const {
  const auto value = array(key);
  if (!value) return value.error();
  std::vector<double> numbers;
  for (std::uint64_t i = 0; i < (*value)->count; ++i) {
    const auto number = number_at(key, **value, i);
    if (!number) return number.error();
    numbers.push_back(*number);
  }
  return numbers;
}

}  // namespace cake::inline CAKE_ABI::reference
