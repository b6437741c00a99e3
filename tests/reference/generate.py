"""Make the reference cases: run MMDetection 3.3 on weights that :mod:`weights` rebuilds.

    python tests/reference/generate.py --list
    python tests/reference/generate.py faster_rcnn_hrnetv2p_w18 --output regenerated/
    python tests/reference/generate.py --all --output regenerated/
    python tests/reference/generate.py mask_rcnn_hrnetv2p_w32 --seed 102 --name other_seed

Needs an environment with MMDetection 3.3.0 and what it is built on (mmcv 2.1.0, mmengine 0.10,
torch 2.1, OpenCV, NumPy), and neither Detectron2 nor this package. It runs in float32 on the CPU.

An existing case is made again on its own ground truth, which is read from its npz. A case with a
seed of its own gets new ground truth: boxes at random places, ellipses inscribed in them as masks,
and a semantic map of random classes in blocks of 32 pixels, whose first block is to be ignored.

README.md beside this file says what the arrays are.
"""

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))  # runs as a script, outside of this project's environment

from arrays import draw_ground_truth, pack, resize, sample, statistics, unpack  # noqa: E402
from weights import reference_state_dict  # noqa: E402

STORED_MASKS = 20
EVERYTHING = 10**6  # a sampler of so many takes every anchor and every proposal

GRADIENTS = (
    "backbone.conv1.weight",
    "backbone.stage4.0.fuse_layers.0.3.0.weight",
    "neck.reduction_conv.conv.weight",
    "neck.fpn_convs.0.conv.weight",
    "rpn_head.rpn_conv.weight",
    "roi_head.bbox_head.fc_cls.weight",
    "roi_head.bbox_head.fc_reg.weight",
    "roi_head.bbox_head.0.fc_cls.weight",
    "roi_head.bbox_head.0.fc_reg.weight",
    "roi_head.bbox_head.1.fc_cls.weight",
    "roi_head.bbox_head.1.fc_reg.weight",
    "roi_head.bbox_head.2.fc_cls.weight",
    "roi_head.bbox_head.2.fc_reg.weight",
    "roi_head.mask_head.conv_logits.weight",
    "roi_head.mask_head.0.conv_logits.weight",
    "roi_head.mask_head.2.conv_logits.weight",
    "roi_head.semantic_head.conv_logits.weight",
    "bbox_head.conv_cls.weight",
    "bbox_head.conv_reg.weight",
    "bbox_head.conv_centerness.weight",
)


@dataclass(frozen=True)
class Case:
    """One case: an MMDetection config, a width, an image at a size, and the seed of the weights."""

    name: str
    config: str  # below MMDetection's configs/
    width: int | None  # of HRNet; set on the config where that has another
    image: str
    scale: tuple[int, int]  # (long, short) limits of the resized image
    seed: int


COFFEE, ASTRONAUT, CHELSEA = (
    ("coffee.png", (512, 320)),
    ("astronaut.png", (512, 352)),
    ("chelsea.png", (480, 320)),
)
CASES = {
    name: Case(name, config, width, *image, seed)
    for name, config, width, image, seed in [
        ("faster_rcnn_hrnetv2p_w18", "hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py", 18, COFFEE, 1),
        ("mask_rcnn_hrnetv2p_w32", "hrnet/mask-rcnn_hrnetv2p-w32-1x_coco.py", 32, CHELSEA, 2),
        (
            "cascade_rcnn_hrnetv2p_w18",
            "hrnet/cascade-rcnn_hrnetv2p-w18-20e_coco.py",
            18,
            ASTRONAUT,
            3,
        ),
        (
            "cascade_mask_rcnn_hrnetv2p_w18",
            "hrnet/cascade-mask-rcnn_hrnetv2p-w18_20e_coco.py",
            18,
            COFFEE,
            4,
        ),
        ("htc_hrnetv2p_w18", "hrnet/htc_hrnetv2p-w18_20e_coco.py", 18, ASTRONAUT, 5),
        ("htc_x101_64x4d_fpn", "htc/htc_x101-64x4d_fpn_16xb1-28e_coco.py", None, CHELSEA, 6),
        ("fcos_hrnetv2p_w18", "hrnet/fcos_hrnetv2p-w18-gn-head_4xb4-1x_coco.py", 18, COFFEE, 7),
        (
            "fcos_hrnetv2p_w48",
            "hrnet/fcos_hrnetv2p-w40-gn-head_ms-640-800-4xb4-2x_coco.py",
            48,
            CHELSEA,
            8,
        ),
    ]
}


