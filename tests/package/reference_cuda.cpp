// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Links cake::reference_cuda from outside; without a GPU the library says what is missing.
#include <cake/cuda/runtime.hpp>
#include <cake/reference/cuda_backend.hpp>
#include <cstdio>

static_assert(cake::ComputeBackend<cake::reference::CudaBackend>);

int main() {
  const cake::Status usable = cake::cuda::usable();
  std::printf("%s\n", usable ? "a usable device" : usable.error().message().c_str());
  try {
    const cake::reference::CudaBackend backend(nullptr);
  } catch (const cake::Exception& e) {
    return e.error().code == (usable ? cake::Errc::invalid_argument : usable.code()) ? 0 : 1;
  }
  return 1;
}
