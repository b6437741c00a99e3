"""Custom data by the console script: check, browse and train, in each format."""

import json

import cv2
import numpy as np
import pytest

from hrnet_d2.cli import main
from tests.data.datasets import layouts
from tests.data.datasets.conftest import forget_datasets  # noqa: F401 (a fixture of every test)
from tests.engine.tiny import QUICK_START, TINY

WRITERS = {
    "coco": layouts.write_coco,
    "roboflow": layouts.write_roboflow,
    "yolo": layouts.write_yolo,
    "voc": layouts.write_voc,
}


def last_losses(folder):
    lines = (folder / "metrics.json").read_text().splitlines()
    return [json.loads(line)["total_loss"] for line in lines if "total_loss" in line]


@pytest.mark.slow
def test_training_is_the_same_from_every_format(tmp_path):
    losses = {}
    for name, write in WRITERS.items():
        folder = write(tmp_path / name)
        out = tmp_path / f"out_{name}"
        words = ["--config-file", QUICK_START, "--train-data", str(folder), *TINY]
        words += ["SOLVER.MAX_ITER", "2", "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(out)]
        assert main(["train", *words]) == 0
        losses[name] = last_losses(out)
        picture = cv2.imread(str(out / "first_batch.jpg"))
        assert picture is not None and min(picture.shape[:2]) >= 64
    assert losses["coco"] and np.isfinite(losses["coco"]).all()
    assert all(found == losses["coco"] for found in losses.values()), losses


@pytest.mark.parametrize("value, drawn", [("on", True), ("off", False), ("auto", False)])
def test_the_first_batch_of_built_in_data_is_drawn_on_demand(tmp_path, value, drawn):
    words = ["--config-file", QUICK_START, *TINY, "SOLVER.MAX_ITER", "1", "VIS_FIRST_BATCH", value]
    words += ["DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path / "out")]
    assert main(["train", *words]) == 0
    assert (tmp_path / "out" / "first_batch.jpg").exists() == drawn


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["INPUT.CROP.ENABLED", "True", "INPUT.CROP.AROUND_OBJECTS", "True"],
        ["INPUT.COLOR_JITTER.BRIGHTNESS", "0.5", "INPUT.COLOR_JITTER.CONTRAST", "0.5"],
        ["INPUT.SCALE_JITTER.ENABLED", "True", "INPUT.SCALE_JITTER.SIZE", "(80, 90)"],
        ["INPUT.MOSAIC.PROB", "1.0"],
        ["INPUT.COPY_PASTE.PROB", "1.0"],
    ],
    ids=lambda keys: keys[0] if keys else "none",
)
def test_browse_draws_every_augmentation(tmp_path, keys):
    folder = layouts.write_yolo(tmp_path / "data", polygons=True)
    out = tmp_path / "drawn"
    words = ["browse", "--config-file", "mask_rcnn/mask_rcnn_hrnetv2p_w18_1x_coco.yaml"]
    words += ["--train-data", str(folder), "--output", str(out), "--images", "3"]
    words += ["INPUT.MIN_SIZE_TRAIN", "(96,)", "SEED", "1", "SOLVER.IMS_PER_BATCH", "2"]
    words += ["DATALOADER.NUM_WORKERS", "0"]
    assert main([*words, *keys]) == 0
    pictures = [cv2.imread(str(path)) for path in sorted(out.iterdir())]
    assert len(pictures) == 3
    if "INPUT.SCALE_JITTER.ENABLED" in keys:
        assert all(picture.shape == (80, 90, 3) for picture in pictures)
    assert main([*words, *keys]) == 0  # the same seed draws the same
    again = [cv2.imread(str(path)) for path in sorted(out.iterdir())]
    assert all((a == b).all() for a, b in zip(pictures, again, strict=True))


def test_browse_draws_semantic_maps_beside_the_image(tmp_path):
    words = ["browse", "--config-file", str(QUICK_START).replace("faster_rcnn_", "htc_")]
    out = tmp_path / "drawn"
    words += ["--output", str(out), "--images", "2", "SEED", "1", "DATALOADER.NUM_WORKERS", "0"]
    assert main([*words, "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", "64"]) == 0
    for path in out.iterdir():
        height, width, _ = cv2.imread(str(path)).shape
        assert width > 1.5 * height  # two pictures of at most 64 x 64


@pytest.mark.parametrize("name", WRITERS)
def test_check_summarizes_every_format(tmp_path, name, capsys):
    folder = WRITERS[name](tmp_path / "data")
    page = tmp_path / "page"
    assert main(["check", str(folder), "--output", str(page)]) == 0
    output = capsys.readouterr().out
    assert "train: 7 images (2 without objects), 7 objects" in output
    assert "val: 4 images (1 without objects), 5 objects" in output
    assert "7 small, 0 medium, 0 large" in output and "No error found" in output
    text = (page / "check.html").read_text()
    assert "No problem found" in text and "<svg" in text and "bird" in text
    assert "http" not in text and "src=" not in text  # nothing is loaded from elsewhere


def test_check_finds_everything_at_once(tmp_path, capsys):
    root = layouts.write_coco(tmp_path / "data")
    train, val = (root / f"annotations/instances_{split}.json" for split in ("train", "val"))
    data = json.loads(train.read_text())
    data["annotations"][0]["category_id"] = 77
    data["annotations"][1]["bbox"] = "x"
    train.write_text(json.dumps(data))
    (root / "train/002.png").unlink()
    data = json.loads(val.read_text())
    data["categories"][2]["name"] = "<b>cow</b>"
    val.write_text(json.dumps(data))
    picture = (root / "val/008.png").read_bytes()
    (root / "val/009.png").write_bytes(picture)
    (root / "val/010.png").write_bytes(picture[:-20])
    layouts.write_image(root / "val/big.png")
    big = cv2.resize(cv2.imread(str(root / "val/big.png")), (80, 48))
    cv2.imwrite(str(root / "val/011.png"), big)
    assert main(["check", str(root), "--output", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    for part in (
        "77",
        "four finite numbers",
        "002.png",
        "1 damaged images: 010.png",
        "the file 80 x 48",
    ):
        assert part in output, part
    assert "008.png = 009.png" in output and "Not usable as it is" in output
    text = (tmp_path / "check.html").read_text()
    assert "problems found" in text and "&lt;b&gt;cow" in text and "<b>cow" not in text


def test_check_finds_leaks_between_the_splits(tmp_path, capsys):
    root = layouts.write_yolo(tmp_path / "data")
    picture = (root / "train/images/003.png").read_bytes()
    (root / "valid/images/008.png").write_bytes(picture)
    assert main(["check", str(root)]) == 1
    assert "in both train and val" in (output := capsys.readouterr().out)
    assert "003.png = 008.png" in output
    assert main(["check", str(root), "--annotations-only"]) == 0


def test_warnings_count_if_asked(tmp_path):
    root = layouts.write_yolo(tmp_path / "data")
    (root / "train/labels/001.txt").unlink()
    assert main(["check", str(root)]) == 0
    assert main(["check", str(root), "--strict"]) == 1


def test_problems_of_a_format_are_in_the_report(tmp_path, capsys):
    root = layouts.write_yolo(tmp_path / "data")
    (root / "train/labels/001.txt").write_text("9 0.5 0.5 0.5 0.5")
    assert main(["check", str(root), "--output", str(tmp_path)]) == 1
    assert "train/labels/001.txt:1" in capsys.readouterr().out
    assert "train/labels/001.txt:1" in (tmp_path / "check.html").read_text()
    assert main(["check", "a", "b", "c"]) == 1
