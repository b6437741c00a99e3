"""Faults of annotation files, by the front door: what is named, repaired, or warned of."""

import json
import logging
import os

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator

from hrnet_d2.data import DatasetError, build_train_loader, configure_custom_data
from hrnet_d2.data import register_custom_data as register
from hrnet_d2.evaluation import FastCOCOEvaluator

NAN, INF, LONG = float("nan"), float("inf"), 10**400
SQUARE = [5, 5, 25, 5, 25, 15, 5, 15]


def rle(height=40, width=60):
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[5:15, 5:25] = 1
    encoded = mask_util.encode(mask)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def completed(name):
    with open(MetadataCatalog.get(name).json_file) as file:
        return json.load(file)


@pytest.mark.parametrize(
    ("table", "key", "value", "words"),
    [
        ("images", "id", "1", "ids of images that are not whole numbers: '1'.*without quotes"),
        ("images", "id", [1], r"ids of images that are not whole numbers: \[1\]"),
        ("images", "id", True, "ids of images that are not whole numbers: True"),
        ("images", "file_name", None, "1 images have a file_name that is not a text: None"),
        ("images", "file_name", 7, r"file_name that is not a text: 7 \(images 10\)"),
        ("images", "file_name", "a\0.jpg", "file_name that is not a text"),
        ("images", "file_name", "\ud800.jpg", "1 of 3 images are not in"),
        ("images", "width", "60", r"a width that is not a whole number.*'60' \(images 10\)"),
        ("images", "height", 0, "a height that is not a whole number"),
        ("images", "height", NAN, "a height that is not a whole number"),
        ("images", "width", 2**40, "more than 2147483648 pixels: images 10"),
        ("annotations", "id", {"a": 1}, "ids of annotations that are not whole numbers"),
        ("annotations", "image_id", [10], r"image_ids of annotations.*\[10\] \(annotations 1\)"),
        ("annotations", "image_id", None, "image_ids of annotations that are not whole.*None"),
        ("annotations", "category_id", "7", r"category_ids of.*'7' \(annotations 1\).*quotes"),
        ("annotations", "category_id", {}, "category_ids of annotations that are not whole"),
        ("annotations", "bbox", None, "not four finite numbers.*: ids 1"),
        ("annotations", "bbox", [True, 5, 20, 10], "not four finite numbers.*: ids 1"),
        ("annotations", "bbox", [5, 5, NAN, 10], "not four finite numbers.*: ids 1"),
        ("annotations", "bbox", [5, 5, "20", 10], "not four finite numbers.*: ids 1"),
        ("annotations", "bbox", [5, 5, LONG, 10], "boxes with numbers beyond .* pixels: ids 1"),
        ("annotations", "bbox", [[5, 5, 20, 10]], "not four finite numbers.*: ids 1"),
        ("annotations", "iscrowd", 2, 'an "iscrowd" that is neither 0 nor 1: 2'),
        ("annotations", "iscrowd", [], r'an "iscrowd" that is neither 0 nor 1: \[\]'),
        ("annotations", "iscrowd", "maybe", "neither 0 nor 1: 'maybe' .ids 1"),
        ("annotations", "ignore", "true", 'marked "ignore" .ids 1'),
        ("categories", "name", None, "1 categories have a name that is not a text: None"),
        ("categories", "name", " ", "1 categories have a name that is not a text: ' '"),
        ("categories", "name", ["cat"], r"a name that is not a text: \['cat'\]"),
        ("categories", "id", 1.5, "ids of categories that are not whole numbers: 1.5"),
    ],
)
def test_fields(coco, table, key, value, words):
    coco.data[table][0][key] = value
    coco.save()
    with pytest.raises(DatasetError, match=f"(?s)train.json cannot be used.*{words}"):
        register(*coco.source)


@pytest.mark.parametrize("table", ["images", "annotations", "categories"])
@pytest.mark.parametrize("entry", [1, "a", None, [[]]])
def test_entries_that_are_not_objects(coco, table, entry):
    coco.data[table].append(entry)
    coco.save()
    with pytest.raises(DatasetError, match=f'1 entries of "{table}" are not JSON objects'):
        register(*coco.source)


