// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/storage/gds.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <new>
#include <optional>
#include <utility>

#include "cake/detail/process.hpp"
#include "cake/staging.hpp"
#include "files.hpp"
#include "probe.hpp"
#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI {
namespace detail {
namespace {

GdsOptions checked(GdsOptions options) {
  const auto check = [](bool good, const char* what) {
    if (!good) throw Exception({Errc::invalid_argument, 0, what});
  };
  const auto size = [&](std::size_t bytes) {
    return bytes != 0 && bytes % kIoAlignment == 0 && bytes <= (std::size_t{1} << 30);
  };
  check(size(options.op_bytes), "GDS: op_bytes must be a multiple of 4096, at most 1 GiB");
  check(size(options.bounce_bytes), "GDS: bounce_bytes must be a multiple of 4096, at most 1 GiB");
  check(options.driver_timeout.count() > 0 && options.driver_timeout <= std::chrono::hours(24),
        "GDS: driver_timeout must be above 0, at most a day");
  check(options.max_errors > 0, "GDS: max_errors must be at least 1");
  check(!options.library.empty(), "GDS: the library has no name");
  return options;
}

}  // namespace

/// Host buffers that reads to the device go through, kept for the next one.
class BouncePool {
 public:
  BouncePool(std::size_t bytes, DeviceStaging* staging) : bytes_(bytes), staging_(staging) {}

  AlignedBuffer take() {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        AlignedBuffer buffer = std::move(free_.back());
        free_.pop_back();
        return buffer;
      }
    }
    return AlignedBuffer(bytes_, staging_->host_memory());
  }
  void give_back(AlignedBuffer buffer) {
    const std::lock_guard lock(mutex_);
    if (free_.size() < kMost) free_.push_back(std::move(buffer));
  }
  std::size_t bytes() const { return bytes_; }

 private:
  static constexpr std::size_t kMost = 16;
  std::size_t bytes_;
  DeviceStaging* staging_;
  std::mutex mutex_;
  std::vector<AlignedBuffer> free_;
};

class GdsEngine {
 public:
  GdsEngine(const GdsOptions& options, DeviceStaging* staging)
      : posix(checked(options).posix),
        options_(options),
        staging_(staging),
        probe_(probe_gds(options_, staging)),
        bounce_(options.bounce_bytes, staging) {
    const bool works = probe_.mode != GdsMode::none;
    device_ = probe_.mode == GdsMode::native || (works && options_.force);
    forced_ = device_ && probe_.mode != GdsMode::native;
    if (device_) {
      files_.emplace(probe_.api, *probe_.store);
    } else if (probe_.registered) {
      (void)probe_.api->buf_deregister(staging_->arena().data());
    }
  }
  bool in_child() const { return made_here_.in_child(); }
  Status usable() const { return made_here_.check("a GdsStorage"); }
  ~GdsEngine() {
    {
      std::unique_lock lock(mutex_);
      idle_.wait(lock, [&] { return in_flight_ == 0; });
    }
    if (!files_) return;
    files_->clear();
    (void)staging_->use_on_this_thread();
    (void)probe_.api->buf_deregister(staging_->arena().data());
  }
  GdsEngine(const GdsEngine&) = delete;
  GdsEngine& operator=(const GdsEngine&) = delete;

