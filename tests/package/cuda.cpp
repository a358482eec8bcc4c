// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Links cake::cuda from outside; without a GPU it says what is missing.
#include <cake/cuda/attention.hpp>
#include <cake/cuda/runtime.hpp>
#include <cstdio>

int main() {
  const cake::Status usable = cake::cuda::usable();
  std::printf("%s\n", usable ? "a usable device" : usable.error().message().c_str());
  return usable || usable.code() == cake::Errc::unsupported ? 0 : 1;
}
