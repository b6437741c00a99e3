"""Configs, data and models of the compatibility tests: W18, small images, narrow heads."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage
from torch import nn

from hrnet_d2 import add_hrnet_config
from hrnet_d2.data.datasets import shapes
from tests.configs import FOLDER

BASES = {
    "faster_rcnn": "Base-RCNN-HRNetV2p.yaml",
    "mask_rcnn": "Base-Mask-RCNN-HRNetV2p.yaml",
    "cascade_rcnn": "Base-Cascade-RCNN-HRNetV2p.yaml",
    "cascade_mask_rcnn": "Base-Cascade-Mask-RCNN-HRNetV2p.yaml",
    "htc": "Base-HTC-HRNetV2p.yaml",
    "fcos": "Base-FCOS-HRNetV2p.yaml",
}
TRAIN, VAL = "compat_train", "compat_val"
IMAGES = 4


def register_data(folder: Path) -> None:
    """Draw a few of the built-in images into ``folder`` and register them as two datasets."""
    for name in (TRAIN, VAL):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        images, annotations = [], []
        for index in range(IMAGES):
            image, semantic, objects = shapes.draw(2020, index)
            for part, pixels in (("images", image), ("maps", semantic)):
                (folder / part).mkdir(exist_ok=True)
                cv2.imwrite(str(folder / part / f"{index}.png"), pixels)
            height, width = semantic.shape
            images.append(
                {"id": index, "file_name": f"{index}.png", "height": height, "width": width}
            )
            annotations += [
                {"id": len(annotations) + i + 1, "image_id": index, **annotation}
                for i, annotation in enumerate(objects)
            ]
        categories = [{"id": i + 1, "name": n} for i, n in enumerate(shapes.THING_CLASSES)]
        text = {"images": images, "annotations": annotations, "categories": categories, "info": {}}
        file = folder / f"{name}.json"
        file.write_text(json.dumps(text))

        def records(name=name, file=file):
            found = load_coco_json(str(file), str(folder / "images"), name)
            for record in found:
                map_name = Path(record["file_name"]).name
                record["sem_seg_file_name"] = str(folder / "maps" / map_name)
            return found

        DatasetCatalog.register(name, records)
        MetadataCatalog.get(name).set(
            json_file=str(file),
            image_root=str(folder / "images"),
            evaluator_type="coco",
            thing_classes=shapes.THING_CLASSES,
            stuff_classes=shapes.SEMANTIC_CLASSES,
        )


def family_config(family: str, output: Path | str = "output") -> CfgNode:
    """The quick-start form of a family, for a few iterations on the data of this module."""
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.merge_from_file(str(FOLDER / BASES[family]))
    cfg.merge_from_file(str(FOLDER / "Base-Shapes.yaml"))
    # After two iterations BatchNorm has no statistics to predict with.
    cfg.MODEL.HRNETV2P.NORM = "GN"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 30
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.FCOS.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (TRAIN,), (VAL,)
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.MAX_ITER = 2
    cfg.SOLVER.STEPS = ()
    cfg.SOLVER.CHECKPOINT_PERIOD = 1
    cfg.OUTPUT_DIR = str(output)
    return cfg


def batch(sizes: Sequence[tuple[int, int]] = ((64, 96), (75, 70)), classes: int = 4) -> list[dict]:
    """Inputs with everything that any head learns from: boxes, masks, keypoints, semantic maps."""
    inputs = []
    for height, width in sizes:
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor([[5.0, 8, 60, 50], [20.0, 20, 50, 60]]))
        instances.gt_classes = torch.tensor([0, classes - 1])
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        masks[0, 8:50, 5:60] = masks[1, 20:60, 20:50] = True
        instances.gt_masks = BitMasks(masks)
        points = torch.rand(2, 17, 3) * torch.tensor([30.0, 30.0, 0.0])
        instances.gt_keypoints = Keypoints(points + torch.tensor([20.0, 20.0, 2.0]))
        inputs.append(
            {
                "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8),
                "instances": instances,
                "sem_seg": torch.randint(0, classes, (height, width)),
                "height": height,
                "width": width,
            }
        )
    return inputs


def check_training(model: nn.Module, inputs: list[dict], unused: str = "") -> None:
    """Losses are finite, a step changes them, and every parameter gets a gradient, but those whose
    names have the pattern ``unused``: of these none does."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    seen = []
    for _ in range(2):
        torch.manual_seed(0)
        with EventStorage(0):
            losses = model.train()(inputs)
        assert losses and all(torch.isfinite(loss).all() for loss in losses.values()), losses
        optimizer.zero_grad()
        sum(losses.values()).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                left_out = bool(unused and re.search(unused, name))
                got = parameter.grad is not None
                assert got or left_out, f"{name} has no gradient"
                assert not (got and left_out) or not parameter.grad.any(), f"{name} has a gradient"
        optimizer.step()
        seen.append({key: loss.item() for key, loss in losses.items()})
    assert seen[0] != seen[1]


def check_instances(output: dict, size: tuple[int, int]) -> None:
    """Detections that are finite and within the image."""
    instances = output["instances"]
    assert instances.image_size == size
    boxes = instances.pred_boxes.tensor
    assert len(boxes) and torch.isfinite(boxes).all() and torch.isfinite(instances.scores).all()
    limit = torch.tensor([size[1], size[0]] * 2)
    assert (boxes >= 0).all() and (boxes <= limit + 1e-3).all()
