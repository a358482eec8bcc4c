// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// How a type declares what it can: one constant named `abilities`.
#pragma once

#include <concepts>
#include <type_traits>

#include "cake/version.hpp"

namespace cake::inline CAKE_ABI::detail {

struct AbilitiesMember {
  int abilities;
};
template <class T>
struct WithAbilitiesTwice : T, AbilitiesMember {};

/// Whether T has a member of that name, of whatever access. Of a final class only what is public is
/// seen.
template <class T>
constexpr bool names_abilities() {
  if constexpr (std::is_class_v<T> && !std::is_final_v<T>) {
    return !requires { &WithAbilitiesTwice<T>::abilities; };
  } else {
    return requires { T::abilities; };
  }
}

/// T::abilities; the defaults where T has none.
template <class T, class Abilities>
constexpr Abilities declared_abilities() {
  if constexpr (requires { T::abilities; }) {
    static_assert(std::same_as<std::remove_cvref_t<decltype(T::abilities)>, Abilities>,
                  "cake: `abilities` is of another type than this contract's: an engine has "
                  "cake::EngineAbilities, a store cake::StorageAbilities");
    static_assert(
        requires { std::bool_constant<(static_cast<void>(Abilities(T::abilities)), true)>(); },
        "cake: `abilities` has to be static constexpr");
    return T::abilities;
  } else {
    static_assert(!names_abilities<T>(),
                  "cake: `abilities` has to be public: static constexpr, in the public part");
    return {};
  }
}

}  // namespace cake::inline CAKE_ABI::detail
