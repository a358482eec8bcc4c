// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/reference/gguf.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <utility>

#include "gguf_types.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::reference {

static_assert(std::endian::native == std::endian::little, "GGUF is read in place");

namespace {

constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr std::uint64_t kMaxAlignment = 1 << 20;
constexpr std::uint64_t kMaxNameBytes = 4096;
constexpr std::uint64_t kMaxHeadBytes = std::uint64_t{512} << 20;  // of metadata; real ones: 20 MB
constexpr std::size_t kReadBytes = std::size_t{1} << 20;           // of a file at a time

template <class T>
T load(std::span<const std::byte> bytes, std::uint64_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

}  // namespace

std::string_view to_string(GgufType type) {
  static constexpr std::string_view names[] = {"u8",  "i8",  "u16",  "i16",    "u32",
                                               "i32", "f32", "bool", "string", "array",
                                               "u64", "i64", "f64"};
  const auto index = static_cast<std::size_t>(type);
  return index < std::size(names) ? names[index] : "unknown type";
}

std::string printable(std::string_view text) {
  constexpr std::size_t kMost = 100;
  std::string out;
  for (const char c : text.substr(0, kMost)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      out += c;
    } else {
      constexpr char digits[] = "0123456789abcdef";
      out += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    }
  }
  return text.size() > kMost ? out + "..." : out;
}

/// A file that stays open, and how it was then.
struct GgufFile::OpenFile {
  explicit OpenFile(int f) : fd(f) {}
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() {
    if (fd >= 0) ::close(fd);
  }
  int fd;
  struct stat info {};
};

/// Walks the file once, front to back. Any check that fails throws Error, which stays inside
/// parse().
class GgufFile::Parser {
 public:
  explicit Parser(GgufFile& file) : file_(file), size_(file.size_) {}

  void run() {
    if (size_ < 4 || take<std::uint32_t>("magic") != kMagic) {
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
  std::uint64_t left() const { return size_ - position_; }

  /// Sees to it that the file's bytes up to `end` are in memory.
  void have(std::uint64_t end) {
    if (file_.head_ == nullptr || end <= file_.head_->size()) return;
    std::vector<std::byte>& head = *file_.head_;
    if (end > kMaxHeadBytes) {
      fail("the metadata takes more than " + std::to_string(kMaxHeadBytes >> 20) + " MiB",
           Errc::unsupported);
    }
    const std::size_t before = head.size();
    head.resize(std::min(size_, std::max<std::uint64_t>(end, 2 * before + kReadBytes)));
    if (auto status = file_.read(before, std::span(head).subspan(before)); !status) {
      throw Error(status.error());
    }
    file_.bytes_ = head;
  }

  template <class T>
  T take(std::string_view what) {
    if (left() < sizeof(T)) fail("cut short in the " + std::string(what));
    have(position_ + sizeof(T));
    const T value = load<T>(file_.bytes_, position_);
    position_ += sizeof(T);
    return value;
  }
  void skip(std::uint64_t count, std::uint64_t width, const std::string& what) {
    if (width != 0 && count > left() / width) fail("cut short in " + what);
    position_ += count * width;
    have(position_);
  }
  void check_count(std::uint64_t count, std::uint64_t smallest, std::string_view what) const {
    if (count > left() / smallest) {
      fail("lists " + std::to_string(count) + " " + std::string(what) +
           ", more than the file can hold");
    }
  }
  std::string take_name(std::string_view what) {
    const auto size = take<std::uint64_t>(what);
    if (size > kMaxNameBytes || size > left()) {
      fail("a " + std::string(what) + " has a length of " + std::to_string(size) + " bytes");
    }
    have(position_ + size);
    std::string name(reinterpret_cast<const char*>(file_.bytes_.data() + position_), size);
    position_ += size;
    return name;
  }

  void read_value() {
    const std::string key = take_name("metadata key");
    const std::string what = "metadata value \"" + printable(key) + "\"";
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
    if (!file_.values_.emplace(key, value).second) fail(what + " is there twice");
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
    const std::string what = "tensor \"" + printable(tensor.name) + "\"";
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
      fail(what + " is there twice");
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
      const std::string what = "tensor \"" + printable(tensor.name) + "\"";
      if (tensor.offset % alignment != 0) fail(what + " is not aligned");
      const std::uint64_t room = data < size_ ? size_ - data : 0;
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
        fail("tensors \"" + printable(order[i - 1]->name) + "\" and \"" +
             printable(order[i]->name) + "\" overlap");
      }
    }
  }

  GgufFile& file_;
  const std::uint64_t size_;
  std::uint64_t position_ = 0;
};

