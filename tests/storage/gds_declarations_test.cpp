// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Our own declarations against cuFile's, where its header can be found.
#include <type_traits>

#include "catch.hpp"
#include "src/storage/gds/cufile_api.hpp"

#if __has_include(<cufile.h>) && __has_include(<cuda.h>)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#include <cufile.h>
#pragma GCC diagnostic pop

namespace {
namespace ours = cake::detail::cufile;

static_assert(sizeof(ours::ErrorPair) == sizeof(CUfileError_t) &&
              offsetof(ours::ErrorPair, err) == offsetof(CUfileError_t, err) &&
              offsetof(ours::ErrorPair, cu_err) == offsetof(CUfileError_t, cu_err));
static_assert(std::is_same_v<ours::Handle, CUfileHandle_t>);
static_assert(sizeof(ours::Descr) == sizeof(CUfileDescr_t) &&
              offsetof(ours::Descr, type) == offsetof(CUfileDescr_t, type) &&
              offsetof(ours::Descr, handle) == offsetof(CUfileDescr_t, handle) &&
              offsetof(ours::Descr, fs_ops) == offsetof(CUfileDescr_t, fs_ops));
static_assert(ours::kOpaqueFd == CU_FILE_HANDLE_TYPE_OPAQUE_FD);
static_assert(ours::kDriverAlreadyOpen == CU_FILE_DRIVER_ALREADY_OPEN);
static_assert(sizeof(ours::StatsLevel2) == sizeof(CUfileStatsLevel2_t));
static_assert(
    sizeof(ours::PerGpuStats) == sizeof(CUfilePerGpuStats_t) &&
    offsetof(ours::PerGpuStats, n_total_reads) == offsetof(CUfilePerGpuStats_t, n_total_reads) &&
    offsetof(ours::PerGpuStats, n_p2p_reads) == offsetof(CUfilePerGpuStats_t, n_p2p_reads) &&
    offsetof(ours::PerGpuStats, n_nvfs_reads) == offsetof(CUfilePerGpuStats_t, n_nvfs_reads) &&
    offsetof(ours::PerGpuStats, n_posix_reads) == offsetof(CUfilePerGpuStats_t, n_posix_reads));
static_assert(sizeof(ours::StatsLevel3) == sizeof(CUfileStatsLevel3_t) &&
              offsetof(ours::StatsLevel3, num_gpus) == offsetof(CUfileStatsLevel3_t, num_gpus) &&
              offsetof(ours::StatsLevel3, per_gpu_stats) ==
                  offsetof(CUfileStatsLevel3_t, per_gpu_stats));

// Functions: equal up to the names of their types.
static_assert(std::is_same_v<decltype(&cuFileRead), decltype(ours::Api::read)>);
static_assert(
    std::is_same_v<decltype(&cuFileHandleDeregister), decltype(ours::Api::handle_deregister)>);
static_assert(
    std::is_same_v<decltype(&cuFileBufRegister), CUfileError_t (*)(const void*, size_t, int)>);
static_assert(std::is_same_v<decltype(&cuFileBufDeregister), CUfileError_t (*)(const void*)>);
static_assert(std::is_same_v<decltype(&cuFileHandleRegister),
                             CUfileError_t (*)(CUfileHandle_t*, CUfileDescr_t*)>);
static_assert(std::is_same_v<decltype(&cuFileDriverOpen), CUfileError_t (*)()>);
static_assert(std::is_same_v<decltype(&cuFileGetVersion), CUfileError_t (*)(int*)>);
static_assert(std::is_same_v<decltype(&cuFileSetStatsLevel), CUfileError_t (*)(int)>);
static_assert(std::is_same_v<decltype(&cuFileGetStatsLevel), CUfileError_t (*)(int*)>);
static_assert(std::is_same_v<decltype(&cuFileStatsStart), CUfileError_t (*)()>);
static_assert(std::is_same_v<decltype(&cuFileGetStatsL3), CUfileError_t (*)(CUfileStatsLevel3_t*)>);
}  // namespace
#endif

TEST_CASE("codes of cuFile are told with what they mean") {
  using cake::detail::cufile::describe;
  CHECK(describe(5001) == "5001 (the nvidia-fs driver is not loaded)");
  CHECK(describe(-5027).find("5027 (") == 0);
  CHECK(describe(5999) == "5999");
}
