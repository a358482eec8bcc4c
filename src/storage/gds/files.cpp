// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "files.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace cake::inline CAKE_ABI::detail {

GdsFile::GdsFile(std::shared_ptr<cufile::Api> api, Fd fd, cufile::Handle handle,
                 const struct stat& info)
    : api_(std::move(api)), fd_(std::move(fd)), handle_(handle), info_(info) {}

GdsFile::~GdsFile() { api_->handle_deregister(handle_); }  // the descriptor is closed after it

bool GdsFile::current(struct stat& now) const {
  return ::fstat(fd_.get(), &now) == 0 && now.st_nlink > 0 && now.st_dev == info_.st_dev &&
         now.st_ino == info_.st_ino && now.st_size == info_.st_size &&
         now.st_mtim.tv_sec == info_.st_mtim.tv_sec && now.st_mtim.tv_nsec == info_.st_mtim.tv_nsec;
}

Result<std::shared_ptr<GdsFile>> register_file(const std::shared_ptr<cufile::Api>& api,
                                               const Fd& checked, bool direct) {
  const std::string path = "/proc/self/fd/" + std::to_string(checked.get());
  Fd file(direct ? ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT) : -1);
  if (!file && (!direct || errno == EINVAL)) {
    file = Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  }
  if (!file) return Error{Errc::io, errno, "cannot open a stored chunk again by " + path};
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return errno_error(errno, "cannot examine a stored chunk");

  cufile::Descr descr{};
  descr.type = cufile::kOpaqueFd;
  descr.handle.fd = file.get();
  cufile::Handle handle = nullptr;
  const cufile::ErrorPair result = api->handle_register(&handle, &descr);
  if (result.err != 0) {
    return Error{Errc::device, result.err,
                 "cuFileHandleRegister refused a file: " + cufile::describe(result.err)};
  }
  try {
    return std::make_shared<GdsFile>(api, std::move(file), handle, info);
  } catch (const std::bad_alloc&) {
    api->handle_deregister(handle);
    throw;
  }
}

Status read_whole(const cufile::Api& api, const GdsFile& file, DeviceStaging& staging,
                  std::uint64_t offset, MutableBytes out, const GdsTransfer& transfer) {
  std::byte* const base = staging.arena().data();
  const auto place = static_cast<off_t>(out.data() - base);
  std::size_t done = 0;
  while (done < out.size()) {
    const std::size_t size = std::min(out.size() - done, transfer.op_bytes);
    errno = 0;
    const ssize_t n = api.read(file.handle(), base, size, static_cast<off_t>(offset + done),
                               place + static_cast<off_t>(done));
    if (n < 0) {
      const int number = n == -1 ? errno : static_cast<int>(-n);
      if (n == -1 && number == EINTR) continue;
      return Error{Errc::device, number,
                   "cuFileRead failed: " +
                       (n == -1 ? std::string("a system error") : cufile::describe(number))};
    }
    const auto got = static_cast<std::size_t>(n);
    if (got > size) return Error{Errc::device, 0, "cuFileRead returned more than was asked for"};
    if (got == size) {
      done += got;
      continue;
    }
    ++*transfer.short_ops;
    // Past the page cache a read goes on at a page.
    const std::size_t whole = got / kIoAlignment * kIoAlignment;
    if (whole == 0) return Error{Errc::device, 0, "cuFileRead ended early and did not go on"};
    done += whole;
  }
  return {};
}

Result<std::shared_ptr<GdsFile>> GdsFileCache::get(const ChunkKey& key) {
  return files_.get(key, [&] {
    sweep();
    return open(key);
  });
}

Result<std::shared_ptr<GdsFile>> GdsFileCache::open(const ChunkKey& key) {
  for (int attempt = 0;; ++attempt) {
    struct stat info {};
    const auto checked = store_.open_object(key, 0, info);
    if (!checked) return checked.error();
    auto file = register_file(api_, *checked, store_.direct());
    if (file) {
      ++opens_;
      mark_used((*file)->number(), info);
      return file;
    }
    // A file that was erased meanwhile is not cuFile's failure; there may be another by now.
    const bool erased = ::fstat(checked->get(), &info) == 0 && info.st_nlink == 0;
    if (!erased) return file;
    if (attempt == 2) return Error{Errc::not_found, 0, "erased while it was opened"};
  }
}

void GdsFileCache::sweep() {
  files_.sweep([](const GdsFile& file) {
    struct stat info {};
    return ::fstat(file.number(), &info) != 0 || info.st_nlink == 0;
  });
}

}  // namespace cake::inline CAKE_ABI::detail
