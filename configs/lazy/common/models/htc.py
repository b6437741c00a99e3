# Trained with COCO's stuff maps; for data without maps set model.roi_heads.semantic_head and
# model.roi_heads.semantic_pooler to None (null on the command line).
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler

from hrnet_d2.modeling import FusedSemanticHead, HTCMaskHead, HTCROIHeads, HybridTaskCascade

from .cascade_mask_rcnn import model

model._target_ = HybridTaskCascade
model.roi_heads._target_ = HTCROIHeads
for stage, (head, predictor, matcher) in enumerate(
    zip(
        model.roi_heads.mask_head,
        model.roi_heads.box_predictors,
        model.roi_heads.proposal_matchers,
        strict=True,
    )
):
    head.update(_target_=HTCMaskHead, with_conv_res=stage > 0)
    predictor.test_score_thresh = 0.001
    matcher.allow_low_quality_matches = True
model.roi_heads.update(
    semantic_head=L(FusedSemanticHead)(
        input_shape={
            f"p{level}": ShapeSpec(channels=256, stride=2**level) for level in range(2, 7)
        },
        in_features=["p2", "p3", "p4", "p5", "p6"],
        num_classes=183,
        common_stride=8,
        conv_dim=256,
        ignore_value=255,
        loss_weight=0.2,
    ),
    semantic_pooler=L(ROIPooler)(
        output_size=14, scales=[1 / 8], sampling_ratio=0, pooler_type="ROIAlignV2"
    ),
)
