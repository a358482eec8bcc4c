#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
#
# no_serialized_wgmma.sh COMPILER ARGUMENTS...: runs the compiler, and fails where ptxas says that it makes wgmma wait
# (its notes C7508 to C7519). ptxas calls that information, so that no option turns it into an error.
notes=$(mktemp) || exit 1
trap 'rm -f "$notes"' EXIT
"$@" 2> "$notes"
code=$?
cat "$notes" >&2
if [ $code -eq 0 ] && grep -q '(C75[0-9][0-9])' "$notes"; then
  echo "error: ptxas serializes wgmma, see its note above; the kernel would run at a fraction of its speed" >&2
  exit 1
fi
exit $code
