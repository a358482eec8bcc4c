// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "probe.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <system_error>
#include <utility>

#include "src/core/try.hpp"

namespace cake::inline CAKE_ABI::detail {
namespace {

constexpr std::size_t kProbeBytes = std::size_t{256} << 10;

/// A file of known bytes in the store's directory, gone at the end. It has a name meanwhile: cuFile
/// refuses files that have none. A store that opens the directory removes it if this process dies.
class ProbeFile {
 public:
  ProbeFile(StoreDirectory& store, std::size_t bytes) : root_(store.root()), content_(bytes) {
    std::uint64_t x = 0x9e3779b97f4a7c15u;
    for (std::byte& b : content_.bytes()) {
      x = x * 6364136223846793005u + 1442695040888963407u;
      b = static_cast<std::byte>(x >> 56);
    }
    if (status_ = store.check_writable(); !status_) return;
    if (!within_file_limit(bytes)) {
      status_ = system_error(EFBIG, "a probe file cannot be written");
      return;
    }
    temporary_ = open_temporary(store, root_->get(), root_->get(), false, true);
    if (!temporary_.file) {
      status_ = system_error(errno, "a probe file cannot be created");
      return;
    }
    for (std::size_t done = 0; done < bytes;) {
      const ssize_t n = store.calls().write_at(temporary_.file.get(), content_.data() + done,
                                               bytes - done, static_cast<off_t>(done));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        status_ = system_error(n < 0 ? errno : EIO, "a probe file cannot be written");
        return;
      }
      done += static_cast<std::size_t>(n);
    }
    (void)store.calls().sync(temporary_.file.get());
  }
  ~ProbeFile() {
    if (!temporary_.name.empty()) ::unlinkat(temporary_.directory, temporary_.name.c_str(), 0);
  }
  ProbeFile(const ProbeFile&) = delete;
  ProbeFile& operator=(const ProbeFile&) = delete;

  const Status& status() const { return status_; }
  const Fd& file() const { return temporary_.file; }
  ConstBytes content() const { return content_.bytes(); }

 private:
  StoreDirectory::Root root_;
  AlignedBuffer content_;
  TemporaryFile temporary_;
  Status status_;
};

/// The bytes of the file, read into device memory that held their complement before.
Status try_pattern(const cufile::Api& api, const GdsFile& file, DeviceStaging& staging,
                   ConstBytes content, std::size_t op_bytes) {
  const AlignedBuffer device(content.size(), &staging);
  const AlignedBuffer host(content.size());
  std::transform(content.begin(), content.end(), host.data(), [](std::byte b) { return ~b; });
  CAKE_TRY(staging.from_host(device.data(), host.data(), content.size()));
  std::atomic<std::uint64_t> short_ops{0};
  auto status = read_whole(api, file, staging, 0, device.bytes(), {op_bytes, &short_ops});
  if (!status) return status;
  status = staging.to_host(host.data(), device.data(), content.size());
  if (!status) return status;
  const auto wrong = std::mismatch(content.begin(), content.end(), host.data()).first;
  if (wrong != content.end()) {
    return Error{Errc::corrupt, 0,
                 "other bytes arrived than the file holds, first at byte " +
                     std::to_string(wrong - content.begin())};
  }
  return {};
}

GdsCheckResult judge(const Result<cufile::ReadCounts>& before,
                     const Result<cufile::ReadCounts>& after, GdsMode& mode) {
  mode = GdsMode::unknown;
  if (!before || !after) {
    const Error& why = before ? after.error() : before.error();
    return {GdsCheck::statistics, false, why.native, why.context};
  }
  const std::uint64_t p2p = after->p2p - before->p2p;
  const std::uint64_t nvfs = after->nvfs - before->nvfs;
  const std::uint64_t posix = after->posix - before->posix;
  const std::string counts = "peer to peer " + std::to_string(p2p) + ", nvidia-fs " +
                             std::to_string(nvfs) + ", posix " + std::to_string(posix);
  if (posix != 0) {
    mode = GdsMode::compat;
  } else if (p2p + nvfs != 0) {
    mode = GdsMode::native;
  }
  return {GdsCheck::statistics, mode == GdsMode::native, 0, counts};
}

/// Statistics are counted while it lives.
class Counting {
 public:
  explicit Counting(cufile::Api& api) : api_(api), before_(api.begin_counting()) {}
  ~Counting() {
    if (before_) api_.end_counting(*before_);
  }
  Counting(const Counting&) = delete;
  Counting& operator=(const Counting&) = delete;
  Result<cufile::ReadCounts> read() const {
    if (!before_) return Error{Errc::unsupported, 0, "the library does not count its reads"};
    return api_.read_counts();
  }

