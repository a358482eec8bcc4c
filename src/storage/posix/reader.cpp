// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "reader.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <system_error>

#include "ring_pool.hpp"
#include "transfer.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

// An operation that lasts longer holds its thread; another one takes over.
constexpr std::chrono::milliseconds kStuck{250};
// At most so many threads for each one of `threads`.
constexpr std::size_t kMostStandIns = 8;

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

void finish_operation(ReadOperation& operation, Status outcome) {
  if (outcome) operation.read->arrived(operation.out);
  operation.read->finish(std::move(outcome));
}

/// Where a read is no use, the file system is to note none either; it lets owners ask for that.
Result<Fd> ReadPool::open_object(const ChunkKey& key, int flags, struct stat& info) {
  if (store_.options().note_use) return store_.open_object(key, flags, info);
  auto fd = store_.open_object(key, flags | O_NOATIME, info);
  if (!fd && fd.error().native == EPERM) fd = store_.open_object(key, flags, info);
  return fd;
}

Result<std::shared_ptr<OpenFile>> ReadPool::open(const ChunkKey& key) {
  auto file = std::make_shared<OpenFile>();
  struct stat info {};
  bool direct = store_.direct();
  auto fd = open_object(key, direct ? O_DIRECT : 0, info);
  const bool refused =
      fd ? direct && !store_.takes_direct(fd->get())
         : direct && (fd.error().native == EINVAL || fd.error().native == EOPNOTSUPP);
  if (refused) {
    if (!store_.give_up_direct()) {
      return Error{Errc::unsupported, EINVAL, "the file system refuses O_DIRECT"};
    }
    direct = false;
    fd = open_object(key, 0, info);
  }
  if (!fd) return fd.error();
  ++store_.counters().opens;
  if (store_.options().note_use && mark_used(fd->get(), info)) ++store_.counters().first_reads;
  file->fd = std::move(*fd);
  file->size = static_cast<std::uint64_t>(info.st_size);
  file->direct = direct;
  // A ring answers EAGAIN for a file with this flag where a thread would wait.
  if (rings_ != nullptr) {
    const int quiet = ::fcntl(file->fd.get(), F_GETFL) & O_NOATIME;
    ::fcntl(file->fd.get(), F_SETFL, quiet | (direct ? O_DIRECT : 0));
  }
  return file;
}

void ReadPool::open_rings() {
  if (!store_.wants_rings()) return;
  ring_status_ = store_.ring_status();
  if (!ring_status_) return;  // insisting on them, the store would not have been opened
  try {
    rings_ = std::make_unique<RingPool>(store_, [this](Operations& back) { take_back(back); });
  } catch (const Exception& e) {
    if (store_.options().engine == ReadEngine::io_uring) {
      throw Exception(
          {e.error().code, e.error().native, store_.named() + ": " + e.error().context});
    }
    ring_status_ = e.error();
  }
}

/// Through the page cache the kernel's own threads would copy; so only who insists on rings gets
/// them for that.
bool ReadPool::by_rings(const OpenFile& file) const {
  return rings_ != nullptr && (file.direct || store_.options().engine == ReadEngine::io_uring);
}

/// What no ring carries out.
void ReadPool::take_back(Operations& operations) {
  const std::lock_guard lock(mutex_);
  queue_in_order(queue_, operations);
  changed_.notify_all();
}

ReadEngine ReadPool::engine() const {
  const bool direct = store_.direct() || store_.options().engine == ReadEngine::io_uring;
  return rings_ != nullptr && direct ? ReadEngine::io_uring : ReadEngine::threads;
}

std::string ReadPool::engine_reason() const {
  switch (store_.options().engine) {
    case ReadEngine::threads:
      return "ReadEngine::threads was asked for";
    case ReadEngine::io_uring:
      return "ReadEngine::io_uring was asked for";
    case ReadEngine::automatic:
      break;
  }
  if (store_.in_memory()) return "the file system is in memory: a read is a copy by whoever asks";
  if (!ring_status_) return ring_status_.error().context;
  if (engine() == ReadEngine::threads) {
    return "reads go through the page cache: each is a copy by whoever asks";
  }
  return "O_DIRECT is in use, and io_uring works here";
}

