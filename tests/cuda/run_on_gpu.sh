#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
#
# Everything on a machine with a GPU, in one go and without a network: builds, runs all tests, looks for wrong memory
# accesses and register spills, measures beside PyTorch, and ends with a table.
#   bash tests/cuda/run_on_gpu.sh [build|test|sanitize|measure ...]       all four when none is named
#   BUILD=folder   OUT=folder for logs   DISK=folder on a real disk   FAST=folder in memory (/dev/shm)
#   DEPS=folder    packages that the machine lacks, unpacked: DEPS/usr/include, DEPS/usr/lib/...
#   GDS_RECORD=1   try cuFile with a udev record of the disk as well
#   CAKE_TEST_MODEL=file   the real model; tests that need it are skipped without
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${BUILD:-$root/build/gpu}
out=${OUT:-$build/report}
disk=${DISK:-$build}
fast=${FAST:-/dev/shm}
stages=${*:-build test sanitize measure}
mkdir -p "$out" "$build"
failed=0
: > "$out/summary"

# say(what result): one line of the table.
say() { printf '%-46s %s\n' "$1" "$2" | tee -a "$out/summary"; }
# step(name log seconds command...): runs it, keeps its log, notes how it ended.
step() {
  local name=$1 log=$out/$2 limit=$3
  shift 3
  local begin=$SECONDS
  timeout "$limit" "$@" > "$log" 2>&1
  local code=$?
  case $code in
    0) say "$name" "ok, $((SECONDS - begin)) s" ;;
    77) say "$name" "skipped: $(tail -1 "$log")" ;;
    *) say "$name" "FAILED ($code), see $log"; tail -25 "$log"; failed=1 ;;
  esac
  return $code
}
# with_record command...: with the udev record that cuFile wants of a disk, where GDS_RECORD=1 allows to write one.
with_record() {
  mkdir -p "$disk"
  local record=/run/udev/data/b$(stat -c '%Hd:%Ld' "$disk") made=0
  if [ "${GDS_RECORD:-0}" = 1 ] && [ ! -e "$record" ]; then
    mkdir -p /run/udev/data
    printf 'E:ID_FS_TYPE=ext4\nE:ID_FS_USAGE=filesystem\n' > "$record"
    made=1
  fi
  "$@"
  [ $made = 0 ] || rm -f "$record"
}
wanted() { [[ " $stages " == *" $1 "* ]]; }

if [ -n "${DEPS:-}" ]; then  # for the build, and for the tests that build consumers of the package
  export CMAKE_PREFIX_PATH=$DEPS/usr CMAKE_INCLUDE_PATH=$DEPS/usr/include
  export CMAKE_LIBRARY_PATH=$DEPS/usr/lib/$(uname -m)-linux-gnu
  export PKG_CONFIG_PATH=$CMAKE_LIBRARY_PATH/pkgconfig
fi
if wanted build; then
  step "configure" configure.log 120 cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCAKE_CUDA=ON -DCAKE_WERROR=ON -DCAKE_BUILD_BENCHMARKS=ON -DCAKE_BUILD_TESTS=ON || exit 1
  step "build" build.log 400 cmake --build "$build" || exit 1
  if command -v cuobjdump > /dev/null; then
    # Kernels that keep registers in memory.
    find "$build/src" \( -name 'libcake_*.a' -o -name 'libcake_*.so' \) -exec cuobjdump -res-usage {} \; 2> /dev/null |
      awk '/Function/ { name = $2 } /STACK:/ { if ($0 !~ /STACK:0 / || $0 !~ /LOCAL:0/) { print name, $0; bad++; last = name } kernels++ }
           END { printf "%d of %d kernels with a stack or local memory%s\n", bad, kernels, bad == 1 ? ": " last : "" }' > "$out/spills.log"
    say "register spills" "$(tail -1 "$out/spills.log")"
  fi
fi

