// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cufile_api.hpp"

#include <dlfcn.h>

#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace cake::inline CAKE_ABI::detail::cufile {
namespace {

/// Guards the list of libraries, and who opens their drivers.
std::mutex& process_mutex() {
  static std::mutex mutex;
  return mutex;
}

/// Libraries by the name that they were asked for. Never unloaded: they have threads of their own.
std::map<std::string, std::shared_ptr<Api>>& process_libraries() {
  static auto* libraries = new std::map<std::string, std::shared_ptr<Api>>;
  return *libraries;
}

template <class F>
bool find(void* library, const char* name, F& function) {
  void* const symbol = ::dlsym(library, name);
  static_assert(sizeof symbol == sizeof function);
  std::memcpy(&function, &symbol, sizeof symbol);
  return symbol != nullptr;
}

constexpr std::pair<int, const char*> kCodes[] = {
    {5001, "the nvidia-fs driver is not loaded"},
    {5002, "invalid driver property"},
    {5003, "driver property out of range"},
    {5004, "versions of driver and library do not match"},
    {5005, "the driver's version cannot be read"},
    {5006, "the driver is shutting down"},
    {5007, "this platform is not supported"},
    {5008, "the file's storage is not supported"},
    {5009, "the GPU is not supported"},
    {5010, "the nvidia-fs driver failed"},
    {5011, "the CUDA driver failed"},
    {5012, "invalid device pointer"},
    {5013, "invalid memory type"},
    {5014, "beyond the allocated range"},
    {5015, "another CUDA context"},
    {5016, "more than may be pinned"},
    {5017, "beyond the mapped range"},
    {5018, "unsupported file type"},
    {5019, "unsupported open flags"},
    {5020, "the file is not open for direct I/O"},
    {5022, "invalid argument"},
    {5023, "the memory is registered already"},
    {5024, "the memory is not registered"},
    {5025, "permission denied"},
    {5026, "the driver is open already"},
    {5027, "the file could not be registered; containers without udev data refuse so"},
    {5028, "the file is registered already"},
    {5029, "no GPU was found"},
    {5030, "internal error"},
    {5033, "the nvidia-fs driver could not be set up"},
    {5034, "disabled by configuration"},
    {5036, "GPU memory could not be pinned"},
    {5043, "out of memory"},
    {5044, "I/O error"},
    {5045, "the memory could not be registered"},
};

}  // namespace

std::string describe(int code) {
  const int positive = std::abs(code);
  std::string text = std::to_string(positive);
  for (const auto& [known, meaning] : kCodes) {
    if (known == positive) return text + " (" + meaning + ")";
  }
  return text;
}

Api::Api(void* library) {
  const auto need = [&](const char* name, auto& function) {
    if (!find(library, name, function) && missing_.empty()) missing_ = name;
  };
  need("cuFileDriverOpen", driver_open_);
  need("cuFileHandleRegister", handle_register);
  need("cuFileHandleDeregister", handle_deregister);
  need("cuFileBufRegister", buf_register);
  need("cuFileBufDeregister", buf_deregister);
  need("cuFileRead", read);
  find(library, "cuFileGetVersion", get_version_);
  find(library, "cuFileSetStatsLevel", set_stats_level_);
  find(library, "cuFileGetStatsLevel", get_stats_level_);
  find(library, "cuFileStatsStart", stats_start_);
  find(library, "cuFileGetStatsL3", get_stats_l3_);
}

std::shared_ptr<Api> Api::load(const std::string& library, std::string& why) {
  const std::lock_guard lock(process_mutex());
  auto& libraries = process_libraries();
  const auto known = libraries.find(library);
  if (known != libraries.end()) return known->second;
  void* const handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* const said = ::dlerror();  // NOLINT(concurrency-mt-unsafe): of this thread
    why = said != nullptr ? said : "it cannot be loaded";
    return nullptr;
  }
  std::shared_ptr<Api> api(new Api(handle));
  libraries[library] = api;
  return api;
}

