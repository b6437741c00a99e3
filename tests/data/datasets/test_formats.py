"""Custom data of every format: recognized by their content, and the same as COCO's."""

import json
import os
import sys

import cv2
import numpy as np
import pytest

from hrnet_d2.data import DatasetError, find_data
from hrnet_d2.data.datasets.coco_check import read_coco
from tests.data.datasets import layouts
from tests.data.datasets.layouts import CLASSES, SPLITS, coco


def content(split, *, polygons=False):
    """Files and their objects: class, box and polygons; checked as training checks them."""
    file = read_coco(*split)
    names = dict(zip(file.category_ids, file.class_names, strict=True))
    objects = {image["id"]: [] for image in file.data["images"]}
    for a in file.data["annotations"]:
        entry = [names[a["category_id"]], a["bbox"], a["area"]]
        objects[a["image_id"]].append(entry + ([a["segmentation"]] if polygons else []))
    files = {image["file_name"]: objects[image["id"]] for image in file.data["images"]}
    return file.class_names, files


def expected(split, *, polygons=False):
    return CLASSES, {
        name: [
            [CLASSES[c], list(box), box[2] * box[3]] + [[polygon]] * polygons
            for c, box, polygon in objects
        ]
        for name, objects in SPLITS[split]
    }


@pytest.mark.parametrize(
    "write, format",
    [
        (layouts.write_coco, "COCO"),
        (layouts.write_roboflow, "COCO"),
        (layouts.write_yolo, "YOLO"),
        (layouts.write_voc, "Pascal VOC"),
    ],
)
def test_all_formats_give_the_same(tmp_path, write, format):
    data = find_data(write(tmp_path / "data"))
    assert data.format == format
    assert set(data.splits) == {"train", "val"}
    for split in SPLITS:
        assert content(data.splits[split]) == expected(split)  # boxes exactly


def test_polygons_of_yolo(tmp_path):
    root = layouts.write_yolo(tmp_path / "data", polygons=True)
    data = find_data(root / "data.yaml")
    classes, files = content(data.splits["train"], polygons=True)
    assert classes == CLASSES
    for name, objects in expected("train", polygons=True)[1].items():
        assert [o[0] for o in files[name]] == [o[0] for o in objects]
        for found, wanted in zip(files[name], objects, strict=True):
            np.testing.assert_allclose(found[1], wanted[1], atol=1e-4)
            np.testing.assert_allclose(found[3], wanted[3], atol=1e-4)
            np.testing.assert_allclose(found[2], wanted[2], rtol=1e-3)


def test_rows_of_boxes_and_polygons_in_one_file(tmp_path):
    root = layouts.write_yolo(tmp_path / "data")
    (root / "train/labels/001.txt").write_text("0 0.5 0.5 0.5 0.25\n1 0.25 0 0.5 0.5 0 0.5\n")
    _, files = content(find_data(root).splits["train"])
    box, polygon = files["001.png"]
    assert box == ["dog", [16, 18, 32, 12], 384]
    assert polygon == ["cat", [0, 0, 32, 24], 384]


