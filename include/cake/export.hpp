// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// CAKE_API marks what a shared library of cake exports. Everything else that is compiled in src/ is hidden.
#pragma once

#if defined(__GNUC__)
#define CAKE_API __attribute__((visibility("default")))
#else
#define CAKE_API
#endif
