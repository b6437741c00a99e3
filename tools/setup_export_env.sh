#!/usr/bin/env bash
# Makes what the tests of exports need beside .venv: .venv-export, which is .venv with the extras
# onnx, openvino and int8, and .venv-bare, which has what exported folders need and no PyTorch.
set -euo pipefail
cd "$(dirname "$0")/.."
base=.venv/bin/python
stamp=.venv-export/ready-$(cat pyproject.toml tools/setup_export_env.sh .venv/ready-* | cksum | cut -d' ' -f1)
if [ -e "$stamp" ] && .venv-bare/bin/python -c '' 2>/dev/null; then exit 0; fi
log=.venv-export/setup.log
rm -rf .venv-export .venv-bare
"$base" -m venv .venv-export
"$base" -m venv .venv-bare
site() { "$1" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])'; }
# With the .pth files there, which lead to this package.
"$base" -c 'import sysconfig; print(f"import site; site.addsitedir({sysconfig.get_paths()['"'purelib'"']!r})")' \
    >"$(site .venv-export/bin/python)/base.pth"
extras=$("$base" -c '
import importlib.metadata as metadata
lines = (line.partition(";") for line in metadata.requires("hrnet_d2"))
ends = tuple(f"extra == \"{name}\"" for name in ("onnx", "openvino", "int8"))
print(*sorted({name.strip() for name, _, marker in lines if marker.endswith(ends)}))')
echo "setup: installing $extras (log in $log)"
pip() { "$@" >>"$log" 2>&1 || { echo "setup: failed: $(grep -E '^ERROR' "$log" | tail -n 1) (see $log)" >&2; exit 1; }; }
# shellcheck disable=SC2086
pip .venv-export/bin/python -m pip --disable-pip-version-check install $extras
pip .venv-bare/bin/python -m pip --disable-pip-version-check install \
    numpy opencv-python-headless pillow onnxruntime openvino
touch "$stamp"
