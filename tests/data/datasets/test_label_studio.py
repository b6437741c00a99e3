"""Exports of Label Studio: JSON and JSON-MIN."""

import json

import pytest

from hrnet_d2.data import DatasetError, find_data
from tests.data.datasets import layouts
from tests.data.datasets.layouts import CLASSES, HEIGHT, SPLITS, WIDTH
from tests.data.datasets.test_formats import content, expected


def region(category, box, **value):
    x, y, w, h = box
    value = {
        "x": 100 * x / WIDTH,
        "y": 100 * y / HEIGHT,
        "width": 100 * w / WIDTH,
        "height": 100 * h / HEIGHT,
        "rotation": 0,
        "rectanglelabels": [CLASSES[category]],
        **value,
    }
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {**size, "type": "rectanglelabels", "value": value}


def tasks():
    return [
        {
            "id": i,
            "data": {"image": f"/data/upload/1/0a1b2c3d-{name}"},
            "annotations": [
                {"id": i, "was_cancelled": False, "result": [region(c, box) for c, box, _ in found]}
            ],
        }
        for i, (name, found) in enumerate(SPLITS["train"], 1)
    ]


def write(root, content, prefix="0a1b2c3d-"):
    for name, _ in SPLITS["train"]:
        layouts.write_image(root / "images" / f"{prefix}{name}")
    (root / "classes.txt").write_text("\n".join(CLASSES))
    (root / "export.json").write_text(json.dumps(content))
    return root


def without_prefix(found):
    classes, files = found
    return classes, {name.removeprefix("0a1b2c3d-"): objects for name, objects in files.items()}


@pytest.mark.parametrize("prefix", ["0a1b2c3d-", ""])  # uploaded; as it was before
@pytest.mark.parametrize("given", ["folder", "file", "file and images"])
def test_boxes(tmp_path, prefix, given):
    root = write(tmp_path / "data", tasks(), prefix)
    paths = {
        "folder": root,
        "file": root / "export.json",
        "file and images": (root / "export.json", root / "images"),
    }
    data = find_data(paths[given])
    assert data.format == "Label Studio"
    assert without_prefix(content(data.splits[""])) == expected("train")


def test_the_short_export(tmp_path):
    short = [
        {"id": task["id"], "image": task["data"]["image"], "label": [
            {**r["value"], "original_width": WIDTH, "original_height": HEIGHT}
            for r in task["annotations"][0]["result"]
        ]}
        for task in tasks()
    ]  # fmt: skip
    data = find_data(write(tmp_path / "data", short))
    assert without_prefix(content(data.splits[""])) == expected("train")


def test_addresses_of_local_storage(tmp_path):
    given = tasks()
    for task, (name, _) in zip(given, SPLITS["train"], strict=True):
        task["data"] = {"text": "a.png of a dog", "picture": f"/data/local-files/?d=my%2F{name}"}
    data = find_data(write(tmp_path / "data", given, prefix=""))
    assert content(data.splits[""]) == expected("train")


def test_polygons_and_turned_boxes(tmp_path):
    given = tasks()
    polygon = {"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": ["cat"]}
    turned = region(2, (32, 12, 8, 4), rotation=90)
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    given[0]["annotations"][0]["result"] = [
        {**size, "type": "polygonlabels", "value": polygon},
        turned,
    ]
    for task in given[1:]:
        task["annotations"][0]["result"] = []
    data = find_data(write(tmp_path / "data", given))
    first, second = content(data.splits[""], polygons=True)[1]["0a1b2c3d-001.png"]
    assert first == ["cat", [0, 0, 32, 24], 384, [[0, 0, 32, 0, 32, 24]]]
    # Clockwise around the upper left corner: it lies below and to the left.
    assert second[:3] == ["bird", pytest.approx([28, 12, 4, 8]), pytest.approx(32)]


def test_which_annotation_counts(tmp_path):
    given = tasks()
    for n, extra in ((1, {"ground_truth": True}), (2, {}), (3, {"was_cancelled": True})):
        result = [region(n - 1, (1, 1, 10 * n, 10))]
        stamp = f"2026-11-0{n}T00:00:00Z"
        given[0]["annotations"] += [{"id": 90 + n, "updated_at": stamp, "result": result, **extra}]
    given[1]["annotations"] = []
    given[2]["annotations"][0]["was_cancelled"] = True
    data = find_data(write(tmp_path / "data", given))
    files = content(data.splits[""])[1]
    assert files["0a1b2c3d-001.png"] == [["dog", [1, 1, 10, 10], 100]]
    assert len(files) == len(given) - 2
    assert any("2 tasks have no annotation" in w for w in data.warnings)
    assert any("1 tasks have several" in w for w in data.warnings)


def test_all_problems_are_told_at_once(tmp_path):
    given = tasks()
    (tmp_path / "data/images/more").mkdir(parents=True)
    layouts.write_image(tmp_path / "data/images/more/0a1b2c3d-006.png")
    given[0]["annotations"][0]["result"] = [{"type": "brushlabels", "value": {"rle": [1]}}]
    given[1]["data"]["image"] = "s3://bucket/gone.png"
    given[2]["annotations"][0]["result"] = [{**region(0, (1, 1, 9, 9)), "original_width": 640}]
    given[3]["annotations"][0]["result"] = [{**region(0, (1, 1, 9, 9)), "image_rotation": 90}]
    given[4]["annotations"][0]["result"] = [region(0, (1, 1, 9, 9), rectanglelabels=["cow"])]
    given[6]["data"] = {"text": "no image"}
    with pytest.raises(DatasetError) as error:
        find_data(write(tmp_path / "data", given))
    for part in (
        "brushlabels", "would be lost", "gone.png", "task 3 (640 x 48, 0a1b2c3d-003.png 64 x 48)",
        "task 4", "were rotated", "classes that classes.txt does not have: cow",
        "several files: 0a1b2c3d-006.png", "cannot be read: task 7",
    ):  # fmt: skip
        assert part in str(error.value), part


def test_without_a_list_of_classes(tmp_path):
    root = write(tmp_path / "data", tasks())
    (root / "classes.txt").unlink()
    assert content(find_data(root).splits[""])[0] == sorted(CLASSES)
    text = (root / "export.json").read_text()
    (root / "more.json").write_text(text)
    with pytest.raises(DatasetError, match="several exports of Label Studio"):
        find_data(root)
    for task in (given := tasks()):
        task["annotations"][0]["result"] = []
    (root / "more.json").unlink()
    (root / "export.json").write_text(json.dumps(given))
    with pytest.raises(DatasetError, match="no task has a region with a label"):
        find_data(root)
