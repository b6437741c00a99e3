import hashlib
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from detectron2.data import MetadataCatalog

from hrnet_d2.data.datasets import shapes
from hrnet_d2.data.masks import rasterize


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(shapes, "SPLITS", {"train": (12, 2020), "val": (4, 1908)})


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if not p.is_dir()}


def test_same_bytes_every_time(few, tmp_path):
    shapes.write_shapes(tmp_path / "a")
    np.random.seed(5)
    shapes.write_shapes(tmp_path / "b")
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert a == b
    assert len(a) == 2 * 16 + 2


def test_pictures_are_those_of_this_version():
    """On every machine. If this fails because the pictures were changed: raise VERSION."""
    digest = hashlib.sha256()
    for index in range(0, 320, 16):
        image, semantic, annotations = shapes.draw(2020, index)
        digest.update(image.tobytes() + semantic.tobytes() + json.dumps(annotations).encode())
    assert shapes.VERSION == 1
    assert digest.hexdigest()[:16] == "199353b6e698d4d4"


def test_annotations_fit_the_pictures():
    classes, objects, empty = set(), [], 0
    for index in range(120):
        image, semantic, annotations = shapes.draw(2020, index)
        height, width = semantic.shape
        assert image.shape == (height, width, 3) and image.dtype == semantic.dtype == np.uint8
        assert set(np.unique(semantic)) <= {*range(len(shapes.SEMANTIC_CLASSES)), shapes.IGNORED}
        empty += not annotations
        objects.append(len(annotations))
        covered = np.zeros((height, width), bool)
        for annotation in reversed(annotations):  # from the front
            mask = rasterize(annotation["segmentation"], height, width).astype(bool)
            x, y, w, h = annotation["bbox"]
            assert x >= 0 and y >= 0 and x + w <= width and y + h <= height and min(w, h) >= 15
            rows, columns = np.nonzero(mask)
            drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            outside = np.array([x - drawn[0], y - drawn[1], drawn[2] - x - w, drawn[3] - y - h])
            # To a pixel; the thin tips of a star cover none.
            assert outside.max() <= 1 and outside.min() >= -2.5
            assert annotation["area"] == mask.sum()
            seen = mask & ~covered
            assert seen.sum() >= 0.6 * mask.sum()
            labels = semantic[seen]
            kind = annotation["category_id"] - 1
            assert set(np.unique(labels)) <= {kind, shapes.IGNORED}
            classes.add(kind)
            covered |= mask
        background = semantic[~covered]
        assert (background[background != shapes.IGNORED] >= len(shapes.THING_CLASSES)).all()
    assert classes == set(range(4))
    assert empty == 3 and max(objects) == shapes.MAX_OBJECTS


def test_files(few, tmp_path):
    shapes.write_shapes(tmp_path / "a")
    data = json.loads((tmp_path / "a/train.json").read_text())
    assert len(data["images"]) == 12
    ids = [a["id"] for a in data["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    for entry in data["images"]:
        image = cv2.imread(str(tmp_path / "a/train" / entry["file_name"]))
        semantic = cv2.imread(
            str(tmp_path / "a/train_semantic" / entry["file_name"]), cv2.IMREAD_UNCHANGED
        )
        assert image.shape[:2] == semantic.shape == (entry["height"], entry["width"])
        np.testing.assert_array_equal(image, shapes.draw(2020, entry["id"] - 1)[0])


def test_metadata():
    metadata = MetadataCatalog.get("shapes_val")
    assert metadata.thing_classes == ["circle", "square", "triangle", "star"]
    assert metadata.evaluator_type == "coco"
    assert metadata.json_file.endswith("val.json")
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2, 4: 3}


SCRIPT = """
import os
import hrnet_d2
from hrnet_d2.data.datasets import shapes
from detectron2.data import DatasetCatalog, MetadataCatalog
shapes.SPLITS = {"train": (12, 2020), "val": (4, 1908)}
records = DatasetCatalog.get("shapes_train")
assert len(records) == 12
assert all(os.path.exists(r[k]) for r in records for k in ("file_name", "sem_seg_file_name"))
assert os.path.exists(MetadataCatalog.get("shapes_val").json_file)
print(sorted(os.listdir(os.environ["HRNET_D2_CACHE"])))
"""


def run(cache, script):
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "HRNET_D2_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_import_draws_nothing(tmp_path):
    process = run(tmp_path / "cache", "import hrnet_d2")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert not os.listdir(tmp_path)


def test_drawn_on_demand_by_several_processes(tmp_path):
    cache = tmp_path / "not" / "there"
    ranks = [run(cache, SCRIPT) for _ in range(2)]
    for rank in ranks:
        out, err = rank.communicate(timeout=120)
        assert rank.returncode == 0, err
        assert "shapes_v1" in out
    assert os.listdir(cache) == ["shapes_v1"]  # and no leftovers
