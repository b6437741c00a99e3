"""Small models of the cascade families and inputs for them, for fast tests."""

from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from hrnet_d2 import add_hrnet_config

CONFIGS = Path(__file__).parents[3] / "configs"
FAMILIES = {
    "cascade": "cascade_rcnn/cascade_rcnn_hrnetv2p_w18_20e_coco.yaml",
    "cascade_mask": "cascade_mask_rcnn/cascade_mask_rcnn_hrnetv2p_w18_20e_coco.yaml",
    "htc": "htc/htc_hrnetv2p_w18_20e_coco.yaml",
    "htc_without_semantic": "htc/htc_hrnetv2p_w18_20e_coco.yaml",
}
NUM_CLASSES = 3
SEMANTIC_CLASSES = 5
STAGES = 3


class TinyPyramid(Backbone):
    """Levels "p2" ... "p6", each a convolution of the pooled image."""

    def __init__(self, channels: int = 8):
        super().__init__()
        self._out_features = [f"p{level}" for level in range(2, 7)]
        self._out_feature_channels = dict.fromkeys(self._out_features, channels)
        self._out_feature_strides = {f"p{level}": 2**level for level in range(2, 7)}
        for level in range(2, 7):
            self.add_module(f"conv{level}", Conv2d(3, channels, 3, padding=1, activation=F.relu))

    @property
    def size_divisibility(self):
        return 32

    def forward(self, x):
        sizes = {f"p{i}": [max(1, n // 2**i) for n in x.shape[-2:]] for i in range(2, 7)}
        return {
            name: getattr(self, f"conv{name[1:]}")(F.adaptive_avg_pool2d(x, size))
            for name, size in sizes.items()
        }


@BACKBONE_REGISTRY.register()
def build_tiny_pyramid(cfg, input_shape: ShapeSpec) -> TinyPyramid:
    return TinyPyramid()


def tiny_config(family: str) -> CfgNode:
    """The family's config with few channels, proposals and classes, on the CPU."""
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.merge_from_file(CONFIGS / FAMILIES[family])
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_tiny_pyramid"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 32
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 8
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = SEMANTIC_CLASSES
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 50
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    cfg.MODEL.HTC.SEMANTIC_ON = family != "htc_without_semantic"
    return cfg


def tiny_model(cfg: CfgNode) -> torch.nn.Module:
    """The model with fixed weights, large enough that stages differ; in eval mode."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for predictor in model.roi_heads.box_predictor:
            predictor.cls_score.weight.normal_(std=0.3)
            predictor.bbox_pred.weight.normal_(std=0.05)
        for head in model.roi_heads.mask_head if model.roi_heads.mask_on else ():
            head.predictor.weight.normal_(std=0.3)
    return model


def tiny_input(
    seed: int = 0,
    size: tuple[int, int] = (96, 128),
    boxes: tuple = ((10.0, 12.0, 60.0, 70.0), (40.0, 20.0, 120.0, 90.0)),
    sem_seg: bool = True,
    num_classes: int = NUM_CLASSES,
) -> dict:
    """One image of ``size`` with objects at ``boxes``, and a semantic map if asked."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % num_classes
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = True
    instances.gt_masks = BitMasks(masks)
    record = {"image": image, "instances": instances, "height": size[0], "width": size[1]}
    if sem_seg:
        labels = torch.randint(0, SEMANTIC_CLASSES, size, generator=generator)
        labels[:8] = 255
        record["sem_seg"] = labels
    return record


def training_losses(model: torch.nn.Module, inputs: list[dict]) -> dict[str, torch.Tensor]:
    """Losses in training mode, with a fixed seed for the samplers."""
    model.train()
    torch.manual_seed(1)
    with EventStorage(0):
        return model(inputs)
