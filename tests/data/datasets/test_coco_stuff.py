import logging
import os

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.structures import BoxMode
from detectron2.utils.visualizer import Visualizer

from hrnet_d2.data.datasets import coco_stuff


def test_registered_beside_coco():
    for split in ("train", "val"):
        name = f"coco_2017_{split}_stuffthing"
        assert name in DatasetCatalog.list()
        metadata, coco = MetadataCatalog.get(name), MetadataCatalog.get(f"coco_2017_{split}")
        assert metadata.json_file == coco.json_file
        assert metadata.image_root == coco.image_root
        assert len(metadata.thing_classes) == 80
        assert metadata.thing_dataset_id_to_contiguous_id[90] == 79
        assert metadata.evaluator_type == "coco" and metadata.ignore_label == 255
        root = os.path.dirname(coco.image_root)
        assert metadata.sem_seg_root == os.path.join(root, "stuffthingmaps", f"{split}2017")
    coco_stuff.register_coco_stuffthing()  # again is harmless


def test_maps_by_name(coco, tmp_path, caplog):
    arguments = str(coco.json_file), str(coco.images), str(tmp_path / "maps"), "stuff_test"
    with caplog.at_level(logging.WARNING):
        records = coco_stuff.load_coco_stuffthing(*arguments)
    assert "There is no folder" in caplog.text and "maps" in caplog.text
    assert not any("sem_seg_file_name" in r for r in records)
    (tmp_path / "maps").mkdir()
    records = coco_stuff.load_coco_stuffthing(*arguments)
    MetadataCatalog.remove("stuff_test")
    assert [r["sem_seg_file_name"] for r in records] == [
        str(tmp_path / "maps" / f"{i}.png") for i in range(3)
    ]


@pytest.mark.parametrize("split", ["train", "val"])
def test_names_and_colors_are_detectron2s(split):
    """Of the labels that Detectron2 knows: all things, and the stuff that it does not merge."""
    metadata = MetadataCatalog.get(f"coco_2017_{split}_stuffthing")
    names, colors = metadata.stuff_classes, metadata.stuff_colors
    assert len(names) == len(colors) == 182 and len(set(names)) == 182
    known = [c for c in COCO_CATEGORIES if c["id"] <= 182]
    assert len(known) == 80 + 36
    for category in known:
        label = category["id"] - 1
        assert names[label] == category["name"] and colors[label] == category["color"]
    assert all(len(color) == 3 and 0 <= min(color) <= max(color) <= 255 for color in colors)


@pytest.mark.parametrize("name", ["shapes_train", "shapes_val", "coco_2017_val_stuffthing"])
def test_detectron2s_visualizer_draws_the_built_in_data(name, tmp_path):
    """Records and semantic maps, as its tool for looking at data draws them."""
    metadata = MetadataCatalog.get(name)
    if name.startswith("shapes"):
        record = DatasetCatalog.get(name)[0]
    else:
        labels = np.full((60, 80), 255, np.uint8)
        labels[:30], labels[30:, :40] = 156, 181
        cv2.imwrite(str(tmp_path / "map.png"), labels)
        box = {"bbox": [5, 5, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 79}
        record = {"annotations": [box], "sem_seg_file_name": str(tmp_path / "map.png")}
    labels = cv2.imread(record["sem_seg_file_name"], cv2.IMREAD_UNCHANGED)
    image = np.full((*labels.shape, 3), 128, np.uint8)
    assert (Visualizer(image, metadata).draw_dataset_dict(record).get_image() != 128).any()
    drawn = Visualizer(image, metadata).draw_sem_seg(labels, area_threshold=0, alpha=1.0)
    pixels = drawn.get_image()
    for label in np.unique(labels):
        inside = cv2.erode((labels == label).astype(np.uint8), np.ones((7, 7))) > 0
        if inside.any() and label < 255:
            difference = np.abs(pixels[inside].astype(int) - metadata.stuff_colors[label])
            assert difference.max(axis=1).min() <= 3  # the label's name covers a part
