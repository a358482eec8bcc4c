// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Links cake::reference from outside: an error of the library proves that it is there.
#include <cake/reference/cpu_backend.hpp>
#include <cstdio>

static_assert(cake::ComputeBackend<cake::reference::CpuBackend>);

int main() {
  const auto weights = cake::reference::Weights::load("no-such-file.gguf");
  std::printf("%s\n%s\n", cake::reference::blas_description(),
              weights ? "loaded?" : weights.error().message().c_str());
  return !weights && weights.error().code == cake::Errc::not_found ? 0 : 1;
}
