#!/usr/bin/env bash
# Makes .venv-ray over the packages of .venv, with those of the extras track, ray and formats (and
# pandas, which comes with ray). Not in .venv: ray is large, and trackers requires a second build of
# OpenCV, which is left out here.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-ray
imports='import ray, trackers, labelformat, pandas'
if [ -e "$venv/ready" ] && "$venv/bin/python" -c "$imports" 2>/dev/null; then exit 0; fi
rm -rf "$venv"
.venv/bin/python -m venv "$venv"
site='import sysconfig; print(sysconfig.get_paths()["purelib"])'
.venv/bin/python -c "$site" >"$("$venv/bin/python" -c "$site")/base.pth"
# The editable install of .venv is not found through a path.
pwd >>"$("$venv/bin/python" -c "$site")/base.pth"
"$venv/bin/python" -m pip --disable-pip-version-check install -q 'ray[data]==2.60.0' rich==15.0.0 \
    labelformat==0.1.17
"$venv/bin/python" -m pip --disable-pip-version-check install -q --no-deps trackers==2.6.1
touch "$venv/ready"
