"""A checkpoint's own settings in use: Predictor, --eval-only, fine-tuning, files of ours."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

import hrnet_d2
from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint import Checkpointer, CheckpointError, convert, load_file
from hrnet_d2.checkpoint_config import apply_checkpoint_settings, checkpoint_settings, to_yaml
from hrnet_d2.engine import Trainer, argument_parser, evaluate, setup
from tests.checkpoint import mmdet_files, mmdet_texts, samples
from tests.checkpoint.test_settings import meta_of, write
from tests.engine.tiny import tiny_config
from tests.parity import feature_error, load_case, match_detections

MARCH = "fcos_w18_2020_03"
MARCH_LEAF = "fcos_hrnetv2p_w18_gn-head_4x4_1x_coco"
NAMES = ["left shoe", "right shoe", "lace"]


@pytest.fixture(scope="module")
def march(tmp_path_factory):
    """An FCOS file as of March 2020, whose pixels have std 1; it tests at the case's size."""
    case = load_case(MARCH)
    path = tmp_path_factory.mktemp("march") / "epoch_12.pth"
    config = case.spec["meta_config"].replace("(1333, 800)", str(tuple(case.spec["scale"])))
    meta = {**case.spec["meta"], "mmdet_version": case.spec["mmdet_version"], "config": config}
    meta["CLASSES"] = tuple(meta["CLASSES"])
    torch.save(
        {"meta": meta, "state_dict": case.state_dict()}, path, _use_new_zipfile_serialization=False
    )
    return case, str(path)


def assert_detections(case, predictor):
    output = predictor(case.image)["instances"].to("cpu")
    assert len(match_detections(case, output)) >= 98


def test_the_files_input_holds_against_the_ordinary_config(march, caplog):
    case, path = march
    cfg = model_zoo.get_config(MARCH_LEAF)
    case.configure(cfg)
    cfg.MODEL.WEIGHTS = path
    with caplog.at_level(logging.WARNING, "hrnet_d2"):  # as commands show them
        predictor = hrnet_d2.Predictor(cfg, optimize=False)
    assert_detections(case, predictor)
    with torch.no_grad():
        images = predictor.model.preprocess_image([predictor.prepare(case.image)])
        levels = predictor.model.backbone(images.tensor)
    for i, name in enumerate(sorted(levels)):
        assert feature_error(levels[name], case.arrays[f"neck{i}"]) < 1e-3
    told = [r.message for r in caplog.records if "brings its own input" in r.message]
    assert len(told) == 1 and "MODEL.PIXEL_STD [1.0, 1.0, 1.0]" in told[0]
    assert cfg.MODEL.PIXEL_STD == [57.375, 57.12, 58.395]  # the caller's is as it was


def test_from_checkpoint_false_ignores_the_file(march):
    case, path = march
    cfg = model_zoo.get_config(MARCH_LEAF)
    case.configure(cfg)
    cfg.MODEL.WEIGHTS = path
    cfg.INPUT.FROM_CHECKPOINT = False
    predictor = hrnet_d2.Predictor(cfg, optimize=False)
    assert predictor.cfg.MODEL.PIXEL_STD == [57.375, 57.12, 58.395]
    output = predictor(case.image)["instances"].to("cpu")
    assert len(match_detections(case, output)) < 50


def test_the_file_alone(march):
    case, path = march
    predictor = hrnet_d2.Predictor(path)
    assert predictor.cfg.INPUT.MIN_SIZE_TEST == case.spec["scale"][1]
    assert predictor.cfg.MODEL.FCOS.TOPK_BY == "locations"
    assert_detections(case, predictor)


def test_eval_only_without_a_config_file(march, tmp_path):
    """Ground truth is the case's own detections, so their AP is that of a perfect detector."""
    case, path = march
    arrays, image = case.arrays, case.image
    boxes, scores = arrays["pred_boxes"], arrays["pred_scores"]
    coco = MetadataCatalog.get("coco_2017_val").thing_classes
    (tmp_path / "images").mkdir()
    shutil.copy(f"tests/reference/images/{case.spec['image']}", tmp_path / "images")
    annotations = [
        {
            **{"id": i + 1, "image_id": 1, "category_id": int(arrays["pred_classes"][i]) + 1},
            **{"bbox": [x, y, r - x, b - y], "area": (r - x) * (b - y), "iscrowd": 0},
        }
        for i, (x, y, r, b) in enumerate(boxes.tolist())
    ]
    height, width = image.shape[:2]
    data = {
        "images": [{"id": 1, "file_name": case.spec["image"], "height": height, "width": width}],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(coco)],
        "annotations": annotations,
    }
    (tmp_path / "val.json").write_text(json.dumps(data))
    args = argument_parser().parse_args(
        [
            *("--eval-only", "--val-data", str(tmp_path / "val.json"), str(tmp_path / "images")),
            *("MODEL.WEIGHTS", path, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "out")),
            *("DATALOADER.NUM_WORKERS", "0"),
        ]
    )
    cfg = setup(args)
    assert cfg.MODEL.META_ARCHITECTURE == "FCOS" and cfg.MODEL.PIXEL_STD == [1.0] * 3
    assert scores.min() > cfg.MODEL.FCOS.SCORE_THRESH_TEST
    results = evaluate(cfg)
    assert results["bbox"]["AP"] > 97


