// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#define CAKE_KERNELS kernels_avx512
#define CAKE_KERNELS_NAME "avx512"
#include "kernels_impl.inc"
