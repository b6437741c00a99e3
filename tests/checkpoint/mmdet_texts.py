"""Config texts as MMDetection of three times wrote them into checkpoints, for every family.

``text(family, style)`` gives the text of the family's published HRNetV2p config: "3.x" and "2.x" as
printed by ``Config.pretty_text``, "2020" as the raw texts of the base files and the config itself
one after another. ``change`` alters one value in what they are made from.
"""

import copy

FAMILIES = ("faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn", "htc", "fcos")
STYLES = ("2.x", "3.x", "2020")
WIDTHS = {"mask_rcnn": 32}  # as the reference cases have them, whose shapes the tests use
RGB = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "to_rgb": True}
BGR = {"mean": [103.53, 116.28, 123.675], "std": [57.375, 57.12, 58.395], "to_rgb": False}


def width_of(family: str) -> int:
    return WIDTHS.get(family, 18)


def build(family: str) -> dict:
    """The values of a 2.x config (2.8 and later)."""
    cascade = family in ("cascade_rcnn", "cascade_mask_rcnn", "htc")
    masks = "mask" in family or family == "htc"
    model = {
        "type": {"htc": "HybridTaskCascade", "fcos": "FCOS"}.get(
            family, "CascadeRCNN" if cascade else "MaskRCNN" if masks else "FasterRCNN"
        ),
        "backbone": _backbone(width_of(family)),
        "neck": {
            "type": "HRFPN",
            "in_channels": [width_of(family) * 2**i for i in range(4)],
            "out_channels": 256,
        },
    }
    norm = BGR if family == "fcos" else RGB
    if family == "fcos":
        model["neck"].update(stride=2, num_outs=5)
        _add_fcos(model)
    else:
        _add_two_stage(model, cascade, masks, family)
    return {
        "model": model,
        "img_norm_cfg": norm,
        "data": {
            "samples_per_gpu": 4 if family == "fcos" else 2,
            "test": {"type": "CocoDataset", "pipeline": _test_pipeline(norm)},
        },
        "optimizer": {"type": "SGD", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.0001},
        "optimizer_config": {"grad_clip": None},
        "lr_config": {"policy": "step", "warmup": "linear", "step": [8, 11]},
        "total_epochs": 12,
    }


def _backbone(width: int) -> dict:
    stages = {"stage1": (1, 1, "BOTTLENECK", [64])}
    for i, modules in ((2, 1), (3, 4), (4, 3)):
        stages[f"stage{i}"] = (modules, i, "BASIC", [width * 2**b for b in range(i)])
    return {
        "type": "HRNet",
        "extra": {
            name: {
                "num_modules": modules,
                "num_branches": branches,
                "block": block,
                "num_blocks": (4,) * branches,
                "num_channels": tuple(channels),
            }
            for name, (modules, branches, block, channels) in stages.items()
        },
    }


def _coder(stds: list) -> dict:
    return {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": stds}


def _box_loss(cascade: bool, beta: float) -> dict:
    if not cascade:
        return {"type": "L1Loss", "loss_weight": 1.0}
    return {"type": "SmoothL1Loss", "beta": beta, "loss_weight": 1.0}


def _extractor(size: int) -> dict:
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
        "out_channels": 256,
        "featmap_strides": [4, 8, 16, 32],
    }


def _box_head(cascade: bool, stds: list) -> dict:
    return {
        "type": "Shared2FCBBoxHead",
        "in_channels": 256,
        "fc_out_channels": 1024,
        "roi_feat_size": 7,
        "num_classes": 80,
        "bbox_coder": _coder(stds),
        "reg_class_agnostic": cascade,
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        "loss_bbox": _box_loss(cascade, 1.0),
    }


def _stage(threshold: float, low_quality: bool) -> dict:
    return {
        "assigner": {
            "type": "MaxIoUAssigner",
            "pos_iou_thr": threshold,
            "neg_iou_thr": threshold,
            "min_pos_iou": threshold,
            "match_low_quality": low_quality,
            "ignore_iof_thr": -1,
        },
        "sampler": {"type": "RandomSampler", "num": 512, "pos_fraction": 0.25},
        "pos_weight": -1,
        "debug": False,
    }