def test_other_settings_that_differ_are_listed_and_the_configs_hold(tmp_path, caplog):
    values = mmdet_texts.build("faster_rcnn")
    values = mmdet_texts.change(values, "model.test_cfg.rcnn.score_thr", 0.3)
    values = mmdet_texts.change(values, "data.test.pipeline.1.img_scale", (640, 480))
    path = mmdet_files.save(
        tmp_path / "a.pth",
        "faster_rcnn",
        meta_of(values, "2.x", CLASSES=[f"c{i}" for i in range(80)]),
    )
    cfg = model_zoo.get_config("faster_rcnn_hrnetv2p_w18_1x_coco")
    cfg.MODEL.WEIGHTS = path
    with caplog.at_level(logging.INFO, "hrnet_d2"):
        assert apply_checkpoint_settings(cfg) is cfg  # the input is the same: nothing changes
        apply_checkpoint_settings(cfg)
    warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    for part in (
        *("MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.05 (file: 0.3)", "INPUT.MIN_SIZE_TEST 800"),
        *("the classes person, bicycle", "c0, c1"),
    ):
        assert part in warnings[0]


def test_what_is_not_supported_is_only_listed_beside_a_config(tmp_path, caplog):
    values = mmdet_texts.change(
        mmdet_texts.build("mask_rcnn"), "model.test_cfg.rcnn.mask_thr_binary", 0.4
    )
    cfg = model_zoo.get_config("mask_rcnn_hrnetv2p_w32_1x_coco")
    cfg.MODEL.WEIGHTS = write(tmp_path, "mask_rcnn", values)
    with caplog.at_level(logging.WARNING):
        apply_checkpoint_settings(cfg)
    assert "mask_thr_binary" in caplog.text


@pytest.mark.parametrize("training", [False, True])
def test_arithmetic_of_1x_is_for_inference(tmp_path, caplog, training):
    state = {k.removeprefix("roi_head."): v for k, v in mmdet_files.state("faster_rcnn").items()}
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "old.pth")
    cfg = model_zoo.get_config("faster_rcnn_hrnetv2p_w18_1x_coco")
    cfg.MODEL.WEIGHTS = str(tmp_path / "old.pth")
    with caplog.at_level(logging.INFO, "hrnet_d2"):
        applied = apply_checkpoint_settings(cfg, training)
    assert applied.MODEL.ARITHMETIC == ("mmdet2" if training else "mmdet1")
    assert ("training continues with 2.x's" in caplog.text) == training


