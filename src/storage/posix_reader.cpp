// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "posix_reader.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <new>

#include "cake/buffer.hpp"

namespace cake::detail {
namespace {

void clear_direct(OpenFile& file) {
  ::fcntl(file.fd.get(), F_SETFL, ::fcntl(file.fd.get(), F_GETFL) & ~O_DIRECT);
}

}  // namespace

void PendingRead::finish(Status outcome) {
  const std::lock_guard lock(mutex);
  if (!outcome && status) {
    status = std::move(outcome);
    failed = true;
  }
  if (--operations == 0) {
    done = true;
    changed.notify_all();
  }
}

Result<std::shared_ptr<OpenFile>> ReadPool::open(const ChunkKey& key) {
  auto file = std::make_shared<OpenFile>();
  struct stat info {};
  bool direct = store_.direct();
  auto fd = store_.open_object(key, direct ? O_DIRECT : 0, info);
  if (!fd && direct && fd.error().native == EINVAL) {
    if (!store_.give_up_direct()) {
      return Error{Errc::unsupported, EINVAL, "the file system refuses O_DIRECT"};
    }
    direct = false;
    fd = store_.open_object(key, 0, info);
  }
  if (!fd) return fd.error();
  ++store_.counters().opens;
  mark_used(fd->get(), info);
  file->fd = std::move(*fd);
  file->size = static_cast<std::uint64_t>(info.st_size);
  file->direct = direct;
  return file;
}

ReadPool::ReadPool(StoreDirectory& store) : store_(store) {
  try {
    for (unsigned i = 0; i < store.options().threads; ++i)
      threads_.emplace_back([this] { work(); });
  } catch (const std::system_error&) {
    // Fewer threads than wished for will do.
    if (threads_.empty()) throw;
  }
}

ReadPool::~ReadPool() { stop(); }

void ReadPool::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  for (auto& thread : threads_) thread.join();
}

void ReadPool::submit(std::shared_ptr<PendingRead> read) {
  const std::lock_guard lock(mutex_);
  queue_.push_back({std::move(read), nullptr, 0, {}});
  changed_.notify_one();
}

void ReadPool::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    if (queue_.empty()) {
      if (stopping_) return;
      lock.unlock();
      const bool files_open = files_.sweep();
      lock.lock();
      if (!queue_.empty() || stopping_) continue;
      if (files_open) {
        changed_.wait_for(lock, std::chrono::seconds(1));
      } else {
        changed_.wait(lock);
      }
      continue;
    }
    Operation operation = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    if (!operation.file) {
      begin(operation);
    } else if (operation.read->failed) {
      operation.read->finish({});  // another part failed already, and nobody wants the rest
    } else {
      operation.read->finish(carry_out(*operation.file, operation.offset, operation.out));
    }
    operation = {};  // the last user of a read or file frees it without the lock
    lock.lock();
  }
}

void ReadPool::begin(const Operation& operation) {
  PendingRead& read = *operation.read;
  try {
    auto file = files_.get(read.key, [&] { return open(read.key); });
    if (!file) return read.finish(file.error());
    const std::uint64_t size = read.out.size();
    if (read.offset > (*file)->size || size > (*file)->size - read.offset) {
      return read.finish(Error{Errc::corrupt, 0,
                               StoreDirectory::file_name(read.key) + " ends before the read does"});
    }
    if (size == 0) return read.finish({});
    const std::size_t step = store_.options().op_bytes;
    std::vector<Operation> rest;
    for (std::uint64_t at = step; at < size; at += step) {
      rest.push_back({operation.read, *file, read.offset + at,
                      read.out.subspan(at, std::min<std::size_t>(step, size - at))});
    }
    if (!rest.empty()) {
      {
        const std::lock_guard lock(read.mutex);
        read.operations += rest.size();
      }
      // Before later reads: the first one asked for is the first one wanted.
      const std::lock_guard lock(mutex_);
      queue_.insert(queue_.begin(), std::make_move_iterator(rest.begin()),
                    std::make_move_iterator(rest.end()));
      changed_.notify_all();
    }
    read.finish(carry_out(**file, read.offset, read.out.first(std::min<std::size_t>(step, size))));
  } catch (const std::bad_alloc&) {
    read.finish(Error{Errc::out_of_memory, 0, "no memory to begin a read"});
  }
}

Status ReadPool::carry_out(OpenFile& file, std::uint64_t offset, MutableBytes out) {
  std::size_t done = 0;
  while (done < out.size()) {
    const std::size_t size = out.size() - done;
    const bool direct = file.direct;
    const ssize_t n = store_.calls().read_at(file.fd.get(), out.data() + done, size,
                                             static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EINVAL && direct) {
      // Taken at open and refused at use. The flag follows the file's own state: whoever sees it
      // down meets no refusal any more.
      if (store_.options().direct == DirectIo::on) {
        store_.give_up_direct();
        return Error{Errc::unsupported, EINVAL, "the file system refuses O_DIRECT"};
      }
      clear_direct(file);
      if (file.direct.exchange(false)) store_.give_up_direct();  // once for this file
      continue;
    }
    if (n < 0) return errno_error(errno, "cannot read a stored chunk");
    if (n == 0) return Error{Errc::corrupt, 0, "a stored chunk ends before its size"};
    ++store_.counters().read_ops;
    const auto got = static_cast<std::size_t>(n);
    if (got == size) {
      done += got;
    } else {
      ++store_.counters().short_reads;
      // Past the page cache a read must go on at a page.
      const std::size_t whole = direct ? got / kIoAlignment * kIoAlignment : got;
      if (whole == 0) {
        clear_direct(file);
        file.direct = false;
      }
      done += whole;
    }
  }
  store_.counters().read_bytes += out.size();
  return {};
}

}  // namespace cake::detail