@pytest.mark.parametrize("layout", ["folders", "darknet", "path", "lists"])
def test_layouts_of_yolo(tmp_path, layout):
    root = layouts.write_yolo(tmp_path / "given")
    (root / "data.yaml").unlink()
    names = "\n".join(CLASSES) + "\n"
    if layout == "folders":  # Label Studio, with Ultralytics' folders
        for kind in ("images", "labels"):
            (root / kind).mkdir()
            (root / "train" / kind).rename(root / kind / "train")
            (root / "valid" / kind).rename(root / kind / "val")
        (root / "classes.txt").write_text(names)
    elif layout == "darknet":  # CVAT's YOLO 1.1
        (root / "obj.names").write_text(names)
        lines = {}
        for split, folder in (("train", "train"), ("valid", "valid")):
            target = root / f"obj_{split}_data"
            target.mkdir()
            for file in sorted((root / folder).glob("*/*")):
                file.rename(target / file.name)
            images = sorted(target.glob("*.png"))
            (root / f"{split}.txt").write_text(
                "".join(f"data/obj_{split}_data/{i.name}\n" for i in images)
            )
            lines[split] = f"{split} = data/{split}.txt\n"
        text = "".join(lines.values())
        (root / "obj.data").write_text(f"classes = 3\n{text}names = data/obj.names\n")
    elif layout == "path":
        yaml = "path: ..\ntrain: given/train/images\nval: [given/valid/images]\n"
        (root / "my.yaml").write_text(yaml + "names: {0: dog, 2: bird, 1: cat}\n")
    else:
        for split, folder in (("train", "train"), ("val", "valid")):
            images = sorted((root / folder / "images").iterdir())
            text = "".join(f"./{os.path.relpath(i, root)}\n" for i in images)
            (root / f"{split}.txt").write_text(text)
        (root / "data.yaml").write_text(f"train: train.txt\nval: val.txt\nnames: {CLASSES}\n")
    data = find_data(root)
    assert data.format == "YOLO"
    for split in SPLITS:
        assert content(data.splits[split]) == expected(split)


def test_all_problems_of_yolo_labels_are_told_at_once(tmp_path):
    root = layouts.write_yolo(tmp_path / "data")
    rows = ["0 .5 .5 .5 .5", "3 .5 .5 .5 .5", "0 .5 x .5 .5", "0 .5 .5 .5", "1 32 24 10 10"]
    (root / "train/labels/001.txt").write_text("\n".join([*rows, "0 nan .5 .5 .5"]))
    (root / "train/images/002.png").write_bytes(b"no image")
    with pytest.raises(DatasetError) as error:
        find_data(root)
    for part in (
        "001.txt:2", "not a number from 0 to 2", "001.txt:3", "not a number", "001.txt:4",
        "5 columns", "001.txt:5", "outside 0 to 1", "001.txt:6", "not finite", "002.png",
    ):  # fmt: skip
        assert part in str(error.value), part
    assert "001.txt:1" not in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("names: [a]\ntrain: absent\n", "there is no .*absent"),
        ("names: {0: a, 2: b}\ntrain: train/images\n", "must be 0 to 1"),
        ("names: [a]\nnc: 2\ntrain: train/images\n", '"nc" is 2'),
        ("names: [a]\n", "names no images"),
        ("train: train/images\n", 'no list of class "names"'),
        ("names: [a\n", "not a YAML file"),
        ("names: !!python/object/apply:os.getcwd []\n", "not a YAML file"),
        ("? [a, b]\n: c\n", "not a YAML file"),
        ("names: !!int ''\n", "not a YAML file"),
        ("names: [[a], b]\ntrain: train/images\n", "must be a list of texts"),
        ("names: [a]\ntrain: {a: train/images}\n", "'train' must be a path"),
    ],
)
def test_descriptions_that_cannot_be_used(tmp_path, text, message):
    root = layouts.write_yolo(tmp_path / "data")
    (root / "data.yaml").write_text(text)
    with pytest.raises(DatasetError, match=message):
        find_data(root / "data.yaml")


def test_names_are_what_is_written(tmp_path):
    """YAML would make a truth value, a number and a date of these; a file may begin with a mark."""
    root = layouts.write_yolo(tmp_path / "data")
    text = "\ufefftrain: train/images\nval: ~\nnc: 3\nnames: [no, 1_0, 2026-01-02]\n"
    (root / "data.yaml").write_text(text, "utf-8")
    data = json.loads(find_data(root).splits["train"][0].read_bytes())
    assert [c["name"] for c in data["categories"]] == ["no", "1_0", "2026-01-02"]
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("\ufeffno\nyes\noff\n", "utf-8")
    data = json.loads(find_data(root).splits["train"][0].read_bytes())
    assert [c["name"] for c in data["categories"]] == ["no", "yes", "off"]