ReadPool::ReadPool(StoreDirectory& store) : store_(store), files_(store.options().note_use) {
  open_rings();
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
    std::unique_lock lock(mutex_);
    over_.wait(lock, [&] { return queue_.empty() && running_.empty(); });
  }
  rings_.reset();  // it may give operations back
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

void queue_in_order(ReadOperations& queue, ReadOperations& more) {
  const auto earlier = [](const ReadOperation& a, const ReadOperation& b) {
    return a.number < b.number;
  };
  more.sort(earlier);
  queue.merge(more, earlier);
}

void ReadPool::submit(std::shared_ptr<PendingRead> read) {
  Operations one;
  one.push_back({std::move(read), nullptr, 0, {}});
  const std::lock_guard lock(mutex_);
  one.front().number = ++submitted_;
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
  if (queue_.empty() && running_.empty()) over_.notify_all();
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
    for (ReadOperation& operation : running_) {
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

void ReadPool::run(ReadOperation& operation) {
  try {
    if (!operation.file) {
      begin(operation);
    } else if (operation.read->failed) {
      operation.read->finish({});  // another part failed already, and nobody wants the rest
    } else {
      finish_operation(operation, carry_out(*operation.file, operation.offset, operation.out));
    }
  } catch (...) {
    operation.read->finish(no_memory());
  }
}

Result<std::shared_ptr<OpenFile>> ReadPool::file_with(const ChunkKey& key, std::uint64_t offset,
                                                      std::uint64_t size) {
  auto file = files_.get(key, [&] { return open(key); });
  if (file && (offset > (*file)->size || size > (*file)->size - offset)) {
    return Error{Errc::corrupt, 0, StoreDirectory::file_name(key) + " ends before the read does"};
  }
  return file;
}

Status ReadPool::read_here(const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
  const std::uint64_t opens = store_.counters().opens;
  const auto file = file_with(key, offset, out.size());
  // Somebody has to close it when it is not used any more.
  if (store_.counters().opens != opens) {
    const std::lock_guard lock(mutex_);
    changed_.notify_one();
  }
  if (!file) return file.error();
  return carry_out(**file, offset, out);
}

/// Opens the file, queues all operations but the first, and carries out that one. When it throws,
/// finish() of that one was not called, and the queued ones are queued for good.
void ReadPool::begin(ReadOperation& operation) {
  PendingRead& read = *operation.read;
  const std::uint64_t size = read.out.size();
  auto file = file_with(read.key, read.offset, size);
  if (!file) return read.finish(file.error());
  if (size == 0) return read.finish({});
  const std::size_t step = store_.options().op_bytes;
  const bool by_rings = this->by_rings(**file);
  Operations rest;
  for (std::uint64_t at = by_rings ? 0 : step; at < size; at += step) {
    rest.push_back({operation.read, *file, read.offset + at,
                    read.out.subspan(at, std::min<std::size_t>(step, size - at)),
                    operation.number});
  }
  // From here on to the queue nothing allocates memory: what is counted is queued.
  if (!rest.empty()) {
    const std::lock_guard lock(read.mutex);
    read.operations += rest.size() - (by_rings ? 1 : 0);
  }
  if (by_rings) {
    if (!rings_->submit(rest)) take_back(rest);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    operation.file = *file;
    ++operation.file->running;
    if (!rest.empty()) changed_.notify_all();
    queue_in_order(queue_, rest);
  }
  const MutableBytes first = read.out.first(std::min<std::size_t>(step, size));
  operation.out = first;
  finish_operation(operation, carry_out(**file, read.offset, first));
}

Status ReadPool::carry_out(OpenFile& file, std::uint64_t offset, MutableBytes out) {
  Transfer transfer(file, offset, out);
  while (!out.empty()) {
    transfer.ask();
    const MutableBytes rest = transfer.rest();
    const ssize_t n = store_.calls().read_at(file.fd.get(), rest.data(), rest.size(),
                                             static_cast<off_t>(transfer.offset()));
    const auto next = transfer.answered(store_, n < 0 ? -errno : n);
    if (next == Transfer::Next::over) return transfer.outcome();
    if (next == Transfer::Next::later) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return {};
}

}  // namespace cake::inline CAKE_ABI::detail
