import logging
import os

from detectron2.data import DatasetCatalog, MetadataCatalog

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
