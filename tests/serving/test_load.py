"""Many clients for a minute: no wrong answer, and memory does not grow."""

import pytest
import torch
from detectron2.modeling import build_model

from hrnet_d2.benchmark.serving import measure_server, same_answer
from hrnet_d2.checkpoint import Checkpointer
from tests.engine.tiny import tiny_config


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 8])
def test_64_clients(batch, tmp_path):
    torch.manual_seed(0)
    cfg = tiny_config(tmp_path, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.1")
    Checkpointer(build_model(cfg), str(tmp_path), cfg=cfg).save("model_final")
    row = measure_server(str(tmp_path / "model_final.pth"), batch, 64, 60, (96, 128))
    assert row["wrong"] == 0 and row["statuses"] == {"200": row["requests"]}
    assert row["requests"] > 300
    assert (row["mean_batch"] > 4) == (batch == 8)
    memory = row["memory_mib"]
    assert memory["end"] < memory["after_a_quarter"] + 30


def answer(*annotations):
    return {"images": [{"id": 1}], "annotations": list(annotations)}


def found(score=0.9, box=(1, 2, 30, 40), category=3):
    return {"category_id": category, "score": score, "bbox": list(box)}


@pytest.mark.parametrize(
    "one, other, same",
    [
        (answer(), answer(), True),
        (answer(found()), answer(found(0.90001, (1, 2, 30.001, 40))), True),
        (answer(found()), answer(found(0.91)), False),
        (answer(found()), answer(found(box=(1, 2, 31, 40))), False),
        (answer(found()), answer(found(category=4)), False),
        (answer(found()), answer(), False),
        (answer(), answer(found()), False),
        (answer(found(), found(0.1001)), answer(found()), True),
        (answer(found()), answer(found(0.1001), found()), True),
        (answer(found(), found()), answer(found()), False),
        ({**answer(), "images": [{"id": 2}]}, answer(), False),
    ],
)
def test_the_comparison_itself(one, other, same):
    assert same_answer(one, other) is same