def _add_two_stage(model: dict, cascade: bool, masks: bool, family: str) -> None:
    model["rpn_head"] = {
        "type": "RPNHead",
        "in_channels": 256,
        "feat_channels": 256,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "scales": [8],
            "ratios": [0.5, 1.0, 2.0],
            "strides": [4, 8, 16, 32, 64],
        },
        "bbox_coder": _coder([1.0] * 4),
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        "loss_bbox": _box_loss(cascade, 1.0 / 9.0),
    }
    stds = [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]]
    heads = [_box_head(cascade, std) for std in stds]
    roi = {
        "type": "CascadeRoIHead" if cascade else "StandardRoIHead",
        "bbox_roi_extractor": _extractor(7),
        "bbox_head": heads if cascade else heads[0],
    }
    if cascade:
        roi.update(num_stages=3, stage_loss_weights=[1, 0.5, 0.25])
    if masks:
        head = {
            "type": "FCNMaskHead",
            "num_convs": 4,
            "in_channels": 256,
            "conv_out_channels": 256,
            "num_classes": 80,
            "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
        }
        roi.update(mask_roi_extractor=_extractor(14), mask_head=head)
    if family == "htc":
        roi.update(
            type="HybridTaskCascadeRoIHead",
            interleaved=True,
            mask_info_flow=True,
            mask_head=[
                {**head, "type": "HTCMaskHead", **({"with_conv_res": False} if i == 0 else {})}
                for i in range(3)
            ],
            semantic_roi_extractor={**_extractor(14), "featmap_strides": [8]},
            semantic_head={
                "type": "FusedSemanticHead",
                "num_ins": 5,
                "fusion_level": 1,
                "num_convs": 4,
                "in_channels": 256,
                "conv_out_channels": 256,
                "num_classes": 183,
                "ignore_label": 255,
                "loss_weight": 0.2,
            },
        )
    model["roi_head"] = roi
    low_quality = family in ("mask_rcnn", "htc")
    stages = [_stage(threshold, low_quality) for threshold in (0.5, 0.6, 0.7)]
    proposals = 2000 if cascade else 1000
    nms = {"type": "nms", "iou_threshold": 0.7}
    model["train_cfg"] = {
        "rpn": {
            "assigner": {
                "type": "MaxIoUAssigner",
                "pos_iou_thr": 0.7,
                "neg_iou_thr": 0.3,
                "min_pos_iou": 0.3,
                "match_low_quality": True,
                "ignore_iof_thr": -1,
            },
            "sampler": {"type": "RandomSampler", "num": 256, "pos_fraction": 0.5},
            "allowed_border": 0 if cascade else -1,
            "pos_weight": -1,
            "debug": False,
        },
        "rpn_proposal": {
            "nms_pre": 2000,
            "max_per_img": proposals,
            "nms": nms,
            "min_bbox_size": 0,
        },
        "rcnn": stages if cascade else stages[0],
    }
    rcnn = {
        "score_thr": 0.001 if family == "htc" else 0.05,
        "nms": {"type": "nms", "iou_threshold": 0.5},
        "max_per_img": 100,
        **({"mask_thr_binary": 0.5} if masks else {}),
    }
    model["test_cfg"] = {
        "rpn": {"nms_pre": 1000, "max_per_img": 1000, "nms": nms, "min_bbox_size": 0},
        "rcnn": rcnn,
    }


def _add_fcos(model: dict) -> None:
    model["bbox_head"] = {
        "type": "FCOSHead",
        "num_classes": 80,
        "in_channels": 256,
        "stacked_convs": 4,
        "feat_channels": 256,
        "strides": [8, 16, 32, 64, 128],
        "loss_cls": {
            "type": "FocalLoss",
            "use_sigmoid": True,
            "gamma": 2.0,
            "alpha": 0.25,
            "loss_weight": 1.0,
        },
        "loss_bbox": {"type": "IoULoss", "loss_weight": 1.0},
        "loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
    }
    model["train_cfg"] = {"allowed_border": -1, "pos_weight": -1, "debug": False}
    model["test_cfg"] = {
        "nms_pre": 1000,
        "min_bbox_size": 0,
        "score_thr": 0.05,
        "nms": {"type": "nms", "iou_threshold": 0.5},
        "max_per_img": 100,
    }


def _test_pipeline(norm: dict) -> list:
    inner = [
        {"type": "Resize", "keep_ratio": True},
        {"type": "RandomFlip"},
        {"type": "Normalize", **norm},
        {"type": "Pad", "size_divisor": 32},
        {"type": "ImageToTensor", "keys": ["img"]},
        {"type": "Collect", "keys": ["img"]},
    ]
    flip = {"type": "MultiScaleFlipAug", "img_scale": (1333, 800), "flip": False}
    return [{"type": "LoadImageFromFile"}, {**flip, "transforms": inner}]


def change(values: dict, place: str, value) -> dict:
    """A copy with the value at "model.roi_head.bbox_head.0.type" replaced; None deletes it."""
    values = copy.deepcopy(values)
    *parents, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    node = values
    for part in parents:
        node = node[part] if isinstance(part, int) else node.setdefault(part, {})
    node[last] = value
    return values


def text(values: dict, style: str) -> str:
    """The text that a checkpoint of that time has."""
    values = copy.deepcopy(values)
    if style == "2.x":
        return render(values)
    if style == "3.x":
        return render(_as_3x(values))
    return _as_2020(values)


