// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Passes an error on to the caller. For sources of the library; public headers do without macros.
#pragma once

#include "cake/result.hpp"

/// Evaluates an expression of type Status or Result<T>, and returns its Error from the function
/// when it failed. The value of a Result is dropped.
#define CAKE_TRY(expression)                                                                      \
  do {                                                                                            \
    if (auto cake_try_outcome = (expression); !cake_try_outcome) return cake_try_outcome.error(); \
  } while (false)
