from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers

from hrnet_d2.modeling import MaxIoUCascadeROIHeads, MaxIoUMatcher

from .faster_rcnn import model

model.proposal_generator.update(
    post_nms_topk=(2000, 1000),
    anchor_boundary_thresh=0,  # anchors inside the image only
    smooth_l1_beta=1 / 9,
)
for name in ("box_head", "box_predictor", "proposal_matcher"):
    model.roi_heads.pop(name)
model.roi_heads.update(
    _target_=MaxIoUCascadeROIHeads,
    box_heads=[
        L(FastRCNNConvFCHead)(
            input_shape=ShapeSpec(channels=256, height=7, width=7),
            conv_dims=[],
            fc_dims=[1024, 1024],
        )
        for _ in range(3)
    ],
    box_predictors=[
        L(FastRCNNOutputLayers)(
            input_shape=ShapeSpec(channels=1024),
            box2box_transform=L(Box2BoxTransform)(weights=(center, center, size, size)),
            num_classes="${...num_classes}",
            cls_agnostic_bbox_reg=True,
            smooth_l1_beta=1.0,
            test_score_thresh=0.05,
            test_nms_thresh=0.5,
            test_topk_per_image=100,
        )
        # 1 / std: MMDetection's third stage has 0.033 and 0.067.
        for center, size in ((10.0, 5.0), (20.0, 10.0), (30.303030303030305, 14.925373134328357))
    ],
    proposal_matchers=[
        L(MaxIoUMatcher)(
            thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False, min_pos_iou=iou
        )
        for iou in (0.5, 0.6, 0.7)
    ],
    stage_loss_weights=[1.0, 0.5, 0.25],
)
