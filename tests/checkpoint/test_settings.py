"""The settings that MMDetection's checkpoints bring, by the config that comes of a file."""

import logging
import re

import pytest
import torch
import yaml
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_anchor_generator, build_model

from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint import CheckpointError, load_file
from hrnet_d2.checkpoint_config import apply_checkpoint_settings, checkpoint_settings
from hrnet_d2.modeling.arithmetic import select_components
from tests.checkpoint import mmdet_files, mmdet_texts

LEAVES = {
    "faster_rcnn": "faster_rcnn_hrnetv2p_w18_1x_coco",
    "mask_rcnn": "mask_rcnn_hrnetv2p_w32_1x_coco",
    "cascade_rcnn": "cascade_rcnn_hrnetv2p_w18_20e_coco",
    "cascade_mask_rcnn": "cascade_mask_rcnn_hrnetv2p_w18_20e_coco",
    "htc": "htc_hrnetv2p_w18_20e_coco",
    "fcos": "fcos_hrnetv2p_w18_gn-head_4x4_1x_coco",
}
VERSIONS = {"2.x": "2.25.3", "3.x": None, "2020": "1.1.0+482fcfa"}
INPUT = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.MIN_SIZE_TEST")
TWO_STAGE = (
    *("MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"),
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", "MODEL.RPN.POST_NMS_TOPK_TEST", "MODEL.RPN.NMS_THRESH"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "MODEL.RPN.BOUNDARY_THRESH", "MODEL.RPN.SMOOTH_L1_BETA"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "MODEL.ROI_HEADS.NMS_THRESH_TEST"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "MODEL.ROI_BOX_HEAD.NUM_FC", "MODEL.MASK_ON"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA"),
    *("MODEL.ROI_HEADS.MATCH_LOW_QUALITY", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"),
    *("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.HRNETV2P.NORM_EVAL"),
)
CASCADE = (
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS",
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS",
    "MODEL.ROI_BOX_CASCADE_HEAD.STAGE_LOSS_WEIGHTS",
)
MASK = ("MODEL.ROI_MASK_HEAD.CONV_DIM", "MODEL.ROI_MASK_HEAD.NUM_CONV")
# What a file of each family must state at least.
STATED = {
    "faster_rcnn": (*INPUT, *TWO_STAGE),
    "mask_rcnn": (*INPUT, *TWO_STAGE, *MASK),
    "cascade_rcnn": (*INPUT, *TWO_STAGE, *CASCADE),
    "cascade_mask_rcnn": (*INPUT, *TWO_STAGE, *CASCADE, *MASK),
    "htc": (
        *(*INPUT, *TWO_STAGE, *CASCADE, *MASK, "MODEL.HTC.SEMANTIC_ON"),
        *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "MODEL.SEM_SEG_HEAD.COMMON_STRIDE"),
        *("MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", "MODEL.SEM_SEG_HEAD.IGNORE_VALUE"),
    ),
    "fcos": (
        *(*INPUT, "MODEL.FCOS.NORM", "MODEL.FCOS.CENTER_SAMPLING_RADIUS", "MODEL.FCOS.BOX_LOSS"),
        *("MODEL.FCOS.NORM_ON_BBOX", "MODEL.FCOS.CENTERNESS_ON_REG", "MODEL.FCOS.NUM_CONVS"),
        *("MODEL.FCOS.TOPK_CANDIDATES_TEST", "MODEL.FCOS.SCORE_THRESH_TEST"),
        *("MODEL.FCOS.NMS_THRESH_TEST", "MODEL.FCOS.NUM_CLASSES", "MODEL.FCOS.FOCAL_LOSS_GAMMA"),
        *("MODEL.HRNETV2P.NECK.STRIDE", "TEST.DETECTIONS_PER_IMAGE"),
    ),
}


def meta_of(values: dict, style: str, **more) -> dict:
    text = mmdet_texts.text(values, style)
    if style == "3.x":
        return {"cfg": text, "mmengine_version": "0.10.3", "epoch": 12, **more}
    return {"config": text, "mmdet_version": VERSIONS[style], "epoch": 12, **more}


def write(folder, family: str, values: dict, style: str = "2.x", **tensors) -> str:
    return mmdet_files.save(folder / "epoch_12.pth", family, meta_of(values, style), **tensors)


