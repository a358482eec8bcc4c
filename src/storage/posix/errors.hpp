// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Errors of system calls, each with what to do about it.
#pragma once

#include <string>

#include "cake/result.hpp"

namespace cake::inline CAKE_ABI::detail {

/// The error of a system call that failed with `number`; `context` says what was being done to
/// what. ENOENT becomes not_found; a lack of room or memory, EFBIG among it, out_of_memory.
Error system_error(int number, std::string context);

/// What to do about it; empty when there is nothing to say.
const char* remedy(int number);

/// True when a file system refuses to do a thing in this way, and another way may do.
bool means_not_this_way(int number);

/// A text of at most 15 characters, so that it can be told without allocating memory.
inline Error no_memory() { return Error{Errc::out_of_memory, 0, "no host memory"}; }

}  // namespace cake::inline CAKE_ABI::detail
