// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#pragma once

// CMake reads the version from here; there is no second place.
#define CAKE_VERSION_MAJOR 0
#define CAKE_VERSION_MINOR 1
#define CAKE_VERSION_PATCH 0
