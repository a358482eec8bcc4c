// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#define CAKE_KERNELS kernels_base
#define CAKE_KERNELS_NAME "base"
#include "kernels_impl.inc"
