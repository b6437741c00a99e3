import json
import logging

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator

from hrnet_d2.data import (
    DatasetError,
    build_train_loader,
    check_num_classes,
    configure_custom_data,
    register_custom_data,
)


def fails(coco, match):
    coco.save()
    with pytest.raises(DatasetError, match=f"(?s){match}"):
        register_custom_data(*coco.source)


def test_configures_every_family(cfg, coco, coco_val):
    cfg.freeze()
    configure_custom_data(cfg, coco.source, coco_val.source)
    assert cfg.is_frozen()
    assert [cfg.MODEL[n].NUM_CLASSES for n in ("ROI_HEADS", "FCOS", "RETINANET")] == [2, 2, 2]
    check_num_classes(cfg)
    (train,), (val,) = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
    assert train != val
    metadata = MetadataCatalog.get(train)
    assert metadata.thing_classes == ["bird", "cat"]  # by id: 3, 7
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert metadata.evaluator_type == "coco"
    assert metadata.json_file == str(coco.json_file)
    records = DatasetCatalog.get(train)
    assert [a["category_id"] for a in records[0]["annotations"]] == [1, 0]
    assert records[2]["file_name"] == str(coco.images / "sub/2.jpg")
    batches = iter(build_train_loader(cfg))
    assert {next(batches)[0]["image_id"] for _ in range(8)} == {10, 11, 12}


def test_same_names_in_every_process(coco, coco_val, monkeypatch):
    names = register_custom_data(*coco.source, *coco_val.source)
    assert register_custom_data(*coco.source, *coco_val.source) == names
    monkeypatch.chdir(coco.json_file.parent)
    assert register_custom_data("train.json", "train_images")[0] == names[0]


def test_file_may_change_between_registrations(coco):
    name, _ = register_custom_data(*coco.source)
    coco.data["categories"][0]["name"] = "lion"
    coco.save()
    assert register_custom_data(*coco.source) == (name, None)
    assert MetadataCatalog.get(name).thing_classes == ["bird", "lion"]


def test_one_of_the_two(cfg, coco, coco_val):
    configure_custom_data(cfg, val=coco_val.source)
    assert cfg.DATASETS.TRAIN == () and len(cfg.DATASETS.TEST) == 1
    configure_custom_data(cfg, train=coco.source)
    assert len(cfg.DATASETS.TRAIN) == 1 and cfg.DATASETS.TEST == ()
    with pytest.raises(DatasetError, match="Neither"):
        configure_custom_data(cfg)


def test_categories_must_agree(coco, coco_val):
    coco_val.data["categories"][0]["name"] = "dog"
    coco_val.save()
    with pytest.raises(DatasetError) as error:
        register_custom_data(*coco.source, *coco_val.source)
    message = str(error.value)
    assert "train.json: 3 bird, 7 cat\n" in message
    assert "val.json: 3 bird, 7 dog\n" in message
    assert "only in" in message and "7 dog" in message.split("only in")[2]


def test_paths(coco, tmp_path):
    with pytest.raises(FileNotFoundError, match="annotation file.*nowhere.json"):
        register_custom_data(tmp_path / "nowhere.json", coco.images)
    with pytest.raises(FileNotFoundError, match="folder of images.*nowhere"):
        register_custom_data(coco.json_file, tmp_path / "nowhere")


def test_not_json(coco):
    coco.json_file.write_text('{"images": [')
    with pytest.raises(DatasetError, match="train.json is not a JSON file.*line 1"):
        register_custom_data(*coco.source)


def test_not_coco(coco):
    coco.json_file.write_text(json.dumps({"images": [], "annotations": {}}))
    with pytest.raises(DatasetError, match='train.json has no list of "annotations", "categories"'):
        register_custom_data(*coco.source)
    coco.json_file.write_text(json.dumps([{"image_id": 1}]))
    with pytest.raises(DatasetError, match="train.json holds a list.*results"):
        register_custom_data(*coco.source)


def test_missing_images(coco):
    coco.data["images"] += [
        {"id": 100 + i, "file_name": f"gone{i}.jpg", "width": 9, "height": 9} for i in range(7)
    ]
    fails(coco, r"7 of 10 images are not in .*train_images: gone0.jpg, .*gone4.jpg, \.\.\. \(7")


def test_all_problems_at_once(coco):
    annotations = coco.data["annotations"]
    annotations[1]["id"] = 1
    annotations[2]["image_id"] = 99
    annotations[3]["category_id"] = 5
    annotations[4]["bbox"] = [1, 2, 3]
    annotations[5]["bbox"] = [1, 2, float("nan"), 4]
    annotations[5]["ignore"] = 1
    coco.data["images"][1]["id"] = 10
    coco.data["categories"].append({"id": 8, "name": "cat"})
    coco.save()
    with pytest.raises(DatasetError) as error:
        register_custom_data(*coco.source)
    message = str(error.value)
    for part in (
        "several annotations have the id 1:",
        '2 annotations have an image_id that "images" lacks: 11, 99',
        '1 annotations have a category_id that "categories" lacks: 5',
        "four finite numbers (x, y, width, height): ids 5, 6",
        '1 annotations are marked "ignore" (ids 6)',
        "several images have the id 10",
        "several categories have the name cat",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("images", "id"),
        ("images", "file_name"),
        ("images", "width"),
        ("images", "height"),
        ("annotations", "id"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
        ("annotations", "bbox"),
        ("categories", "id"),
        ("categories", "name"),
    ],
)
def test_missing_keys(coco, table, key):
    del coco.data[table][0][key]
    fails(coco, f"1 {table} lack .*{key}")


