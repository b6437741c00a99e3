"""HRNet in Detectron2's meta-architectures and projects, and our heads on Detectron2's ResNet."""

import importlib.util
import sys
import types
from typing import Any

import pytest
import torch
from detectron2 import model_zoo as detectron2_zoo
from detectron2.config import CfgNode, configurable, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, ROI_HEADS_REGISTRY, build_model
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import StandardROIHeads, select_foreground_proposals
from detectron2.projects import deeplab, point_rend
from torch import nn
from torch.nn import functional as F

from hrnet_d2 import add_hrnet_config
from hrnet_d2.modeling import HRNet
from tests.compat.setting import BASES, batch, check_instances, check_training, family_config
from tests.test_lazy_configs import measure_statistics

pytestmark = pytest.mark.slow
SIZES = ((64, 96), (75, 70))
BACKBONES = ("hrnetv2p", "hrnet")
each_backbone = pytest.mark.parametrize("backbone", BACKBONES)


@BACKBONE_REGISTRY.register()
def build_compat_hrnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """HRNet below Detectron2's FPN; p3 ... p7 for RetinaNet, else p2 ... p6."""
    bottom_up = HRNet(cfg, input_shape)
    dense = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    levels = ["res3", "res4", "res5"] if dense else ["res2", "res3", "res4", "res5"]
    channels = bottom_up.output_shape()["res5"].channels
    top = LastLevelP6P7(channels, 32) if dense else LastLevelMaxPool()
    return FPN(bottom_up, levels, 32, top_block=top)


@ROI_HEADS_REGISTRY.register()
class CompatDenseROIHeads(StandardROIHeads):
    """Like DensePose's heads: a decoder merges p2 ... p5, and a head predicts a map of each box."""

    @configurable
    def __init__(self, *, dense_decoder: nn.Module, dense_head: nn.Module, **kwargs: Any):
        super().__init__(**kwargs)
        self.dense_decoder = dense_decoder
        self.dense_head = dense_head
        self.dense_pooler = ROIPooler(14, [1 / 4], 0, "ROIAlignV2")

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        channels = input_shape["p2"].channels
        ret["dense_decoder"] = nn.Conv2d(channels, 16, 1)
        ret["dense_head"] = nn.Conv2d(16, 2, 3, padding=1)
        return ret

    def _maps(self, features, boxes):
        levels = [features[name] for name in self.box_in_features]
        size = levels[0].shape[-2:]
        merged = sum(F.interpolate(x, size=size, mode="bilinear") for x in levels)
        return self.dense_head(self.dense_pooler([self.dense_decoder(merged)], boxes))

    def forward(self, images, features, proposals, targets=None):
        found, losses = super().forward(images, features, proposals, targets)
        if not self.training:
            maps = self._maps(features, [x.pred_boxes for x in found])
            for instances, part in zip(found, maps.split([len(x) for x in found]), strict=True):
                instances.pred_dense = part
            return found, losses
        positives, _ = select_foreground_proposals(found, self.num_classes)
        maps = self._maps(features, [x.proposal_boxes for x in positives])
        return found, {**losses, "loss_dense": maps.square().mean()}


def stock(name: str, backbone: str, *keys) -> CfgNode:
    """A config of Detectron2's model zoo with HRNet in place of its backbone, and small heads."""
    cfg = get_cfg()
    add_hrnet_config(cfg)
    for add in keys:
        add(cfg)
    cfg.merge_from_file(detectron2_zoo.get_config_file(name))
    dense = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.PIXEL_STD = [57.375, 57.12, 58.395]  # stock has 1, for its own ImageNet weights
    cfg.MODEL.HRNETV2P.WIDTH = 18
    cfg.MODEL.HRNETV2P.NECK.OUT_CHANNELS = 32
    cfg.MODEL.HRNETV2P.NECK.STRIDE = 2 if dense else 1
    cfg.MODEL.BACKBONE.NAME = (
        "build_hrnetv2p_backbone" if backbone == "hrnetv2p" else "build_compat_hrnet_fpn_backbone"
    )
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = (16, 16)
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    cfg.INPUT.MASK_FORMAT = "bitmask"
    return cfg


