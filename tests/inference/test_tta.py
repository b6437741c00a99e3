"""Test-time augmentation of all families, by ``Predictor``, evaluation and training."""

import functools
import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.structures import Instances

import hrnet_d2
from hrnet_d2.checkpoint import Checkpointer
from hrnet_d2.config_file import ConfigError
from hrnet_d2.data import InferenceInput
from hrnet_d2.engine import Trainer, evaluate
from hrnet_d2.inference.tta import build_tta, without_resize
from hrnet_d2.modeling import build_model
from tests.configs import family_leaves, load_config
from tests.depth import SHALLOW, of_depth
from tests.engine.tiny import tiny_config

FAMILIES = {name.split("/")[0]: name for name in family_leaves()}
SMALL = [
    "MODEL.DEVICE", "cpu",
    "MODEL.WEIGHTS", "",
    "MODEL.HRNETV2P.WIDTH", "4",
    "MODEL.HRNETV2P.NORM", "GN",
    "MODEL.HRNETV2P.NECK.OUT_CHANNELS", "64",
    "MODEL.ROI_BOX_HEAD.FC_DIM", "16",
    "MODEL.ROI_BOX_HEAD.CONV_DIM", "8",
    "MODEL.ROI_MASK_HEAD.CONV_DIM", "8",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", "64",
    "MODEL.ROI_HEADS.NUM_CLASSES", "4",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.05",
    "MODEL.FCOS.NUM_CLASSES", "4",
    "MODEL.FCOS.SCORE_THRESH_TEST", "0.0",
    "MODEL.RPN.POST_NMS_TOPK_TEST", "30",
    "DATASETS.TRAIN", "('shapes_train',)",
    "DATASETS.TEST", "('shapes_val',)",
    "INPUT.MIN_SIZE_TEST", "96",
    "INPUT.MAX_SIZE_TEST", "160",
    "TEST.AUG.MAX_SIZE", "160",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def shallow():
    with of_depth(SHALLOW):
        yield


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """A small model of each family, whose weights give distinct detections."""
    folder = tmp_path_factory.mktemp("tta")
    found = {}
    for family, leaf in FAMILIES.items():
        cfg = load_config(leaf)
        cfg.merge_from_list([*SMALL, "OUTPUT_DIR", str(folder)])
        torch.manual_seed(3)
        model = build_model(cfg)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                last = any(part in name for part in ("cls_score", "bbox_pred", "mask_head"))
                if last and name.endswith("weight"):
                    parameter.mul_(4)
        Checkpointer(model, str(folder)).save(family)
        cfg.MODEL.WEIGHTS = str(folder / f"{family}.pth")
        found[family] = cfg
    return found


def predictor(cfg, sizes=None, flip=False, **kwargs):
    cfg = cfg.clone()
    if sizes is not None:
        options = ["TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", sizes, "TEST.AUG.FLIP", flip]
        cfg.merge_from_list(options)
    return hrnet_d2.Predictor(cfg, **kwargs)


@pytest.fixture(scope="module")
def plain(configs):
    """Of a family, its ``Predictor`` without augmentation."""
    return functools.cache(lambda family: predictor(configs[family]))


def augmented(plain, sizes, flip=False):
    """From an image to the merged detections of the predictor's model."""
    cfg = plain.cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(["TEST.AUG.MIN_SIZES", sizes, "TEST.AUG.FLIP", flip])
    model, prepare = build_tta(cfg, plain.model), InferenceInput(without_resize(cfg))
    return lambda picture: model([prepare(picture)])[0]["instances"]


def image(height=101, width=75, seed=0):
    """Smooth, so that networks see shapes."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.kron(blocks, np.ones((8, 8, 1), np.uint8))[:height, :width].copy()


def assert_equal(a: Instances, b: Instances):
    assert a.image_size == b.image_size and len(a) == len(b) > 0
    assert a.get_fields().keys() == b.get_fields().keys()
    assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
    for name in a.get_fields().keys() - {"pred_boxes"}:
        assert torch.equal(a.get(name), b.get(name)), name


def assert_close(a: Instances, b: Instances, masks=0.0):
    assert a.image_size == b.image_size and len(a) == len(b) > 0
    assert a.get_fields().keys() == b.get_fields().keys()
    torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-5)
    assert torch.equal(a.pred_classes, b.pred_classes)
    if a.has("pred_masks"):
        assert (a.pred_masks != b.pred_masks).float().mean() <= masks


def test_all_families_are_here():
    assert len(FAMILIES) == 6


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_size_is_the_plain_prediction(configs, family, optimize):
    cfg = configs[family]
    expected = predictor(cfg, optimize=optimize)(image())["instances"]
    assert_equal(expected, predictor(cfg, (96,), optimize=optimize)(image())["instances"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_size_twice_changes_nothing(plain, family):
    """Through the merge: each detection comes twice, and one of them stays."""
    expected = plain(family)(image())["instances"]
    assert_close(expected, augmented(plain(family), (96, 96))(image()))


def test_soft_nms_reduces_a_score_once(configs, plain):
    cfg = configs["cascade_rcnn"].clone()
    hard = plain("cascade_rcnn")(image())["instances"]
    cfg.MODEL.ROI_HEADS.SOFT_NMS.ENABLED = True
    soft = predictor(cfg)
    expected = soft(image())["instances"]
    assert len(expected) > len(hard)  # those that overlap stay, with lower scores
    assert_equal(expected, augmented(soft, (96,))(image()))
    for _ in range(2):  # the heads are as before
        assert_close(expected, augmented(soft, (96, 96))(image()))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mirrored_image_has_the_mirrored_prediction(plain, family):
    """At the image's own size, where the mirrored pixels are exactly the pixels mirrored."""
    detect = augmented(plain(family), (0,), flip=True)
    picture = image(96, 128)
    found = detect(picture)
    mirrored = detect(np.ascontiguousarray(picture[:, ::-1]))
    x1, y1, x2, y2 = mirrored.pred_boxes.tensor.unbind(1)
    mirrored.pred_boxes.tensor = torch.stack([128 - x2, y1, 128 - x1, y2], 1)
    if mirrored.has("pred_masks"):
        mirrored.pred_masks = mirrored.pred_masks.flip(2)
    assert_close(found, mirrored, masks=1e-3)
    # Without the flip the network is not symmetric: the test would see a flip that is lost.
    alone = augmented(plain(family), (0,))(picture)
    assert len(alone) != len(found) or not torch.allclose(alone.scores, found.scores, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_detections_of_all_sizes_are_merged(plain, family):
    sizes = [augmented(plain(family), (size,))(image()) for size in (64, 128)]
    merged = augmented(plain(family), (64, 128))(image())
    pool = torch.cat([s.pred_boxes.tensor for s in sizes])
    distance = torch.cdist(merged.pred_boxes.tensor, pool, p=1).min(1)
    assert distance.values.max() < 1e-2
    assert {int(i) < len(sizes[0]) for i in distance.indices} == {True, False}
    assert merged.image_size == (101, 75)
    assert (merged.scores[:-1] >= merged.scores[1:]).all()


def test_masks_are_the_mean_of_the_mirrored_ones(configs):
    """Detectron2's own class, given the same inputs, gives the same detections and masks."""
    cfg = configs["htc"].clone()
    cfg.merge_from_list(["TEST.AUG.MIN_SIZES", (0, 64), "TEST.AUG.FLIP", True])
    model = build_model(cfg).eval()
    Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    ours = build_tta(cfg, model)
    theirs = GeneralizedRCNNWithTTA(cfg, model, ours.tta_mapper, batch_size=2)
    entry = {"image": torch.from_numpy(image(96, 128).transpose(2, 0, 1).copy())}
    entry.update(height=96, width=128)
    with torch.no_grad():
        expected = theirs([entry])[0]["instances"]
    assert_close(expected, ours([entry])[0]["instances"])
    assert expected.pred_masks.any() and not expected.pred_masks.all()


def test_nothing_found(configs):
    for family in ("htc", "fcos"):
        cfg = configs[family].clone()
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.FCOS.SCORE_THRESH_TEST = 1.0
        found = predictor(cfg, (64, 96), flip=True)(image())["instances"]
        assert len(found) == 0 and found.image_size == (101, 75)
        assert not cfg.MODEL.MASK_ON or found.pred_masks.shape == (0, 101, 75)


def test_the_heads_are_restored_after_an_error(plain, monkeypatch):
    heads = plain("mask_rcnn").model.roi_heads
    monkeypatch.setattr(heads, "_forward_box", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        augmented(plain("mask_rcnn"), (64, 96))(image())
    assert heads.mask_on is True


def test_bfloat16_covers_the_heads(configs):
    """The optimized model's precision also holds in the methods that Detectron2 calls."""
    cfg = configs["mask_rcnn"].clone()
    cfg.MODEL.OPTIMIZE.DTYPE = "bfloat16"
    fast = predictor(cfg)
    expected, twice = fast(image())["instances"], augmented(fast, (96, 96))(image())
    assert_close(expected, twice, masks=0.01)
    assert twice.scores.dtype == torch.float32


@pytest.mark.parametrize("family", ["faster_rcnn", "fcos"])
def test_evaluation_adds_results(configs, family, tmp_path, monkeypatch):
    few_images(monkeypatch)
    cfg = configs[family].clone()
    cfg.merge_from_list(["TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (96,)])
    cfg.merge_from_list(["TEST.AUG.FLIP", False, "OUTPUT_DIR", str(tmp_path)])
    cfg.DATALOADER.NUM_WORKERS = 0
    results = evaluate(cfg)
    assert list(results) == ["bbox", "bbox_TTA"]
    np.testing.assert_equal(results["bbox_TTA"], results["bbox"])
    detections = [
        json.loads((tmp_path / folder / "shapes_val" / "coco_instances_results.json").read_text())
        for folder in ("inference", "inference_TTA")
    ]
    assert detections[0] == detections[1] and detections[0]


def few_images(monkeypatch):
    few = DatasetCatalog.get("shapes_val")[:3]
    monkeypatch.setitem(DatasetCatalog.data, "shapes_val", lambda: few)


def test_training_ends_with_it(tmp_path, monkeypatch):
    few_images(monkeypatch)
    options = ["DATASETS.TEST", "('shapes_val',)", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()"]
    options += ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64,)", "TEST.EVAL_PERIOD", "0"]
    trainer = Trainer(tiny_config(tmp_path, *options, "DATALOADER.NUM_WORKERS", "0"))
    trainer.resume_or_load(resume=False)
    trainer.train()
    last = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert {"bbox/AP", "bbox_TTA/AP"} <= last.keys()
    assert trainer.model.training


def test_what_has_none_is_said(configs):
    cfg = configs["fcos"].clone()
    cfg.MODEL.ARITHMETIC = "mmdet1"
    cfg.MODEL.META_ARCHITECTURE = "MMDet1FCOS"
    with pytest.raises(ConfigError, match="TEST.AUG.ENABLED.*mmdet1.*TEST.AUG.ENABLED False"):
        build_tta(cfg, build_model(cfg))
    with pytest.raises(ConfigError, match="TEST.AUG.MIN_SIZES"):
        predictor(configs["fcos"], ())
