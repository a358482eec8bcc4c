// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "ring.hpp"

#include <cerrno>

#ifdef CAKE_HAVE_LIBURING
#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "directory.hpp"
#endif

namespace cake::inline CAKE_ABI::detail {

#ifdef CAKE_HAVE_LIBURING
namespace {

class KernelRing final : public Ring {
 public:
  /// errno says why it is not open().
  explicit KernelRing(unsigned entries) : wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!wake_) return;
    // IORING_SETUP_DEFER_TASKRUN would not end the poll() of wait(), and IORING_SETUP_IOPOLL needs
    // queues that the administrator has to set up.
    const int result = ::io_uring_queue_init(entries, &ring_, 0);
    open_ = result == 0;
    if (!open_) errno = -result;
  }
  ~KernelRing() override {
    if (open_) ::io_uring_queue_exit(&ring_);
  }
  bool open() const { return open_; }

  bool prepare_read(int file, void* out, std::size_t size, std::uint64_t offset,
                    std::uint64_t tag) override {
    io_uring_sqe* const entry = ::io_uring_get_sqe(&ring_);
    if (entry == nullptr) return false;
    ::io_uring_prep_read(entry, file, out, static_cast<unsigned>(size), offset);
    entry->user_data = tag;
    return true;
  }
  int submit() override {
    const int result = ::io_uring_submit(&ring_);
    return result < 0 ? result : 0;
  }
  unsigned unsubmitted() const override { return ::io_uring_sq_ready(&ring_); }
  bool peek(RingCompletion& over) override {
    io_uring_cqe* entry = nullptr;
    if (::io_uring_peek_cqe(&ring_, &entry) != 0) return false;
    over = {entry->user_data, entry->res};
    ::io_uring_cqe_seen(&ring_, entry);
    return true;
  }
  void wait(std::chrono::milliseconds most) override {
    pollfd both[] = {{ring_.ring_fd, POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    if (::poll(both, 2, static_cast<int>(most.count())) <= 0 || both[1].revents == 0) return;
    std::uint64_t ignored = 0;
    [[maybe_unused]] const auto n = ::read(wake_.get(), &ignored, sizeof ignored);
  }
  void wake() noexcept override {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto n = ::write(wake_.get(), &one, sizeof one);
  }

 private:
  Fd wake_;
  io_uring ring_{};
  bool open_ = false;
};

}  // namespace

bool rings_built_in() { return true; }

std::unique_ptr<Ring> open_ring(unsigned entries) {
  auto ring = std::make_unique<KernelRing>(entries);
  if (ring->open()) return ring;
  const int number = errno;
  ring.reset();
  errno = number;
  return nullptr;
}
#else
bool rings_built_in() { return false; }

std::unique_ptr<Ring> open_ring(unsigned) {
  errno = ENOSYS;
  return nullptr;
}
#endif

}  // namespace cake::inline CAKE_ABI::detail