Result<GgufFile> GgufFile::parsed(GgufFile file) {
  try {
    Parser(file).run();
  } catch (Error& error) {
    return std::move(error);
  } catch (const std::bad_alloc&) {
    return file.error(Errc::out_of_memory, "no room for its metadata");
  }
  return file;
}

Result<GgufFile> GgufFile::parse(std::span<const std::byte> bytes, std::string name) {
  GgufFile file;
  file.name_ = std::move(name);
  file.bytes_ = bytes;
  file.size_ = bytes.size();
  return parsed(std::move(file));
}

Result<GgufFile> GgufFile::open(const std::filesystem::path& path) {
  // Not blocking, so that a pipe under that name holds nobody up.
  auto opened = std::make_shared<OpenFile>(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (opened->fd < 0) return errno_error(errno, "open " + path.string());
  if (::fstat(opened->fd, &opened->info) != 0) return errno_error(errno, "stat " + path.string());
  if (!S_ISREG(opened->info.st_mode)) {
    return Error{
        Errc::invalid_argument, 0,
        path.string() + (S_ISDIR(opened->info.st_mode) ? ": is a directory; name a GGUF file in it"
                                                       : ": not a regular file")};
  }
  if (opened->info.st_size == 0) {
    return Error{Errc::corrupt, 0, path.string() + ": the file is empty"};
  }
  GgufFile file;
  file.name_ = path.string();
  file.size_ = static_cast<std::uint64_t>(opened->info.st_size);
  file.file_ = std::move(opened);
  file.head_ = std::make_shared<std::vector<std::byte>>();
  return parsed(std::move(file));
}

Status GgufFile::read(std::uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t got = ::pread(file_->fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_error(errno, "read " + name_);
    if (got == 0) {
      return error(Errc::corrupt, "the file was cut short after it was opened: byte " +
                                      std::to_string(offset) + " of " + std::to_string(size_) +
                                      " has gone");
    }
    offset += static_cast<std::uint64_t>(got);
    out = out.subspan(static_cast<std::size_t>(got));
  }
  return {};
}

Result<Sha256Digest> GgufFile::digest() const {
  if (file_ == nullptr) return Sha256().update(bytes_).finish();
  Sha256 hash;
  std::vector<std::byte> piece(std::min<std::uint64_t>(size_, kReadBytes));
  for (std::uint64_t at = 0; at < size_; at += piece.size()) {
    const std::span part(piece.data(), std::min<std::uint64_t>(piece.size(), size_ - at));
    CAKE_TRY(read(at, part));
    hash.update(part);
  }
  return hash.finish();
}

Status GgufFile::unchanged() const {
  if (file_ == nullptr) return {};
  struct stat now {};
  if (::fstat(file_->fd, &now) != 0) return errno_error(errno, "stat " + name_);
  const struct stat& then = file_->info;
  if (now.st_size == then.st_size && now.st_mtim.tv_sec == then.st_mtim.tv_sec &&
      now.st_mtim.tv_nsec == then.st_mtim.tv_nsec) {
    return {};
  }
  return error(Errc::corrupt, "the file was changed while it was read; try again when it is whole");
}

Status GgufFile::dequantise(const GgufTensor& tensor, std::span<float> out) const {
  if (!tensor_type_supported(tensor.type)) {
    return error(Errc::unsupported,
                 "tensor \"" + printable(tensor.name) + "\" is " + tensor_type_name(tensor.type) +
                     ", which is not supported; there are " + supported_tensor_types());
  }
  if (out.size() != tensor.elements) {
    return error(Errc::invalid_argument, "tensor \"" + printable(tensor.name) + "\" has " +
                                             std::to_string(tensor.elements) + " elements, not " +
                                             std::to_string(out.size()));
  }
  const TensorTypeInfo& type = *find_tensor_type(tensor.type);
  const std::uint64_t n_blocks = tensor.elements / type.block_elements;
  if (file_ == nullptr) {
    type.decode(bytes_.data() + tensor.offset, n_blocks, out.data());
    return {};
  }
  const std::uint64_t at_once = kReadBytes / type.block_bytes;
  std::vector<std::byte> piece(std::min(n_blocks, at_once) * type.block_bytes);
  for (std::uint64_t done = 0; done < n_blocks; done += at_once) {
    const std::uint64_t count = std::min(at_once, n_blocks - done);
    const std::span part(piece.data(), count * type.block_bytes);
    CAKE_TRY(read(tensor.offset + done * type.block_bytes, part));
    type.decode(part.data(), count, out.data() + done * type.block_elements);
  }
  return {};
}

Error GgufFile::error(Errc code, std::string what) const {
  return Error{code, 0, name_ + ": " + std::move(what)};
}

}  // namespace cake::inline CAKE_ABI::reference
