"""The backbone inside models that are Detectron2's own."""

import shutil
import subprocess
import sys

import pytest
import torch
from detectron2 import model_zoo as detectron2_zoo
from detectron2.config import LazyCall, get_cfg, instantiate
from detectron2.modeling import BACKBONE_REGISTRY, FPN, META_ARCH_REGISTRY, build_model
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from hrnet_d2 import add_hrnet_config
from hrnet_d2.modeling import HRFPN, HRNet


def batch(*sizes: tuple[int, int]) -> list[dict]:
    inputs = []
    for height, width in sizes:
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor([[10.0, 10, 60, 50]]))
        instances.gt_classes = torch.tensor([1])
        masks = torch.zeros(1, height, width, dtype=torch.bool)
        masks[:, 10:50, 10:60] = True
        instances.gt_masks = BitMasks(masks)
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        inputs.append({"image": image, "instances": instances})
    return inputs


def assert_works(model: nn.Module, *sizes: tuple[int, int]) -> None:
    """A step of training gives every parameter a gradient; then the model predicts."""
    inputs = batch(*sizes)
    with EventStorage(0):
        losses = model.train()(inputs)
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    with torch.no_grad():
        outputs = model.eval()([{"image": entry["image"]} for entry in inputs])
    assert [o["instances"].image_size for o in outputs] == list(sizes)


def stock_config(name: str, stride: int):
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.merge_from_file(detectron2_zoo.get_config_file(name))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_hrnetv2p_backbone"
    cfg.MODEL.HRNETV2P.WIDTH = 4
    cfg.MODEL.HRNETV2P.NORM = "GN"
    cfg.MODEL.HRNETV2P.NECK.STRIDE = stride
    cfg.INPUT.MASK_FORMAT = "bitmask"
    return cfg


@pytest.mark.parametrize(
    "name, stride",
    [
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", 2),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", 1),
    ],
)
def test_stock_yaml(name, stride):
    model = build_model(stock_config(name, stride))
    assert_works(model, (64, 96), (75, 101))


def test_lazy_config():
    model = detectron2_zoo.get_config("common/models/mask_rcnn_fpn.py").model
    model.backbone = LazyCall(HRFPN)(bottom_up=LazyCall(HRNet)(width=4, norm="GN"))
    assert_works(instantiate(model), (64, 64), (70, 90))


def test_the_backbone_under_detectron2s_own_neck():
    backbone = HRNet(4, norm="GN")
    levels = list(backbone.output_shape())
    model = detectron2_zoo.get_config("common/models/mask_rcnn_fpn.py").model
    model.backbone = FPN(backbone, levels, 256, top_block=LastLevelMaxPool())
    assert_works(instantiate(model), (64, 96))


def test_densepose_can_be_imported_beside():
    names = ("build_pose_hrnet_backbone", "build_hrfpn_backbone")  # DensePose's
    assert not any(name in BACKBONE_REGISTRY for name in names)
    cfg = get_cfg()
    add_hrnet_config(cfg)
    assert "HRNET" not in cfg.MODEL
    assert "build_hrnetv2p_backbone" in BACKBONE_REGISTRY
    assert "FCOS" in META_ARCH_REGISTRY and "HybridTaskCascade" in META_ARCH_REGISTRY


def test_keys_are_added_once_and_kept():
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.MODEL.HRNETV2P.WIDTH = 48
    before = cfg.dump()
    add_hrnet_config(cfg)
    assert cfg.dump() == before


def test_importing_writes_nothing_and_says_where_detectron2_is_missing(tmp_path):
    code = "import sys; sys.modules['detectron2'] = None; import hrnet_d2"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 1
    assert "hrnet_d2 needs Detectron2" in result.stderr.splitlines()[-1]

    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("raise ImportError('libcudnn.so.9')")
    result = subprocess.run(
        [sys.executable, "-c", "import hrnet_d2"], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.stderr.splitlines()[-1] == "ImportError: libcudnn.so.9"
    shutil.rmtree(tmp_path / "detectron2")

    code = "import hrnet_d2, sys; print('detectron2.engine' in sys.modules)"
    env = {"PATH": "", "HOME": str(tmp_path), "HRNET_D2_CACHE": str(tmp_path / "cache")}
    result = subprocess.run(
        [sys.executable, "-B", "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "False", "importing must not pull in the trainer"
    assert not list(tmp_path.iterdir())
