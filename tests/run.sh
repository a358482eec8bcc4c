#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
#
# Installs what is missing, builds everything (each public header alone and the benchmarks, too) and runs all tests:
#   bash tests/run.sh [options of ctest]         for instance  bash tests/run.sh -R posix
# The sanitizers and clang-tidy have workflows of their own: cmake --workflow --preset asan|tsan|tidy
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/examples/setup.sh"

install_missing g++ cmake make ninja-build pkg-config libssl-dev libisal-dev liburing-dev libopenblas-dev libpcre2-dev \
  libcurl4-openssl-dev libcli11-dev nlohmann-json3-dev redis-server catch2 libbenchmark-dev python3 python3-pip ccache
# The tests of the package compile cake's sources again: what they compile alike is compiled once.
if command -v ccache >/dev/null; then
  export CMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER-ccache}
fi
if [ -z "${CAKE_TEST_MODEL:-}" ]; then
  fetch_model "CAKE_TEST_MODEL=FILE bash tests/run.sh"
  export CAKE_TEST_MODEL=$model_file
fi

if [ -z "${CAKE_TEST_WEED:-}" ]; then
  fetch_weed
  export CAKE_TEST_WEED=$weed_file
fi
if [ -z "${CAKE_TEST_VALKEY:-}" ]; then
  fetch_valkey
  export CAKE_TEST_VALKEY=$valkey_file
fi

cd "$root"
quietly cmake --preset release -DCAKE_WERROR=ON -DCAKE_REFERENCE=ON
cmake --build --preset release
ctest --preset release --parallel "$(nproc)" "$@"