def plain(cfg) -> dict:
    """Dotted key to value, tuples as lists."""
    flat = {}

    def walk(node, prefix):
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                flat[prefix + key] = value

    walk(yaml.safe_load(cfg.dump()), "")
    return flat


@pytest.mark.parametrize("style", mmdet_texts.STYLES)
@pytest.mark.parametrize("family", mmdet_texts.FAMILIES)
def test_the_config_of_a_file_is_that_of_its_leaf(tmp_path, family, style):
    path = write(tmp_path, family, mmdet_texts.build(family), style)
    settings = checkpoint_settings(path)
    assert set(STATED[family]) <= settings.keys.keys()
    assert (settings.unsupported, settings.unread, settings.assumed) == ([], [], [])
    assert settings.source == ("MMDetection 3.x" if style == "3.x" else "MMDetection 2.x")

    got, leaf = (
        plain(model_zoo.config_from_checkpoint(path)),
        plain(model_zoo.get_config(LEAVES[family])),
    )
    for key in ("MODEL.WEIGHTS", "SOLVER.STEPS", "SOLVER.MAX_ITER"):
        got.pop(key), leaf.pop(key)
    topk = got.pop("MODEL.FCOS.TOPK_BY")
    leaf.pop("MODEL.FCOS.TOPK_BY")
    # The leaf decides by the weights that it loads, which have statistics to keep.
    assert got.pop("MODEL.HRNETV2P.NORM_EVAL") is True
    assert leaf.pop("MODEL.HRNETV2P.NORM_EVAL") is None
    for key, value in leaf.items():
        assert _close(got[key], value), key
    if family == "fcos":
        assert topk == ("locations" if style == "2020" else "pairs")


def _close(a, b) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_close(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) or isinstance(b, float):
        return a == pytest.approx(b, rel=1e-6)
    return a == b


RCNN, RPN = "model.test_cfg.rcnn", "model.test_cfg.rpn"
FINAL = "data.test.pipeline.1"
NORMALIZE = f"{FINAL}.transforms.2"


