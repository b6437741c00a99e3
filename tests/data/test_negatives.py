"""Images without objects as negatives: they stay in the data, and every family trains on them."""

import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage

from hrnet_d2 import model_zoo
from hrnet_d2.data import build_train_loader, configure_custom_data
from hrnet_d2.modeling import build_model

FAMILIES = [
    "faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco",
    "mask_rcnn/mask_rcnn_hrnetv2p_w18_1x_coco",
    "cascade_rcnn/cascade_rcnn_hrnetv2p_w18_20e_coco",
    "cascade_mask_rcnn/cascade_mask_rcnn_hrnetv2p_w18_20e_coco",
    "htc/htc_hrnetv2p_w18_20e_coco",
    "fcos/fcos_hrnetv2p_w18_gn-head_4x4_1x_coco",
]
SMALL = [
    "MODEL.DEVICE", "cpu",
    "MODEL.WEIGHTS", "",
    "MODEL.HRNETV2P.WIDTH", "4",
    "MODEL.HRNETV2P.NORM", "GN",
    "MODEL.HRNETV2P.NECK.OUT_CHANNELS", "32",
    "MODEL.ROI_BOX_HEAD.FC_DIM", "16",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN", "50",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", "20",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16",
    "MODEL.HTC.SEMANTIC_ON", "False",
    "INPUT.MIN_SIZE_TRAIN", "(64,)",
    "SOLVER.IMS_PER_BATCH", "2",
    "DATALOADER.NUM_WORKERS", "0",
    "SEED", "3",
]  # fmt: skip


@pytest.fixture
def mostly_empty(tmp_path):
    """Six images, of which one has an object."""
    images = []
    for i in range(6):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((64, 64, 3), 40 * i, np.uint8))
        images.append({"id": i, "file_name": f"{i}.png", "height": 64, "width": 64})
    annotation = {"id": 1, "image_id": 3, "category_id": 1, "bbox": [8, 8, 30, 30], "area": 900}
    annotation |= {"iscrowd": 0, "segmentation": [[8, 8, 38, 8, 38, 38, 8, 38]]}
    data = {"images": images, "annotations": [annotation], "categories": [{"id": 1, "name": "a"}]}
    path = tmp_path / "data.json"
    path.write_text(json.dumps(data))
    return path, tmp_path


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_on_images_without_objects(name, mostly_empty):
    cfg = model_zoo.get_config(f"{name}.yaml")
    cfg.merge_from_list([*SMALL, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"])
    configure_custom_data(cfg, mostly_empty)
    batches = iter(build_train_loader(cfg))
    seen = [record for _ in range(6) for record in next(batches)]
    assert {record["image_id"] for record in seen} == set(range(6))
    empty = [record for record in seen if not len(record["instances"])]
    torch.manual_seed(0)
    model = build_model(cfg).train()
    with EventStorage():
        losses = model(empty[:2])
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    total = sum(losses.values())
    assert total > 0  # the background is learned
    total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(g).all() for g in gradients)


def test_they_are_left_out_by_default(mostly_empty):
    cfg = model_zoo.get_config(f"{FAMILIES[0]}.yaml")
    cfg.merge_from_list(SMALL)
    configure_custom_data(cfg, mostly_empty)
    batches = iter(build_train_loader(cfg))
    assert {record["image_id"] for _ in range(3) for record in next(batches)} == {3}
