// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "reader.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <system_error>

#include "cake/staging.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

// An operation that lasts longer holds its thread; another one takes over.
constexpr std::chrono::milliseconds kStuck{250};
// At most so many threads for each one of `threads`.
constexpr std::size_t kMostStandIns = 8;

// A read that is told to come later tries again so many times, a millisecond apart.
constexpr int kMostLater = 1000;

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
  if (!fd && direct && (fd.error().native == EINVAL || fd.error().native == EOPNOTSUPP)) {
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
  const std::size_t wanted = store.options().threads;
  threads_.reserve(wanted * kMostStandIns);
  for (std::size_t i = 0; i < wanted; ++i) {
    // Fewer threads than wished for will do.
    if (!start_thread()) break;
  }
  if (threads_.empty()) {
    throw Exception({Errc::out_of_memory, EAGAIN,
                     store.named() + ": no thread can be started; raise the limit of processes "
                                     "(ulimit -u)"});
  }
  try {
    watcher_ = std::thread([this] { watch(); });
  } catch (const std::system_error&) {  // then nobody takes over for a stuck thread
  }
}

bool ReadPool::start_thread() {
  try {
    threads_.emplace_back([this] { work(); });
    return true;
  } catch (const std::system_error&) {
    return false;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

ReadPool::~ReadPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
    watched_.notify_all();
  }
  // First: it starts threads.
  if (watcher_.joinable()) watcher_.join();
  for (auto& thread : threads_) thread.join();
}

void ReadPool::submit(std::shared_ptr<PendingRead> read) {
  Operations one;
  one.push_back({std::move(read), nullptr, 0, {}});
  const std::lock_guard lock(mutex_);
  queue_.splice(queue_.end(), one);
  changed_.notify_one();
}

ReadPool::Operations::iterator ReadPool::take() {
  const unsigned threads = store_.options().threads;
  if (running_.size() - stuck_ >= threads) return running_.end();
  for (auto it = queue_.begin(); it != queue_.end(); ++it) {
    if (it->file && it->file->running >= threads) continue;
    if (it->file) ++it->file->running;
    it->begun = Clock::now();
    if (running_.empty()) watched_.notify_one();
    running_.splice(running_.end(), queue_, it);
    return it;
  }
  return running_.end();
}

void ReadPool::work() {
  std::unique_lock lock(mutex_);
  bool swept = false, files_open = false;
  while (true) {
    if (const auto operation = take(); operation != running_.end()) {
      lock.unlock();
      run(*operation);
      lock.lock();
      end(operation, lock);
      swept = false;
    } else if (stopping_ && queue_.empty()) {
      changed_.notify_all();
      return;
    } else if (!swept) {
      lock.unlock();
      files_open = files_.sweep();
      lock.lock();
      swept = true;
    } else {
      ++idle_;
      if (files_open) {
        changed_.wait_for(lock, std::chrono::seconds(1));
      } else {
        changed_.wait(lock);
      }
      --idle_;
      swept = false;
    }
  }
}

void ReadPool::end(Operations::iterator operation, std::unique_lock<std::mutex>& lock) {
  Operations over;
  over.splice(over.end(), running_, operation);
  if (operation->file) --operation->file->running;
  if (operation->stuck) --stuck_;
  if (!queue_.empty()) changed_.notify_one();
  // The last user of a read or file frees it without the lock.
  lock.unlock();
  over.clear();
  lock.lock();
}

/// Starts a thread for each one that is stuck, as long as there is something to do.
void ReadPool::watch() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (running_.empty()) {
      watched_.wait(lock);
      continue;
    }
    watched_.wait_for(lock, kStuck / 2);
    const auto limit = Clock::now() - kStuck;
    for (Operation& operation : running_) {
      if (operation.stuck || operation.begun > limit) continue;
      operation.stuck = true;
      ++stuck_;
      ++store_.counters().stuck_reads;
    }
    const std::size_t threads = store_.options().threads;
    while (!queue_.empty() && idle_ == 0 && threads_.size() < threads * kMostStandIns &&
           threads_.size() - stuck_ < threads) {
      if (!start_thread()) break;
    }
    if (!queue_.empty()) changed_.notify_all();
  }
}

void ReadPool::run(Operation& operation) {
  try {
    if (!operation.file) {
      begin(operation);
    } else if (operation.read->failed) {
      operation.read->finish({});  // another part failed already, and nobody wants the rest
    } else {
      operation.read->finish(
          carry_out(*operation.read, *operation.file, operation.offset, operation.out));
    }
  } catch (...) {
    operation.read->finish(no_memory());
  }
}

/// Opens the file, queues all operations but the first, and carries out that one. When it throws,
/// finish() of that one was not called, and the queued ones are queued for good.
void ReadPool::begin(Operation& operation) {
  PendingRead& read = *operation.read;
  auto file = files_.get(read.key, [&] { return open(read.key); });
  if (!file) return read.finish(file.error());
  const std::uint64_t size = read.out.size();
  if (read.offset > (*file)->size || size > (*file)->size - read.offset) {
    return read.finish(Error{Errc::corrupt, 0,
                             StoreDirectory::file_name(read.key) + " ends before the read does"});
  }
  if (size == 0) return read.finish({});
  const std::size_t step = store_.options().op_bytes;
  Operations rest;
  for (std::uint64_t at = step; at < size; at += step) {
    rest.push_back({operation.read, *file, read.offset + at,
                    read.out.subspan(at, std::min<std::size_t>(step, size - at))});
  }
  // From here on to the queue nothing allocates memory: what is counted is queued.
  if (!rest.empty()) {
    const std::lock_guard lock(read.mutex);
    read.operations += rest.size();
  }
  {
    const std::lock_guard lock(mutex_);
    operation.file = *file;
    ++operation.file->running;
    if (!rest.empty()) changed_.notify_all();
    // Before later reads: the first one asked for is the first one wanted.
    queue_.splice(queue_.begin(), rest);
  }
  read.finish(
      carry_out(read, **file, read.offset, read.out.first(std::min<std::size_t>(step, size))));
}

Status ReadPool::carry_out(const PendingRead& read, OpenFile& file, std::uint64_t offset,
                           MutableBytes out) {
  std::size_t done = 0;
  int later = 0;
  while (done < out.size()) {
    const std::size_t size = out.size() - done;
    const bool direct = file.direct;
    const ssize_t n = store_.calls().read_at(file.fd.get(), out.data() + done, size,
                                             static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN && later++ < kMostLater) {  // some mounts know O_NONBLOCK
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    if (n < 0 && (errno == EINVAL || errno == EOPNOTSUPP) && direct) {
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
    if (n < 0) return system_error(errno, "cannot read a stored chunk");
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
  read.arrived(out);
  return {};
}

}  // namespace cake::inline CAKE_ABI::detail
