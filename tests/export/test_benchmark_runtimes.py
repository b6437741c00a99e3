"""What times exports beside ``Predictor``."""

import json

import pytest

from hrnet_d2.cli import main
from tests.extras import needs_export


@pytest.mark.slow
@needs_export("int8")
def test_exports_are_timed_beside_the_predictor(tmp_path, capsys):
    file = tmp_path / "figures.json"
    words = (
        "benchmark runtimes --config quick_start/faster_rcnn_hrnetv2p_w18_shapes.yaml --size 96 128"
    )
    exports = ["openvino-int8", "openvino", "onnxruntime"]
    options = ["--repeat", "1", "--threads", "1", "--runtimes", *exports, "--json", str(file)]
    assert main([*words.split(), *options]) == 0
    (row,) = json.loads(file.read_text())["results"]
    assert list(row["paths"]) == ["plain", "optimized", *exports]
    recorded = [row["paths"][name]["ready_s"] for name in exports]
    assert min(recorded) > row["paths"]["plain"]["ready_s"]
    for name in exports[1:]:
        assert row["paths"][name]["difference"]["same_classes"]