def test_problems_of_all_tables_in_one_message(coco):
    coco.data["images"][0]["width"] = "60"
    coco.data["categories"][0]["name"] = 5
    for annotation in coco.data["annotations"]:
        annotation["bbox"] = None
    coco.save()
    with pytest.raises(DatasetError) as error:
        register(*coco.source)
    assert len(str(error.value).splitlines()) == 4
    assert "ids 1, 2, 3, 4, 5, ... (6 in all)" in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings_are_read(coco, encoding):
    coco.json_file.write_text(json.dumps(coco.data), encoding=encoding)
    name, _ = register(*coco.source)
    assert len(DatasetCatalog.get(name)) == 3


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' + "9" * 5000 + "}", "\xff"])
def test_files_that_are_no_json(coco, text):
    coco.json_file.write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match="train.json is not a"):
        register(*coco.source)


@pytest.mark.parametrize(
    ("value", "flag"),
    [("0", 0), ("false", 0), (None, 0), (False, 0), (0.0, 0), ("1", 1), ("True", 1), (True, 1)],
)
def test_flags_are_repaired(coco, caplog, value, flag):
    coco.data["annotations"][2]["iscrowd"] = value
    coco.save()
    with caplog.at_level(logging.INFO):
        name, _ = register(*coco.source)
    assert [a["iscrowd"] for a in completed(name)["annotations"]] == [0, 0, flag, 0, 0, 0]
    assert '1 values of "iscrowd" that are not 0 or 1 (ids 3)' in caplog.text


@pytest.mark.parametrize("value", [None, -5, "200", NAN, INF, [], True, LONG])
def test_areas_are_repaired(coco, caplog, value):
    coco.data["annotations"][0]["area"] = value
    coco.save()
    with caplog.at_level(logging.INFO):
        name, _ = register(*coco.source)
    assert completed(name)["annotations"][0]["area"] == 200
    assert "ids 1" in caplog.text or "1 annotations without area" in caplog.text


def test_scores_and_keypoints_are_removed(coco, caplog):
    coco.data["annotations"][0]["score"] = NAN
    coco.data["annotations"][1]["keypoints"] = [1, 2, "a"]
    coco.save()
    with caplog.at_level(logging.INFO):
        name, _ = register(*coco.source)
    DatasetCatalog.get(name)
    first, second = completed(name)["annotations"][:2]
    assert "score" not in first and "keypoints" not in second
    assert "1 scores that are not numbers" in caplog.text and "keypoints" in caplog.text


BAD = {
    "odd": [[*SQUARE, 5]],
    "line": [[1, 2, 3, 4]],
    "nan": [[5, 5, NAN, 5, 25, 15]],
    "infinite": [[5, 5, INF, 5, 25, 15]],
    "1e7": [[5, 5, 1e7, 5, 25, 15]],
    "1e9": [[5, 5, 10**9, 5, 25, 15]],
    "1e400": [[5, 5, LONG, 5.0, 25, 15]],
    "long way": [[0, 0, 90000, 90000] * 400],
    "text": "polygon",
    "text inside": [["a", "b", "c", "d", "e", "f"]],
    "true": True,
    "true inside": [[True, 5, 25, 5, 25, 15]],
    "number": 5,
    "null inside": [None],
    "nested": [[[[SQUARE]]]],
    "no size": {"counts": rle()["counts"]},
    "no counts": {"size": [40, 60]},
    "size of text": {**rle(), "size": "40"},
    "size of floats": {**rle(), "size": [40.0, 60.0]},
    "huge size": {**rle(), "size": [10**9, 10**9]},
    "other size": rle(30, 60),
    "short": {**rle(), "counts": rle()["counts"][:-3]},
    "empty": {**rle(), "counts": ""},
    "null": {**rle(), "counts": None},
    "not ASCII": {**rle(), "counts": "\u1234\u1234"},
    "cut in a number": {**rle(), "counts": "o"},
    "list too short": {**rle(), "counts": [5, 5]},
    "negative": {**rle(), "counts": [2405, -5]},
    "list of texts": {**rle(), "counts": ["2400"]},
    "list of floats": {**rle(), "counts": [2400.0]},
    "empty list": {**rle(), "counts": []},
}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_malformed_segmentations(cfg, coco, caplog, value):
    """Named for a model of masks; removed, with a warning, for a model of boxes."""
    coco.data["annotations"][3]["segmentation"] = value
    coco.save()
    configure_custom_data(cfg, coco.source, coco.source)
    assert "1 segmentations are malformed" in caplog.text and "ids 4" in caplog.text
    batches = iter(build_train_loader(cfg))
    assert all(len(next(batches)[0]["instances"]) == 2 for _ in range(4))
    cfg.MODEL.MASK_ON = True
    for data in ({"train": coco.source}, {"val": coco.source}):
        with pytest.raises(DatasetError, match=r"(?s)train.json.*malformed.*ids 4.*box model"):
            configure_custom_data(cfg, **data)


