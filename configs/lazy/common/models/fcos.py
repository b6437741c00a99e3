from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from hrnet_d2.modeling import FCOS, FCOSHead

from ..backbone import backbone

backbone.stride = 2  # p3 ... p7

model = L(FCOS)(
    backbone=backbone,
    head=L(FCOSHead)(
        input_shape=[ShapeSpec(channels=256, stride=2**level) for level in range(3, 8)],
        num_classes="${..num_classes}",
        num_convs=4,
        norm="GN",
        prior_prob=0.01,
    ),
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    num_classes=80,
    sizes_of_interest=[64, 128, 256, 512],
    box_loss="iou",
    focal_loss_alpha=0.25,
    focal_loss_gamma=2.0,
    test_score_thresh=0.05,
    test_topk_candidates=1000,
    test_topk_by="pairs",
    test_nms_thresh=0.5,
    max_detections_per_image=100,
    # BGR, as the published models were trained, although the ImageNet weights expect RGB.
    pixel_mean=[103.53, 116.28, 123.675],
    pixel_std=[57.375, 57.12, 58.395],
    input_format="BGR",
)