def test_backbones_change_nothing(tmp_path):
    cfg = model_zoo.get_config("faster_rcnn_hrnetv2p_w18_1x_coco")
    model = samples.model()
    state = model.backbone.bottom_up.state_dict()
    torch.save(state, tmp_path / "hrnet.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "hrnet.pth")
    assert apply_checkpoint_settings(cfg) is cfg


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A run of two iterations on three classes, which starts from a file with its own input."""
    folder = tmp_path_factory.mktemp("tuned")
    cfg = tiny_config(folder, "MODEL.ROI_HEADS.NUM_CLASSES", "3", "SOLVER.MAX_ITER", "2")
    torch.manual_seed(0)
    start = build_model(cfg)
    stated = cfg.clone()
    stated.MODEL.PIXEL_STD = [40.0, 50.0, 60.0]
    begin = tmp_path_factory.mktemp("begin")
    Checkpointer(start, str(begin), cfg=stated).save("start")
    shapes = DatasetCatalog.get("shapes_train")[:4]
    records = [
        {**r, "annotations": [a for a in r["annotations"] if a["category_id"] < 3]} for r in shapes
    ]
    DatasetCatalog.register("three_shapes", lambda: records)
    MetadataCatalog.get("three_shapes").set(thing_classes=NAMES)
    cfg.DATASETS.TRAIN = ("three_shapes",)
    cfg.MODEL.WEIGHTS = str(begin / "start.pth")
    cfg.freeze()
    trainer = Trainer(cfg)
    trainer.resume_or_load()
    trainer.train()
    yield trainer.cfg, folder
    DatasetCatalog.remove("three_shapes")
    MetadataCatalog.remove("three_shapes")


def test_fine_tuning_takes_the_files_input(tuned):
    cfg, _ = tuned
    assert cfg.MODEL.PIXEL_STD == [40.0, 50.0, 60.0]


@pytest.fixture
def run_from_1x(tmp_path):
    """The folder of a run in 2.x arithmetic, whose config starts from a 1.x file."""
    cfg = tiny_config(tmp_path / "run", "DATASETS.TEST", "('shapes_val',)", "MODEL.DEVICE", "cpu")
    model = build_model(cfg)
    first, own = cfg.clone(), cfg.clone()
    first.MODEL.ARITHMETIC = "mmdet1"
    own.MODEL.PIXEL_STD = [40.0, 50.0, 60.0]
    Checkpointer(model, str(tmp_path), cfg=first).save("first")
    (tmp_path / "run").mkdir()
    last = Checkpointer(model, cfg.OUTPUT_DIR, cfg=own)
    last.save("model_final")
    cfg.MODEL.WEIGHTS = str(tmp_path / "first.pth")
    return cfg


def test_evaluating_the_last_checkpoint_takes_its_own_settings(run_from_1x, monkeypatch):
    cfg = run_from_1x
    monkeypatch.setattr(Trainer, "test", lambda cfg, model: {"cfg": cfg})
    assert evaluate(cfg)["cfg"].MODEL.ARITHMETIC == "mmdet1"
    args = argument_parser().parse_args(["--eval-only", "--resume"])
    for of_last in (evaluate(cfg, resume=True)["cfg"], setup(args, cfg)):
        assert of_last.MODEL.ARITHMETIC == "mmdet2"
        assert of_last.MODEL.PIXEL_STD == [40.0, 50.0, 60.0]


def test_a_resumed_run_does_not_need_the_file_it_began_with(run_from_1x, tmp_path):
    (tmp_path / "first.pth").unlink()
    args = argument_parser().parse_args(["--resume"])
    cfg = setup(args, run_from_1x)
    assert cfg.MODEL.PIXEL_STD == [40.0, 50.0, 60.0]
    assert Trainer(cfg).cfg.MODEL.PIXEL_STD == [40.0, 50.0, 60.0]
    args.resume = False
    run_from_1x.OUTPUT_DIR = str(tmp_path / "new")
    with pytest.raises(CheckpointError, match="first"):
        setup(args, run_from_1x)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_fine_tuned_file_alone(tuned, tmp_path, suffix):
    cfg, folder = tuned
    path = tmp_path / f"alone{suffix}"
    if suffix == ".pth":
        shutil.copy(folder / "model_final.pth", path)
    else:
        assert not convert(str(folder / "model_final.pth"), str(path)).problems
    own = model_zoo.config_from_checkpoint(str(path))
    assert own.MODEL.WEIGHTS == str(path)
    own.MODEL.WEIGHTS, own.OUTPUT_DIR = cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR
    own.MODEL.DEVICE, own.DATASETS.CLASS_NAMES = cfg.MODEL.DEVICE, cfg.DATASETS.CLASS_NAMES
    assert yaml.safe_load(own.dump()) == yaml.safe_load(cfg.dump())

    predictor = hrnet_d2.Predictor(str(path))
    assert list(predictor.metadata.thing_classes) == NAMES
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    expected = cfg.clone()
    expected.defrost()
    expected.MODEL.WEIGHTS = str(folder / "model_final.pth")
    a, b = predictor(image)["instances"], hrnet_d2.Predictor(expected)(image)["instances"]
    assert len(a) == len(b) > 0 and torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)


def test_a_fine_tuned_file_alone_evaluates(tuned, tmp_path):
    _, folder = tuned
    shutil.copy(folder / "model_final.pth", tmp_path / "alone.pth")
    records = DatasetCatalog.get("three_shapes")
    data = {
        "images": [
            {"id": i, **{k: r[k] for k in ("height", "width")}, "file_name": r["file_name"]}
            for i, r in enumerate(records)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES)],
        "annotations": [],
    }
    for i, record in enumerate(records):
        for a in record["annotations"]:
            x, y, r, b = a["bbox"] if a["bbox_mode"] == 0 else (*a["bbox"][:2], 0, 0)
            w, h = (r - x, b - y) if a["bbox_mode"] == 0 else a["bbox"][2:]
            entry = {"id": len(data["annotations"]) + 1, "image_id": i, "iscrowd": 0}
            entry.update(category_id=a["category_id"], bbox=[x, y, w, h], area=w * h)
            data["annotations"].append(entry)
    (tmp_path / "val.json").write_text(json.dumps(data))
    args = argument_parser().parse_args(
        [
            *("--eval-only", "--val-data", str(tmp_path / "val.json"), "/"),
            *("MODEL.WEIGHTS", str(tmp_path / "alone.pth"), "OUTPUT_DIR", str(tmp_path / "out")),
        ]
    )
    cfg = setup(args)
    assert cfg.MODEL.PIXEL_STD == [40.0, 50.0, 60.0]
    assert cfg.DATASETS.CLASS_NAMES == NAMES
    assert "AP" in evaluate(cfg)["bbox"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("family", ["htc", "fcos"])
def test_a_converted_file_brings_what_the_source_stated(tmp_path, family, suffix):
    values = mmdet_texts.build(family)
    place = "model.test_cfg.score_thr" if family == "fcos" else "model.test_cfg.rcnn.score_thr"
    values = mmdet_texts.change(values, place, 0.25)
    meta = meta_of(values, "2020", CLASSES=[f"c{i}" for i in range(80)])
    source = mmdet_files.save(tmp_path / "a.pth", family, meta)
    target = str(tmp_path / f"b{suffix}")
    assert not convert(source, target).problems
    a, b = (model_zoo.config_from_checkpoint(path) for path in (source, target))
    b.MODEL.WEIGHTS = a.MODEL.WEIGHTS
    assert yaml.safe_load(b.dump()) == yaml.safe_load(a.dump())
    assert list(b.DATASETS.CLASS_NAMES) == [f"c{i}" for i in range(80)]


def test_a_full_config_can_be_written_with_the_recipe(tmp_path):
    source = write(tmp_path, "fcos", mmdet_texts.build("fcos"))
    cfg = model_zoo.config_from_checkpoint(source)
    text = to_yaml(cfg, checkpoint_settings(source))
    assert text.startswith("# Trained by MMDetection 2.x:\n#   optimizer: SGD")
    assert yaml.safe_load(text)["MODEL"]["META_ARCHITECTURE"] == "FCOS"
    assert not convert(source, str(tmp_path / "b.pth"), config=text).problems
    assert load_file(str(tmp_path / "b.pth")).config == text


def test_keys_of_another_project_are_left_out(tmp_path, caplog):
    cfg = tiny_config(tmp_path)
    model = build_model(cfg)
    cfg.MODEL.SOMETHING_ELSE = 1
    Checkpointer(model, str(tmp_path), cfg=cfg).save("model")
    with caplog.at_level(logging.WARNING):
        model_zoo.config_from_checkpoint(str(tmp_path / "model.pth"))
    assert "MODEL.SOMETHING_ELSE" in caplog.text


@pytest.mark.parametrize("text", ["SEED: !!bool x", "SEED: !!int ''", "a: [", "- a"])
def test_a_config_that_cannot_be_read(tmp_path, text):
    cfg = tiny_config(tmp_path)
    Checkpointer(build_model(cfg), str(tmp_path), cfg=cfg).save("model")
    path = tmp_path / "model.pth"
    content = torch.load(path, weights_only=True)
    torch.save({**content, "config": text}, path)
    with pytest.raises(CheckpointError, match=r"model\.pth: its config cannot be read"):
        model_zoo.config_from_checkpoint(str(path))


def test_a_file_is_read_once(march, monkeypatch):
    from hrnet_d2.checkpoint import loading

    read, paths = loading.read_file, []
    monkeypatch.setattr(loading, "read_file", lambda path: paths.append(path) or read(path))
    hrnet_d2.Predictor(march[1], optimize=False)
    assert paths == [march[1]]


def test_a_changed_file_is_read_again(tmp_path):
    cfg = tiny_config(tmp_path)
    model = build_model(cfg)
    saver = Checkpointer(model, str(tmp_path), cfg=cfg)
    saver.save("model")
    path = str(tmp_path / "model.pth")
    load_file(path, keep=True)
    cfg.MODEL.PIXEL_STD = [9.0, 9.0, 9.0]
    Checkpointer(model, str(tmp_path), cfg=cfg).save("model")
    assert model_zoo.config_from_checkpoint(path).MODEL.PIXEL_STD == [9.0, 9.0, 9.0]


@pytest.mark.parametrize("name", ["absent.pth", "no_such_model"])
def test_neither_a_file_nor_a_model(name):
    with pytest.raises(RuntimeError, match=name):
        hrnet_d2.Predictor(name)