def ground_truth(case: Case, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """That of the case of this name and seed, where there is one; else drawn."""
    if CASES.get(case.name) == case and (FOLDER / f"{case.name}.npz").exists():
        with np.load(FOLDER / f"{case.name}.npz") as arrays:
            return {key: arrays[key] for key in arrays if key.startswith("gt_")}
    return draw_ground_truth(size, case.seed)


def write(folder: Path, spec: dict, arrays: dict[str, np.ndarray]) -> None:
    """Write NAME.json and NAME.npz."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{spec['name']}.json").write_text(json.dumps(spec), encoding="utf-8")
    np.savez_compressed(folder / f"{spec['name']}.npz", **arrays)


def build_model(case: Case):
    """MMDetection's model of the case, with the case's weights, and its list of parameters."""
    import mmdet
    import torch
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules(init_default_scope=True)
    config = Config.fromfile(str(Path(mmdet.__file__).parent / ".mim" / "configs" / case.config))
    model_config = config.model
    model_config.backbone.pop("init_cfg", None)  # downloads ImageNet weights
    if case.width is not None:
        set_width(model_config, case.width)
    sample_everything(model_config.train_cfg)
    model = MODELS.build(model_config)
    parameters = [[name, list(value.shape)] for name, value in model.state_dict().items()]
    state = reference_state_dict(parameters, case.seed)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    if hasattr(model, "roi_head") and hasattr(model.roi_head, "semantic_head"):
        average_mask_stages(model.roi_head)
    return model, parameters


def set_width(model_config, width: int) -> None:
    """Make an HRNetV2p config one of another width."""
    channels = [width * 2**level for level in range(4)]
    for stage in (2, 3, 4):
        model_config.backbone.extra[f"stage{stage}"].num_channels = tuple(channels[:stage])
    model_config.neck.in_channels = channels


def sample_everything(train_config) -> None:
    """No chance in the losses: every ``num`` of a sampler takes all that there is."""
    stages = []
    for name in ("rpn", "rcnn"):
        part = train_config.get(name) if train_config else None
        stages += part if isinstance(part, (list, tuple)) else [part]
    for stage in stages:
        if stage is not None and "sampler" in stage:
            stage.sampler.num = EVERYTHING


def average_mask_stages(roi_head) -> None:
    """HTC's masks at test are the mean of the three stages, as in MMDetection 2.x.

    3.3.0 runs all three heads and keeps the last one's logits; its caller averages whatever list
    it is given.
    """
    last_stage_only = roi_head._mask_forward

    def all_stages(*args, **kwargs):
        if kwargs.get("training", True):
            return last_stage_only(*args, **kwargs)
        logits = []
        hooks = [
            head.register_forward_hook(lambda _head, _inputs, output: logits.append(output[0]))
            for head in roi_head.mask_head
        ]
        try:
            last_stage_only(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        return {"mask_pred": logits}

    roi_head._mask_forward = all_stages


def data_sample(original: tuple[int, int], resized: tuple[int, int], truth=None, masks=False):
    """The DetDataSample of the image, with ground truth for a training step where given."""
    import torch
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    record = DetDataSample()
    record.set_metainfo(
        {
            "ori_shape": original,
            "img_shape": resized,
            "scale_factor": (resized[1] / original[1], resized[0] / original[0]),
        }
    )
    if truth is not None:
        instances = InstanceData()
        instances.bboxes = torch.from_numpy(truth["gt_boxes"])
        instances.labels = torch.from_numpy(truth["gt_classes"]).long()
        if masks:
            bitmaps = unpack(truth["gt_masks_packed"], resized[1]).astype(np.uint8)
            instances.masks = BitmapMasks(bitmaps, *resized)
            semantic = torch.from_numpy(truth["gt_semantic"])[None]
            record.gt_sem_seg = PixelData(sem_seg=semantic)
        record.gt_instances = instances
        record.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
    return record


def predict(model, image: np.ndarray, original: tuple[int, int]) -> tuple[dict, dict]:
    """Arrays and statistics of the test pass on a resized image (H, W, 3) BGR."""
    import torch

    arrays, found = {}, {}

    def keep(name: str, value, step: int | None = None, largest: bool = True) -> None:
        array = value.detach().numpy()
        arrays[name] = np.ascontiguousarray(sample(array, step))
        found[name] = statistics(array, largest)

    model.eval()
    resized = image.shape[:2]
    raw = {
        "inputs": [torch.from_numpy(image.transpose(2, 0, 1).copy())],
        "data_samples": [data_sample(original, resized)],
    }
    with torch.no_grad():
        batch = model.data_preprocessor(raw, False)
        inputs, samples = batch["inputs"], batch["data_samples"]
        found["input_shape"] = list(inputs.shape)
        levels = model.backbone(inputs)
        features = model.neck(levels)
        for index, level in enumerate(levels):
            keep(f"backbone{index}", level)
        for index, level in enumerate(features):
            keep(f"neck{index}", level)
        if hasattr(model, "rpn_head"):
            (proposals,) = model.rpn_head.predict(features, samples, rescale=False)
            arrays["proposal_boxes"] = proposals.bboxes.numpy()
            arrays["proposal_scores"] = proposals.scores.numpy()
            if hasattr(model.roi_head, "semantic_head"):
                logits, embedded = model.roi_head.semantic_head(features)
                keep("semantic_logits", logits, step=4, largest=False)
                keep("semantic_feature", embedded, step=4, largest=False)
        detections = model.predict(inputs, samples, rescale=True)[0].pred_instances
    arrays["pred_boxes"] = detections.bboxes.numpy()
    arrays["pred_scores"] = detections.scores.numpy()
    arrays["pred_classes"] = detections.labels.numpy()
    if "masks" in detections:
        masks = detections.masks.numpy().astype(bool)
        arrays["pred_mask_areas"] = masks.sum((1, 2))
        arrays["pred_masks_packed_first20"] = pack(masks[:STORED_MASKS])
    return arrays, found


def train_step(model, image: np.ndarray, original: tuple[int, int], truth: dict) -> dict:
    """Losses by MMDetection's names, their sum, and the gradient norms of some parameters."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()  # running statistics
    model.zero_grad()
    masks = getattr(getattr(model, "roi_head", None), "with_mask", False)
    raw = {
        "inputs": [torch.from_numpy(image.transpose(2, 0, 1).copy())],
        "data_samples": [data_sample(original, image.shape[:2], truth, masks)],
    }
    batch = model.data_preprocessor(raw, True)
    losses = model.loss(batch["inputs"], batch["data_samples"])
    total, values = model.parse_losses(losses)
    total.backward()
    parameters = dict(model.named_parameters())
    return {
        "losses": {
            name: float(value)
            for name, value in values.items()
            if "loss" in name and name != "loss"
        },
        "total_loss": float(total),
        "gradient_norms": {
            name: float(parameters[name].grad.norm())
            for name in GRADIENTS
            if name in parameters and parameters[name].grad is not None
        },
    }


def generate(case: Case) -> tuple[dict, dict[str, np.ndarray]]:
    """The JSON and the arrays of a case."""
    original_image = cv2.imread(str(FOLDER / "images" / case.image))
    if original_image is None:
        raise SystemExit(f"cannot read {FOLDER / 'images' / case.image}")
    image = resize(original_image, case.scale)
    original = original_image.shape[:2]
    truth = ground_truth(case, image.shape[:2])
    model, parameters = build_model(case)
    arrays, found = predict(model, image, original)
    step = train_step(model, image, original, truth)
    spec = {
        "name": case.name,
        "mmdet_config": case.config.split("/")[-1],
        "width": case.width,
        "image": case.image,
        "scale": list(case.scale),
        "seed": case.seed,
        "original_size": list(original),
        "resized_size": list(image.shape[:2]),
        "statistics": found,
        **step,
        "parameters": parameters,
    }
    return spec, {"image_resized": image, **arrays, **truth}


def require_mmdetection() -> None:
    """Stop, saying what to install, unless MMDetection 3.3 is there."""
    try:
        import mmdet
    except ImportError as error:
        raise SystemExit(
            f"generate.py needs MMDetection 3.3.0 with mmcv 2.1.0 and torch 2.1 ({error}): "
            "run it in an environment made by MMDetection's install guide"
        ) from error
    if not mmdet.__version__.startswith("3.3."):
        raise SystemExit(
            f"generate.py needs MMDetection 3.3.0, this is {mmdet.__version__}: its results differ"
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names, see --list")
    parser.add_argument("--all", action="store_true", help="every case")
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument("--output", type=Path, default=Path("regenerated"), help="folder to write")
    parser.add_argument("--seed", type=int, help="other weights and ground truth, for one case")
    parser.add_argument("--name", help="name of the case with --seed")
    args = parser.parse_args(arguments)
    if args.list:
        for case in CASES.values():
            print(f"{case.name}: {case.config}, {case.image} at {case.scale}, seed {case.seed}")
        return
    names = list(CASES) if args.all else args.cases
    unknown = [name for name in names if name not in CASES]
    if unknown or not names:
        parser.error(f"name cases of {', '.join(CASES)}" + f"; not {unknown}" * bool(unknown))
    cases = [CASES[name] for name in names]
    if (args.seed is None) != (args.name is None) or (args.name and len(cases) != 1):
        parser.error("--seed and --name go together, with one case")
    if args.name:
        if args.name in CASES:
            parser.error(f"{args.name} is a case already: take another name")
        cases = [replace(cases[0], name=args.name, seed=args.seed)]
    require_mmdetection()
    for case in cases:
        write(args.output, *generate(case))
        print(f"wrote {args.output / case.name}.json and .npz")


if __name__ == "__main__":
    main()