@pytest.mark.parametrize("table", ["images", "categories"])
def test_empty_tables(coco, table):
    coco.data[table] = []
    fails(coco, f'there are no "{table}"')


def test_nothing_to_learn(cfg, coco):
    coco.data["annotations"] = []
    coco.save()
    with pytest.raises(DatasetError, match="train.json has no annotations"):
        configure_custom_data(cfg, coco.source)


def test_unusable_boxes_are_counted(coco, caplog):
    coco.data["annotations"][0]["bbox"] = [5, 5, 0.5, 9]
    coco.data["annotations"][1]["bbox"] = [70, 5, 5, 9]
    coco.save()
    with caplog.at_level(logging.WARNING):
        register_custom_data(*coco.source)
    assert "1 of 6 boxes are less than a pixel wide or high" in caplog.text
    assert "1 of 6 boxes miss their image" in caplog.text


def test_masks_need_segmentations(cfg, coco, coco_val):
    coco.data["annotations"][4].update(segmentation=[], iscrowd=1)
    coco.save()
    cfg.MODEL.MASK_ON = True
    configure_custom_data(cfg, coco.source, coco_val.source)
    with pytest.raises(DatasetError, match="1 of 6 objects.*train.json.*id 5"):
        configure_custom_data(cfg, val=coco.source)  # COCO's evaluation reads crowds too
    del coco.data["annotations"][3]["segmentation"]
    coco.save()
    with pytest.raises(DatasetError, match=r"1 of 5 objects.*train.json.*id 4.*faster_rcnn"):
        configure_custom_data(cfg, coco.source)
    cfg.MODEL.MASK_ON = False
    configure_custom_data(cfg, coco.source, coco.source)


@pytest.mark.parametrize("table", ["images", "annotations", "categories"])
def test_ids_are_whole_numbers(coco, table):
    coco.data[table][0]["id"] = "seven"
    fails(coco, f"ids of {table} that are not whole numbers: 'seven'")


def test_semantic_maps(cfg, coco, tmp_path, caplog):
    cfg.MODEL.META_ARCHITECTURE = "HybridTaskCascade"
    with pytest.raises(DatasetError, match="--train-sem-seg FOLDER.*SEMANTIC_ON False"):
        configure_custom_data(cfg, coco.source)
    maps = tmp_path / "maps"
    with pytest.raises(FileNotFoundError, match="folder of semantic maps.*maps"):
        configure_custom_data(cfg, coco.source, None, maps)
    (maps / "sub").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"maps has none for the images.*train.json.*0\.png"):
        configure_custom_data(cfg, coco.source, None, maps)
    for name in ("0.png", "sub/2.png"):
        cv2.imwrite(str(maps / name), np.zeros((40, 60), np.uint8))
    with caplog.at_level(logging.WARNING):
        configure_custom_data(cfg, coco.source, None, maps)
    assert "1 of 3 images" in caplog.text and "1.png" in caplog.text
    records = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    assert [r.get("sem_seg_file_name") for r in records] == [
        str(maps / "0.png"),
        None,
        str(maps / "sub/2.png"),
    ]
    batches = iter(build_train_loader(cfg))
    with_map = {r["image_id"]: "sem_seg" in r for r in (next(batches)[0] for _ in range(9))}
    assert with_map == {10: True, 11: False, 12: True}
    with pytest.raises(DatasetError, match="maps.*go with training data"):
        configure_custom_data(cfg, None, coco.source, maps)


def test_what_the_evaluation_needs_is_completed(cfg, coco, tmp_path):
    """No area, no iscrowd, no info, ids from 0: detections equal to the truth have AP 100."""
    for i, annotation in enumerate(coco.data["annotations"]):
        del annotation["area"], annotation["iscrowd"]
        annotation["id"] = i
    coco.save()
    original = coco.json_file.read_bytes()
    _, name = register_custom_data(None, None, *coco.source)
    assert coco.json_file.read_bytes() == original
    json_file = MetadataCatalog.get(name).json_file
    assert str(tmp_path / "cache") in json_file
    assert register_custom_data(None, None, *coco.source) == (None, name)

    evaluator = COCOEvaluator(name, ("bbox",), False, use_fast_impl=False)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        evaluator._predictions.append(
            {
                "image_id": record["image_id"],
                "instances": [
                    {
                        "image_id": record["image_id"],
                        "category_id": a["category_id"],
                        "bbox": a["bbox"],
                        "score": 0.9,
                    }
                    for a in record["annotations"]
                ],
            }
        )
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_complete_files_are_used_as_they_are(coco, tmp_path):
    register_custom_data(*coco.source)
    assert not (tmp_path / "cache").exists()