if wanted test; then
  without=nothing
  [ -n "${DEPS:-}" ] && without+="|pkg_config"
  [ -n "${CAKE_TEST_MODEL:-}" ] || without+="|reference_answers_test|quickstart_test"
  # Unpacked packages are not where pkg-config looks for them; mutations of the scheduler need no GPU.
  step "all tests" tests.log 500 ctest --test-dir "$build" --output-on-failure --parallel 8 \
    --label-exclude mutation --exclude-regex "$without"
  say "  ctest" "$(grep 'tests passed' "$out/tests.log")"
fi

if wanted test && [ -x "$build/tests/gds_cuda_test" ]; then
  # cuFile as this machine has it, and once more with the record that it wants of a disk: compat mode.
  mkdir -p "$disk/gds"
  step "GDS, as it is here" gds.log 120 env CAKE_GDS_DIRECTORY="$disk/gds" "$build/tests/gds_cuda_test"
  say "  path" "$(grep -m1 -o 'GDS: reads.*' "$out/gds.log" | cut -c1-120)"
  if [ "${GDS_RECORD:-0}" = 1 ]; then
    with_record step "GDS, with a record of the disk" gds_compat.log 120 \
      env CAKE_GDS_DIRECTORY="$disk/gds" "$build/tests/gds_cuda_test"
    say "  path" "$(grep -o 'GDS: reads.*' "$out/gds_compat.log" | sort | uniq -c | sort -rn | head -1 | cut -c1-120)"
  fi
  rm -rf "$disk/gds"
fi

if wanted sanitize && command -v compute-sanitizer > /dev/null; then
  # Small cases of each kernel: a run under these tools takes some ten to a hundred times as long.
  for tool in memcheck synccheck racecheck; do
    run=0
    check() {  # check(program test...): each run has a log of its own
      local program=$1 log=$tool.$((run += 1)).$1.log
      shift
      step "$tool: $program" "$log" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 \
        "$build/tests/$program" "$@"
      say "  $program" "$(grep -h ' SUMMARY: ' "$out/$log" | tail -1)"
    }
    check cuda_test "queries that see no key give zeros,large scores neither*,few queries take*,few queries that see no key*"
    check hopper_test "*"
    [ $tool = racecheck ] && continue  # a hundred times as long; attention is what has races to lose
    check cuda_test "attention takes every group of query heads,a ragged batch is as many single sequences"
    check kv_transfer_cuda_test "*short pages*"
    check gds_cuda_test "digests on the device*"
    check reference_cuda_test "*RMSNorm*,*RoPE turns*,SwiGLU*,*gated*,chunks that are corrupt*"
  done
fi

if wanted measure; then
  for bench in attention decode gemm insert interference prefill; do
    [ -x "$build/benchmarks/${bench}_bench" ] &&
      step "${bench}_bench" "$bench.txt" 120 "$build/benchmarks/${bench}_bench"
  done
  for peer in attention decode prefill; do
    beside=
    [ $peer = attention ] && beside="--bench $build/benchmarks/attention_bench --pages 64,16,1 --svg $out/attention.svg"
    # shellcheck disable=SC2086
    [ -f "$root/benchmarks/peers/$peer.py" ] && step "peers/$peer.py" "peer_$peer.txt" 150 \
      python3 "$root/benchmarks/peers/$peer.py" $beside
  done
  with_record step "read_bench" read.txt 120 "$build/benchmarks/read_bench" "$disk" "$fast"
  [ -x "$build/benchmarks/ttft_bench" ] &&
    step "ttft_bench" ttft.txt 300 "$build/benchmarks/ttft_bench" "$disk" "$fast"
fi

for table in attention.txt peer_attention.txt decode.txt peer_decode.txt gemm.txt insert.txt interference.txt prefill.txt peer_prefill.txt read.txt ttft.txt; do
  [ -s "$out/$table" ] && { echo; echo "== $table"; cat "$out/$table"; }
done
echo
cat "$out/summary"
exit $failed