def works(
    cfg: CfgNode, expected: set[str], *, classes: int = 4, unused: str = "", sizes=SIZES
) -> list[dict]:
    """The model trains and predicts; returns its outputs, which have the ``expected`` kinds.

    ``unused`` is a pattern of the parameters that lead to levels which the model does not read.
    """
    torch.manual_seed(0)
    model = build_model(cfg)
    measure_statistics(model)
    inputs = batch(sizes, classes)
    check_training(model, inputs, unused)
    with torch.no_grad():
        outputs = model.eval()([{k: x[k] for k in ("image", "height", "width")} for x in inputs])
    for output, size in zip(outputs, sizes, strict=True):
        assert set(output) == expected
        if "instances" in expected and len(output["instances"]):
            check_instances(output, size)
        if "sem_seg" in expected:
            assert output["sem_seg"].shape[-2:] == size and output["sem_seg"].isfinite().all()
        if "panoptic_seg" in expected:
            assert output["panoptic_seg"][0].shape == size
    return outputs


def last_fusion(*branches: int) -> str:
    """What only the outputs of these branches depend on, as a pattern."""
    return rf"stage4\.2\.fuse_layers\.[{''.join(map(str, branches))}]\."


@each_backbone
def test_retinanet(backbone):
    cfg = stock("COCO-Detection/retinanet_R_50_FPN_1x.yaml", backbone)
    # Detectron2's FPN starts at res3 here.
    outputs = works(cfg, {"instances"}, unused=last_fusion(0) if backbone == "hrnet" else "")
    assert all(len(output["instances"]) for output in outputs)


@each_backbone
def test_faster_rcnn(backbone):
    outputs = works(stock("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", backbone), {"instances"})
    assert all(len(output["instances"]) for output in outputs)


@each_backbone
def test_mask_rcnn(backbone):
    name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
    outputs = works(stock(name, backbone), {"instances"})
    assert all(output["instances"].has("pred_masks") for output in outputs)


@each_backbone
def test_cascade_rcnn(backbone):
    outputs = works(stock("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", backbone), {"instances"})
    assert all(len(output["instances"]) for output in outputs)


@each_backbone
def test_keypoint_rcnn(backbone):
    cfg = stock("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml", backbone)
    outputs = works(cfg, {"instances"}, classes=1)
    assert all(o["instances"].pred_keypoints.shape[1:] == (17, 3) for o in outputs)


def semantic(cfg: CfgNode) -> CfgNode:
    """Small semantic heads of four classes."""
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 16
    return cfg


@each_backbone
def test_semantic_fpn(backbone):
    cfg = semantic(stock("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml", backbone))
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.SEM_SEG_HEAD.NORM = ""
    cfg.MODEL.HRNETV2P.NECK.NUM_OUTS = 4  # the head reads p2 ... p5
    outputs = works(cfg, {"sem_seg"})
    assert all(output["sem_seg"].shape[0] == 4 for output in outputs)


@each_backbone
def test_panoptic_fpn(backbone):
    cfg = semantic(stock("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml", backbone))
    cfg.MODEL.SEM_SEG_HEAD.NORM = ""
    works(cfg, {"instances", "sem_seg", "panoptic_seg"})


@each_backbone
def test_point_rend(backbone):
    name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
    cfg = stock(name, backbone, point_rend.add_pointrend_config)
    cfg.MODEL.ROI_HEADS.NAME = "PointRendROIHeads"
    cfg.MODEL.ROI_MASK_HEAD.NAME = "PointRendMaskHead"
    cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = ""
    cfg.MODEL.ROI_MASK_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.POINT_HEAD_ON = True
    cfg.MODEL.POINT_HEAD.FC_DIM = 32
    outputs = works(cfg, {"instances"})
    assert all(output["instances"].has("pred_masks") for output in outputs)


def deeplab_levels(cfg: CfgNode, backbone: str) -> list[str]:
    """DeepLab reads the backbone's own levels; HRFPN's have other names and the same strides."""
    if backbone == "hrnet":
        cfg.MODEL.BACKBONE.NAME = "build_hrnetv2_backbone"
        return ["res2", "res3", "res5"]
    return ["p2", "p3", "p5"]


def deeplab_config(backbone: str, add) -> CfgNode:
    cfg = stock("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml", backbone, add)
    levels = deeplab_levels(cfg, backbone)
    node = semantic(cfg).MODEL.SEM_SEG_HEAD
    node.ASPP_CHANNELS = 16
    node.NORM = "GN"
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = (64, 64)
    node.IN_FEATURES = levels
    node.PROJECT_FEATURES, node.PROJECT_CHANNELS = levels[:-1], [32, 64]
    node.CONVS_DIM = 32
    node.ASPP_CHANNELS = 32
    node.COMMON_STRIDE = 4
    return cfg


