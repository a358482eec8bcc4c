// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "output.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <ctime>
#include <utility>

#include "open_store.hpp"

namespace cake::tools {

std::string bytes_text(std::uint64_t bytes) {
  constexpr std::array kUnits{"bytes", "kB", "MB", "GB", "TB", "PB"};
  if (bytes < 1000) return std::to_string(bytes) + " bytes";
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  std::array<char, 32> text{};
  const int digits = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  std::snprintf(text.data(), text.size(), "%.*f %s", digits, value, kUnits[unit]);
  return text.data();
}

std::string time_text(std::optional<std::int64_t> seconds) {
  if (!seconds) return "-";
  const auto when = static_cast<std::time_t>(*seconds);
  std::tm parts{};
  std::array<char, 32> text{};
  if (::gmtime_r(&when, &parts) == nullptr) return "-";
  std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &parts);
  return text.data();
}

std::string span_text(std::chrono::nanoseconds span) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(span).count();
  if (seconds < 60) return std::to_string(seconds) + " s";
  if (seconds < 3600) {
    return std::to_string(seconds / 60) + " min " + std::to_string(seconds % 60) + " s";
  }
  return std::to_string(seconds / 3600) + " h " + std::to_string(seconds / 60 % 60) + " min";
}

void Failures::tell(const std::string& what) {
  const std::lock_guard lock(mutex_);
  ++count_;
  std::fprintf(stderr, "cake_store: %s\n", without_secrets(what).c_str());
}

std::uint64_t Failures::count() const {
  const std::lock_guard lock(mutex_);
  return count_;
}

Progress::Progress(std::string doing, std::uint64_t objects, std::uint64_t bytes)
    : doing_(std::move(doing)),
      objects_(objects),
      bytes_(bytes),
      shown_(::isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() {
  if (shown_ && objects_done_ > 0) std::fputs("\r\033[K", stderr);
}

void Progress::add(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  ++objects_done_;
  bytes_done_ += bytes;
  const auto now = Clock::now();
  if (!shown_ || now < next_) return;
  next_ = now + std::chrono::milliseconds(200);
  // By bytes, which are what takes the time.
  const double done = bytes_ > 0 ? static_cast<double>(bytes_done_) / static_cast<double>(bytes_)
                                 : static_cast<double>(objects_done_) /
                                       static_cast<double>(std::max<std::uint64_t>(objects_, 1));
  std::string left;
  if (done > 0) {
    const std::chrono::duration<double> took = now - begun_;
    left = ", " +
           span_text(std::chrono::duration_cast<std::chrono::nanoseconds>(
               took * std::max(0.0, 1 / done - 1))) +
           " left";
  }
  std::fprintf(stderr, "\r\033[K%s: %llu of %llu objects, %s%s", doing_.c_str(),
               static_cast<unsigned long long>(objects_done_),
               static_cast<unsigned long long>(objects_), bytes_text(bytes_done_).c_str(),
               left.c_str());
}

}  // namespace cake::tools
