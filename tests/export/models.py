"""Models of the reference cases, which detect something, for tests of exports."""

from hrnet_d2 import Predictor, model_zoo
from tests.parity import load_case

CASES = {
    "faster_rcnn_hrnetv2p_w18": "faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml",
    "mask_rcnn_hrnetv2p_w32": "mask_rcnn/mask_rcnn_hrnetv2p_w32_1x_coco.yaml",
    "cascade_rcnn_hrnetv2p_w18": "cascade_rcnn/cascade_rcnn_hrnetv2p_w18_20e_coco.yaml",
    "cascade_mask_rcnn_hrnetv2p_w18": (
        "cascade_mask_rcnn/cascade_mask_rcnn_hrnetv2p_w18_20e_coco.yaml"
    ),
    "htc_hrnetv2p_w18": "htc/htc_hrnetv2p_w18_20e_coco.yaml",
    "fcos_hrnetv2p_w18": "fcos/fcos_hrnetv2p_w18_gn-head_4x4_1x_coco.yaml",
}
MMDET1_CASES = {
    "mmdet1/v1_faster_rcnn_w48": "faster_rcnn/faster_rcnn_hrnetv2p_w48_2x_coco.yaml",
    "mmdet1/v1_cascade_mask_rcnn_w18": (
        "cascade_mask_rcnn/cascade_mask_rcnn_hrnetv2p_w18_20e_coco.yaml"
    ),
    "mmdet1/v1_htc_w18": "htc/htc_hrnetv2p_w18_20e_coco.yaml",
    "mmdet1/v1_fcos_w48": "fcos/fcos_hrnetv2p_w48_gn-head_mstrain_640-800_4x4_2x_coco.yaml",
}


def case_config(name, folder):
    """The config of a case, its checkpoint in ``folder``, at a size that is quick to run."""
    cfg = model_zoo.get_config((CASES | MMDET1_CASES)[name])
    cfg.defrost()
    case = load_case(name)
    case.configure(cfg)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 160
    cfg.MODEL.WEIGHTS = case.save_checkpoint(folder / "case.pth")
    return cfg


def case_predictor(name, folder):
    """The plain model of a case."""
    return Predictor(case_config(name, folder), optimize=False)
