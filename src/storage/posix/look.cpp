// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "look.hpp"

#include <fcntl.h>

#include <algorithm>

namespace cake::inline CAKE_ABI::detail {

DirectoryLook::Part DirectoryLook::go_on(std::size_t entries,
                                         std::chrono::steady_clock::time_point until) {
  Part part;
  // A small store is looked at in one go, whatever the clock says.
  const std::size_t at_least = folder_ == 0 && !open_ ? 320 : 16;
  for (std::size_t n = 0; n < entries && folder_ < 256; ++n) {
    if (n >= at_least && n % 16 == 0 && std::chrono::steady_clock::now() >= until) break;
    bool seen = true;
    if (!open_) {
      const auto folder = store_.open_fan_out(
          StoreDirectory::fan_out_name({{static_cast<std::byte>(folder_)}}), false);
      // Of a folder that cannot be opened nothing is known, so nothing of it is forgotten.
      seen = folder || folder.error().code == Errc::not_found;
      const int directory = folder ? ::fcntl(folder->get(), F_DUPFD_CLOEXEC, 0) : -1;
      if (directory >= 0) {
        open_.reset(::fdopendir(directory));
        if (!open_) ::close(directory);
      }
      if (folder && !open_) seen = false;
    }
    if (open_ && next_entry(part)) continue;
    open_.reset();
    if (seen) part.folders.push_back(static_cast<std::uint8_t>(folder_));
    ++folder_;
  }
  part.all = folder_ == 256;
  return part;
}

bool DirectoryLook::next_entry(Part& part) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): each stream is this look's own
  const dirent* const entry = ::readdir(open_.get());
  if (entry == nullptr) return false;
  const auto key = StoreDirectory::key_of(entry->d_name);
  if (!key || static_cast<unsigned>(key->bytes[0]) != folder_) return true;
  struct stat info {};
  if (store_.calls().stat_at(::dirfd(open_.get()), entry->d_name, &info) != 0 ||
      !S_ISREG(info.st_mode)) {
    return true;
  }
  const std::int64_t used = std::max(info.st_atim.tv_sec, info.st_mtim.tv_sec);
  part.objects.push_back({*key, {static_cast<std::uint64_t>(info.st_size), used, 0, false}});
  return true;
}

}  // namespace cake::inline CAKE_ABI::detail