  GdsRead read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset, MutableBytes out,
               std::shared_ptr<PieceSink> sink) {
    if (auto status = usable(); !status) return GdsRead(std::move(status));
    if (staging_ == nullptr || out.empty() || !staging_->contains(out.data())) {
      return GdsRead(posix.read_pieces(tier, key, offset, out, std::move(sink)));
    }
    return GdsRead(read_to_device(tier, key, offset, out));
  }

  bool stored_bytes_differ(const ChunkKey& key, std::uint64_t offset, ConstBytes bytes) {
    if (in_child() || staging_ == nullptr || !staging_->contains(bytes.data())) return false;
    const InFlight counted(*this);
    try {
      AlignedBuffer stored = bounce_.take();
      AlignedBuffer given = bounce_.take();
      bool differs = false;
      for (std::size_t at = 0; at < bytes.size() && !differs; at += bounce_.bytes()) {
        const std::size_t size = std::min(bounce_.bytes(), bytes.size() - at);
        if (!posix.read(0, key, offset + at, stored.bytes().first(size)).wait()) break;
        if (!staging_->to_host(given.data(), bytes.data() + at, size)) break;
        differs = std::memcmp(stored.data(), given.data(), size) != 0;
      }
      bounce_.give_back(std::move(stored));
      bounce_.give_back(std::move(given));
      if (differs) {
        forget(key);
        note_error({Errc::device, 0, "cuFileRead gave other bytes than the file holds"});
      }
      return differs;
    } catch (const std::bad_alloc&) {
      return false;
    }
  }

  void forget(const ChunkKey& key) {
    if (files_) files_->drop(key);
  }
  void sweep() {
    if (files_) files_->sweep();
  }
  DeviceStaging* device_staging() const { return device_ ? staging_ : nullptr; }

  std::string path() const {
    if (!device_) return "POSIX: " + reason();
    if (probe_.mode == GdsMode::native) return "native GDS";
    return probe_.mode == GdsMode::compat ? "cuFile's compatibility mode (forced)"
                                          : "cuFile, which way it does not say (forced)";
  }

  GdsReport report() const {
    GdsReport report;
    report.checks = probe_.checks;
    report.mode = probe_.mode;
    report.device = device_;
    report.forced = forced_;
    if (probe_.api) report.library_version = probe_.api->version();
    report.reason = reason();
    report.reads = reads_;
    report.bytes = bytes_;
    report.short_ops = short_ops_;
    report.retried = retried_;
    report.bounced = bounced_;
    if (files_) report.opens = files_->opens();
    if (in_child()) return report;  // the lock may be held by a thread that is not here
    const std::lock_guard lock(mutex_);
    report.demoted = !demoted_.empty();
    return report;
  }

  PosixStorage posix;

 private:
  /// Counts a read in and out, so that nothing is deregistered under it.
  class InFlight {
   public:
    explicit InFlight(GdsEngine& engine) : engine_(engine) {
      const std::lock_guard lock(engine_.mutex_);
      ++engine_.in_flight_;
    }
    ~InFlight() {
      const std::lock_guard lock(engine_.mutex_);
      if (--engine_.in_flight_ == 0) engine_.idle_.notify_all();
    }
    InFlight(const InFlight&) = delete;
    InFlight& operator=(const InFlight&) = delete;

   private:
    GdsEngine& engine_;
  };

  std::string reason() const {
    if (in_child()) return usable().error().context;
    {
      const std::lock_guard lock(mutex_);
      if (!demoted_.empty()) return demoted_;
    }
    switch (probe_.mode) {
      case GdsMode::native:
        return "cuFile's statistics say that reads go straight to the device";
      case GdsMode::compat:
        return forced_ ? "cuFile's compatibility mode was forced"
                       : "cuFile would only make POSIX reads of its own (compatibility mode)";
      case GdsMode::unknown:
        return forced_ ? "cuFile works, does not say how, and was forced"
                       : "cuFile works, but does not say how, and was not forced";
      case GdsMode::none:
        break;
    }
    if (probe_.checks.empty()) return "nothing was tried";
    const GdsCheckResult& last = probe_.checks.back();
    return std::string(to_string(last.check)) + ": " + last.detail;
  }

  Status read_to_device(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                        MutableBytes out) {
    const auto arena = staging_->arena();
    const auto place = static_cast<std::size_t>(out.data() - arena.data());
    if (tier != 0) return Error{Errc::invalid_argument, 0, "read: a directory has only tier 0"};
    if (offset % kIoAlignment != 0 || out.size() % kIoAlignment != 0 || place % kIoAlignment != 0) {
      return Error{Errc::invalid_argument, 0,
                   "offset, size and address of a read must be multiples of 4096"};
    }
    if (out.size() > arena.size() - place) {
      return Error{Errc::invalid_argument, 0, "a read goes beyond the end of the device memory"};
    }
    const InFlight counted(*this);
    try {
      CAKE_TRY(staging_->use_on_this_thread());
      if (!device_) return read_by_host(key, offset, out);
      Status direct = read_by_cufile(key, offset, out);
      if (direct || direct.code() == Errc::not_found || direct.code() == Errc::corrupt) {
        return direct;
      }
      ++retried_;
      Status again = read_by_host(key, offset, out);
      // If nobody can read the file, it is not the library's fault.
      if (again && direct.code() == Errc::device) note_error(direct.error());
      return again;
    } catch (const std::bad_alloc&) {
      return Error{Errc::out_of_memory, 0, "no memory to read a stored chunk"};
    }
  }

  Status read_by_cufile(const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    const auto file = files_->get(key);
    if (!file) return file.error();
    const std::uint64_t size = (*file)->size();
    if (offset > size || out.size() > size - offset) {
      return Error{Errc::corrupt, 0, StoreDirectory::file_name(key) + " ends before the read does"};
    }
    auto status =
        read_whole(*probe_.api, **file, *staging_, offset, out, {options_.op_bytes, &short_ops_});
    if (status) {
      ++reads_;
      bytes_ += out.size();
    } else {
      files_->drop(key);  // the next read begins anew
    }
    return status;
  }

  /// POSIX reads into host memory, each copied while the next one runs.
  Status read_by_host(const ChunkKey& key, std::uint64_t offset, MutableBytes out) {
    ++bounced_;
    AlignedBuffer buffers[2] = {bounce_.take(), {}};
    if (out.size() > bounce_.bytes()) buffers[1] = bounce_.take();
    const auto part = [&](std::size_t at) { return std::min(bounce_.bytes(), out.size() - at); };
    std::optional<PosixRead> running =
        posix.read(0, key, offset, buffers[0].bytes().first(part(0)));
    Status status;
    int turn = 0;
    for (std::size_t at = 0; at < out.size(); at += bounce_.bytes(), turn ^= 1) {
      status = running->wait();
      running.reset();
      if (!status) break;
      const std::size_t next = at + bounce_.bytes();
      if (next < out.size()) {
        running = posix.read(0, key, offset + next, buffers[turn ^ 1].bytes().first(part(next)));
      }
      status = staging_->from_host(out.data() + at, buffers[turn].data(), part(at));
      if (!status) break;
    }
    if (running) (void)running->wait();  // it still writes to a buffer
    for (AlignedBuffer& buffer : buffers) {
      if (buffer.data() != nullptr) bounce_.give_back(std::move(buffer));
    }
    return status;
  }

  void note_error(const Error& error) {
    const auto now = std::chrono::steady_clock::now();
    {
      const std::lock_guard lock(mutex_);
      errors_.push_back(now);
      while (now - errors_.front() > options_.error_window) errors_.pop_front();
      if (errors_.size() < options_.max_errors || !demoted_.empty()) return;
      demoted_ = "given up after " + std::to_string(errors_.size()) +
                 " cuFile errors; the last one: " + error.message();
      device_ = false;
    }
    files_->clear();
  }

  const ForkGuard made_here_;
  const GdsOptions options_;
  DeviceStaging* staging_;
  GdsProbe probe_;
  BouncePool bounce_;
  std::optional<GdsFileCache> files_;
  bool forced_ = false;
  std::atomic<bool> device_{false};
  std::atomic<std::uint64_t> reads_{0}, bytes_{0}, short_ops_{0}, retried_{0}, bounced_{0};
  mutable std::mutex mutex_;  // guards all below
  std::condition_variable idle_;
  std::size_t in_flight_ = 0;
  std::deque<std::chrono::steady_clock::time_point> errors_;
  std::string demoted_;  // why; empty: it is not
};

}  // namespace detail

