"""``DATASETS.OWN``: a config that brings its data."""

import shutil

import cv2
import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from hrnet_d2 import add_hrnet_config
from hrnet_d2.config_file import ConfigError
from hrnet_d2.data import DatasetError, configure_custom_data, register_from_config


def forget(names):
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def saved(cfg, coco, coco_val):
    """A config as a new process reads it from a run's file."""
    configure_custom_data(cfg, coco.source, coco_val.source)
    forget([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    loaded = get_cfg()
    add_hrnet_config(loaded)
    loaded.merge_from_other_cfg(type(loaded).load_cfg(cfg.dump()))
    assert loaded.DATASETS.TEST == cfg.DATASETS.TEST
    return loaded


def test_the_same_data_again(saved, coco, coco_val, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path.parent)  # the paths are absolute
    (train,), (val,) = saved.DATASETS.TRAIN, saved.DATASETS.TEST
    assert list(saved.DATASETS.CLASS_NAMES) == ["bird", "cat"]
    assert register_from_config(saved) == [train, val]
    assert MetadataCatalog.get(val).thing_classes == ["bird", "cat"]
    assert MetadataCatalog.get(val).image_root == str(coco_val.images)
    assert DatasetCatalog.get(train)[2]["file_name"] == str(coco.images / "sub/2.jpg")


def test_only_what_is_asked_for(saved, coco):
    shutil.rmtree(coco.images)
    assert register_from_config(saved, saved.DATASETS.TEST) == list(saved.DATASETS.TEST)
    assert saved.DATASETS.TRAIN[0] not in DatasetCatalog.list()


def test_files_are_read_once_until_they_change(saved, coco_val, monkeypatch):
    read, own = [], pytest.importorskip("hrnet_d2.data.datasets.own")
    actual = own.read_coco
    monkeypatch.setattr(own, "read_coco", lambda *a, **k: read.append(a[0]) or actual(*a, **k))
    for _ in range(2):
        register_from_config(saved)
        assert len(read) == 2
    coco_val.data["annotations"].pop()
    coco_val.save()
    register_from_config(saved)
    assert read[2:] == [str(coco_val.json_file)]
    assert len(DatasetCatalog.get(saved.DATASETS.TEST[0])[2]["annotations"]) == 1


def test_data_that_are_registered_by_path_are_not_read_again(cfg, coco, monkeypatch):
    configure_custom_data(cfg, coco.source)
    monkeypatch.setattr("hrnet_d2.data.datasets.own.read_coco", None)
    assert register_from_config(cfg) == list(cfg.DATASETS.TRAIN)


@pytest.mark.parametrize(
    "what, key", [("images", "IMAGES.*folder of images"), ("json_file", "JSON.*annotation file")]
)
def test_a_file_that_moved(saved, coco_val, tmp_path, what, key):
    path = getattr(coco_val, what)
    path.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=rf"DATASETS.OWN\[1\]\.{key} {path}\. .*--val-data"):
        register_from_config(saved)
    saved.DATASETS.OWN[1][key.split(".")[0]] = str(tmp_path / "moved")
    assert register_from_config(saved)[1] == saved.DATASETS.TEST[0]


def test_relative_paths_start_from_the_current_folder(cfg, coco, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cfg.DATASETS.OWN = [{"NAME": "mine", "JSON": "train.json", "IMAGES": "train_images"}]
    assert register_from_config(cfg) == ["mine"]
    assert MetadataCatalog.get("mine").json_file == str(coco.json_file)


def test_semantic_maps(cfg, coco, tmp_path):
    maps = tmp_path / "maps"
    (maps / "sub").mkdir(parents=True)
    for name in ("0.png", "1.png", "sub/2.png"):
        cv2.imwrite(str(maps / name), np.zeros((40, 60), np.uint8))
    cfg.MODEL.META_ARCHITECTURE = "HybridTaskCascade"
    configure_custom_data(cfg, coco.source, None, maps)
    forget(cfg.DATASETS.TRAIN)
    register_from_config(cfg)
    records = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    assert records[2]["sem_seg_file_name"] == str(maps / "sub/2.png")
    del cfg.DATASETS.OWN[0]["SEM_SEG"]
    with pytest.raises(DatasetError, match="semantic branch"):
        register_from_config(cfg)


def test_other_classes_than_the_models(saved, coco_val):
    coco_val.data["categories"][0]["name"] = "dog"
    coco_val.save()
    with pytest.raises(DatasetError, match=r"OWN\[1\].JSON .*bird, dog.*CLASS_NAMES has bird, cat"):
        register_from_config(saved, saved.DATASETS.TEST)


def test_files_outside_the_folder_need_the_key(saved, coco_val):
    shutil.move(coco_val.images / "0.jpg", coco_val.json_file.parent / "0.jpg")
    coco_val.data["images"][0]["file_name"] = "../0.jpg"
    coco_val.save()
    with pytest.raises(DatasetError, match="ALLOW_OUTSIDE_FILES"):
        register_from_config(saved)
    saved.DATASETS.ALLOW_OUTSIDE_FILES = True
    assert len(register_from_config(saved)) == 2


@pytest.mark.parametrize(
    "entry, message",
    [
        ("train.json", r"OWN\[0\] is 'train.json', it must be a mapping with NAME, JSON, IMAGES"),
        ({"NAME": "a", "JSON": "b"}, r"OWN\[0\] has the keys NAME, JSON: it must have"),
        ({"NAME": "a", "JSON": "b", "IMAGES": "c", "MAPS": "d"}, "may have SEM_SEG"),
        ({"NAME": "a", "JSON": 3, "IMAGES": "c"}, r"OWN\[0\].JSON is 3, it must be a text"),
    ],
)
def test_entries_of_another_form(cfg, entry, message):
    cfg.DATASETS.OWN = [entry]
    with pytest.raises(ConfigError, match=message):
        register_from_config(cfg)


def test_no_other_dataset_is_replaced(cfg, coco):
    entry = {"NAME": "shapes_val", "JSON": str(coco.json_file), "IMAGES": str(coco.images)}
    cfg.DATASETS.OWN = [entry]
    with pytest.raises(ConfigError, match=r"OWN\[0\].NAME is 'shapes_val'.*another dataset"):
        register_from_config(cfg)
    assert MetadataCatalog.get("shapes_val").thing_classes[0] == "circle"