@pytest.mark.parametrize(
    "write, name, message",
    [
        (layouts.write_devkit, "ImageSets/Main/train.txt", "not a text file in UTF-8"),
        (layouts.write_voc, "classes.txt", "not a text file in UTF-8"),
        (layouts.write_voc, "train/003.xml", "not an XML file"),
        (layouts.write_cvat, "annotations.xml", "not an XML file"),
        (layouts.write_yolo, "data.yaml", "not a text file in UTF-8"),
        (layouts.write_yolo, "train/labels/002.txt", "labels cannot be read"),
    ],
)
def test_damaged_files_are_named(tmp_path, write, name, message):
    root = write(tmp_path / "data")
    file = root / name
    file.write_bytes(file.read_bytes()[:-3] + b"\xff<")
    with pytest.raises(DatasetError, match=message) as error:
        find_data(root)
    assert name in str(error.value)


def test_images_without_labels_are_negatives(tmp_path):
    root = layouts.write_yolo(tmp_path / "data")
    (root / "train/labels/001.txt").unlink()
    data = find_data(root)
    assert content(data.splits["train"])[1]["001.png"] == []
    assert any("001.png" in w and "without objects" in w for w in data.warnings)
    assert find_data(root).warnings == data.warnings  # also of a converted file
    for file in (root / "train/labels").iterdir():
        file.unlink()
    with pytest.raises(DatasetError, match="no image of .* has a file of labels"):
        find_data(root)


def test_the_official_devkit_counts_pixels_from_one(tmp_path):
    data = find_data(layouts.write_devkit(tmp_path / "VOC2007"))
    assert set(data.splits) == {"train", "val"}
    classes, files = content(data.splits["train"])
    assert classes == sorted(CLASSES)  # of the objects, by name
    assert files == expected("train")[1]


def test_validation_data_take_the_classes_of_the_training_data(tmp_path):
    root = layouts.write_voc(tmp_path / "data")
    (root / "classes.txt").unlink()
    for file in (root / "valid").glob("*.xml"):
        file.write_text(file.read_text().replace(">bird<", ">cat<"))
    train = find_data(root / "train").splits[""]
    alone = find_data(root / "valid").splits[""]
    assert content(alone)[0] == ["cat", "dog"]
    assert content(find_data(root / "valid", train).splits[""])[0] == sorted(CLASSES)
    (root / "valid/008.xml").write_text(layouts.voc_xml("008.png", []).replace(
        "</annotation>", "<object><name>cow</name></object></annotation>"))  # fmt: skip
    with pytest.raises(DatasetError, match="classes that the training data does not have: cow"):
        find_data(root / "valid", train)


def test_problems_of_voc_files_are_told_at_once(tmp_path):
    root = layouts.write_voc(tmp_path / "data")
    first = root / "train" / "001.xml"
    first.write_text(first.read_text().replace(f"<width>{layouts.WIDTH}<", "<width>640<"))
    (root / "train" / "002.xml").write_text("<annotation>")
    (root / "train" / "004.png").unlink()
    text = layouts.voc_xml("005.png", SPLITS["train"][4][1])
    text = text.replace("<xmin>", "<left>").replace("</xmin>", "</left>")
    (root / "train" / "005.xml").write_text(text)
    with pytest.raises(DatasetError) as error:
        find_data(root)
    for part in ("001.xml (640 x 48", "002.xml", "have no image", "004.xml", "no box", "005.xml"):
        assert part in str(error.value), part


def test_cvat_by_labelformat(tmp_path):
    data = find_data(layouts.write_cvat(tmp_path / "task"))
    assert data.format == "CVAT"
    assert content(data.splits[""]) == expected("train")


def test_what_labelformat_would_lose_is_refused(tmp_path):
    polygon = '<polygon label="dog" points="1,1;9,1;9,9"></polygon>'
    root = layouts.write_cvat(tmp_path / "task", polygon)
    with pytest.raises(DatasetError, match="7 polygon.*export COCO 1.0"):
        find_data(root / "annotations.xml")