std::string_view to_string(GdsCheck check) {
  static constexpr std::string_view names[] = {"memory",  "library", "symbols", "driver",
                                               "buffers", "handle",  "pattern", "statistics"};
  const auto index = static_cast<std::size_t>(check);
  return index < std::size(names) ? names[index] : "unknown";
}

std::string_view to_string(GdsMode mode) {
  static constexpr std::string_view names[] = {"none", "unknown", "compat", "native"};
  const auto index = static_cast<std::size_t>(mode);
  return index < std::size(names) ? names[index] : "unknown";
}

std::string GdsReport::text() const {
  std::string text = "GDS: reads into device memory go ";
  text += device ? "through cuFile" : "by POSIX calls";
  text += " (" + reason + ")\n";
  for (const GdsCheckResult& result : checks) {
    text += "  " + std::string(to_string(result.check)) + ": " + (result.good ? "yes" : "no");
    text += ", " + result.detail + "\n";
  }
  text += "  cuFile mode: " + std::string(to_string(mode));
  if (library_version != 0) {
    text += ", library " + std::to_string(library_version / 1000) + "." +
            std::to_string(library_version % 1000 / 10);
  }
  text += "\n  reads " + std::to_string(reads) + " (" + std::to_string(bytes) + " bytes, " +
          std::to_string(short_ops) + " continued), retried " + std::to_string(retried) +
          ", through the host " + std::to_string(bounced) + ", files registered " +
          std::to_string(opens) + "\n";
  return text;
}

