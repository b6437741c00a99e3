"""What is found before anything is built or written."""

import json

import cv2
import numpy as np
import pytest

from hrnet_d2.cli import main
from hrnet_d2.engine import argument_parser, run_folder, setup
from tests.engine.tiny import QUICK_START, TINY


def arguments(folder, *words):
    return ["--config-file", QUICK_START, *words, *TINY, "OUTPUT_DIR", str(folder)]


def test_a_run_over_an_earlier_one_is_refused_before_anything_is_written(tmp_path, capsys):
    (tmp_path / "model_final.pth").write_bytes(b"mine")
    (tmp_path / "config.yaml").write_text("mine")
    assert main(["train", *arguments(tmp_path)]) == 1
    assert "earlier run (model_final.pth)" in capsys.readouterr().err
    run_folder.release(str(tmp_path))
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "model_final.pth": "mine",
        "config.yaml": "mine",
    }


@pytest.mark.parametrize(
    "command, words, message",
    [
        ("eval", [], "DATASETS.TEST names no dataset"),
        ("train", ["DATASETS.TEST", "('shapes_vall',)"], "did you mean 'shapes_val'"),
        ("train", ["DATASETS.TRAIN", "('coco_2017_train',)"], "DETECTRON2_DATASETS"),
        ("train", ["SOLVER.CHECKPOINT_PERIOD", "-1"], "CHECKPOINT_PERIOD is -1"),
        ("train", ["MODEL.HRNETV2P.NORM", "XX"], "'FrozenBN'"),
    ],
)
def test_what_cannot_work_is_named(tmp_path, capsys, monkeypatch, command, words, message):
    monkeypatch.setenv("DETECTRON2_DATASETS", "absent")
    assert main([command, *arguments(tmp_path / "out"), *words]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def custom_data(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 32, 3), np.uint8))
    data = {
        "images": [{"id": 1, "file_name": "a.png", "height": 32, "width": 32}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 3,
                "bbox": [1, 1, 9, 9],
                "area": 81,
                "iscrowd": 0,
            }
        ],
        "categories": [{"id": 3, "name": "cat"}],
    }
    path = tmp_path / "data.json"
    path.write_text(json.dumps(data))
    return [str(path), str(tmp_path)]


@pytest.mark.parametrize("period, saved", [("7330", 0), ("100", 100)])
def test_the_checkpoint_period_of_a_recipe_is_replaced(tmp_path, custom_data, period, saved):
    words = arguments(tmp_path / "out", "--train-data", *custom_data)
    words += ["SOLVER.MAX_ITER", "500", "SOLVER.CHECKPOINT_PERIOD", period]
    cfg = setup(argument_parser().parse_args(words))
    run_folder.release(cfg.OUTPUT_DIR)
    assert cfg.SOLVER.CHECKPOINT_PERIOD == saved
    assert list(cfg.DATASETS.CLASS_NAMES) == ["cat"] and cfg.MODEL.ROI_HEADS.NUM_CLASSES == 1


def test_evaluating_in_the_folder_of_a_training_keeps_its_config(tmp_path, custom_data):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").write_text("of the training")
    words = arguments(tmp_path / "out", "--eval-only", "--val-data", *custom_data)
    setup(argument_parser().parse_args(words))
    assert (tmp_path / "out" / "config.yaml").read_text() == "of the training"
