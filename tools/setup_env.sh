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

# What pip's log says went wrong, most certain first.
explain() {
    local found
    if grep -qiE 'no space left|disk quota' "$log"; then
        fail "the disk is full ($log)"
    fi
    if found=$(grep -m 1 -E 'The user requested \(constraint\)' "$log"); then
        fail "a pip constraint of this machine excludes a pinned version: ${found##*(constraint) } ($log)"
    fi
    # pip also says this after a network error, but then it has seen no version at all.
    if found=$(grep -m 1 -oE 'satisfies the requirement [^ ]+ .*from versions: [^n].*' "$log"); then
        found=${found#satisfies the requirement }
        fail "the package index has no ${found%% *} for Python $version; edit $2 or take another Python ($log)"
    fi
    if grep -qiE 'temporary failure in name|failed to establish a new connection|network is unreachable|connection refused|max retries exceeded|getaddrinfo|read timed out' "$log"; then
        fail "no network, or the package index does not answer ($log)"
    fi
    if found=$(grep -m 1 -oE 'No matching distribution found for [^ ]+' "$log"); then
        fail "the package index has no ${found##* } for Python $version ($log)"
    fi
    if grep -q 'ResolutionImpossible' "$log"; then
        fail "the versions in $2 exclude each other on Python $version ($log)"
    fi
    fail "installing $1 failed: $(grep -E '^ERROR' "$log" | tail -n 1) (see $log)"
}
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@" >>"$log" 2>&1; }

version=$("$venv/bin/python" -c 'import platform; print(platform.python_version())')
: >"$log"
echo "setup: installing into $venv (about 5 GB, some minutes; log in $log)"
pip install -r requirements.txt || explain requirements.txt requirements.txt
if ! "$venv/bin/python" -c 'import detectron2' 2>/dev/null; then
    # The wheel's compiled part fits one Python and one torch, and is not needed: leave it out.
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    pip install --no-deps --only-binary=:all: --python-version 3.10 --target "$site" \
        -r requirements-detectron2.txt || explain Detectron2 requirements-detectron2.txt
    rm -f "$site"/detectron2/_C.*.so
fi
pip install --no-deps --no-build-isolation -e . || explain "this package" pyproject.toml
"$venv/bin/python" -c 'import hrnet_d2' >>"$log" 2>&1 || fail "the installed package does not import (see $log)"
rm -f "$venv"/ready-*
touch "$stamp"
echo "setup: done"
