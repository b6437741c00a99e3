"""A detector small enough to train within a test, on the built-in pictures."""

from pathlib import Path

from detectron2.config import CfgNode, get_cfg

from hrnet_d2 import add_hrnet_config

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = [
    "MODEL.HRNETV2P.WIDTH", "4",
    "MODEL.HRNETV2P.NORM", "GN",  # an untrained BatchNorm has no statistics to predict with
    "MODEL.HRNETV2P.NECK.OUT_CHANNELS", "8",
    "MODEL.ROI_BOX_HEAD.FC_DIM", "16",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN", "50",
    "MODEL.RPN.PRE_NMS_TOPK_TEST", "50",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", "20",
    "MODEL.RPN.POST_NMS_TOPK_TEST", "20",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0",
    "INPUT.MIN_SIZE_TRAIN", "(64,)",
    "INPUT.MIN_SIZE_TEST", "64",
    "DATASETS.TEST", "()",
    "SOLVER.IMS_PER_BATCH", "2",
    "SOLVER.STEPS", "(4,)",
    "SOLVER.MAX_ITER", "6",
    "SOLVER.WARMUP_ITERS", "2",
    "SEED", "1",
]  # fmt: skip
QUICK_START = str(CONFIGS / "quick_start" / "faster_rcnn_hrnetv2p_w18_shapes.yaml")


def tiny_config(output: Path, *overrides: str) -> CfgNode:
    """Faster R-CNN of width 4 that writes to ``output``."""
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.merge_from_file(QUICK_START)
    cfg.merge_from_list([*TINY, "OUTPUT_DIR", str(output), *overrides])
    return cfg