@pytest.mark.parametrize(
    "value",
    [
        SQUARE,
        [[5, 5], [25, 5], [25, 15], [5, 15]],
        [[[5, 5], [25, 5], [25, 15], [5, 15]]],
        [[SQUARE]],
        [SQUARE, []],
        [SQUARE, [1, 2, 3, 4]],
        [[1, 2], SQUARE],
    ],
)
def test_segmentations_with_one_meaning_are_repaired(cfg, coco, caplog, value):
    coco.data["annotations"][0]["segmentation"] = value
    coco.save()
    cfg.MODEL.MASK_ON = True
    with caplog.at_level(logging.INFO):
        configure_custom_data(cfg, coco.source, coco.source)
    assert "1 segmentations: " in caplog.text and "(ids 1)" in caplog.text
    records = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    assert records[0]["annotations"][0]["segmentation"] == [SQUARE]
    batches = iter(build_train_loader(cfg))
    assert all(len(next(batches)[0]["instances"]) == 2 for _ in range(4))


@pytest.mark.parametrize("value", [None, [], [[]], [[], []]])
def test_objects_without_segmentation(cfg, coco, value):
    coco.data["annotations"][0]["segmentation"] = value
    coco.save()
    configure_custom_data(cfg, coco.source, coco.source)
    batches = iter(build_train_loader(cfg))
    assert all(len(next(batches)[0]["instances"]) == 2 for _ in range(4))
    cfg.MODEL.MASK_ON = True
    with pytest.raises(DatasetError, match="1 of 6 objects of .*train.json.*annotation id 1"):
        configure_custom_data(cfg, coco.source)


@pytest.mark.parametrize("encoding", [rle(), {"size": [40, 60], "counts": [205, 10, 2185]}])
def test_sound_encodings_stay(cfg, coco, encoding, caplog):
    coco.data["annotations"][0]["segmentation"] = encoding
    coco.save()
    cfg.MODEL.MASK_ON = True
    configure_custom_data(cfg, coco.source)
    assert MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).json_file == str(coco.json_file)
    assert "malformed" not in caplog.text


