"""The commands of docs/train.md, from nothing to drawn detections, on a smaller network."""

import subprocess
import sys

import pytest

from tests.docs.pages import ROOT, blocks, commands
from tests.engine.tiny import TINY

# Everything of a tiny model but its datasets, which the commands of the page set.
SMALLER = [
    word
    for key, value in zip(TINY[::2], TINY[1::2], strict=True)
    if not key.startswith("DATASETS.")
    for word in (key, value)
]


@pytest.mark.slow
def test_tutorial(tmp_path):
    page = blocks(ROOT / "docs" / "train.md")
    (dataset,) = (block for block in page if block.language == "python")
    subprocess.run([sys.executable, "-c", dataset.text], cwd=tmp_path, check=True)
    assert len(list((tmp_path / "shapes" / "train").glob("*.png"))) == 320
    assert len(list((tmp_path / "shapes" / "val").glob("*.png"))) == 80

    script = [words for block in page if block.language == "bash" for words in commands(block)]
    names = []
    for program, name, *arguments in script:
        assert program == "hrnet-d2"
        if "faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml" in arguments:
            continue  # a published checkpoint and the reader's own data
        names.append(name)
        overrides = SMALLER if name in ("train", "browse") else []
        command = [sys.executable, "-m", "hrnet_d2.cli", name, *arguments, *overrides]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    assert names == ["check", "browse", "train", "eval", "predict"]

    assert (tmp_path / "looked" / "check.html").is_file()
    assert len(list((tmp_path / "looked" / "images").glob("*.jpg"))) == 8
    output = tmp_path / "output" / "shapes"
    for file in ("config.yaml", "model_final.pth", "metrics.json", "log.txt"):
        assert (output / file).is_file(), file
    assert len(list((output / "inference").glob("*/coco_instances_results.json"))) == 1
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 80
