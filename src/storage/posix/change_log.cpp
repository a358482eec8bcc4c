// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "change_log.hpp"

#include <fcntl.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <random>
#include <type_traits>
#include <utility>

#include "cake/chunk/digest.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

constexpr const char* kName = ".evict.log";
constexpr const char* kNewName = ".evict.log.new";

struct Record {
  std::array<std::byte, 32> key;
  std::uint64_t bytes;
  std::uint64_t writer;
  std::uint32_t position;
  std::uint32_t erased;
  std::uint32_t unused;
  std::uint32_t digest;  // of all before it

  std::uint32_t digest_now() const {
    return crc32c(std::as_bytes(std::span(this, 1)).first(offsetof(Record, digest)));
  }
};
static_assert(sizeof(Record) == 64 && std::is_trivially_copyable_v<Record>);

std::uint64_t random_number() {
  std::random_device random;
  return (std::uint64_t{random()} << 32) | random();
}

std::uint64_t size_of(const Fd& file) {
  struct stat info {};
  return ::fstat(file.get(), &info) == 0 ? static_cast<std::uint64_t>(info.st_size) : 0;
}

}  // namespace

ChangeLog::ChangeLog(StoreDirectory& store) : store_(store), writer_(random_number()) {
  open();
  if (file_) offset_ = size_of(file_);
}

void ChangeLog::open() {
  file_ = store_.open_shared(kName, O_RDONLY);
  offset_ = 0;
}

bool ChangeLog::tell(const Change& change) {
  Record record{
      change.key.bytes, change.bytes, writer_, change.position, change.erased ? 1u : 0u, 0, 0};
  record.digest = record.digest_now();
  for (int attempt = 0; attempt < 3; ++attempt) {
    // Not kept open: a file system with a file that is open for writing cannot be remounted read-only.
    const Fd file = store_.open_shared(kName, O_WRONLY | O_APPEND);
    if (!file || !within_file_limit(size_of(file) + sizeof record)) return false;
    ssize_t n;
    do {
      n = ::write(file.get(), &record, sizeof record);
    } while (n < 0 && errno == EINTR);
    if (n != static_cast<ssize_t>(sizeof record)) return false;
    // Whoever reads the file after another one took its place reads it to its end first.
    if (store_.is_shared(file, kName)) return true;
  }
  return false;
}

ChangeLog::News ChangeLog::read() {
  if (!file_) {
    open();
    news_.lost = true;
  }
  if (file_) {
    if (!store_.is_shared(file_, kName)) follow();
    if (file_) read_on();
  }
  return std::exchange(news_, News());
}

void ChangeLog::follow() {
  read_on();
  open();
  news_.lost = true;  // there may have been a third one between them
}

void ChangeLog::read_on() {
  std::array<Record, 64> records;
  if (size_of(file_) < offset_) {  // cut by hand
    news_.lost = true;
    offset_ = size_of(file_);
  }
  for (;;) {
    const ssize_t n =
        ::pread(file_.get(), records.data(), sizeof records, static_cast<off_t>(offset_));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) news_.lost = true;
    const std::size_t whole = n < 0 ? 0 : static_cast<std::size_t>(n) / sizeof(Record);
    for (std::size_t i = 0; i < whole; ++i) {
      const Record& record = records[i];
      if (record.digest != record.digest_now()) {
        // Not whole, and what is behind it lies elsewhere: on from the end.
        news_.lost = true;
        offset_ = size_of(file_);
        return;
      }
      offset_ += sizeof(Record);
      if (record.writer == writer_) continue;
      news_.changes.push_back({{record.key}, record.bytes, record.position, record.erased != 0});
    }
    if (whole == 0) return;
  }
}

void ChangeLog::shorten(std::uint64_t most) {
  if (!file_ || size_of(file_) <= most) return;
  const Fd fresh = store_.open_shared(kNewName, O_WRONLY | O_TRUNC);
  const auto root = store_.root();
  if (fresh)
    static_cast<void>(store_.calls().rename_over(root->get(), kNewName, root->get(), kName));
}

}  // namespace cake::inline CAKE_ABI::detail
