import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.structures import Boxes, Instances

from hrnet_d2 import add_hrnet_config
from hrnet_d2.modeling import build_model


class Pooled(Backbone):
    """One level at stride 8, of images padded to the divisibility that is given."""

    def __init__(self, size_divisibility):
        super().__init__()
        self.divisor = size_divisibility

    @property
    def size_divisibility(self):
        return self.divisor

    def output_shape(self):
        return {"p3": ShapeSpec(channels=3, stride=8)}

    def forward(self, x):
        return {"p3": torch.nn.functional.avg_pool2d(x, 8)}


@pytest.fixture
def build(monkeypatch):
    """From the backbone's divisibility to a Faster R-CNN."""

    def build(divisor, proposals="MaxIoURPN"):
        monkeypatch.setitem(BACKBONE_REGISTRY._obj_map, "pooled", lambda *_: Pooled(divisor))
        cfg = get_cfg()
        add_hrnet_config(cfg)
        cfg.MODEL.DEVICE = "cpu"
        cfg.MODEL.BACKBONE.NAME = "pooled"
        cfg.MODEL.PROPOSAL_GENERATOR.NAME = proposals
        cfg.MODEL.ROI_HEADS.NAME = "MaxIoUROIHeads"
        cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
        cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
        cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 1
        cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3"]
        cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 10**6
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16]]
        return build_model(cfg)

    return build


# 0 stands for no padding, as in Detectron2's backbones without a pyramid.
@pytest.mark.parametrize("divisor, padded", [(16, 48), (32, 64), (0, 40)])
def test_the_rpn_knows_how_far_the_backbone_pads_an_image(build, divisor, padded):
    model = build(divisor)
    rpn = model.proposal_generator
    objects = Instances((40, 40), gt_boxes=Boxes(torch.tensor([[4.0, 4, 20, 20]])))
    (anchors,) = rpn.anchor_generator([torch.zeros(1, 3, 12, 12)])
    (labels,), _ = rpn.label_and_sample_anchors([anchors], [objects])
    matched = anchors[labels >= 0].get_centers()
    # Cells of 8 pixels, their anchors at the corners: the last begins 8 before the padding's end.
    assert matched.max() == padded - 8


def test_other_proposal_generators_are_left_as_they_are(build):
    assert not hasattr(build(16, "RPN").proposal_generator, "size_divisibility")