def unread(backbone: str, *branches: int) -> str:
    """Parameters of levels that DeepLab does not read, as a pattern."""
    if backbone == "hrnet":
        return last_fusion(*branches)
    return rf"backbone\.fpn_output[{''.join(str(branch + 2) for branch in branches)}6]\."


@each_backbone
def test_deeplab_v3_plus(backbone):
    cfg = deeplab_config(backbone, deeplab.add_deeplab_config)
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.SEM_SEG_HEAD.NAME = "DeepLabV3PlusHead"
    node = cfg.MODEL.SEM_SEG_HEAD
    node.IN_FEATURES = [node.IN_FEATURES[0], node.IN_FEATURES[-1]]
    node.PROJECT_FEATURES, node.PROJECT_CHANNELS = node.IN_FEATURES[:1], [32]
    works(cfg, {"sem_seg"}, unused=unread(backbone, 1, 2), sizes=((64, 64), (64, 64)))


@pytest.fixture
def panoptic_deeplab(monkeypatch):
    """The project; only its reading of panoptic files, which is not tested, needs panopticapi."""
    if importlib.util.find_spec("panopticapi") is None:
        utils = types.ModuleType("panopticapi.utils")
        utils.rgb2id = None
        monkeypatch.setitem(sys.modules, "panopticapi", types.ModuleType("panopticapi"))
        monkeypatch.setitem(sys.modules, "panopticapi.utils", utils)
    return importlib.import_module("detectron2.projects.panoptic_deeplab")


@each_backbone
def test_panoptic_deeplab(backbone, panoptic_deeplab):
    cfg = deeplab_config(backbone, panoptic_deeplab.add_panoptic_deeplab_config)
    cfg.MODEL.META_ARCHITECTURE = "PanopticDeepLab"
    node = cfg.MODEL.SEM_SEG_HEAD
    node.NAME = "PanopticDeepLabSemSegHead"
    node.HEAD_CHANNELS, node.LOSS_TYPE = 32, "hard_pixel_mining"
    embed = cfg.MODEL.INS_EMBED_HEAD
    embed.IN_FEATURES, embed.PROJECT_FEATURES = node.IN_FEATURES, node.PROJECT_FEATURES
    embed.PROJECT_CHANNELS = node.PROJECT_CHANNELS
    embed.ASPP_CHANNELS = embed.CONVS_DIM = embed.HEAD_CHANNELS = 32
    embed.NORM = "GN"
    cfg.MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES = False
    MetadataCatalog.get("compat_panoptic").set(
        label_divisor=1000, thing_dataset_id_to_contiguous_id={1: 0, 2: 1}
    )
    cfg.DATASETS.TRAIN = ("compat_panoptic",)
    torch.manual_seed(0)
    model = build_model(cfg)
    measure_statistics(model)
    inputs = batch(((64, 64), (64, 64)))
    for entry in inputs:
        size = entry["image"].shape[-2:]
        entry["sem_seg_weights"] = torch.ones(size)
        entry["center"], entry["center_weights"] = torch.rand(size), torch.ones(size)
        entry["offset"], entry["offset_weights"] = torch.rand(2, *size), torch.ones(size)
    check_training(model, inputs, unread(backbone, 2))
    with torch.no_grad():
        plain = [{key: entry[key] for key in ("image", "height", "width")} for entry in inputs]
        for output in model.eval()(plain):
            assert output["sem_seg"].shape == (4, 64, 64)
            assert output["panoptic_seg"][0].shape == (64, 64)


@each_backbone
def test_dense_pose(backbone):
    """Heads such as DensePose's, which is not in Detectron2's package."""
    cfg = stock("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", backbone)
    cfg.MODEL.ROI_HEADS.NAME = "CompatDenseROIHeads"
    outputs = works(cfg, {"instances"})
    assert all(o["instances"].pred_dense.shape[1:] == (2, 14, 14) for o in outputs)


@pytest.mark.parametrize("family", list(BASES))
def test_resnet_fpn(family):
    """Our heads on Detectron2's own backbone."""
    cfg = family_config(family)
    dense = family == "fcos"
    cfg.MODEL.BACKBONE.NAME = f"build_{'retinanet_' if dense else ''}resnet_fpn_backbone"
    first = "res3" if dense else "res2"
    levels = [f"res{i}" for i in range(int(first[-1]), 6)]
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = levels
    cfg.MODEL.FPN.OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.NORM = "BN"
    works(cfg, {"instances"})