/// One call of cuFileDriverOpen, shared with the thread that makes it.
struct Api::DriverCall {
  std::mutex mutex;
  std::condition_variable changed;
  bool given_up = false;
  bool done = false;
  ErrorPair result{};
};

std::optional<ErrorPair> Api::open_driver(std::function<void()> prepare,
                                          std::chrono::nanoseconds limit) {
  const std::shared_ptr<DriverCall> fresh = std::make_shared<DriverCall>();
  std::shared_ptr<DriverCall> call;
  const auto forget = [&] {
    const std::lock_guard lock(process_mutex());
    if (driver_call_ == call) driver_call_.reset();
  };
  {
    const std::lock_guard lock(process_mutex());
    if (!driver_call_) driver_call_ = fresh;
    call = driver_call_;
  }
  if (call == fresh) {
    try {
      std::thread([call, prepare = std::move(prepare), open = driver_open_] {
        {
          // Under the lock, so that whoever asked is still there.
          const std::lock_guard lock(call->mutex);
          if (!call->given_up) prepare();
        }
        const ErrorPair result = open();
        const std::lock_guard lock(call->mutex);
        call->result = result;
        call->done = true;
        call->changed.notify_all();
      }).detach();
    } catch (const std::system_error&) {
      {
        const std::lock_guard lock(call->mutex);
        call->result = {5030, 0};  // for others who wait for it already
        call->done = true;
        call->changed.notify_all();
      }
      forget();
      throw;
    }
  }
  std::unique_lock lock(call->mutex);
  if (!call->changed.wait_for(lock, limit, [&] { return call->done; })) {
    call->given_up = true;
    return std::nullopt;
  }
  if (call->result.err == 0 || call->result.err == kDriverAlreadyOpen) return ErrorPair{0, 0};
  const ErrorPair result = call->result;
  lock.unlock();
  forget();
  return result;
}

int Api::version() const {
  int version = 0;
  return get_version_ != nullptr && get_version_(&version).err == 0 ? version : 0;
}

std::optional<int> Api::begin_counting() {
  if (set_stats_level_ == nullptr || get_stats_l3_ == nullptr) return std::nullopt;
  int before = 0;
  if (get_stats_level_ == nullptr || get_stats_level_(&before).err != 0) before = 0;
  if (set_stats_level_(3).err != 0) return std::nullopt;
  if (stats_start_ != nullptr) (void)stats_start_();  // some count without it
  return before;
}

void Api::end_counting(int level_before) { (void)set_stats_level_(level_before); }

Result<ReadCounts> Api::read_counts() const {
  if (get_stats_l3_ == nullptr) {
    return Error{Errc::unsupported, 0, "libcufile does not export cuFileGetStatsL3"};
  }
  // A newer library may write a larger structure than the one known here.
  std::vector<std::uint64_t> room(std::size_t{64} * 1024 / sizeof(std::uint64_t));
  static_assert(sizeof(StatsLevel3) <= std::size_t{32} * 1024);
  if (const ErrorPair result = get_stats_l3_(room.data()); result.err != 0) {
    return Error{Errc::unsupported, result.err, "cuFileGetStatsL3 failed"};
  }
  StatsLevel3 stats;
  std::memcpy(&stats, room.data(), sizeof stats);
  if (stats.num_gpus == 0 || stats.num_gpus > kMostGpus) {
    return Error{Errc::unsupported, 0, "cuFileGetStatsL3 reports no GPU"};
  }
  ReadCounts counts;
  for (std::uint32_t gpu = 0; gpu < stats.num_gpus; ++gpu) {
    counts.p2p += stats.per_gpu_stats[gpu].n_p2p_reads;
    counts.nvfs += stats.per_gpu_stats[gpu].n_nvfs_reads;
    counts.posix += stats.per_gpu_stats[gpu].n_posix_reads;
  }
  return counts;
}

}  // namespace cake::inline CAKE_ABI::detail::cufile