def _as_3x(values: dict) -> dict:
    """Normalization in the model, loaders in place of ``data``, and keys in another order."""
    steps = values["data"]["test"]["pipeline"]
    inner = steps[1].pop("transforms")
    normalize = next((s for s in inner if s["type"] == "Normalize"), None)
    if normalize is not None:
        values["model"]["data_preprocessor"] = {
            "type": "DetDataPreprocessor",
            "mean": normalize["mean"],
            "std": normalize["std"],
            "bgr_to_rgb": normalize["to_rgb"],
            "pad_size_divisor": 32,
        }
    pipeline = [
        {"type": "LoadImageFromFile", "backend_args": None},
        {**inner[0], "scale": steps[1]["img_scale"]},
        {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "PackDetInputs", "meta_keys": ("img_id", "img_path", "scale_factor")},
    ]
    optimizer = values.pop("optimizer")
    converted = {
        "default_scope": "mmdet",
        "model": values["model"],
        "test_dataloader": {
            "batch_size": 1,
            "dataset": {"type": "CocoDataset", "pipeline": pipeline},
        },
        "train_dataloader": {"batch_size": values["data"]["samples_per_gpu"]},
        "optim_wrapper": {"type": "OptimWrapper", "optimizer": optimizer},
        "test_cfg": {"type": "TestLoop"},
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 12},
        "param_scheduler": [{"type": "MultiStepLR", "milestones": [8, 11], "gamma": 0.1}],
    }
    return _sorted({**converted, **{k: v for k, v in values.items() if k.startswith("extra_")}})


def _sorted(value):
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value


def _as_2020(values: dict) -> str:
    """A base model with another backbone, the data, and a config that replaces the backbone; not
    Python as a whole. Anchors, coders and NMS are written as they were then."""
    model = values["model"]
    training, testing = model.pop("train_cfg"), model.pop("test_cfg")
    if "rpn_head" in model:
        _old_rpn(model["rpn_head"])
        heads = model["roi_head"]["bbox_head"]
        for head in heads if isinstance(heads, list) else [heads]:
            coder = head.pop("bbox_coder")
            head.update(target_means=coder["target_means"], target_stds=coder["target_stds"])
        for name in ("bbox_roi_extractor", "mask_roi_extractor"):
            if name in model["roi_head"]:
                layer = model["roi_head"][name]["roi_layer"]
                layer["out_size"] = layer.pop("output_size")
                layer["sample_num"] = layer.pop("sampling_ratio")
        for proposals in (training["rpn_proposal"], testing["rpn"]):
            most = proposals.pop("max_per_img")
            proposals.update(max_num=most, nms_post=most, nms_across_levels=False)
            proposals["nms_thr"] = proposals.pop("nms")["iou_threshold"]
    final = testing.get("rcnn", testing)
    if final["nms"]["type"] == "nms":
        final["nms"]["iou_thr"] = final["nms"].pop("iou_threshold")
    backbone, neck = model.pop("backbone"), model.pop("neck")
    base_backbone = {"type": "ResNet", "depth": 50, "style": "caffe", "norm_eval": True}
    base_neck = {"type": "FPN", "in_channels": [256, 512], "num_outs": 5, "start_level": 1}
    base = {
        "model": {**model, "backbone": base_backbone, "neck": base_neck},
        "train_cfg": training,
        "test_cfg": testing,
    }
    norm = values.pop("img_norm_cfg")
    data = render({"data": values.pop("data")})
    data = data.replace(render(norm, inside=True), "**img_norm_cfg")
    delete = {"_delete_": True}
    child = {
        "_base_": "./base.py",
        "model": {"backbone": {**delete, **backbone}, "neck": {**delete, **neck}},
    }
    return "\n".join(
        [
            "/home/user/mmdetection/configs/_base_/models/base.py",
            "# model settings",
            render(base),
            "/home/user/mmdetection/configs/_base_/datasets/coco_detection.py",
            "data_root = 'data/' + 'coco/'",
            render({"img_norm_cfg": norm}),
            data,
            "C:\\users\\me\\configs\\_base_\\schedules\\schedule_1x.py",
            render({k: v for k, v in values.items() if k != "model"}),
            "/home/user/mmdetection/configs/hrnet/config.py",
            render(child),
        ]
    )


def _old_rpn(head: dict) -> None:
    generator, coder = head.pop("anchor_generator"), head.pop("bbox_coder")
    for name in ("scales", "ratios", "strides"):
        head[f"anchor_{name}"] = generator[name]
    head.update(target_means=coder["target_means"], target_stds=coder["target_stds"])


def render(value, inside: bool = False) -> str:
    """Assignments of a dictionary's items; with ``inside`` the keywords of a call."""
    if inside:
        return ", ".join(f"{key}={_expression(item)}" for key, item in value.items())
    return "\n".join(f"{key} = {_expression(item)}" for key, item in value.items()) + "\n"


def _expression(value) -> str:
    if isinstance(value, dict):
        return f"dict(\n    {render(value, inside=True)})"
    if isinstance(value, list):
        return f"[{', '.join(map(_expression, value))}]"
    return repr(value)
