// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// An operator new that fails on order. A program that has failing_new.cpp among its sources gets
// it.
#pragma once

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::failing_new {

/// The allocation after `after` others throws, in whatever thread, and with `keep` all later ones.
void start(long after, bool keep);
/// From now on none fails. How many did.
int stop();

/// Asks `refuse` before each allocation, on the allocating thread, beside what start() ordered. It
/// must not allocate.
void when(bool (*refuse)());

}  // namespace cake::inline CAKE_ABI::failing_new
