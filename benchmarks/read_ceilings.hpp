// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What a folder's files give to threads that do no more than they must: the ceilings beside which
// read_bench shows loads.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cake/chunk/digest.hpp"
#include "cake/staging.hpp"

namespace cake::benchmarks {

inline constexpr std::size_t kPiece = std::size_t{1} << 20;

/// Where one thread reads a piece to, and what it then does with it.
class PieceTarget {
 public:
  PieceTarget() = default;
  PieceTarget(const PieceTarget&) = delete;
  PieceTarget& operator=(const PieceTarget&) = delete;
  virtual ~PieceTarget() = default;
  /// Room for kPiece bytes, which nothing uses any more.
  virtual std::byte* buffer() { return memory_.data(); }
  /// Begins to take the bytes of buffer(); `place` counts all pieces of all files.
  virtual void take(std::size_t place, std::size_t bytes) {
    (void)place;
    (void)bytes;
  }

 private:
  AlignedBuffer memory_{kPiece};
};

/// Copies each piece into host memory.
class HostTarget final : public PieceTarget {
 public:
  explicit HostTarget(MutableBytes to) : to_(to) {}
  void take(std::size_t place, std::size_t bytes) override {
    const std::size_t places = to_.size() / kPiece;
    std::memcpy(to_.data() + place % places * kPiece, buffer(), bytes);
  }

 private:
  MutableBytes to_;
};

/// Reads all files of a folder in pieces, in order, each thread the next one.
class Ceiling {
 public:
  Ceiling(const std::filesystem::path& folder, bool direct) : direct_(direct) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
      if (!entry.is_regular_file() || entry.file_size() <= kPiece) continue;
      const int file = ::open(entry.path().c_str(), O_RDONLY | (direct_ ? O_DIRECT : 0));
      if (file < 0) continue;
      files_.push_back(file);
      for (std::uint64_t at = 0; at < entry.file_size(); at += kPiece) {
        pieces_.emplace_back(file, at);
      }
    }
  }
  Ceiling(const Ceiling&) = delete;
  Ceiling& operator=(const Ceiling&) = delete;
  ~Ceiling() {
    for (const int file : files_) ::close(file);
  }
  using MakeTarget = std::function<std::unique_ptr<PieceTarget>()>;
  /// GB/s of reads by so many threads.
  double rate(unsigned threads, bool digest, const MakeTarget& make) const {
    std::vector<std::unique_ptr<PieceTarget>> targets;
    for (unsigned t = 0; t < threads; ++t) targets.push_back(make());
    std::atomic<std::size_t> next{0};
    std::atomic<std::uint64_t> bytes{0};
    std::atomic<std::uint32_t> digests{0};  // so that they are computed
    const auto begin = std::chrono::steady_clock::now();
    {
      std::vector<std::jthread> pool;
      pool.reserve(targets.size());
      for (auto& target : targets) {
        pool.emplace_back([&, to = target.get()] {
          for (std::size_t i; (i = next++) < pieces_.size();) {
            std::byte* const buffer = to->buffer();
            const ssize_t n =
                ::pread(pieces_[i].first, buffer, kPiece, static_cast<off_t>(pieces_[i].second));
            if (n <= 0) continue;
            const auto got = static_cast<std::size_t>(n);
            for (std::size_t at = 0; digest && at < got; at += kDigestBlock) {
              digests ^= crc32c({buffer + at, std::min(kDigestBlock, got - at)});
            }
            to->take(i, got);
            bytes += got;
          }
          (void)to->buffer();
        });
      }
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    return static_cast<double>(bytes.load()) / took.count() * 1e-9;
  }

 private:
  bool direct_;
  std::vector<int> files_;
  std::vector<std::pair<int, std::uint64_t>> pieces_;
};

}  // namespace cake::benchmarks
