// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Making an object visible, whole or not at all, in whichever way the file system can do it.
#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "cake/chunk/reader.hpp"
#include "cake/staging.hpp"
#include "directory.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

/// Removes a temporary name when it goes out of scope.
class NameGuard {
 public:
  NameGuard(StoreDirectory& store, TemporaryFile& temporary)
      : store_(store), temporary_(temporary) {}
  NameGuard(const NameGuard&) = delete;
  NameGuard& operator=(const NameGuard&) = delete;
  ~NameGuard() {
    if (!named_ || temporary_.name.empty()) return;
    // Closed first: NFS and FUSE keep a file that is open under another name.
    { const Fd closed = std::move(temporary_.file); }
    static_cast<void>(store_.calls().unlink_at(temporary_.directory, temporary_.name.c_str(), 0));
  }
  void release() { named_ = false; }

 private:
  StoreDirectory& store_;
  TemporaryFile& temporary_;
  bool named_ = true;
};

void clear_direct(int file) { ::fcntl(file, F_SETFL, ::fcntl(file, F_GETFL) & ~O_DIRECT); }

/// Room for the whole file at once: a full disk is known before the first byte, and a file is laid
/// out in few extents. Not every file system can; then the writes find out. One in memory would
/// go through all its pages once more for that.
Status allocate(StoreDirectory& store, int file, std::size_t bytes, const std::string& name) {
  if (store.in_memory()) return {};
  int result;
  do {
    result = store.calls().allocate(file, static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  if (result != 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG || errno == EIO)) {
    return system_error(errno, "no room for " + name);
  }
  return {};
}

Status fill(StoreDirectory& store, int file, ConstBytes bytes, bool direct,
            const std::string& name) {
  if (!within_file_limit(bytes.size())) return system_error(EFBIG, "cannot write " + name);
  CAKE_TRY(allocate(store, file, bytes.size(), name));
  constexpr std::size_t most = std::size_t{16} << 20;
  std::size_t done = 0;
  while (done < bytes.size()) {
    const std::size_t size = std::min(most, bytes.size() - done);
    const ssize_t n =
        store.calls().write_at(file, bytes.data() + done, size, static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EINVAL || errno == EOPNOTSUPP) && direct) {
      if (!store.give_up_direct()) {
        return Error{Errc::unsupported, EINVAL, "the file system refuses O_DIRECT for " + name};
      }
      clear_direct(file);
      direct = false;
      continue;
    }
    if (n < 0) return system_error(errno, "cannot write " + name);
    if (n == 0) return system_error(EIO, "nothing can be written to " + name);
    done += static_cast<std::size_t>(n);
    if (direct && static_cast<std::size_t>(n) < size) {
      done = done / kIoAlignment * kIoAlignment;
      if (static_cast<std::size_t>(n) < kIoAlignment) {  // no whole page: go on through the cache
        clear_direct(file);
        direct = false;
      }
    }
  }
  if (!store.options().durable || store.calls().sync(file) == 0) return {};
  // What a failed sync leaves on the disk is unknown, and a second one would not tell.
  const int number = errno;
  if (number == EINVAL || number == ENOSYS || number == EOPNOTSUPP) {
    return Error{Errc::unsupported, number,
                 "the file system cannot sync " + name + ", so nothing in it survives a power " +
                     "cut for sure; open the store without durable, or choose another"};
  }
  return system_error(number, "cannot sync " + name);
}