@pytest.mark.parametrize("style", mmdet_texts.STYLES)
@pytest.mark.parametrize(
    "family, place, value, key, expected",
    [
        ("faster_rcnn", f"{RCNN}.score_thr", 0.1, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.1),
        ("faster_rcnn", f"{RCNN}.nms.iou_threshold", 0.6, "MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.6),
        ("faster_rcnn", f"{RCNN}.max_per_img", 300, "TEST.DETECTIONS_PER_IMAGE", 300),
        ("faster_rcnn", f"{RPN}.nms_pre", 500, "MODEL.RPN.PRE_NMS_TOPK_TEST", 500),
        ("faster_rcnn", f"{RPN}.max_per_img", 300, "MODEL.RPN.POST_NMS_TOPK_TEST", 300),
        ("faster_rcnn", f"{RPN}.nms.iou_threshold", 0.8, "MODEL.RPN.NMS_THRESH", 0.8),
        ("faster_rcnn", f"{RPN}.min_bbox_size", 4, "MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 4),
        ("faster_rcnn", f"{FINAL}.img_scale", (1000, 600), "INPUT.MIN_SIZE_TEST", 600),
        ("faster_rcnn", f"{FINAL}.img_scale", (600, 1000), "INPUT.MAX_SIZE_TEST", 1000),
        ("faster_rcnn", f"{NORMALIZE}.to_rgb", False, "INPUT.FORMAT", "BGR"),
        ("faster_rcnn", f"{NORMALIZE}.std", [1, 1, 1], "MODEL.PIXEL_STD", [1.0, 1.0, 1.0]),
        ("faster_rcnn", f"{NORMALIZE}.mean", [1, 2, 3], "MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0]),
        ("fcos", "model.backbone.norm_eval", False, "MODEL.HRNETV2P.NORM_EVAL", False),
        ("fcos", "model.backbone.norm_cfg", {"type": "SyncBN"}, "MODEL.HRNETV2P.NORM", "SyncBN"),
        ("fcos", "model.neck.pooling_type", "MAX", "MODEL.HRNETV2P.NECK.POOLING", "max"),
        (
            *("faster_rcnn", "model.rpn_head.anchor_generator.scales", [4]),
            *("MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64], [128], [256]]),
        ),
        (
            *("faster_rcnn", "model.roi_head.bbox_head.bbox_coder.target_stds", [0.2] * 4),
            *("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", [5.0] * 4),
        ),
        (
            *("cascade_rcnn", "model.roi_head.bbox_head.2.bbox_coder.target_stds", [0.04] * 4),
            "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS",
            [[10.0, 10.0, 5.0, 5.0], [20.0, 20.0, 10.0, 10.0], [25.0] * 4],
        ),
        (
            *("htc", "model.roi_head.stage_loss_weights", [1, 1, 1]),
            *("MODEL.ROI_BOX_CASCADE_HEAD.STAGE_LOSS_WEIGHTS", [1.0, 1.0, 1.0]),
        ),
        ("fcos", "model.test_cfg.score_thr", 0.2, "MODEL.FCOS.SCORE_THRESH_TEST", 0.2),
        ("fcos", "model.test_cfg.nms_pre", 2000, "MODEL.FCOS.TOPK_CANDIDATES_TEST", 2000),
        ("fcos", "model.test_cfg.nms.iou_threshold", 0.6, "MODEL.FCOS.NMS_THRESH_TEST", 0.6),
        ("fcos", "model.bbox_head.norm_on_bbox", True, "MODEL.FCOS.NORM_ON_BBOX", True),
        ("fcos", "model.bbox_head.centerness_on_reg", True, "MODEL.FCOS.CENTERNESS_ON_REG", True),
        ("fcos", "model.bbox_head.center_sampling", True, "MODEL.FCOS.CENTER_SAMPLING_RADIUS", 1.5),
        ("fcos", "model.bbox_head.loss_bbox.type", "GIoULoss", "MODEL.FCOS.BOX_LOSS", "giou"),
    ],
)
def test_a_changed_setting_changes_its_key(tmp_path, family, style, place, value, key, expected):
    values = mmdet_texts.change(mmdet_texts.build(family), place, value)
    if style == "2020" and place.startswith(NORMALIZE):
        values["img_norm_cfg"] = dict(values["img_norm_cfg"], **{place.split(".")[-1]: value})
    cfg = model_zoo.config_from_checkpoint(write(tmp_path, family, values, style))
    assert _close(plain(cfg)[key], expected)


def test_octaves_give_the_sizes_of_each_level(tmp_path):
    values = mmdet_texts.build("faster_rcnn")
    values["model"]["rpn_head"]["anchor_generator"] = {
        "type": "AnchorGenerator",
        "octave_base_scale": 4,
        "scales_per_octave": 3,
        "ratios": [1.0],
        "strides": [4, 8, 16, 32, 64],
    }
    cfg = model_zoo.config_from_checkpoint(write(tmp_path, "faster_rcnn", values))
    expected = [[s * 4 * 2 ** (i / 3) for i in range(3)] for s in (4, 8, 16, 32, 64)]
    assert _close(plain(cfg)["MODEL.ANCHOR_GENERATOR.SIZES"], expected)


def test_several_scales_and_ratios_are_in_the_order_of_the_files_outputs(tmp_path):
    values = mmdet_texts.change(
        mmdet_texts.build("faster_rcnn"), "model.rpn_head.anchor_generator.scales", [4, 8]
    )
    cfg = model_zoo.config_from_checkpoint(write(tmp_path, "faster_rcnn", values))
    shape = [ShapeSpec(stride=stride) for stride in (4, 8, 16, 32, 64)]
    anchors = list(build_anchor_generator(cfg, shape).cell_anchors)[0]
    # MMDetection: widths are stride * sqrt(1 / ratio) * scale, ratios first
    widths = [4 * (1 / ratio) ** 0.5 * scale for ratio in (0.5, 1.0, 2.0) for scale in (4, 8)]
    torch.testing.assert_close(anchors[:, 2] - anchors[:, 0], torch.tensor(widths))


@pytest.mark.parametrize("norm", [True, False])
def test_fcos_without_normalization_in_the_head(tmp_path, norm):
    state = dict(mmdet_files.state("fcos"))
    if not norm:
        for name in [name for name in state if ".gn." in name]:
            bias = state.pop(name)
            state[name.replace(".gn.weight", ".conv.bias").replace(".gn.bias", ".conv.bias")] = bias
    values = mmdet_texts.build("fcos")
    values["model"]["bbox_head"]["norm_cfg"] = {"type": "GN", "num_groups": 32} if norm else None
    torch.save({"meta": meta_of(values, "2.x"), "state_dict": state}, tmp_path / "a.pth")
    cfg = model_zoo.config_from_checkpoint(str(tmp_path / "a.pth"))
    assert cfg.MODEL.FCOS.NORM == ("GN" if norm else "")
    assert cfg.MODEL.FCOS.NUM_CONVS == 4
    cfg.MODEL.DEVICE = "cpu"
    loaded = load_file(str(tmp_path / "a.pth")).state
    a, b = (
        {n: v.shape for n, v in state.items() if not n.endswith("num_batches_tracked")}
        for state in (loaded, build_model(cfg).state_dict())
    )
    assert a == b


def test_soft_nms(tmp_path):
    nms = {"type": "soft_nms", "iou_threshold": 0.5, "min_score": 0.01}
    values = mmdet_texts.change(
        mmdet_texts.build("cascade_mask_rcnn"), "model.test_cfg.rcnn.nms", nms
    )
    cfg = model_zoo.config_from_checkpoint(write(tmp_path, "cascade_mask_rcnn", values))
    soft = cfg.MODEL.ROI_HEADS.SOFT_NMS
    assert (soft.ENABLED, soft.MIN_SCORE) == (True, 0.01)


@pytest.mark.parametrize("scope", ["mmdet.", "mmdet.models.detectors."])
@pytest.mark.parametrize("family", mmdet_texts.FAMILIES)
def test_types_with_a_scope(tmp_path, family, scope):
    plain_text = mmdet_texts.text(mmdet_texts.build(family), "3.x")
    scoped = re.sub(r"\btype='(\w+)'", rf"type='{scope}\1'", plain_text)
    assert scoped.count(scope) > 10
    configs = [
        model_zoo.config_from_checkpoint(
            mmdet_files.save(tmp_path / "a.pth", family, {"cfg": text, "mmengine_version": "0.10"})
        )
        for text in (plain_text, scoped)
    ]
    assert configs[0] == configs[1]


def test_a_dataset_without_pipeline(tmp_path):
    """As in 1.x until the summer of 2019, and in Pedestron."""
    values = mmdet_texts.build("faster_rcnn")
    del values["img_norm_cfg"]
    norm = {"mean": [1, 2, 3], "std": [4, 5, 6], "to_rgb": False}
    values["data"]["test"] = {"type": "A", "img_scale": (2048, 1024), "img_norm_cfg": norm}
    cfg = model_zoo.config_from_checkpoint(write(tmp_path, "faster_rcnn", values))
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (1024, 2048)
    assert (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD) == ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    assert cfg.INPUT.FORMAT == "BGR"
    values["data"]["test"]["resize_keep_ratio"] = False
    with pytest.raises(CheckpointError, match="keep_ratio"):
        model_zoo.config_from_checkpoint(write(tmp_path, "faster_rcnn", values))


def test_3x_does_not_keep_the_ratio_by_default(tmp_path):
    values = mmdet_texts.build("faster_rcnn")
    del values["data"]["test"]["pipeline"][1]["transforms"][0]["keep_ratio"]
    model_zoo.config_from_checkpoint(write(tmp_path, "faster_rcnn", values, "2.x"))
    with pytest.raises(CheckpointError, match="keep_ratio"):
        model_zoo.config_from_checkpoint(write(tmp_path, "faster_rcnn", values, "3.x"))


@pytest.mark.parametrize("name", ["mean", "std"])
def test_normalization_that_cannot_be_read_is_not_guessed(tmp_path, name):
    text = mmdet_texts.text(mmdet_texts.build("faster_rcnn"), "2.x")
    text = re.sub(rf"\b{name}=\[[^\]]*\]", f"{name}=array([1, 2, 3])", text)
    path = mmdet_files.save(tmp_path / "a.pth", "faster_rcnn", {"config": text})
    with pytest.raises(CheckpointError, match=rf"{name} = array\(\[1, 2, 3\]\)"):
        model_zoo.config_from_checkpoint(path)


def test_a_question_mark_in_the_name_of_a_file(tmp_path):
    path = mmdet_files.save(tmp_path / "best?epoch.pth", "faster_rcnn", {})
    assert model_zoo.config_from_checkpoint(path).MODEL.WEIGHTS == path


def test_images_as_they_are(tmp_path):
    values = mmdet_texts.build("faster_rcnn")
    values["data"]["test"]["pipeline"][1].pop("img_scale")
    values["data"]["test"]["pipeline"][1]["scale_factor"] = 1.0
    cfg = model_zoo.config_from_checkpoint(write(tmp_path, "faster_rcnn", values))
    assert cfg.INPUT.MIN_SIZE_TEST == 0


def test_htc_without_semantic_branch(tmp_path):
    values = mmdet_texts.build("htc")
    tensors = {k: v for k, v in mmdet_files.state("htc").items() if "semantic" not in k}
    for name in ("semantic_head", "semantic_roi_extractor"):
        del values["model"]["roi_head"][name]
    path = tmp_path / "htc.pth"
    torch.save({"meta": meta_of(values, "2.x"), "state_dict": tensors}, path)
    cfg = model_zoo.config_from_checkpoint(str(path))
    assert cfg.MODEL.META_ARCHITECTURE == "HybridTaskCascade" and not cfg.MODEL.HTC.SEMANTIC_ON


def test_resnext_with_fpn(tmp_path):
    values = mmdet_texts.build("htc")
    values["model"]["backbone"] = {
        **{"type": "ResNeXt", "depth": 101, "groups": 64, "base_width": 4, "num_stages": 4},
        **{"out_indices": (0, 1, 2, 3), "frozen_stages": 1, "style": "pytorch"},
    }
    neck = {"type": "FPN", "in_channels": [256, 512, 1024, 2048], "out_channels": 256}
    values["model"]["neck"] = {**neck, "num_outs": 5}
    cfg = plain(model_zoo.config_from_checkpoint(write(tmp_path, "x101", values)))
    leaf = plain(model_zoo.get_config("htc_x101_64x4d_fpn_28e_coco"))
    for key in leaf:
        if key.startswith(("MODEL.RESNETS", "MODEL.FPN", "MODEL.BACKBONE")):
            assert cfg[key] == leaf[key], key


@pytest.mark.parametrize(
    "family, place, value, named",
    [
        ("faster_rcnn", "model.backbone.dcn", {"type": "DCNv2"}, "model.backbone.dcn"),
        ("faster_rcnn", "model.backbone.type", "ResNeSt", "model.backbone.type"),
        ("faster_rcnn", "model.type", "GridRCNN", "model.type"),
        ("faster_rcnn", "model.neck.type", "BFP", "model.neck.type"),
        ("faster_rcnn", "model.neck", [{"type": "HRFPN"}, {"type": "BFP"}], "model.neck"),
        ("faster_rcnn", "model.roi_head.type", "PISARoIHead", "model.roi_head.type"),
        ("faster_rcnn", "model.roi_head.bbox_head.type", "DoubleConvFCBBoxHead", "bbox_head.type"),
        (
            "faster_rcnn",
            "model.roi_head.bbox_head.loss_cls.use_sigmoid",
            True,
            "loss_cls.use_sigmoid",
        ),
        ("faster_rcnn", "model.roi_head.bbox_head.loss_cls.type", "SeesawLoss", "loss_cls.type"),
        ("faster_rcnn", f"{RCNN}.nms.type", "matrix_nms", "nms.type"),
        ("faster_rcnn", f"{FINAL}.transforms.0.keep_ratio", False, "keep_ratio"),
        ("faster_rcnn", f"{RPN}.nms_across_levels", True, "nms_across_levels"),
        ("mask_rcnn", f"{RCNN}.mask_thr_binary", 0.4, "mask_thr_binary"),
        ("mask_rcnn", "model.roi_head.mask_head.upsample_cfg", {"type": "carafe"}, "upsample_cfg"),
        ("cascade_rcnn", "model.roi_head.bbox_head.1.reg_class_agnostic", False, "agnostic"),
        ("htc", "model.roi_head.interleaved", False, "interleaved"),
        ("fcos", "model.bbox_head.type", "ATSSHead", "model.bbox_head.type"),
        ("fcos", "model.bbox_head.dcn_on_last_conv", True, "dcn_on_last_conv"),
        ("fcos", "model.bbox_head.strides", [4, 8, 16, 32, 64], "strides"),
        ("fcos", "model.backbone.extra.stage4.num_modules", 2, "stage4.num_modules"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, family, place, value, named):
    values = mmdet_texts.change(mmdet_texts.build(family), place, value)
    path = write(tmp_path, family, values)
    with pytest.raises(CheckpointError, match=named) as error:
        model_zoo.config_from_checkpoint(path)
    assert path in str(error.value)


@pytest.mark.parametrize("names", [("a", "b", "c"), ["a", "b", "c"], None])
@pytest.mark.parametrize("family", ["faster_rcnn", "fcos"])
def test_classes(tmp_path, family, names):
    meta = meta_of(mmdet_texts.build(family), "2.x", CLASSES=names)
    if family == "fcos":
        tensors = {"bbox_head.conv_cls.bias": 3, "bbox_head.conv_cls.weight": 3}
    else:
        fc = "roi_head.bbox_head.fc_"
        tensors = {
            f"{fc}cls.bias": 4,
            f"{fc}cls.weight": 4,
            f"{fc}reg.bias": 12,
            f"{fc}reg.weight": 12,
        }
    state = dict(mmdet_files.state(family))
    for name, rows in tensors.items():
        state[name] = state[name][:rows].clone()
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "three.pth")
    cfg = model_zoo.config_from_checkpoint(str(tmp_path / "three.pth"))
    node = cfg.MODEL.FCOS if family == "fcos" else cfg.MODEL.ROI_HEADS
    assert node.NUM_CLASSES == 3
    assert list(cfg.DATASETS.CLASS_NAMES) == list(names or [])
    assert not cfg.DATASETS.TEST and not cfg.DATASETS.TRAIN


def test_class_names_of_the_config_when_meta_has_none(tmp_path):
    values = mmdet_texts.build("faster_rcnn")
    values["data"]["test"]["classes"] = tuple(f"c{i}" for i in range(80))
    cfg = model_zoo.config_from_checkpoint(write(tmp_path, "faster_rcnn", values))
    assert list(cfg.DATASETS.CLASS_NAMES) == [f"c{i}" for i in range(80)]


def test_fewer_names_than_the_head_has_classes(tmp_path, caplog):
    meta = meta_of(mmdet_texts.build("faster_rcnn"), "2.x", CLASSES=("table", "cell"))
    path = mmdet_files.save(tmp_path / "a.pth", "faster_rcnn", meta)
    with caplog.at_level(logging.WARNING):
        cfg = model_zoo.config_from_checkpoint(path)
    names = list(cfg.DATASETS.CLASS_NAMES)
    assert len(names) == cfg.MODEL.ROI_HEADS.NUM_CLASSES == 80 and names[:2] == ["table", "cell"]
    assert "names 2 classes" in caplog.text


@pytest.mark.parametrize("family", mmdet_texts.FAMILIES)
@pytest.mark.parametrize("meta", [{}, {"epoch": 3, "config": ""}, {"config": "import os"}])
def test_without_a_config_the_tensors_decide(tmp_path, caplog, family, meta):
    path = mmdet_files.save(tmp_path / "a.pth", family, meta)
    with caplog.at_level(logging.INFO):
        cfg = model_zoo.config_from_checkpoint(path)
    leaf = model_zoo.get_config(LEAVES[family])
    assert cfg.MODEL.HRNETV2P == leaf.MODEL.HRNETV2P
    for node in ("ROI_HEADS", "ROI_BOX_HEAD", "ROI_MASK_HEAD", "SEM_SEG_HEAD", "FCOS", "HTC"):
        assert cfg.MODEL[node] == leaf.MODEL[node], node
    assert "assumed: input as in" in caplog.text


def test_a_published_file_without_meta_is_known_by_its_name(tmp_path):
    for name, std, topk in [
        ("fcos_hrnetv2p_w18_gn-head_4x4_1x_coco_20200316-c24bac34.pth", [1.0] * 3, "locations"),
        ("renamed-a668468b.pth", [1.0] * 3, "locations"),
        ("mine.pth", [57.375, 57.12, 58.395], "pairs"),
    ]:
        path = mmdet_files.save(tmp_path / name, "fcos", {})
        cfg = model_zoo.config_from_checkpoint(path)
        assert (cfg.MODEL.PIXEL_STD, cfg.MODEL.FCOS.TOPK_BY) == (std, topk), name


def as_1x(values: dict) -> dict:
    """The config as 1.x has it: heads beside the backbone, background among the classes."""
    model = values["model"]
    values["train_cfg"], values["test_cfg"] = model.pop("train_cfg"), model.pop("test_cfg")
    roi = model.pop("roi_head", {})
    for name in ("bbox_head", "mask_head", "bbox_roi_extractor", "mask_roi_extractor"):
        if name in roi:
            model[name] = roi[name]
    heads = model["bbox_head"] if isinstance(model["bbox_head"], list) else [model["bbox_head"]]
    for head in heads:
        head["num_classes"] += 1
    values["data"]["imgs_per_gpu"] = values["data"].pop("samples_per_gpu")
    return values


@pytest.mark.parametrize("family", ["faster_rcnn", "cascade_mask_rcnn", "fcos"])
@pytest.mark.parametrize("with_config", [True, False])
def test_files_of_1x(tmp_path, family, with_config):
    config = mmdet_texts.render(as_1x(mmdet_texts.build(family))) if with_config else ""
    meta = {"mmdet_version": "1.0.rc0+df1b904", "config": config}
    state = {k.removeprefix("roi_head."): v for k, v in mmdet_files.state(family).items()}
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "old.pth")
    cfg = model_zoo.config_from_checkpoint(str(tmp_path / "old.pth"))
    assert cfg.MODEL.ARITHMETIC == "mmdet1"
    if family == "fcos":
        assert (cfg.MODEL.FCOS.TOPK_BY, cfg.MODEL.FCOS.NUM_CLASSES) == ("locations", 80)
        if not with_config:
            assert cfg.MODEL.PIXEL_STD == [1.0] * 3
    else:
        assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 80


def early_fcos() -> dict[str, torch.Tensor]:
    """FCOS by its names until the summer of 2020."""
    names = {"conv_cls": "fcos_cls", "conv_reg": "fcos_reg", "conv_centerness": "fcos_centerness"}
    pattern = re.compile("|".join(names))
    return {pattern.sub(lambda m: names[m[0]], k): v for k, v in mmdet_files.state("fcos").items()}


@pytest.mark.parametrize(
    "meta, early, std",
    [
        ({}, True, 1.0),
        ({"mmdet_version": "1.0.rc0+df1b904"}, True, 1.0),
        ({"mmdet_version": "2.5.0"}, False, 1.0),
        ({"mmdet_version": "2.8.0"}, False, 57.375),
        ({"mmdet_version": "2.25.3"}, False, 57.375),
        ({"mmengine_version": "0.10.3"}, False, 57.375),
    ],
)
def test_the_input_of_fcos_by_the_age_of_the_file(tmp_path, caplog, meta, early, std):
    """All FCOS detectors of MMDetection were trained on a deviation of 1 until 2.8."""
    state = early_fcos() if early else mmdet_files.state("fcos")
    path = str(tmp_path / "mine.pth")
    torch.save({"meta": meta, "state_dict": state}, path)
    cfg = model_zoo.config_from_checkpoint(path)
    assert cfg.MODEL.PIXEL_STD[0] == std
    if std == 1:
        assert cfg.MODEL.PIXEL_MEAN == [102.9801, 115.9465, 122.7717]
        assert cfg.INPUT.FORMAT == "BGR"
    # A config that is named holds, and a warning says what is likely.
    cfg = model_zoo.get_config(LEAVES["fcos"])
    cfg.MODEL.WEIGHTS = path
    with caplog.at_level(logging.WARNING):
        assert apply_checkpoint_settings(cfg).MODEL.PIXEL_STD[0] == 57.375
    assert ("MODEL.PIXEL_STD [1.0, 1.0, 1.0]: set these" in caplog.text) == (std == 1)


def test_several_scales_and_ratios_of_1x(tmp_path):
    values = as_1x(mmdet_texts.build("faster_rcnn"))
    head = values["model"]["rpn_head"]
    del head["anchor_generator"]
    strides, scales, ratios = [4, 8, 16, 32, 64], [4, 8], [0.5, 1.0, 2.0]
    head.update(anchor_strides=strides, anchor_scales=scales, anchor_ratios=ratios)
    path = str(tmp_path / "old.pth")
    meta = {"mmdet_version": "1.0.rc0+df1b904", "config": mmdet_texts.render(values)}
    state = {k.removeprefix("roi_head."): v for k, v in mmdet_files.state("faster_rcnn").items()}
    torch.save({"meta": meta, "state_dict": state}, path)
    cfg = select_components(model_zoo.config_from_checkpoint(path))
    shapes = [ShapeSpec(stride=stride) for stride in strides]
    made = build_anchor_generator(cfg, shapes).cell_anchors
    for stride, anchors in zip(strides, made, strict=True):
        # By first and last pixel, the ratios before the scales.
        center = 0.5 * (stride - 1)
        sides = [
            (stride * (1 / ratio) ** 0.5 * scale, stride * ratio**0.5 * scale)
            for ratio in ratios
            for scale in scales
        ]
        first = torch.tensor([[center - 0.5 * (side - 1) for side in pair] for pair in sides])
        last = torch.tensor([[center + 0.5 * (side - 1) for side in pair] for pair in sides])
        torch.testing.assert_close(anchors, torch.cat([first.round(), last.round() + 1], 1))

    head["anchor_base_sizes"] = [8, 16, 32, 64, 128]
    meta["config"] = mmdet_texts.render(values)
    torch.save({"meta": meta, "state_dict": state}, path)
    with pytest.raises(CheckpointError, match="anchor_base_sizes = .*equal to the strides"):
        model_zoo.config_from_checkpoint(path)


def test_the_version_does_not_make_an_early_2x_file_1x(tmp_path):
    meta = meta_of(mmdet_texts.build("fcos"), "2020")
    assert meta["mmdet_version"].startswith("1.1.0")
    cfg = model_zoo.config_from_checkpoint(mmdet_files.save(tmp_path / "a.pth", "fcos", meta))
    assert (cfg.MODEL.ARITHMETIC, cfg.MODEL.FCOS.TOPK_BY) == ("mmdet2", "locations")


def test_a_converted_file_is_told_by_its_config(tmp_path, caplog):
    config = mmdet_texts.render(as_1x(mmdet_texts.build("faster_rcnn")))
    meta = {"mmdet_version": "1.0.0", "config": config}
    path = mmdet_files.save(tmp_path / "a.pth", "faster_rcnn", meta)
    with caplog.at_level(logging.WARNING):
        cfg = model_zoo.config_from_checkpoint(path)
    assert cfg.MODEL.ARITHMETIC == "mmdet1" and "shifts the biases" in caplog.text


def test_a_backbone_has_no_config(tmp_path):
    state = {
        k.removeprefix("backbone."): v
        for k, v in mmdet_files.state("faster_rcnn").items()
        if k.startswith("backbone.")
    }
    torch.save(state, tmp_path / "hrnet.pth")
    with pytest.raises(CheckpointError, match="no detector"):
        model_zoo.config_from_checkpoint(str(tmp_path / "hrnet.pth"))
    with pytest.raises(CheckpointError, match="absent.pth"):
        model_zoo.config_from_checkpoint(str(tmp_path / "absent.pth"))


def test_the_recipe_is_told(tmp_path):
    for style in mmdet_texts.STYLES:
        path = write(tmp_path, "fcos", mmdet_texts.build("fcos"), style)
        recipe = "\n".join(checkpoint_settings(path).recipe)
        for part in ("SGD, lr 0.02", "images on each GPU: 4", "[8, 11]", "epochs: 12"):
            assert part in recipe, (style, part)


@pytest.mark.parametrize(
    "family, name, change",
    [
        ("faster_rcnn", "roi_head.bbox_head.fc_cls.bias", None),
        ("faster_rcnn", "roi_head.bbox_head.fc_cls.bias", ()),
        ("mask_rcnn", "roi_head.bbox_head.shared_fcs.0.weight", ()),
        ("cascade_rcnn", "rpn_head.rpn_conv.weight", (9,)),
        ("htc", "neck.reduction_conv.conv.weight", ()),
        ("fcos", "bbox_head.conv_cls.bias", None),
        ("fcos", "bbox_head.conv_cls.bias", ()),
    ],
)
def test_a_detector_with_a_damaged_tensor_has_no_config(tmp_path, family, name, change):
    state = dict(mmdet_files.state(family))
    assert name in state
    del state[name]
    if change is not None:
        state[name] = torch.zeros(change)
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="a.pth .*the model: "):
        model_zoo.config_from_checkpoint(str(tmp_path / "a.pth"))
