"""Every config of the table and of the quick start builds, trains a step and predicts."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from hrnet_d2.data import set_num_classes
from tests.configs import FOLDER, LEAVES, QUICK_START, family_leaves
from tests.configs import load_config as load

EPOCH = 7330  # iterations, 16 images each
EPOCHS = {"1x": (8, 11, 12), "2x": (16, 22, 24), "20e": (16, 19, 20), "28e": (24, 27, 28)}


def test_the_table_is_complete():
    found = {path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("*/*_coco.yaml")}
    assert found == set(LEAVES) and len(LEAVES) == 39


@pytest.mark.parametrize("name", LEAVES)
def test_leaf_states_its_own_and_no_more(name):
    assert len((FOLDER / name).read_text().splitlines()) <= 12
    cfg = load(name)
    stem = Path(name).stem
    if "hrnetv2p" in stem:
        width = int(stem.split("_w")[1][:2])
        assert width == cfg.MODEL.HRNETV2P.WIDTH
        assert f"hrnetv2_w{width}-" in cfg.MODEL.WEIGHTS
    first, second, last = EPOCHS[stem.split("_")[-2]]
    assert cfg.SOLVER.STEPS == (first * EPOCH, second * EPOCH)
    assert last * EPOCH == cfg.SOLVER.MAX_ITER


@pytest.mark.parametrize("name", LEAVES)
def test_recipe(name):
    cfg = load(name)
    fcos = name.startswith("fcos")
    assert cfg.INPUT.FORMAT == ("BGR" if fcos else "RGB")
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    assert mean[:: -1 if fcos else 1] == cfg.MODEL.PIXEL_MEAN
    assert std[:: -1 if fcos else 1] == cfg.MODEL.PIXEL_STD
    assert cfg.INPUT.MIN_SIZE_TRAIN == ((640, 800) if "mstrain" in name else (800,))
    assert cfg.INPUT.BACKEND == "opencv" and cfg.INPUT.MASK_FORMAT == "bitmask"
    solver = cfg.SOLVER
    assert solver.IMS_PER_BATCH == solver.REFERENCE_BATCH_SIZE == 16
    assert solver.BASE_LR == solver.REFERENCE_LR == (0.01 if fcos else 0.02)
    assert solver.WEIGHT_DECAY == solver.WEIGHT_DECAY_NORM == 1e-4
    assert solver.WARMUP_ITERS == 500
    assert solver.WARMUP_METHOD == ("constant" if fcos else "linear")
    if fcos:
        return
    cascade = name.startswith(("cascade", "htc"))
    rpn, roi = cfg.MODEL.RPN, cfg.MODEL.ROI_HEADS
    assert (rpn.POST_NMS_TOPK_TRAIN, rpn.BOUNDARY_THRESH) == ((2000, 0) if cascade else (1000, -1))
    assert rpn.SMOOTH_L1_BETA == pytest.approx(1 / 9 if cascade else 0)
    assert cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA == (1.0 if cascade else 0.0)
    assert roi.MATCH_LOW_QUALITY == name.startswith(("mask", "htc"))
    assert roi.SCORE_THRESH_TEST == (0.001 if name.startswith("htc") else 0.05)


def shrink(cfg: CfgNode) -> None:
    """Fewer candidates and classes: what is tested is that the parts fit together."""
    set_num_classes(cfg, 3)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 50
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16


def batch(size=(96, 128)) -> list[dict]:
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor([[10.0, 10, 60, 70], [50, 20, 120, 90]]))
    instances.gt_classes = torch.tensor([0, 2])
    instances.gt_masks = BitMasks(torch.zeros(2, *size, dtype=torch.bool))
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    sem_seg = torch.randint(0, 4, size)
    with_objects = {"image": image, "instances": instances, "sem_seg": sem_seg}
    without = {"image": image[:, :64], "instances": Instances((64, 128))}
    without["instances"].gt_boxes = Boxes(torch.zeros(0, 4))
    without["instances"].gt_classes = torch.zeros(0, dtype=torch.long)
    without["instances"].gt_masks = BitMasks(torch.zeros(0, 64, 128, dtype=torch.bool))
    return [with_objects, without]


@pytest.mark.parametrize("name", family_leaves() + QUICK_START)
def test_trains_a_step_and_predicts(name):
    cfg = load(name)
    shrink(cfg)
    torch.manual_seed(0)
    model = build_model(cfg)
    with EventStorage(0):
        losses = model.train()(batch())
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, "distributed training would wait for these for ever"
    with torch.no_grad():
        outputs = model.eval()([{"image": b["image"], "height": 48, "width": 64} for b in batch()])
    for output in outputs:
        instances = output["instances"]
        assert instances.image_size == (48, 64)
        assert instances.has("pred_masks") == cfg.MODEL.MASK_ON


@pytest.mark.parametrize(
    "name, millions",
    [
        ("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml", 27.48),
        ("mask_rcnn/mask_rcnn_hrnetv2p_w18_1x_coco.yaml", 30.13),
        ("cascade_rcnn/cascade_rcnn_hrnetv2p_w18_20e_coco.yaml", 55.12),
        ("cascade_mask_rcnn/cascade_mask_rcnn_hrnetv2p_w18_20e_coco.yaml", 63.05),
        ("htc/htc_hrnetv2p_w18_20e_coco.yaml", 65.99),
        ("fcos/fcos_hrnetv2p_w18_gn-head_4x4_1x_coco.yaml", 17.50),
        ("htc/htc_x101_64x4d_fpn_28e_coco.yaml", 138.16),
    ],
)
def test_parameters_are_as_many_as_mmdetections(name, millions):
    cfg = load(name)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    count = sum(p.numel() for p in model.parameters())
    if "x101" in name:  # frozen layers keep their affine as buffers
        count += sum(
            b.numel() for n, b in model.named_buffers() if n.endswith((".weight", ".bias"))
        )
    assert round(count / 1e6, 2) == millions
