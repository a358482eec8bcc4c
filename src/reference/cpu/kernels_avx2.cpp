// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#define CAKE_KERNELS kernels_avx2
#define CAKE_KERNELS_NAME "avx2"
#include "kernels_impl.inc"