bool same(ConstBytes a, ConstBytes b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

bool read_page(StoreDirectory& store, int file, std::uint64_t offset, MutableBytes page) {
  ssize_t n;
  do {
    n = store.calls().read_at(file, page.data(), page.size(), static_cast<off_t>(offset));
  } while (n < 0 && errno == EINTR);
  return n == static_cast<ssize_t>(page.size());
}

bool whole_chunk(const std::optional<ChunkSummary>& chunk, const ChunkKey& key,
                 std::uint64_t size) {
  return chunk && chunk->key == key && chunk->object_bytes == size;
}

/// Of what lies under a key when an object is written to it.
enum class Found {
  nothing,
  object,   // it stays: the first one wins
  damaged,  // it cannot be this object, and is replaced
};

/// Whether the file is the object `bytes`, by its size and its first page. Chunks say in their
/// header how large they are. Other bytes are known to be damaged when one is a part of the other.
Found compare(StoreDirectory& store, int file, std::uint64_t size, const ChunkKey& key,
              ConstBytes bytes) {
  alignas(kIoAlignment) std::array<std::byte, kIoAlignment> page;
  if (!read_page(store, file, 0, page)) return Found::damaged;
  const bool begins_alike = same(page, bytes.first(page.size()));
  if (begins_alike && size == bytes.size()) return Found::object;
  if (whole_chunk(peek_chunk(bytes.first(kIoAlignment)), key, bytes.size())) {
    return whole_chunk(peek_chunk(page), key, size) ? Found::object : Found::damaged;
  }
  if (!begins_alike || size == bytes.size()) return Found::object;
  const std::uint64_t shared = std::min<std::uint64_t>(size, bytes.size());
  const std::uint64_t last = shared - kIoAlignment;
  if (!read_page(store, file, last, page)) return Found::damaged;
  return same(page, bytes.subspan(last, page.size())) ? Found::damaged : Found::object;
}

Result<Found> examine(StoreDirectory& store, int directory, const ChunkKey& key, ConstBytes bytes) {
  const std::string name = StoreDirectory::file_name(key);
  struct stat info {};
  if (store.calls().stat_at(directory, name.c_str(), &info) != 0) {
    if (errno == ENOENT) return Found::nothing;
    return system_error(errno, "cannot examine " + name);
  }
  if (S_ISDIR(info.st_mode)) {
    return Error{
        Errc::io, EISDIR,
        "a directory lies in the place of " + name + " in " + store.named() + "; remove it"};
  }
  if (!store.servable(info)) return Found::damaged;
  constexpr int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
  const Fd file(store.calls().open_at(directory, name.c_str(), flags, 0));
  if (!file) {
    const int number = errno;
    if (number == ENOENT) return Found::nothing;
    if (number == EMFILE || number == ENFILE || number == ENOMEM) {
      return system_error(number, "cannot open " + name);
    }
    return Found::damaged;
  }
  if (::fstat(file.get(), &info) != 0 || !store.servable(info)) return Found::damaged;
  const Found found =
      compare(store, file.get(), static_cast<std::uint64_t>(info.st_size), key, bytes);
  // What has expired and is written again is as good as new.
  if (found != Found::object || !store.expired(info)) return found;
  return store.calls().set_times(directory, name.c_str(), store.now()) == 0 ? found
                                                                            : Found::damaged;
}

enum class Linked { yes, exists, no };

/// One object on its way to its name.
class Publication {
 public:
  Publication(StoreDirectory& store, const ChunkKey& key, ConstBytes bytes)
      : store_(store), key_(key), bytes_(bytes), name_(StoreDirectory::file_name(key)) {}

  Result<bool> run() {
    root_ = store_.root();
    auto folder = store_.open_fan_out(StoreDirectory::fan_out_name(key_), true);
    if (!folder) return folder.error();
    folder_ = std::move(*folder);
    const auto found = examine(store_, folder_.get(), key_, bytes_);
    if (!found) return found.error();
    if (*found == Found::object) return was_there();
    replace_ = *found == Found::damaged;
    // Each way that the file system refuses costs one attempt.
    for (int attempt = 0; attempt < 4; ++attempt) {
      const auto linked = attempt_once();
      if (!linked) return linked.error();
      if (*linked == Linked::yes) return finish();
      if (*linked == Linked::exists) return was_there();
    }
    return system_error(number_, "cannot publish " + name_ + " in " + store_.named());
  }

 private:
  bool was_there() {
    ++store_.counters().already_stored;
    return false;
  }

  Result<TemporaryFile> create(bool& direct) {
    const bool named = replace_ || !store_.unnamed_files();
    auto file = open_temporary(store_, root_->get(), folder_.get(), direct, named);
    if (!file.file && direct && (errno == EINVAL || errno == EOPNOTSUPP)) {
      if (!store_.give_up_direct()) {
        return Error{Errc::unsupported, EINVAL, "the file system refuses O_DIRECT for " + name_};
      }
      direct = false;
      file = open_temporary(store_, root_->get(), folder_.get(), direct, named);
    }
    if (!file.file) return system_error(errno, "cannot create " + name_);
    return file;
  }

  /// Writes a file and gives it its name. Linked::no: another way is to be tried, or number_ says
  /// why none will do.
  Result<Linked> attempt_once() {
    bool direct =
        reinterpret_cast<std::uintptr_t>(bytes_.data()) % kIoAlignment == 0 && store_.direct();
    auto temporary = create(direct);
    if (!temporary) return temporary.error();
    NameGuard guard(store_, *temporary);
    CAKE_TRY(fill(store_, temporary->file.get(), bytes_, direct, name_));
    const Linked linked = temporary->name.empty() ? link_unnamed(temporary->file.get())
                                                  : link_named(*temporary, guard);
    if (linked == Linked::exists)
      return settle_with_other(temporary->name.empty(), guard, *temporary);
    if (linked == Linked::no && !try_another_way(temporary->name.empty(), *temporary)) {
      return system_error(number_, "cannot publish " + name_ + " in " + store_.named());
    }
    return linked;
  }

  /// Another writer was faster, or what lay there appeared meanwhile: it stays if it is an object.
  Result<Linked> settle_with_other(bool unnamed, NameGuard& guard, const TemporaryFile& temporary) {
    const auto found = examine(store_, folder_.get(), key_, bytes_);
    if (!found) return found.error();
    if (*found == Found::object) return Linked::exists;
    number_ = EEXIST;
    replace_ = *found == Found::damaged;
    if (unnamed) return Linked::no;  // only a name can replace one
    return link_named(temporary, guard);
  }

  /// After a failed link: whether there is something else to try.
  bool try_another_way(bool unnamed, const TemporaryFile& temporary) {
    if (number_ == EEXIST) return true;
    if (unnamed) {
      struct stat info {};
      const bool removed = ::fstat(folder_.get(), &info) == 0 && info.st_nlink == 0;
      // ENOENT: without /proc an unnamed file cannot be named.
      if (!means_not_this_way(number_) && (number_ != ENOENT || removed)) return false;
      store_.give_up_unnamed_files();
      return true;
    }
    if (number_ == EXDEV && temporary.directory != folder_.get()) {
      store_.put_temporaries_beside();
      return true;
    }
    return false;
  }

  Linked link_unnamed(int file) {
    const std::string source = "/proc/self/fd/" + std::to_string(file);
    if (store_.calls().link_at(AT_FDCWD, source.c_str(), folder_.get(), name_.c_str(),
                               AT_SYMLINK_FOLLOW) == 0) {
      return Linked::yes;
    }
    number_ = errno;
    return number_ == EEXIST ? Linked::exists : Linked::no;
  }

  Linked link_named(const TemporaryFile& temporary, NameGuard& guard) {
    PosixCalls& calls = store_.calls();
    const char* const from = temporary.name.c_str();
    const char* const to = name_.c_str();
    if (!replace_) {
      if (calls.rename_new(temporary.directory, from, folder_.get(), to) == 0) {
        guard.release();
        return Linked::yes;
      }
      if ((number_ = errno) == EEXIST) return Linked::exists;
      if (!means_not_this_way(number_)) return Linked::no;
      // The file system cannot rename without replacing. A second name does as well; the guard
      // takes the first one away.
      if (calls.link_at(temporary.directory, from, folder_.get(), to, 0) == 0) return Linked::yes;
      if ((number_ = errno) == EEXIST) return Linked::exists;
      if (!means_not_this_way(number_)) return Linked::no;
      // Nor has it hard links. Whoever is faster now is replaced: equal keys mean equal KV.
      struct stat info {};
      if (calls.stat_at(folder_.get(), to, &info) == 0) return Linked::exists;
    }
    if (calls.rename_over(temporary.directory, from, folder_.get(), to) == 0) {
      guard.release();
      return Linked::yes;
    }
    number_ = errno;
    return Linked::no;
  }

  Result<bool> finish() {
    if (store_.options().durable && store_.calls().sync(folder_.get()) != 0) {
      // Some network file systems have no sync of directories: a name lasts once it is made.
      const int number = errno;
      if (number != EINVAL && number != ENOSYS && number != EOPNOTSUPP) {
        static_cast<void>(store_.calls().unlink_at(folder_.get(), name_.c_str(), 0));
        return system_error(number, "cannot sync the directory of " + name_);
      }
    }
    if (replace_) ++store_.counters().replaced;
    ++store_.counters().published;
    store_.counters().published_bytes += bytes_.size();
    return true;
  }

  StoreDirectory& store_;
  const ChunkKey& key_;
  ConstBytes bytes_;
  std::string name_;
  StoreDirectory::Root root_;
  Fd folder_;
  bool replace_ = false;
  int number_ = 0;  // errno of the last attempt
};

}  // namespace

bool within_file_limit(std::uint64_t size) {
  struct rlimit limit {};
  return ::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
         size <= limit.rlim_cur;
}

Result<bool> already_stored(StoreDirectory& store, const ChunkKey& key, ConstBytes bytes) {
  const auto folder = store.open_fan_out(StoreDirectory::fan_out_name(key), false);
  if (!folder) {
    if (folder.error().code == Errc::not_found) return false;
    return folder.error();
  }
  const auto found = examine(store, folder->get(), key, bytes);
  if (!found) return found.error();
  return *found == Found::object;
}

Result<bool> publish(StoreDirectory& store, const ChunkKey& key, ConstBytes bytes) {
  for (int attempt = 0;; ++attempt) {
    auto result = Publication(store, key, bytes).run();
    // Somebody removed the folder or the temporary file meanwhile, as cleaning up does.
    if (result || result.error().native != ENOENT || attempt == 2) return result;
    CAKE_TRY(store.refresh());
  }
}

}  // namespace cake::inline CAKE_ABI::detail
