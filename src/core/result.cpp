// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/result.hpp"

#include <string>

namespace cake::inline CAKE_ABI {

std::string Error::message() const {
  std::string text(to_string(code));
  if (!context.empty()) text = context + ": " + text;
  if (native != 0) text += " (" + std::to_string(native) + ")";
  return text;
}

}  // namespace cake::inline CAKE_ABI