@pytest.mark.parametrize(
    ("table", "key", "new"),
    [
        ("annotations", None, lambda i: i - 3),
        ("annotations", None, lambda i: i - 100),
        ("annotations", None, lambda i: 2**63 + i),
        ("annotations", None, lambda i: 10**300 + i),
        ("images", "image_id", lambda i: -i),
        ("images", "image_id", lambda i: (-1) ** i * (2**63 + i)),
        ("categories", "category_id", lambda i: -i),
        ("categories", "category_id", lambda i: 10**400 * i),
    ],
)
@pytest.mark.parametrize("evaluator", [FastCOCOEvaluator, COCOEvaluator])
def test_any_ids_give_perfect_predictions_100(coco, table, key, new, evaluator):
    for entry in coco.data[table]:
        old, entry["id"] = entry["id"], new(entry["id"])
        for annotation in coco.data["annotations"] if key else ():
            if annotation[key] == old:
                annotation[key] = ("new", entry["id"])
    for annotation in coco.data["annotations"] if key else ():
        annotation[key] = annotation[key][1]
    coco.save()
    _, name = register(None, None, *coco.source)
    judge = evaluator(name, ("bbox",), False, use_fast_impl=False)
    judge.reset()
    judge._predictions = [
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
        for record in DatasetCatalog.get(name)
    ]
    assert judge.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_corners_written_as_boxes(coco, caplog):
    for annotation in coco.data["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x + 10, y + 5, x + w + 10, y + h + 5]
    coco.data["annotations"][0]["bbox"] = [30, 20, 55, 38]
    coco.data["annotations"][2]["bbox"] = [30, 20, 55, 38]
    coco.data["annotations"][4]["bbox"] = [30, 20, 55, 38]
    coco.save()
    with pytest.raises(DatasetError, match=r"6 of 6 boxes.*leave their image.*x1, y1, x2, y2"):
        register(*coco.source)
    for annotation in coco.data["annotations"]:
        annotation["bbox"] = [30, 20, 25, 38]  # some leave the image, and are no corners
    coco.save()
    register(*coco.source)
    assert "6 of 6 boxes, most of all, leave their image" in caplog.text


def test_nothing_usable_to_train_on(cfg, coco):
    for annotation in coco.data["annotations"]:
        annotation["bbox"][2] = 0.5
    coco.data["annotations"][0]["iscrowd"] = 1
    coco.save()
    words = "train.json has no object to learn from: of 6 annotations 1 are crowds.* 6 are less"
    with pytest.raises(DatasetError, match=words):
        configure_custom_data(cfg, coco.source)
    for annotation in coco.data["annotations"]:
        annotation.update(bbox=[5, 5, 20, 10], iscrowd=1)
    coco.save()
    with pytest.raises(DatasetError, match="6 annotations 6 are crowds"):
        configure_custom_data(cfg, coco.source)


@pytest.mark.parametrize("crowds", [False, True])
def test_nothing_to_evaluate_on(cfg, coco, caplog, crowds):
    for annotation in coco.data["annotations"]:
        annotation["iscrowd"] = 1
    if not crowds:
        coco.data["annotations"] = []
    coco.save()
    configure_custom_data(cfg, val=coco.source)
    assert "train.json has no objects to evaluate on" in caplog.text
    assert "undefined" in caplog.text


def test_one_file_as_two_images(coco, caplog):
    coco.data["images"][1]["file_name"] = "sub/../0.jpg"
    coco.save()
    register(*coco.source)
    assert "1 files are listed as several images" in caplog.text
    assert "0.jpg (ids 10, 11)" in caplog.text


@pytest.mark.parametrize("way", ["dots", "absolute", "link", "linked folder"])
def test_file_names_that_lead_out(cfg, coco, tmp_path, way):
    other = tmp_path / "elsewhere"
    other.mkdir()
    coco.write_image("0.jpg", 40, 60)
    os.replace(coco.images / "0.jpg", other / "0.jpg")
    if way == "link":
        os.symlink(other / "0.jpg", coco.images / "0.jpg")
    if way == "linked folder":
        os.symlink(other, coco.images / "linked")
    coco.data["images"][0]["file_name"] = {
        "dots": "../elsewhere/0.jpg",
        "absolute": str(other / "0.jpg"),
        "link": "0.jpg",
        "linked folder": "linked/0.jpg",
    }[way]
    coco.save()
    with pytest.raises(DatasetError, match=r"1 file names lead out.*ALLOW_OUTSIDE_FILES True"):
        configure_custom_data(cfg, coco.source)
    register(*coco.source, allow_outside_files=True)
    cfg.DATASETS.ALLOW_OUTSIDE_FILES = True
    configure_custom_data(cfg, coco.source)


def test_links_within_the_folder_and_to_it(coco, tmp_path):
    os.symlink(coco.images / "0.jpg", coco.images / "again.jpg")
    os.symlink(coco.images, tmp_path / "images")
    coco.data["images"][0]["file_name"] = "again.jpg"
    coco.save()
    register(coco.json_file, tmp_path / "images")


@pytest.mark.parametrize("scale, offset", [(1 / 60, 0), (1, 100), (-1, 0)])
def test_polygons_beside_their_box(cfg, coco, caplog, scale, offset):
    """Relative coordinates, those of another image, or nonsense."""
    cfg.MODEL.MASK_ON = True
    for annotation in coco.data["annotations"]:
        annotation.update(bbox=[5, 5, 20, 10], segmentation=[SQUARE])
    coco.data["annotations"][2]["segmentation"] = [[0, 0, 60, 0, 60, 40]]  # begins outside
    coco.save()
    configure_custom_data(cfg, coco.source)
    assert "do not touch their box" not in caplog.text
    coco.data["annotations"][0]["segmentation"] = [[offset + scale * v for v in SQUARE]]
    coco.save()
    configure_custom_data(cfg, coco.source)
    assert "1 of 6 segmentations do not touch their box (ids 1)" in caplog.text


def test_repeated_objects(coco, caplog):
    register(*coco.source)
    assert "repeat another one" not in caplog.text
    coco.data["annotations"].append({**coco.data["annotations"][0], "id": 77})
    coco.save()
    register(*coco.source)
    assert "1 of 7 annotations repeat another one" in caplog.text and "(ids 77)" in caplog.text