bool GdsRead::ready() {
  PosixRead* const read = std::get_if<PosixRead>(&state_);
  return read == nullptr || read->ready();
}
Status GdsRead::wait() {
  PosixRead* const read = std::get_if<PosixRead>(&state_);
  return read == nullptr ? std::get<Status>(state_) : read->wait();
}
bool GdsRead::wait_for(std::chrono::nanoseconds span) {
  PosixRead* const read = std::get_if<PosixRead>(&state_);
  return read == nullptr || read->wait_for(span);
}

GdsStorage::GdsStorage(const GdsOptions& options, DeviceStaging* staging)
    : engine_(std::make_unique<detail::GdsEngine>(options, staging)) {}
GdsStorage::~GdsStorage() {
  // cuFile and the threads of the parent are of no use in the child.
  if (engine_ && engine_->in_child()) detail::abandon(std::move(engine_));
}
GdsStorage::GdsStorage(GdsStorage&&) noexcept = default;
GdsStorage& GdsStorage::operator=(GdsStorage&& other) noexcept {
  GdsStorage old(std::move(*this));
  engine_ = std::move(other.engine_);
  return *this;
}

Result<std::vector<StoredChunk>> GdsStorage::lookup(std::span<const ChunkKey> keys) {
  CAKE_TRY(engine_->usable());
  engine_->sweep();
  return engine_->posix.lookup(keys);
}
GdsRead GdsStorage::read(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                         MutableBytes out) {
  return engine_->read(tier, key, offset, out, nullptr);
}
GdsRead GdsStorage::read_pieces(std::uint32_t tier, const ChunkKey& key, std::uint64_t offset,
                                MutableBytes out, std::shared_ptr<PieceSink> sink) {
  return engine_->read(tier, key, offset, out, std::move(sink));
}

bool GdsStorage::stored_bytes_differ(const ChunkKey& key, std::uint64_t offset, ConstBytes bytes) {
  return engine_->stored_bytes_differ(key, offset, bytes);
}
Result<bool> GdsStorage::write_new(const ChunkKey& key, ConstBytes bytes) {
  CAKE_TRY(engine_->usable());
  auto result = engine_->posix.write_new(key, bytes);
  engine_->sweep();  // it may have evicted what is held open here
  return result;
}
Status GdsStorage::write(const ChunkKey& key, ConstBytes bytes) {
  const auto written = write_new(key, bytes);
  return written ? Status() : Status(written.error());
}
Status GdsStorage::lookup_problem() const { return engine_->posix.lookup_problem(); }
Status GdsStorage::erase(const ChunkKey& key) {
  CAKE_TRY(engine_->usable());
  engine_->forget(key);
  return engine_->posix.erase(key);
}
DeviceStaging* GdsStorage::device_staging() const { return engine_->device_staging(); }
GdsReport GdsStorage::report() const { return engine_->report(); }
std::string GdsStorage::path() const { return engine_->path(); }
PosixStats GdsStorage::posix_stats() const { return engine_->posix.stats(); }
const std::filesystem::path& GdsStorage::directory() const { return engine_->posix.directory(); }

}  // namespace cake::inline CAKE_ABI