def test_messages_are_bounded_in_length(tmp_path):
    box = f'<box label="{"dog" * 3000}" xtl="1" ytl="1" xbr="2" ybr="2" occluded="0"></box>'
    root = layouts.write_cvat(tmp_path / "task", box)
    with pytest.raises(DatasetError, match="annotations.xml is not an export of CVAT") as error:
        find_data(root)
    assert len(str(error.value)) < 1000


def test_the_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "labelformat", None)
    monkeypatch.setitem(sys.modules, "labelformat.formats.cvat", None)
    with pytest.raises(DatasetError, match=r"pip install 'hrnet_d2\[formats\]'"):
        find_data(layouts.write_cvat(tmp_path / "task"))


def test_files_that_labelformat_writes(tmp_path):
    """YOLO's and Pascal VOC's, from COCO's."""
    from labelformat.formats.coco import COCOObjectDetectionInput
    from labelformat.formats.pascalvoc import PascalVOCObjectDetectionOutput
    from labelformat.formats.yolov8 import YOLOv8ObjectDetectionOutput

    (tmp_path / "coco.json").write_text(json.dumps(coco("train", polygons=False)))
    for name, _ in SPLITS["train"]:
        layouts.write_image(tmp_path / "yolo/images" / name)
        layouts.write_image(tmp_path / "voc" / name)
    source = COCOObjectDetectionInput(tmp_path / "coco.json")
    PascalVOCObjectDetectionOutput(tmp_path / "voc").save(source)
    data = find_data(tmp_path / "voc")
    assert content(data.splits[""])[1] == expected("train")[1]
    for category in source._data["categories"]:
        category["id"] -= 1
    for annotation in source._data["annotations"]:
        annotation["category_id"] -= 1
    YOLOv8ObjectDetectionOutput(tmp_path / "yolo/data.yaml", "train").save(source)
    assert content(find_data(tmp_path / "yolo").splits["train"]) == expected("train")


def test_changed_labels_are_converted_again(tmp_path):
    root = layouts.write_yolo(tmp_path / "data")
    first = find_data(root).splits["train"]
    state = first[0].stat()
    assert find_data(root).splits["train"] == first
    assert first[0].stat() == state  # not written again
    (root / "train/labels/002.txt").write_text("")
    second = find_data(root).splits["train"]
    assert second != first and content(second)[1]["002.png"] == []


def test_sizes_are_those_of_upright_images(tmp_path):
    image = pytest.importorskip("PIL.Image")
    root = layouts.write_yolo(tmp_path / "data")
    (root / "train/images/001.png").unlink()
    exif = image.Exif()
    exif[0x0112] = 6
    image.new("RGB", (40, 20)).save(root / "train/images/001.jpg", exif=exif)
    file = read_coco(*find_data(root).splits["train"])
    assert file.data["images"][0] == {"id": 1, "file_name": "001.jpg", "width": 20, "height": 40}


def test_a_json_file_alone_finds_its_images(tmp_path):
    root = layouts.write_coco(tmp_path / "data")
    data = find_data(root / "annotations/instances_val.json")
    assert data.splits[""] == (root / "annotations/instances_val.json", root / "val")
    (root / "val/008.png").rename(root / "val/moved.png")
    with pytest.raises(DatasetError, match="'008.png', is in none of"):
        find_data(root / "annotations/instances_val.json")


