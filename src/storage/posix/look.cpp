// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "look.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <string_view>

namespace cake::inline CAKE_ABI::detail {

DirectoryLook::Part DirectoryLook::go_on(std::size_t entries,
                                         std::chrono::steady_clock::time_point until) {
  Part part;
  // A small store is looked at in one go, whatever the clock says.
  const std::size_t at_least = folder_ == 0 && !open_ ? 512 : 16;
  for (std::size_t n = 0; n < entries && folder_ < 256; ++n) {
    if (n >= at_least && n % 16 == 0 && std::chrono::steady_clock::now() >= until) break;
    static_cast<void>(step(part));
  }
  part.all = folder_ == 256;
  return part;
}

DirectoryLook::Part DirectoryLook::folder() {
  Part part;
  while (folder_ < 256 && step(part)) {
  }
  part.all = folder_ == 256;
  return part;
}

bool DirectoryLook::step(Part& part) {
  bool seen = open_ || open_folder(part);
  errno = 0;
  if (open_ && next_entry(part)) return true;
  if (open_ && errno != 0) {
    part.problem = system_error(errno, "cannot read a folder of " + store_.named());
    seen = false;
  }
  open_.reset();
  if (seen) part.folders.push_back(static_cast<std::uint8_t>(folder_));
  ++folder_;
  return false;
}

bool DirectoryLook::open_folder(Part& part) {
  const std::string name = StoreDirectory::fan_out_name({{static_cast<std::byte>(folder_)}});
  const auto folder = store_.open_fan_out(name, false);
  if (!folder && folder.error().code == Errc::not_found) return true;
  // Of a folder that cannot be opened nothing is known, so nothing of it is forgotten.
  const int number = folder ? 0 : folder.error().native;
  if (number == ELOOP || number == ENOTDIR) {  // a link, or a file
    ++part.others;
    return false;
  }
  if (!folder) {
    part.problem = folder.error();
    return false;
  }
  const int directory = ::fcntl(folder->get(), F_DUPFD_CLOEXEC, 0);
  if (directory >= 0) {
    open_.reset(::fdopendir(directory));
    if (!open_) ::close(directory);
  }
  if (!open_) part.problem = system_error(errno, "cannot read folder " + name);
  return open_ != nullptr;
}

bool DirectoryLook::next_entry(Part& part) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): each stream is this look's own
  const dirent* const entry = ::readdir(open_.get());
  if (entry == nullptr) return false;
  const std::string_view name = entry->d_name;
  const auto key = StoreDirectory::key_of(name);
  if (!key || static_cast<unsigned>(key->bytes[0]) != folder_) {
    if (name != "." && name != "..") ++part.others;
    return true;
  }
  struct stat info {};
  if (store_.calls().stat_at(::dirfd(open_.get()), entry->d_name, &info) != 0) return true;
  if (!S_ISREG(info.st_mode) || !store_.trusted(info)) {
    ++part.others;
    return true;
  }
  std::int64_t used = std::max(info.st_atim.tv_sec, info.st_mtim.tv_sec);
  if (to_evict_ && used > store_.now() + StoreClock::kStep) {
    used = store_.now();
    // Where that fails it counts as new for as long as it is in the future.
    static_cast<void>(store_.calls().set_times(::dirfd(open_.get()), entry->d_name, used));
  }
  KnownObject object{static_cast<std::uint64_t>(info.st_size), used};
  const int priority = to_evict_ ? store_.priority_of(::dirfd(open_.get()), entry->d_name) : 0;
  object.keep = keep_of(was_read(info), priority);
  if (store_.options().ttl.count() > 0)
    object.published = std::min<std::int64_t>(used, info.st_mtim.tv_sec);
  part.objects.push_back({*key, object});
  return true;
}

}  // namespace cake::inline CAKE_ABI::detail