 private:
  cufile::Api& api_;
  std::optional<int> before_;
};

class Prober {
 public:
  Prober(const GdsOptions& options, DeviceStaging* staging, GdsProbe& checks)
      : options_(options), staging_(staging), probe_(checks) {}

  void run() {
    if (memory() && library() && symbols() && driver() && buffers()) directory();
  }

 private:
  bool note(GdsCheck check, bool good, int native, std::string detail) {
    probe_.checks.push_back({check, good, native, std::move(detail)});
    return good;
  }
  bool note(GdsCheck check, const Error& error) {
    return note(check, false, error.native, error.context);
  }

  bool memory() {
    if (staging_ == nullptr) return note(GdsCheck::memory, false, 0, "no device memory was given");
    if (staging_->arena().size() < kIoAlignment) {
      return note(GdsCheck::memory, false, 0, "the device memory is smaller than 4 KiB");
    }
    if (const Status status = staging_->use_on_this_thread(); !status) {
      return note(GdsCheck::memory, status.error());
    }
    return note(GdsCheck::memory, true, 0, std::to_string(staging_->arena().size()) + " bytes");
  }

  bool library() {
    std::string why;
    probe_.api = cufile::Api::load(options_.library, why);
    return note(GdsCheck::library, probe_.api != nullptr, 0,
                probe_.api != nullptr ? options_.library : why);
  }

  bool symbols() {
    const std::string& missing = probe_.api->missing();
    return note(GdsCheck::symbols, missing.empty(), 0,
                missing.empty() ? "all that are needed" : missing + " is missing");
  }

  bool driver() {
    std::optional<cufile::ErrorPair> result;
    try {
      result = probe_.api->open_driver([this] { (void)staging_->use_on_this_thread(); },
                                       options_.driver_timeout);
    } catch (const std::system_error& e) {
      return note(GdsCheck::driver, false, e.code().value(), "no thread to open it with");
    }
    if (!result) {
      const auto span =
          std::chrono::duration_cast<std::chrono::milliseconds>(options_.driver_timeout);
      return note(
          GdsCheck::driver, false, ETIMEDOUT,
          "cuFileDriverOpen did not come back within " + std::to_string(span.count()) + " ms");
    }
    return note(GdsCheck::driver, result->err == 0, result->err,
                result->err == 0 ? "open" : "cuFileDriverOpen: " + cufile::describe(result->err));
  }

  bool buffers() {
    const auto arena = staging_->arena();
    const cufile::ErrorPair result = probe_.api->buf_register(arena.data(), arena.size(), 0);
    probe_.registered = result.err == 0;
    return note(
        GdsCheck::buffers, result.err == 0, result.err,
        result.err == 0 ? "registered" : "cuFileBufRegister: " + cufile::describe(result.err));
  }

  void directory() {
    try {
      PosixOptions posix = options_.posix;
      posix.force_temporary_names = true;
      probe_.store = std::make_unique<StoreDirectory>(posix);
    } catch (const Exception& e) {
      note(GdsCheck::handle, e.error());
      return;
    }
    try {
      probe();
    } catch (const std::bad_alloc&) {
      note(GdsCheck::pattern, false, 0, "no memory to probe with");
    }
  }

  void probe() {
    const ProbeFile probe(*probe_.store, std::min(kProbeBytes, staging_->arena().size() /
                                                                   kIoAlignment * kIoAlignment));
    if (!probe.status()) {
      note(GdsCheck::handle, probe.status().error());
      return;
    }
    const auto file = register_file(probe_.api, probe.file(), probe_.store->direct());
    if (!file) {
      note(GdsCheck::handle, file.error());
      return;
    }
    note(GdsCheck::handle, true, 0, "a file in the store's directory registers");
    const Counting counting(*probe_.api);
    const auto before = counting.read();
    const Status pattern =
        try_pattern(*probe_.api, **file, *staging_, probe.content(), options_.op_bytes);
    if (!pattern) {
      note(GdsCheck::pattern, pattern.error());
      return;
    }
    note(GdsCheck::pattern, true, 0,
         std::to_string(probe.content().size()) + " known bytes arrive");
    probe_.checks.push_back(judge(before, counting.read(), probe_.mode));
  }

  const GdsOptions& options_;
  DeviceStaging* staging_;
  GdsProbe& probe_;
};

}  // namespace

GdsProbe probe_gds(const GdsOptions& options, DeviceStaging* staging) {
  GdsProbe checks;
  Prober(options, staging, checks).run();
  return checks;
}

}  // namespace cake::inline CAKE_ABI::detail
