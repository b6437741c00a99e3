"""``config.yaml`` of a run on own data is enough for everything that comes after it."""

import json

import cv2
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

import hrnet_d2
from hrnet_d2 import model_zoo
from hrnet_d2.cli import main
from hrnet_d2.data import register_from_config
from hrnet_d2.data.datasets.shapes import draw
from hrnet_d2.engine import Trainer, evaluate, run_folder
from tests.engine.tiny import QUICK_START, TINY


def forget():
    for name in DatasetCatalog.list():
        if name.startswith("custom_"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@pytest.fixture
def new_process():
    forget()
    yield
    forget()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of two iterations on two classes, "bird" and "cat"."""
    folder = tmp_path_factory.mktemp("own")
    images, annotations = [], []
    for i in range(3):
        pixels, _, objects = draw(7, i)
        cv2.imwrite(str(folder / f"{i}.png"), pixels)
        height, width = pixels.shape[:2]
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        for each in objects:
            kind = 1 + each["category_id"] % 2
            number = len(annotations) + 1
            annotations.append({**each, "id": number, "image_id": i, "category_id": kind})
    categories = [{"id": 1, "name": "bird"}, {"id": 2, "name": "cat"}]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "train.json").write_text(json.dumps(data))
    (folder / "val.json").write_text(json.dumps(data))
    words = ["train", "--config-file", QUICK_START]
    words += ["--train-data", str(folder / "train.json"), str(folder)]
    words += ["--val-data", str(folder / "val.json"), str(folder), *TINY]
    words += ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "DATALOADER.NUM_WORKERS", "0"]
    assert main([*words, "OUTPUT_DIR", str(folder / "out")]) == 0
    forget()
    return folder


def options(run):
    return ["MODEL.WEIGHTS", str(run / "out" / "model_final.pth")]


def test_evaluate(run, new_process, tmp_path):
    words = ["--config-file", str(run / "out" / "config.yaml")]
    assert main(["eval", *words, *options(run), "OUTPUT_DIR", str(tmp_path)]) == 0
    (folder,) = (tmp_path / "inference").iterdir()
    assert folder.name.startswith("custom_val_")
    assert (folder / "coco_instances_results.json").is_file()


def test_resume(run, new_process):
    words = ["--config-file", str(run / "out" / "config.yaml"), "--resume", "SOLVER.MAX_ITER", "3"]
    assert main(["train", *words]) == 0
    lines = (run / "out" / "metrics.json").read_text().splitlines()
    assert json.loads(lines[-1])["iteration"] == 3  # of three, counted after the last


def test_from_python(run, new_process, tmp_path):
    cfg = model_zoo.load_config(str(run / "out" / "config.yaml"), options(run))
    cfg.OUTPUT_DIR = str(tmp_path)
    image = cv2.imread(str(run / "0.png"))
    predictor = hrnet_d2.Predictor(cfg)
    assert predictor.metadata.thing_classes == ["bird", "cat"]
    assert "instances" in predictor(image)
    assert "bbox" in evaluate(cfg)
    forget()
    assert len(register_from_config(cfg)) == 2
    assert Trainer(cfg).cfg.DATASETS.TRAIN == cfg.DATASETS.TRAIN
    run_folder.release(cfg.OUTPUT_DIR)


def test_an_annotation_file_that_moved_is_named(run, new_process, tmp_path, capsys):
    cfg = model_zoo.load_config(str(run / "out" / "config.yaml"))
    cfg.DATASETS.OWN[1]["JSON"] = str(tmp_path / "gone.json")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    words = ["--config-file", str(tmp_path / "config.yaml"), *options(run)]
    assert main(["eval", *words, "OUTPUT_DIR", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "DATASETS.OWN[1].JSON" in error and "gone.json" in error


def test_a_checkpoint_says_nothing_of_files(run, tmp_path):
    """Neither does this package write paths into it, nor does it follow those of others."""
    path = run / "out" / "model_final.pth"
    state = torch.load(path, weights_only=True)
    assert str(run / "val.json") not in state["config"]
    state["config"] = (run / "out" / "config.yaml").read_text()
    state["config"] = state["config"].replace(
        "ALLOW_OUTSIDE_FILES: false", "ALLOW_OUTSIDE_FILES: true"
    )
    assert str(run / "val.json") in state["config"]
    torch.save(state, tmp_path / "foreign.pth")
    cfg = model_zoo.config_from_checkpoint(str(tmp_path / "foreign.pth"))
    assert cfg.DATASETS.OWN == [] and cfg.DATASETS.ALLOW_OUTSIDE_FILES is False
    assert list(cfg.DATASETS.CLASS_NAMES) == ["bird", "cat"]
