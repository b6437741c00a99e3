"""Which data are trained and evaluated on."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.utils.env import seed_all_rng

from hrnet_d2.data import DatasetError, build_train_loader, configure_custom_data
from hrnet_d2.data.datasets.formats import resolve_data, split_images
from hrnet_d2.engine import argument_parser
from tests.data.datasets import layouts
from tests.engine.tiny import tiny_config


def files_of(split):
    return {image["file_name"] for image in json.loads(split[0].read_text())["images"]}


@pytest.fixture
def yolo(tmp_path):
    return layouts.write_yolo(tmp_path / "yolo")


@pytest.fixture
def single(tmp_path):
    """A COCO file and its images, not divided."""
    root = layouts.write_coco(tmp_path / "coco")
    return root / "annotations/instances_train.json", root / "train"


def test_a_folder_alone_brings_its_validation_split(yolo, tmp_path):
    cfg = tiny_config(tmp_path / "out")
    configure_custom_data(cfg, yolo)
    assert "train" in cfg.DATASETS.TRAIN[0] and "val" in cfg.DATASETS.TEST[0]
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    configure_custom_data(cfg, yolo / "train" / "images" / ".." / ".." / "data.yaml", val=yolo)
    train, val = resolve_data(None, yolo)
    assert train is None and files_of(val) == {name for name, _ in layouts.SPLITS["val"]}


def test_batches_are_the_same_from_every_format(tmp_path):
    batches = {}
    for write in (layouts.write_coco, layouts.write_yolo, layouts.write_voc):
        cfg = tiny_config(tmp_path / "out", "DATALOADER.NUM_WORKERS", "0")
        configure_custom_data(cfg, write(tmp_path / write.__name__))
        seed_all_rng(3)
        loader = iter(build_train_loader(cfg))
        batches[write] = [record for _ in range(3) for record in next(loader)]
    first, *others = batches.values()
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert Path(a["file_name"]).name == Path(b["file_name"]).name
            assert torch.equal(a["image"], b["image"])
            for field in ("gt_boxes", "gt_classes"):
                a_field, b_field = (getattr(r["instances"], field) for r in (a, b))
                assert torch.equal(*(getattr(f, "tensor", f) for f in (a_field, b_field)))


def test_validation_data_of_another_format(yolo, tmp_path):
    voc = layouts.write_voc(tmp_path / "voc")
    cfg = tiny_config(tmp_path / "out")
    configure_custom_data(cfg, yolo, voc / "valid")  # without the list of classes
    assert cfg.DATASETS.TRAIN != cfg.DATASETS.TEST


def test_a_fraction_is_taken_out_by_image(single):
    train, val = resolve_data(single, None, val_fraction=0.3, seed=5)
    assert len(files_of(val)) == 2 and train[1] == val[1] == single[1]
    assert not files_of(train) & files_of(val)
    assert files_of(train) | files_of(val) == files_of(single)
    whole = json.loads(single[0].read_text())
    parts = [json.loads(split[0].read_text()) for split in (train, val)]
    assert sum(len(part["annotations"]) for part in parts) == len(whole["annotations"])
    for part in parts:
        ids = {image["id"] for image in part["images"]}
        assert {a["image_id"] for a in part["annotations"]} <= ids
        assert part["categories"] == whole["categories"]


def test_the_fraction_follows_the_seed_and_not_the_order(single):
    first = split_images(single, 0.5, 0)
    assert split_images(single, 0.5, 0) == first
    others = [files_of(split_images(single, 0.5, seed)[1]) for seed in range(1, 6)]
    assert any(other != files_of(first[1]) for other in others)
    data = json.loads(single[0].read_text())
    data["images"].reverse()
    single[0].write_text(json.dumps(data))
    assert files_of(split_images(single, 0.5, 0)[1]) == files_of(first[1])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"val_fraction": 1.5}, "above 0 and below 1"),
        ({"val_fraction": 0.2, "val": "x"}, "if no validation data"),
        ({"val_fraction": 0.95}, "too few"),
    ],
)
def test_fractions_that_cannot_be_taken(single, arguments, message):
    with pytest.raises(DatasetError, match=message):
        resolve_data(single, arguments.pop("val", None), **arguments)


def test_a_fraction_of_data_that_are_divided_is_refused(yolo):
    with pytest.raises(DatasetError, match="has a validation split"):
        resolve_data(yolo, None, val_fraction=0.2)


def test_an_invalid_file_is_not_divided(single):
    data = json.loads(single[0].read_text())
    del data["images"][0]["file_name"], data["annotations"][0]["image_id"]
    single[0].write_text(json.dumps(data))
    with pytest.raises(DatasetError, match="(?s)file_name.*image_id"):
        resolve_data(single, None, val_fraction=0.2)


@pytest.mark.parametrize(
    "words, train, val, rest",
    [
        (["--train-data", "a"], ["a"], None, []),
        (["--train-data", "a", "--val-data", "b"], ["a"], ["b"], []),
        (
            ["--train-data", "a.json", "b/", "--val-data", "c", "d"],
            ["a.json", "b/"],
            ["c", "d"],
            [],
        ),
        (["--train-data", "a", "SOLVER.MAX_ITER", "5"], ["a"], None, ["SOLVER.MAX_ITER", "5"]),
        (["--val-data", "a", "b", "SEED", "5"], None, ["a", "b"], ["SEED", "5"]),
        (["--val-data", "a", "--num-gpus", "2"], None, ["a"], []),
    ],
)
def test_the_folder_of_images_may_be_left_out(words, train, val, rest):
    args = argument_parser().parse_args(words)
    assert (args.train_data, args.val_data, args.opts) == (train, val, rest)


def test_a_missing_path_is_an_error_of_usage(capsys):
    with pytest.raises(SystemExit):
        argument_parser().parse_args(["--train-data", "--val-data", "a"])
    assert "--train-data" in capsys.readouterr().err
