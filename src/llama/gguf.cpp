// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/llama/gguf.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "gguf_types.hpp"

namespace cake::llama {

static_assert(std::endian::native == std::endian::little, "GGUF is read in place");

namespace {

constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr std::uint64_t kMaxAlignment = 1 << 20;
constexpr std::uint64_t kMaxNameBytes = 4096;

template <class T>
T load(std::span<const std::byte> bytes, std::uint64_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

struct Mapping {
  void* address = nullptr;
  std::size_t size = 0;
  Mapping(void* a, std::size_t s) : address(a), size(s) {}
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { ::munmap(address, size); }
};

struct Descriptor {
  int fd;
  explicit Descriptor(int f) : fd(f) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

std::string_view to_string(GgufType type) {
  static constexpr std::string_view names[] = {"u8",  "i8",  "u16",  "i16",    "u32",
                                               "i32", "f32", "bool", "string", "array",
                                               "u64", "i64", "f64"};
  const auto index = static_cast<std::size_t>(type);
  return index < std::size(names) ? names[index] : "unknown type";
}

/// Walks the file once, front to back. Any check that fails throws Error, which stays inside
/// parse().
class GgufFile::Parser {
 public:
  explicit Parser(GgufFile& file) : file_(file), bytes_(file.bytes_) {}

  void run() {
    if (bytes_.size() < 4 || take<std::uint32_t>("magic") != kMagic) {
      fail("not a GGUF file (it does not start with \"GGUF\")");
    }
    file_.version_ = take<std::uint32_t>("version");
    if (file_.version_ == 0x02000000 || file_.version_ == 0x03000000) {
      fail("big-endian GGUF is not supported", Errc::unsupported);
    }
    if (file_.version_ != 2 && file_.version_ != 3) {
      fail("GGUF version " + std::to_string(file_.version_) +
               " is not supported; versions 2 and 3 are",
           Errc::unsupported);
    }
    const auto n_tensors = take<std::uint64_t>("tensor count");
    const auto n_values = take<std::uint64_t>("metadata count");
    // The smallest entries: key length, type, one byte; name length, dims, one dim, type, offset.
    check_count(n_values, 13, "metadata entries");
    check_count(n_tensors, 32, "tensors");
    for (std::uint64_t i = 0; i < n_values; ++i) read_value();
    for (std::uint64_t i = 0; i < n_tensors; ++i) read_tensor();
    place_tensors();
  }

 private:
  [[noreturn]] void fail(std::string what, Errc code = Errc::corrupt) const {
    throw file_.error(code, std::move(what));
  }
  std::uint64_t left() const { return bytes_.size() - position_; }

  template <class T>
  T take(std::string_view what) {
    if (left() < sizeof(T)) fail("cut short in the " + std::string(what));
    const T value = load<T>(bytes_, position_);
    position_ += sizeof(T);
    return value;
  }
  void skip(std::uint64_t count, std::uint64_t width, const std::string& what) {
    if (width != 0 && count > left() / width) fail("cut short in " + what);
    position_ += count * width;
  }
  void check_count(std::uint64_t count, std::uint64_t smallest, std::string_view what) const {
    if (count > left() / smallest) {
      fail("claims " + std::to_string(count) + " " + std::string(what) +
           ", more than the file can hold");
    }
  }
  std::string take_name(std::string_view what) {
    const auto size = take<std::uint64_t>(what);
    if (size > kMaxNameBytes || size > left()) {
      fail("a " + std::string(what) + " claims a length of " + std::to_string(size) + " bytes");
    }
    std::string name(reinterpret_cast<const char*>(bytes_.data() + position_), size);
    position_ += size;
    return name;
  }

  void read_value() {
    const std::string key = take_name("metadata key");
    const std::string what = "metadata value \"" + key + "\"";
    Value value;
    value.type = take_type(what);
    if (value.type == GgufType::array) {
      value.is_array = true;
      value.type = take_type(what);
      value.count = take<std::uint64_t>(what);
      if (value.type == GgufType::array) {
        fail(what + " is an array of arrays, which is not supported", Errc::unsupported);
      }
    }
    value.offset = position_;
    if (value.type == GgufType::string) {
      for (std::uint64_t i = 0; i < value.count; ++i) skip(take<std::uint64_t>(what), 1, what);
    } else {
      skip(value.count, width_of(value.type), what);
    }
    if (!file_.values_.emplace(key, value).second) fail(what + " stands there twice");
  }

  GgufType take_type(const std::string& what) {
    const auto type = take<std::uint32_t>(what);
    if (type > static_cast<std::uint32_t>(GgufType::f64)) {
      fail(what + " has the unknown type " + std::to_string(type));
    }
    return static_cast<GgufType>(type);
  }

  void read_tensor() {
    GgufTensor tensor;
    tensor.name = take_name("tensor name");
    const std::string what = "tensor \"" + tensor.name + "\"";
    tensor.n_dims = take<std::uint32_t>(what);
    if (tensor.n_dims < 1 || tensor.n_dims > 4) {
      fail(what + " has " + std::to_string(tensor.n_dims) + " dimensions");
    }
    tensor.elements = 1;
    for (std::uint32_t d = 0; d < tensor.n_dims; ++d) {
      const auto size = take<std::uint64_t>(what);
      // 2^40 elements: far more than any file holds, and far from any overflow below.
      if (size == 0 || size > (std::uint64_t{1} << 40) / tensor.elements) {
        fail(what + " has an impossible shape");
      }
      tensor.shape[d] = size;
      tensor.elements *= size;
    }
    tensor.type = take<std::uint32_t>(what);
    tensor.offset = take<std::uint64_t>(what);
    if (const auto* info = find_tensor_type(tensor.type);
        info != nullptr && info->block_bytes != 0) {
      if (tensor.shape[0] % info->block_elements != 0) {
        fail(what + " has rows that are no whole number of " + tensor_type_name(tensor.type) +
             " blocks");
      }
      tensor.bytes = tensor.elements / info->block_elements * info->block_bytes;
    }
    if (!file_.tensor_index_.emplace(tensor.name, file_.tensors_.size()).second) {
      fail(what + " stands there twice");
    }
    file_.tensors_.push_back(std::move(tensor));
  }

  /// Turns offsets in the data part into offsets in the file, and checks that all lies inside it.
  void place_tensors() {
    std::uint64_t alignment = 32;
    if (file_.has("general.alignment")) {
      const auto given = file_.integer("general.alignment");
      if (!given) throw Error(given.error());
      alignment = *given;
      if (alignment < 8 || alignment > kMaxAlignment || !std::has_single_bit(alignment)) {
        fail("impossible general.alignment " + std::to_string(alignment));
      }
    }
    const std::uint64_t data = (position_ + alignment - 1) / alignment * alignment;
    std::vector<const GgufTensor*> order;
    for (GgufTensor& tensor : file_.tensors_) {
      const std::string what = "tensor \"" + tensor.name + "\"";
      if (tensor.offset % alignment != 0) fail(what + " is not aligned");
      const std::uint64_t room = data < bytes_.size() ? bytes_.size() - data : 0;
      if (tensor.offset > room || tensor.bytes > room - tensor.offset) {
        fail(what + " lies past the end of the file, which was cut short or damaged");
      }
      tensor.offset += data;
      if (tensor.bytes != 0) {
        order.push_back(&tensor);
      } else {
        tensor.offset = 0;
      }
    }
    std::sort(order.begin(), order.end(),
              [](const auto* a, const auto* b) { return a->offset < b->offset; });
    for (std::size_t i = 1; i < order.size(); ++i) {
      if (order[i]->offset - order[i - 1]->offset < order[i - 1]->bytes) {
        fail("tensors \"" + order[i - 1]->name + "\" and \"" + order[i]->name + "\" overlap");
      }
    }
  }

  GgufFile& file_;
  std::span<const std::byte> bytes_;
  std::uint64_t position_ = 0;
};

Result<GgufFile> GgufFile::parse(std::span<const std::byte> bytes, std::string name) {
  GgufFile file;
  file.name_ = std::move(name);
  file.bytes_ = bytes;
  try {
    Parser(file).run();
  } catch (Error& error) {
    return std::move(error);
  }
  return file;
}

Result<GgufFile> GgufFile::open(const std::filesystem::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.fd < 0) return errno_error(errno, "open " + path.string());
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) return errno_error(errno, "stat " + path.string());
  if (!S_ISREG(info.st_mode)) {
    return Error{Errc::invalid_argument, 0, path.string() + ": not a regular file"};
  }
  if (info.st_size == 0) return Error{Errc::corrupt, 0, path.string() + ": the file is empty"};
  const auto size = static_cast<std::size_t>(info.st_size);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (address == MAP_FAILED) return errno_error(errno, "map " + path.string());
  auto mapping = std::make_shared<const Mapping>(address, size);
  auto result = parse({static_cast<const std::byte*>(address), size}, path.string());
  if (result) result->mapping_ = std::move(mapping);
  return result;
}

Error GgufFile::error(Errc code, std::string what) const {
  return Error{code, 0, name_ + ": " + std::move(what)};
}

}  // namespace cake::llama
