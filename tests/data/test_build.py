import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from hrnet_d2.data import (
    DatasetError,
    HRNetDatasetMapper,
    build_test_loader,
    build_train_loader,
    check_datasets,
    check_num_classes,
    num_classes,
    set_num_classes,
)


@pytest.fixture
def register():
    """Registers a CocoFolder as users of Detectron2 do, and removes it afterwards."""
    names = []

    def _register(coco, name="some_data"):
        register_coco_instances(name, {}, str(coco.json_file), str(coco.images))
        names.append(name)
        return name

    yield _register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_train_loader(cfg, coco, register):
    cfg.DATASETS.TRAIN = (register(coco),)
    cfg.SOLVER.IMS_PER_BATCH = 2
    batches = iter(build_train_loader(cfg))
    seen = {record["image_id"] for _ in range(6) for record in next(batches)}
    assert seen == {10, 11, 12}
    batch = next(batches)
    assert len(batch) == 2
    assert len(batch[0]["instances"]) == 2


def test_train_loader_with_workers_equals_without(cfg, coco, register):
    cfg.DATASETS.TRAIN = (register(coco),)
    cfg.DATALOADER.NUM_WORKERS = 1
    assert next(iter(build_train_loader(cfg)))[0]["image"].shape == (3, 40, 60)


@pytest.mark.parametrize("keep_empty", [False, True])
def test_images_without_objects(cfg, coco, register, keep_empty):
    coco.data["annotations"] = coco.data["annotations"][:2]
    coco.save()
    cfg.DATASETS.TRAIN = (register(coco),)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = not keep_empty
    batches = iter(build_train_loader(cfg))
    seen = {record["image_id"] for _ in range(20) for record in next(batches)}
    assert seen == ({10, 11, 12} if keep_empty else {10})


def test_test_loader(cfg, coco, register):
    coco.data["annotations"] = []
    coco.save()
    name = register(coco)
    batches = list(build_test_loader(cfg, name))
    assert [b[0]["image_id"] for b in batches] == [10, 11, 12]
    assert "instances" not in batches[0][0]
    assert [len(b) for b in build_test_loader(cfg, name, batch_size=2)] == [2, 1]


def test_custom_mapper(cfg, coco, register):
    name = register(coco)
    cfg.DATASETS.TRAIN = (name,)

    def mapper(record):
        return HRNetDatasetMapper(cfg, False)(record) | {"mine": True}

    assert next(iter(build_train_loader(cfg, mapper)))[0]["mine"]
    assert next(iter(build_test_loader(cfg, name, mapper)))[0]["mine"]


def test_empty_datasets(cfg, coco, register):
    coco.data["annotations"] = []
    coco.save()
    cfg.DATASETS.TRAIN = (register(coco),)
    with pytest.raises(ValueError, match=r"No valid data.*some_data.*train\.json"):
        build_train_loader(cfg)
    coco.data["images"] = []
    coco.save()
    with pytest.raises(ValueError, match=r"'some_data' is empty.*train\.json"):
        build_train_loader(cfg)
    with pytest.raises(ValueError, match=r"'some_data' is empty.*train\.json"):
        build_test_loader(cfg, "some_data")
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match="DATASETS.TRAIN names no dataset.*--train-data"):
        build_train_loader(cfg)


def test_repeated_annotation_ids_name_the_file(cfg, coco, register):
    coco.data["annotations"][1]["id"] = 1
    coco.save()
    cfg.DATASETS.TRAIN = (register(coco),)
    with pytest.raises(
        ValueError, match=r"(?s)train\.json cannot.*several annotations have the id 1"
    ):
        build_train_loader(cfg)


def test_masks_need_segmentations(cfg, coco, register):
    for annotation in coco.data["annotations"][2:]:
        del annotation["segmentation"]
    coco.data["annotations"][2]["iscrowd"] = 1
    coco.save()
    cfg.DATASETS.TRAIN = (register(coco),)
    next(iter(build_train_loader(cfg)))
    cfg.MODEL.MASK_ON = True
    with pytest.raises(ValueError, match=r"3 of 5 objects.*train\.json.*1\.jpg.*faster_rcnn"):
        build_train_loader(cfg)


def test_semantic_branch_needs_maps(cfg, coco, register, tmp_path, caplog):
    name = register(coco)
    cfg.DATASETS.TRAIN = (name,)
    cfg.MODEL.META_ARCHITECTURE = "HybridTaskCascade"
    with pytest.raises(
        ValueError, match=r"no image of.*train\.json.*has one.*--train-sem-seg.*SEMANTIC_ON False"
    ):
        build_train_loader(cfg)
    MetadataCatalog.get(name).sem_seg_root = "some/maps"
    with pytest.raises(ValueError, match="looked in some/maps"):
        build_train_loader(cfg)

    # One map is enough.
    load = DatasetCatalog.pop(name)

    def with_a_map():
        records = load()
        records[0]["sem_seg_file_name"] = str(tmp_path / "map.png")
        return records

    DatasetCatalog.register(name, with_a_map)
    with caplog.at_level(logging.WARNING):
        build_train_loader(cfg)
    assert "2 of 3 images have no semantic map" in caplog.text
    cfg.MODEL.HTC.SEMANTIC_ON = False
    DatasetCatalog.remove(name)
    DatasetCatalog.register(name, load)
    build_train_loader(cfg)


