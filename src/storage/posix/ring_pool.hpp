// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Reading for PosixStorage with io_uring: threads that have a ring each.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "reader.hpp"
#include "ring.hpp"
#include "transfer.hpp"

namespace cake::inline CAKE_ABI::detail {

/// Carries out operations on files that are open, in the order of the calls of read(). Each thread
/// keeps several in flight, and does nothing that may block: it hands them to its ring, and takes
/// those that are over.
///
/// An operation that lasts is stuck: its thread hands over another one for it, and a single file has
/// never all the places of all rings, so that one that hangs does not stop reads of others.
///
/// Thread:  Safe for concurrent use
class RingPool {
 public:
  /// Takes operations that the rings cannot carry out. It neither throws nor waits for the rings.
  using GiveBack = std::function<void(ReadOperations&)>;

  /// Errors:  throws Exception: not one ring could be opened
  RingPool(StoreDirectory& store, GiveBack give_back);
  RingPool(const RingPool&) = delete;
  RingPool& operator=(const RingPool&) = delete;
  /// Carries out, or gives back, what was submitted first.
  ~RingPool();
  /// Takes all of them. False: no ring works any more, and it took none.
  bool submit(ReadOperations& operations) noexcept;

 private:
  using Clock = std::chrono::steady_clock;
  // A place for each operation in flight, and for as many more as are stuck.
  static constexpr std::size_t kMostPlaces = 32;
  struct Place {
    ReadOperations operation;  // one; empty: the place is free
    Transfer transfer;
    Clock::time_point begun{};
    bool stuck = false;
  };
  struct Worker {
    std::unique_ptr<Ring> ring;
    std::array<Place, kMostPlaces> places;
    std::size_t in_flight = 0;
    std::size_t stuck = 0;  // of those
    bool waiting = false;   // in its ring, with room for more; guarded by the pool's mutex
    std::thread thread;
  };

  void start();
  void work(Worker& me);
  bool open(Worker& me);
  bool has_room(const Worker& me) const;
  void refill(Worker& me);
  void place(Worker& me, ReadOperations& one);
  void prepare(Worker& me, std::size_t at);
  bool hand_over(Worker& me);
  void wait(Worker& me);
  bool idle();
  void arrived(Worker& me, const RingCompletion& over);
  void mark_stuck(Worker& me);
  void free_place(Worker& me, std::size_t at, ReadOperations& to);
  void release(ReadOperation& operation);
  void give_back(ReadOperations& operations);
  void give_up(Worker& me);
  ReadOperations::iterator next();
  void wake(std::size_t operations);

  StoreDirectory& store_;
  GiveBack give_back_;
  std::mutex mutex_;
  std::condition_variable changed_;
  ReadOperations queue_;
  std::size_t idle_ = 0;
  std::size_t opening_ = 0;  // threads that have not tried to open their ring yet
  std::size_t rings_ = 0;    // that work
  int refusal_ = 0;          // errno of the last that could not be opened
  bool stopping_ = false;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace cake::inline CAKE_ABI::detail
