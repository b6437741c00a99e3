"""Annotation files that can be read, and that hardly mean what they say."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from hrnet_d2.data import DatasetError, configure_custom_data, register_custom_data

RLE = {"size": [40, 60], "counts": [2400]}
EMPTY = {
    "a line": [[5, 5, 20, 5, 9, 5]],
    "one point": [[5, 5, 5, 5, 5, 5]],
    "two lines": [[5, 5, 20, 5, 9, 5], [8, 8, 8, 30, 8, 9, 8, 8]],
    "outside the image": [[70, 50, 90, 50, 90, 70, 70, 70]],
    "smaller than a pixel": [[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]],
    "encoding": RLE,
    "compressed encoding": {"size": [40, 60], "counts": "P[2"},
}


def register(coco, caplog, **options):
    coco.save()
    name, _ = register_custom_data(*coco.source, **options)
    return DatasetCatalog.get(name), caplog.text


def completed(name):
    with open(MetadataCatalog.get(name).json_file) as f:
        return json.load(f)


@pytest.mark.parametrize("kind", EMPTY)
def test_masks_without_a_pixel_are_left_out(cfg, coco, caplog, kind):
    cfg.MODEL.MASK_ON = True
    coco.data["annotations"][1]["segmentation"] = EMPTY[kind]
    coco.data["annotations"][1]["area"] = 300
    coco.save()
    configure_custom_data(cfg, coco.source)
    assert "1 of 6 segmentations cover no pixel" in caplog.text
    assert "(annotations 2)" in caplog.text
    records = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    assert [len(record["annotations"]) for record in records] == [1, 2, 2]
    assert all("id" not in a for record in records for a in record["annotations"])


def test_ids_of_masks_without_a_pixel_after_renumbering(cfg, coco):
    cfg.MODEL.MASK_ON = True
    for annotation in coco.data["annotations"]:
        annotation["id"] = -annotation["id"]
    coco.data["annotations"][5]["segmentation"] = EMPTY["a line"]
    coco.save()
    configure_custom_data(cfg, coco.source)
    records = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    assert [len(record["annotations"]) for record in records] == [2, 2, 1]


def test_thin_masks_stay(cfg, coco, caplog):
    cfg.MODEL.MASK_ON = True
    coco.data["annotations"][0]["segmentation"] = [[5, 5, 25, 5, 25, 6.5, 5, 6.5]]
    coco.data["annotations"][1]["segmentation"] = [[30, 8, 45, 33, 44, 33, 29, 8]]
    coco.data["annotations"][2]["segmentation"] = [[5, 5, 9, 5, 7, 5], [5, 5, 25, 5, 25, 15, 5, 15]]
    coco.save()
    configure_custom_data(cfg, coco.source)
    assert "cover no pixel" not in caplog.text
    assert sum(len(r["annotations"]) for r in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])) == 6


def test_no_mask_with_a_pixel_is_an_error(cfg, coco):
    cfg.MODEL.MASK_ON = True
    for annotation in coco.data["annotations"]:
        annotation["segmentation"] = EMPTY["a line"]
    coco.save()
    with pytest.raises(DatasetError, match="no mask to learn from.* all 6 objects cover no pixel"):
        configure_custom_data(cfg, coco.source)


@pytest.mark.parametrize("change", [lambda area: 0, lambda area: 0.0, lambda area: 10 * area])
@pytest.mark.parametrize("which", [slice(None), slice(2, 3)])
def test_areas_that_do_not_fit_their_box(coco, caplog, change, which):
    for annotation in coco.data["annotations"][which]:
        annotation["area"] = change(annotation["area"])
    coco.save()
    name, _ = register_custom_data(*coco.source)
    number = len(coco.data["annotations"][which])
    assert f'{number} of 6 annotations have an "area" of 0, or of more than twice' in caplog.text
    for annotation in completed(name)["annotations"]:
        assert annotation["area"] == annotation["bbox"][2] * annotation["bbox"][3]


def test_areas_in_another_unit(coco, caplog):
    for annotation in coco.data["annotations"]:
        annotation["area"] /= 60 * 40
    _, text = register(coco, caplog)
    assert 'an "area" of less than 1% of their box' in text


def test_areas_of_masks_stay(coco, caplog):
    for annotation in coco.data["annotations"]:
        annotation["area"] *= 0.3
    _, text = register(coco, caplog)
    assert '"area"' not in text


TABLES = ("images", "annotations", "categories")


@pytest.mark.parametrize("table", TABLES)
def test_a_table_given_twice(coco, table):
    text = json.dumps(coco.data)
    coco.json_file.write_text(f'{{"{table}": [], {text[1:]}')
    with pytest.raises(DatasetError, match=f'key twice: "{table}" at the top of the file'):
        register_custom_data(*coco.source)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("table", TABLES)
def test_a_key_given_twice(coco, table, encoding):
    number = coco.data[table][1]["id"]
    text = json.dumps(coco.data).replace(f'"id": {number},', f'"id": 99, "id": {number},', 1)
    if '"id": 99' not in text:
        text = json.dumps(coco.data).replace('"id": 3', '"id": 99, "id": 3', 1)
    coco.json_file.write_text(text, encoding)
    with pytest.raises(DatasetError, match=rf'1 objects have a key twice: "id" \(id {number}\)'):
        register_custom_data(*coco.source)


def test_a_key_given_twice_with_one_value(coco, caplog):
    text = json.dumps(coco.data).replace('"iscrowd": 0', '"iscrowd": 0, "iscrowd": 0', 1)
    coco.json_file.write_text(text)
    register_custom_data(*coco.source)
    assert '"iscrowd" (id 1); the values are the same' in caplog.text


@pytest.mark.parametrize("other", ["Cat", " cat", "cat ", "CAT", "c\u00a0at", "c_at"])
def test_classes_that_differ_only_in_writing(coco, caplog, other):
    if other in ("c\u00a0at", "c_at"):
        coco.data["categories"][0]["name"] = "c at"
    coco.data["categories"].append({"id": 9, "name": other})
    _, text = register(coco, caplog)
    assert "differ only in case" in text and repr(other) in text


def test_control_characters_in_class_names(coco, caplog):
    coco.data["categories"][0]["name"] = "bi\x1b[2Jrd\n"
    coco.data["categories"][1]["name"] = "cat\n"
    coco.save()
    name, _ = register_custom_data(*coco.source)
    assert MetadataCatalog.get(name).thing_classes == ["cat", r"bi\x1b[2Jrd"]
    assert "2 categories have a name with control characters" in caplog.text
    assert "\x1b" not in caplog.text


def test_control_characters_in_file_names(coco):
    coco.data["images"][0]["file_name"] = "\x1b[2J.jpg"
    coco.save()
    with pytest.raises(DatasetError, match=r"\\x1b\[2J\.jpg") as error:
        register_custom_data(*coco.source)
    assert "\x1b" not in str(error.value)