@pytest.mark.parametrize(
    ("architecture", "key"),
    [
        ("GeneralizedRCNN", "MODEL.ROI_HEADS.NUM_CLASSES"),
        ("HybridTaskCascade", "MODEL.ROI_HEADS.NUM_CLASSES"),
        ("FCOS", "MODEL.FCOS.NUM_CLASSES"),
        ("RetinaNet", "MODEL.RETINANET.NUM_CLASSES"),
    ],
)
def test_number_of_classes(cfg, coco, register, architecture, key):
    name = register(coco)
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.HTC.SEMANTIC_ON = False
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), ()
    cfg.freeze()
    set_num_classes(cfg, 5)
    assert cfg.is_frozen()
    assert num_classes(cfg) == (key, 5)
    message = f"5 classes .{key}.*'some_data' has 2: bird, cat. Set {key} to 2"
    with pytest.raises(ValueError, match=message):
        check_num_classes(cfg)
    with pytest.raises(ValueError, match=message):
        build_train_loader(cfg)
    check_num_classes(cfg, [])
    set_num_classes(cfg, 2)
    check_num_classes(cfg)


def test_number_of_classes_of_the_test_data_is_checked(cfg, coco, register):
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (register(coco),), ("coco_2017_val",)
    with pytest.raises(ValueError, match="'coco_2017_val' has 80: person, bicycle"):
        check_num_classes(cfg)


def test_models_without_classes_are_not_checked(cfg):
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    cfg.DATASETS.TRAIN = ("coco_2017_train",)
    assert num_classes(cfg) is None
    check_num_classes(cfg)


def test_no_classes(cfg):
    with pytest.raises(ValueError, match="at least one class"):
        set_num_classes(cfg, 0)


def test_names_are_checked_first(cfg, coco, register):
    name = register(coco)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), (name,)
    check_datasets(cfg, training=True)
    check_datasets(cfg, training=False)
    cfg.DATASETS.TEST = ("some_dat",)
    for training in (True, False):
        with pytest.raises(ValueError, match="DATASETS.TEST.*'some_dat'.*mean 'some_data'"):
            check_datasets(cfg, training=training)
    with pytest.raises(ValueError, match="'some_dat' is not registered.*'some_data'"):
        build_test_loader(cfg, "some_dat")
    cfg.DATASETS.TEST = ()
    check_datasets(cfg, training=True)
    with pytest.raises(ValueError, match="DATASETS.TEST names no dataset.*--val-data"):
        check_datasets(cfg, training=False)
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match="DATASETS.TRAIN names no dataset"):
        check_datasets(cfg, training=True)


@pytest.mark.parametrize("name", ["coco_2017_val", "coco_2017_val_stuffthing"])
def test_built_in_data_that_are_not_there(cfg, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), ()
    words = f"{name}.*instances_val2017.json.*DETECTRON2_DATASETS is not set"
    with pytest.raises(FileNotFoundError, match=words):
        check_datasets(cfg, training=True)
    with pytest.raises(FileNotFoundError, match=words):
        build_test_loader(cfg, name)


def test_shapes_need_no_files(cfg):
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("shapes_train",), ("shapes_val",)
    check_datasets(cfg, training=True)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("id", [1], "ids of annotations that are not whole numbers"),
        ("segmentation", [5, 5, 25, 5, 25, 15], "flat list"),
        ("segmentation", {"counts": [1]}, "encoding without"),
        ("segmentation", {"size": [40, 60], "counts": [-5, 2405]}, "counts do not cover"),
        ("segmentation", True, "neither a list of polygons"),
        ("bbox", [], "not four finite numbers"),
    ],
)
def test_what_detectron2_cannot_load_is_explained(cfg, coco, register, key, value, words):
    coco.data["annotations"][0][key] = value
    coco.save()
    name = register(coco)
    with pytest.raises(DatasetError, match=rf"(?s)train\.json cannot be used.*{words}"):
        build_test_loader(cfg, name)


@pytest.mark.parametrize("mask_format", ["bitmask", "polygon"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e9])
def test_dangerous_polygons_are_refused_before_they_are_drawn(
    cfg, coco, register, number, mask_format
):
    for annotation in coco.data["annotations"]:
        annotation["segmentation"] = [[5, 5, number, 5, 25, 15]]
    coco.save()
    cfg.DATASETS.TRAIN = (register(coco),)
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MASK_FORMAT = mask_format
    with pytest.raises(ValueError, match=r"Image .*\.jpg: a polygon with coordinates"):
        next(iter(build_train_loader(cfg)))


def test_boxes_that_are_not_finite_name_the_image(cfg, coco, register):
    for annotation in coco.data["annotations"]:
        annotation["bbox"] = [5, 5, float("nan"), 10]
    coco.save()
    cfg.DATASETS.TRAIN = (register(coco),)
    with pytest.raises(ValueError, match=r"Image .*\.jpg has a box of numbers.*nan"):
        next(iter(build_train_loader(cfg)))
