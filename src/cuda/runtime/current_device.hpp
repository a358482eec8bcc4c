// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Selects a device for a while on threads that belong to somebody else.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "cake/cuda/runtime.hpp"

namespace cake::inline CAKE_ABI::cuda {

/// Selects a device for this scope and restores the previous one at the end. On a thread that had
/// no CUDA context, such as a lane's, the device stays selected, because restoring device 0 would
/// create a context there.
///
/// Thread:  destroyed on the thread that created it
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    status_ = to_status(cudaGetDevice(&before_), "cudaGetDevice");
    if (!status_ || before_ == device) return;
    restore_ = has_context();
    status_ = to_status(cudaSetDevice(device), "cudaSetDevice");
    restore_ = restore_ && status_;
  }
  ~CurrentDevice() {
    if (restore_) (void)cudaSetDevice(before_);
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

  /// Errors:  device: it could not be made current
  const Status& status() const { return status_; }

 private:
  /// The runtime does not tell a thread that chose device 0 from one that chose none; the driver
  /// does.
  static bool has_context() {
    using GetCurrent = CUresult (*)(CUcontext*);
    static const GetCurrent get_current = [] {
      void* function = nullptr;
      cudaDriverEntryPointQueryResult found{};
      const cudaError_t code = cudaGetDriverEntryPointByVersion("cuCtxGetCurrent", &function, 12000,
                                                                cudaEnableDefault, &found);
      if (code != cudaSuccess || found != cudaDriverEntryPointSuccess) {
        (void)cudaGetLastError();
        function = nullptr;
      }
      return reinterpret_cast<GetCurrent>(function);
    }();
    CUcontext context = nullptr;
    return get_current == nullptr || get_current(&context) != CUDA_SUCCESS || context != nullptr;
  }

  int before_ = 0;
  bool restore_ = false;
  Status status_;
};

}  // namespace cake::inline CAKE_ABI::cuda
