// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A target has a source: this one's is what precompiled.hpp is compiled for.
