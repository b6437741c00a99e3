"""Models of the reference cases, and others of their kind, for tests of exports.

Their weights are no trained ones, but they detect something.
"""

import re
from dataclasses import dataclass

import torch

from hrnet_d2 import Predictor, model_zoo
from hrnet_d2.data import set_num_classes
from tests.parity import load_case
from tests.reference.weights import reference_state_dict

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
# Which bring their settings in the file.
OTHER_CASES = {
    "fcos_hrnetv2p_w48": "fcos/fcos_hrnetv2p_w48_gn-head_mstrain_640-800_4x4_2x_coco.yaml",
    "fcos_w18_2020_03": "fcos/fcos_hrnetv2p_w18_gn-head_4x4_1x_coco.yaml",
    "htc_x101_64x4d_fpn": "htc/htc_x101_64x4d_fpn_28e_coco.yaml",
}


@dataclass(frozen=True)
class Variant:
    """A model of another width or number of classes than a case's.

    Attributes:
        config: of the table.
        case: whose parameters it has, by name.
        width: of its first branch.
        num_classes: of the data that it would be fine-tuned on.
    """

    config: str
    case: str
    width: int
    num_classes: int = 80

    def save_checkpoint(self, path) -> str:
        """Weights by the case's recipe, as MMDetection would save them; returns the path."""
        case = load_case(self.case)
        old = case.spec["width"]
        widths = {old * 2**i: self.width * 2**i for i in range(4)} | {old * 15: self.width * 15}
        parameters = []
        for name, shape in case.spec["parameters"]:
            # What the layers before the first transition and after the neck's have stays.
            if name.startswith(("backbone.stage", "backbone.transition2", "backbone.transition3")):
                shape = [widths.get(side, side) for side in shape]
            elif name.startswith("backbone.transition1") and shape:
                shape = [widths.get(shape[0], shape[0]), *shape[1:]]
            elif name.startswith("neck.reduction_conv") and len(shape) == 4:
                shape = [shape[0], widths[shape[1]], *shape[2:]]
            if re.search(r"(fc_cls|conv_cls|mask_head.*conv_logits)\.", name):
                classes = {80: self.num_classes, 81: self.num_classes + 1}
                shape = [classes.get(side, side) for side in shape]
            elif re.search(r"fc_reg\.", name) and shape[0] == 320:
                shape = [4 * self.num_classes, *shape[1:]]
            parameters.append([name, shape])
        arrays = reference_state_dict(parameters, case.spec["seed"])
        state = {name: torch.from_numpy(value) for name, value in arrays.items()}
        torch.save({"meta": {}, "state_dict": state}, path)
        return str(path)


VARIANTS = {
    "mask_rcnn_w18": Variant(
        "mask_rcnn/mask_rcnn_hrnetv2p_w18_1x_coco.yaml", "mask_rcnn_hrnetv2p_w32", 18
    ),
    "faster_rcnn_w32": Variant(
        "faster_rcnn/faster_rcnn_hrnetv2p_w32_1x_coco.yaml", "faster_rcnn_hrnetv2p_w18", 32
    ),
    "cascade_rcnn_w40": Variant(
        "cascade_rcnn/cascade_rcnn_hrnetv2p_w40_20e_coco.yaml", "cascade_rcnn_hrnetv2p_w18", 40
    ),
    "htc_w48": Variant("htc/htc_hrnetv2p_w48_28e_coco.yaml", "htc_hrnetv2p_w18", 48),
    "faster_rcnn_w18_1_class": Variant(
        "faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml", "faster_rcnn_hrnetv2p_w18", 18, 1
    ),
    "mask_rcnn_w18_3_classes": Variant(
        "mask_rcnn/mask_rcnn_hrnetv2p_w18_1x_coco.yaml", "mask_rcnn_hrnetv2p_w32", 18, 3
    ),
    "fcos_w18_1_class": Variant(
        "fcos/fcos_hrnetv2p_w18_gn-head_4x4_1x_coco.yaml", "fcos_hrnetv2p_w18", 18, 1
    ),
    "htc_w18_3_classes": Variant("htc/htc_hrnetv2p_w18_20e_coco.yaml", "htc_hrnetv2p_w18", 18, 3),
    "faster_rcnn_w18_1000_classes": Variant(
        "faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml", "faster_rcnn_hrnetv2p_w18", 18, 1000
    ),
}


def case_config(name, folder):
    """The config of a case or variant, its checkpoint in ``folder``, at a quick size."""
    if name in VARIANTS:
        variant = VARIANTS[name]
        cfg = model_zoo.get_config(variant.config)
        cfg.defrost()
        cfg.MODEL.DEVICE = "cpu"
        set_num_classes(cfg, variant.num_classes)
        if variant.num_classes != 80:
            cfg.DATASETS.TEST = ()
            cfg.DATASETS.CLASS_NAMES = [f"class {i}" for i in range(variant.num_classes)]
        cfg.MODEL.WEIGHTS = variant.save_checkpoint(folder / "case.pth")
    else:
        cfg = model_zoo.get_config((CASES | MMDET1_CASES | OTHER_CASES)[name])
        cfg.defrost()
        case = load_case(name)
        case.configure(cfg)
        cfg.MODEL.WEIGHTS = case.save_checkpoint(folder / "case.pth")
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 160
    return cfg


def case_predictor(name, folder):
    """The plain model of a case."""
    return Predictor(case_config(name, folder), optimize=False)