def test_what_is_not_known_is_explained(tmp_path):
    (tmp_path / "data").mkdir()
    cv2.imwrite(str(tmp_path / "data" / "a.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DatasetError, match="Known are COCO"):
        find_data(tmp_path / "data")
    with pytest.raises(FileNotFoundError, match="absent"):
        find_data(tmp_path / "absent")
    (tmp_path / "cells.v1.yolov8.zip").write_bytes(b"PK")
    with pytest.raises(DatasetError, match="unpack it"):
        find_data(tmp_path / "cells.v1.yolov8.zip")
    root = layouts.write_coco(tmp_path / "coco")
    (root / "annotations/train_more.json").write_text(json.dumps(coco("train")))
    with pytest.raises(DatasetError, match="several annotation files for train"):
        find_data(root)


def test_labels_without_images_are_told(tmp_path):
    root = layouts.write_yolo(tmp_path / "data")
    (root / "train/images/002.png").unlink()
    (root / "train/labels/classes.txt").write_text("dog")
    (warning,) = find_data(root).warnings
    assert "1 files of labels have no image" in warning and "train/labels/002.txt" in warning


@pytest.mark.parametrize("base", ["/home/alice/pets", "C:\\Users\\alice\\pets"])
def test_a_description_from_another_machine(tmp_path, base):
    root = layouts.write_yolo(tmp_path / "data")
    slash = "\\" if "\\" in base else "/"
    places = [slash.join([base, folder, "images"]) for folder in ("train", "valid")]
    text = "train: '{}'\nval: '{}'\nnames: [dog, cat, bird]\n"
    (root / "data.yaml").write_text(text.format(*places))
    data = find_data(root)
    for split in SPLITS:
        assert content(data.splits[split]) == expected(split)
    for place, warning in zip(places, data.warnings, strict=True):
        assert f"gives {place} for" in warning
    # Both splits would be the same folder, or that of any split.
    for moved in (base + slash + "train" + slash + "images", base + slash + "images"):
        (root / "images").mkdir(exist_ok=True)
        (root / "data.yaml").write_text(text.format(moved, moved))
        with pytest.raises(DatasetError, match="Correct the path"):
            find_data(root)


def test_a_list_of_images_from_another_machine(tmp_path):
    root = layouts.write_yolo(tmp_path / "data")
    for split, folder in (("train", "train"), ("val", "valid")):
        names = sorted(p.name for p in (root / folder / "images").iterdir())
        lines = [f"/home/alice/pets/{folder}/images/{name}\n" for name in names]
        (root / f"{split}.txt").write_text("".join(lines))
    (root / "data.yaml").write_text(f"train: train.txt\nval: val.txt\nnames: {CLASSES}\n")
    data = find_data(root)
    for split in SPLITS:
        assert content(data.splits[split]) == expected(split)


def test_files_of_windows_and_macos(tmp_path):
    """A byte order mark, ends of lines, upper case, and the hidden files of macOS."""
    mark = b"\xef\xbb\xbf"
    yolo, voc = layouts.write_yolo(tmp_path / "yolo"), layouts.write_voc(tmp_path / "voc")
    for file in [*yolo.rglob("*.txt"), yolo / "data.yaml", voc / "classes.txt"]:
        file.write_bytes(mark + file.read_bytes().replace(b"\n", b"\r\n"))
    for file in [*yolo.rglob("*.png"), *voc.rglob("*.png"), *voc.rglob("*.xml")]:
        (file.parent / f"._{file.name}").write_bytes(b"\x00\x05\x16\x07")
    for file in [f for f in voc.rglob("*.xml") if not f.name.startswith(".")]:
        file.rename(file.with_suffix(".XML"))
    for root in (yolo, voc):
        data = find_data(root)
        for split in SPLITS:
            assert content(data.splits[split]) == expected(split)


def test_files_of_another_format_are_told(tmp_path):
    root = layouts.write_yolo(tmp_path / "data")
    (root / "notes.json").write_text('{"categories": [], "info": {}}')  # Label Studio's
    assert not find_data(root).warnings
    (root / "train.json").write_text(json.dumps(coco("train")))
    (root / "Annotations").mkdir()
    (root / "Annotations/001.xml").write_text(layouts.voc_xml(*SPLITS["train"][0]))
    data = find_data(root)
    assert data.format == "YOLO"
    assert any("Pascal VOC: those of YOLO are used" in w for w in data.warnings)


def test_long_paths_that_are_not_there_are_shortened(tmp_path):
    text = f"path: {'.' * 5000}\ntrain: images\nval: images\nnames: [cat]\n"
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DatasetError, match="there is no .*, which it gives for 'train'") as error:
        find_data(tmp_path / "data.yaml")
    assert len(str(error.value)) < 1000 + len(str(tmp_path))
