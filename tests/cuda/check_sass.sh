#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
#
# check_sass.sh LIBRARY: the attention kernels for sm_90a in it use the tensor cores by warpgroup and the bulk tensor
# copies, and keep nothing in local memory. CUOBJDUMP names the program where it is not in PATH.
set -euo pipefail
cuobjdump=${CUOBJDUMP:-$(command -v cuobjdump || true)}
[ -n "$cuobjdump" ] || { echo "skipped: no cuobjdump"; exit 77; }
"$cuobjdump" -sass "$1" | awk '
  /Function :/ { name = $0 ~ /sm90_attention/ ? $NF : ""; if (name != "") kernels[name] }
  name == "" { next }
  /HGMMA/ { products[name]++ }
  /UTMALDG/ { boxes[name]++ }
  /STL|LDL/ { local[name]++ }
  END {
    for (k in kernels) {
      n++
      if (!products[k]) { print k ": no HGMMA"; bad++ }
      if (!boxes[k]) { print k ": no UTMALDG"; bad++ }
      if (local[k]) { print k ": " local[k] " accesses to local memory"; bad++ }
    }
    if (!n) { print "no kernel sm90_attention"; bad++ }
    print n + 0 " kernels, " bad + 0 " faults"
    exit bad > 0
  }'
