// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/calibration.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <system_error>
#include <utility>

#include "cake/chunk/digest.hpp"

namespace cake::inline CAKE_ABI {

namespace {

// The file: a line that names it, a line for each tier and each model, and a line with the CRC-32C of all
// before it. Numbers are as short as they can be and read back exactly.
constexpr std::string_view kHead = "cake calibration 2\n";
constexpr std::string_view kAnyHead = "cake calibration ";
constexpr std::uintmax_t kMostBytes = 1 << 20;

template <class T>
void put(std::string& out, T value) {
  char digits[64];
  const auto end = std::to_chars(digits, digits + sizeof digits, value);
  out.push_back(' ');
  out.append(digits, static_cast<std::size_t>(end.ptr - digits));
}

/// Takes one word, without the blank before it, from the front of a line.
std::string_view word(std::string_view& line) {
  if (!line.empty() && line.front() == ' ') line.remove_prefix(1);
  const std::string_view first = line.substr(0, line.find(' '));
  line.remove_prefix(first.size());
  return first;
}

template <class T>
bool get(std::string_view& line, T& value) {
  const std::string_view digits = word(line);
  const auto end = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return !digits.empty() && end.ec == std::errc() && end.ptr == digits.data() + digits.size();
}

std::uint32_t digest(std::string_view text) { return crc32c(std::as_bytes(std::span(text))); }

std::string tier_line(const LinkEstimate& tier) {
  std::string line = "tier";
  put(line, tier.bytes_per_second);
  put(line, tier.latency.count());
  put(line, tier.insert.count());
  put(line, tier.depth);
  put(line, tier.shallower);
  put(line, static_cast<int>(tier.settled));
  put(line, tier.measured);
  put(line, tier.unused);
  put(line, tier.insert_per_byte);
  return line + "\n";
}

std::optional<LinkEstimate> tier_of(std::string_view line) {
  LinkEstimate tier;
  Time::rep latency = 0;
  Time::rep insert = 0;
  int settled = 0;
  const bool read = get(line, tier.bytes_per_second) && get(line, latency) && get(line, insert) &&
                    get(line, tier.depth) && get(line, tier.shallower) && get(line, settled) &&
                    get(line, tier.measured) && get(line, tier.unused) &&
                    get(line, tier.insert_per_byte) && line.empty();
  tier.latency = Time(latency);
  tier.insert = Time(insert);
  tier.settled = settled != 0;
  if (!read || !(tier == tier.checked())) return std::nullopt;
  return tier;
}

std::string model_line(const ModelFingerprint& model, const ComputeCostEstimator& compute) {
  std::string line("compute ");
  line += model.hex();
  for (const double number : compute.numbers()) put(line, number);
  return line + "\n";
}

bool hex_of(std::string_view text, ModelFingerprint& model) {
  auto* bytes = reinterpret_cast<unsigned char*>(&model.bytes);
  static_assert(sizeof model.bytes == 32);
  if (text.size() != 64) return false;
  for (std::size_t i = 0; i < 32; ++i) {
    const char* at = text.data() + 2 * i;
    if (std::from_chars(at, at + 2, bytes[i], 16).ptr != at + 2) return false;
  }
  return model.hex() == text;
}

Error damaged(const std::string& name, const std::string& what) {
  return {Errc::corrupt, 0,
          name + ": " + what + "; delete the file, and it is measured again while serving"};
}

/// Writes all of it, and makes sure that it is on the disk.
bool write_all(const std::string& file, std::string_view text) {
  const int out = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (out < 0) return false;
  while (!text.empty()) {
    const ssize_t n = ::write(out, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) break;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  const bool written = text.empty() && ::fsync(out) == 0;
  const int why = errno;
  const bool closed = ::close(out) == 0;
  if (!written) errno = why;
  return written && closed;
}

}  // namespace

Calibration::Calibration(const LinkEstimate& tier) : unknown_(tier) {}
Calibration::Calibration(std::vector<LinkEstimate> tiers)
    : unknown_(kUnknownTier), tiers_(std::move(tiers)) {}
Calibration::~Calibration() = default;

Status Calibration::use(std::uint32_t n) {
  std::lock_guard lock(mutex_);
  if (tiers_.empty()) tiers_.assign(n, unknown_);
  if (tiers_.size() == n) return {};
  std::string what("a calibration of a storage with ");
  what.append(std::to_string(tiers_.size())).append(" tiers is used for one with ");
  what.append(std::to_string(n)).append("; keep one calibration, and one file, for each storage");
  return Error{Errc::mismatch, 0, what};
}

std::vector<LinkEstimate> Calibration::tiers() const {
  std::lock_guard lock(mutex_);
  return tiers_;
}

void Calibration::learn(LaneId tier, const LinkEstimator& measured, Time now) {
  std::lock_guard lock(mutex_);
  if (tier < tiers_.size()) tiers_[tier] = measured.learned(tiers_[tier], now);
}

std::optional<ComputeCostEstimator> Calibration::compute(const ModelFingerprint& model) const {
  std::lock_guard lock(mutex_);
  const auto found = compute_.find(model);
  if (found == compute_.end()) return std::nullopt;
  ComputeCostEstimator known = found->second;
  known.hand_out();
  return known;
}

void Calibration::learn(const ModelFingerprint& model, const ComputeCostEstimator& measured) {
  if (!measured.measured()) return;
  std::lock_guard lock(mutex_);
  const auto [known, is_new] = compute_.try_emplace(model, measured);
  if (!is_new) known->second = measured.learned(known->second);
}

void Calibration::take_models(const Calibration& other) {
  if (&other == this) return;
  std::scoped_lock lock(mutex_, other.mutex_);
  for (const auto& [model, compute] : other.compute_) compute_.insert_or_assign(model, compute);
}

std::string Calibration::text() const {
  std::string out(kHead);
  {
    std::lock_guard lock(mutex_);
    for (const LinkEstimate& tier : tiers_) out += tier_line(tier.checked());
    for (const auto& [model, compute] : compute_) out += model_line(model, compute);
  }
  std::string end("end");
  put(end, digest(out));
  out.append(end).push_back('\n');
  return out;
}

Status Calibration::save(const std::string& file) const {
  const std::string text = this->text();
  std::string temporary = file;
  temporary.append(".").append(std::to_string(::getpid())).append(".new");
  if (write_all(temporary, text) && std::rename(temporary.c_str(), file.c_str()) == 0) return {};
  const int why = errno;
  ::unlink(temporary.c_str());
  return errno_error(why, "saving the calibration to " + file);
}

Result<std::shared_ptr<Calibration>> Calibration::load(const std::string& file) {
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(file, error);
  if (error) return errno_error(error.value(), "loading the calibration from " + file);
  if (size > kMostBytes) return damaged(file, "it is too large for a calibration");
  std::ifstream in(file, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (!in.is_open() || in.bad()) {
    return Error{Errc::io, 0, "the calibration " + file + " cannot be read"};
  }
  return parse(text, file);
}

Result<std::shared_ptr<Calibration>> Calibration::parse(std::string_view text,
                                                        const std::string& name) {
  if (!text.starts_with(kAnyHead)) return damaged(name, "it is no calibration");
  std::string_view head = text.substr(kAnyHead.size());
  std::uint32_t version = 0;
  if (head.find('\n') == head.npos || !get(head = head.substr(0, head.find('\n')), version)) {
    return damaged(name, "its first line is cut");
  }
  if (!text.starts_with(kHead)) {
    return Error{Errc::unsupported, 0,
                 name +
                     ": another version of cake has written this calibration; delete the file, "
                     "or keep one for each version"};
  }
  const std::size_t last = text.rfind("\nend ");
  std::string_view sum = last == text.npos ? std::string_view() : text.substr(last + 5);
  std::uint32_t expected = 0;
  if (!sum.ends_with('\n')) return damaged(name, "its end is missing");
  sum.remove_suffix(1);
  if (!get(sum, expected) || !sum.empty() || expected != digest(text.substr(0, last + 1))) {
    return damaged(name, "it is not what was written");
  }
  auto made = std::make_shared<Calibration>();
  std::string_view lines = text.substr(kHead.size(), last + 1 - kHead.size());
  while (!lines.empty()) {
    std::string_view line = lines.substr(0, lines.find('\n'));
    lines.remove_prefix(line.size() + 1);
    const std::string_view kind = word(line);
    if (kind == "tier" && made->tiers_.size() < kMaxTiers) {
      const auto tier = tier_of(line);
      if (!tier) return damaged(name, "a tier has a value that cannot be");
      made->tiers_.push_back(*tier);
    } else if (kind == "compute") {
      ModelFingerprint model;
      std::vector<double> numbers;
      bool read = hex_of(word(line), model);
      for (double number = 0; read && !line.empty(); numbers.push_back(number)) {
        read = get(line, number);
      }
      const auto compute = ComputeCostEstimator::of_numbers(numbers);
      if (!read || !compute) return damaged(name, "a compute cost has a value that cannot be");
      made->compute_.insert_or_assign(model, *compute);
    } else {
      return damaged(name, "it has a line that cannot be");
    }
  }
  return made;
}

}  // namespace cake::inline CAKE_ABI
