#!/usr/bin/env bash
# Makes .venv with everything that training and testing need; a second run finds it ready.
#
#     tools/setup_env.sh [PYTHON]     (default: python3)
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
venv=.venv
log=$venv/setup.log
need_gb=8

fail() { echo "setup: $*" >&2; exit 1; }

stamp=$venv/ready-$(cat requirements*.txt setup.py pyproject.toml tools/setup_env.sh | cksum | cut -d' ' -f1)
if [ -e "$stamp" ] && "$venv/bin/python" -c '' 2>/dev/null; then exit 0; fi

command -v "$python" >/dev/null || fail "no $python on the PATH; name one: make PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    fail "needs Python 3.10 or newer, $python is $("$python" -V 2>&1 | cut -d' ' -f2); name one: make PYTHON=python3.11"
if [ ! -x "$venv/bin/pip" ]; then
    free_gb=$(($(df -Pk . | awk 'NR == 2 {print $4}') / 1024 / 1024))
    [ "$free_gb" -ge "$need_gb" ] || fail "needs $need_gb GB of disk here, $free_gb GB are free"
    rm -rf "$venv"
    "$python" -m venv "$venv" >/dev/null 2>&1 ||
        fail "cannot make a virtual environment with $python (on Debian: apt install python3-venv)"
fi

explain() {
    if grep -qiE 'no space left|disk quota' "$log"; then
        fail "the disk is full ($log)"
    elif grep -qiE 'temporary failure in name|failed to establish a new connection|network is unreachable|connection refused|max retries exceeded|no matching distribution found|resolutionimpossible|getaddrinfo' "$log"; then
        fail "no network, or the package index lacks a version that is needed ($log)"
    fi
    fail "$1 failed: $(grep -E '^ERROR' "$log" | tail -n 1) (see $log)"
}
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@" >>"$log" 2>&1; }

: >"$log"
echo "setup: installing into $venv (about 5 GB, some minutes; log in $log)"
pip install -r requirements.txt || explain "installing requirements.txt"
if ! "$venv/bin/python" -c 'import detectron2' 2>/dev/null; then
    # The wheel's compiled part is for one version of Python; the rest serves any.
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    pip install --no-deps --only-binary=:all: --python-version 3.10 --target "$site" \
        -r requirements-detectron2.txt || explain "installing Detectron2"
fi
pip install --no-deps --no-build-isolation -e . || explain "installing this package"
"$venv/bin/python" -c 'import hrnet_d2' >>"$log" 2>&1 || fail "the installed package does not import (see $log)"
rm -f "$venv"/ready-*
touch "$stamp"
echo "setup: done"
