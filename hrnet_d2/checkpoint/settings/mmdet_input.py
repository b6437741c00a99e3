"""What MMDetection says of a model's input and of its training, from pipelines and loaders."""

from collections.abc import Iterator
from typing import Any

from ..mmdet_config import Unread
from .account import Node, Settings

__all__ = ["class_names_of_config", "read_input", "read_recipe"]

# Transforms of a test pipeline that leave the pixels as this package's input has them.
_HARMLESS = (
    *("LoadImageFromFile", "LoadImageFromNDArray", "LoadAnnotations", "Resize", "FixScaleResize"),
    *("RandomFlip", "Normalize", "Pad", "ImageToTensor", "DefaultFormatBundle", "Collect"),
    *("PackDetInputs", "MultiScaleFlipAug", "TestTimeAug", "ToTensor", "WrapFieldsToLists"),
    *("LoadImageFromWebcam", "DefaultFormatBundle3D"),
)


def _datasets(values: dict[str, Any], settings: Settings, parts: tuple[str, ...]) -> Iterator[Node]:
    """The datasets of loaders (3.x) and of ``data`` (1.x and 2.x), wrappers taken off."""
    data = Node(values.get("data"), "data", settings)
    for part in parts:
        loader = Node(values.get(f"{part}_dataloader"), f"{part}_dataloader", settings)
        for root in (*loader.children("dataset"), *data.children(part)):
            node = root
            for _ in range(5):  # RepeatDataset, ClassBalancedDataset, ConcatDataset
                if "pipeline" in node:
                    break
                inner = [*node.children("dataset"), *node.children("datasets")]
                if not inner:
                    break
                node = inner[0]
            yield node


def read_input(values: dict[str, Any], settings: Settings) -> None:
    """Set channel order, normalization and test size from the test pipeline.

    The pipeline of the test loader counts, then that of validation, then ``test_pipeline``; in
    3.x the ``data_preprocessor`` normalizes. Until 2019 there was no pipeline: the dataset itself
    had the size and the normalization.
    """
    pipeline = _test_pipeline(values, settings)
    plain = Node({}, "data.test", settings)
    if not pipeline:
        datasets = _datasets(values, settings, ("test", "val"))
        plain = next((dataset for dataset in datasets if "img_scale" in dataset), plain)
    model = Node(values.get("model"), "model", settings)
    top = Node(values.get("data_preprocessor"), "data_preprocessor", settings)
    preprocessor = model.child("data_preprocessor") or top
    normalize = next((step for step in pipeline if step("type") == "Normalize"), None)
    if normalize is None and preprocessor:
        _read_preprocessor(preprocessor, settings)
    else:
        if normalize is None and not pipeline:
            named = Node(values.get("img_norm_cfg"), "img_norm_cfg", settings)
            normalize = plain.child("img_norm_cfg") or named or None
        if normalize is not None:
            _set_input(normalize, settings, normalize("to_rgb", default=True))
        elif pipeline:  # MMDetection would not normalize
            settings.assumed.append("no normalization: the test pipeline has none")
            _set_input(Node({}, "test_pipeline", settings), settings, False)
    _read_steps(pipeline, settings)
    if plain:
        _read_size(plain, settings)


def _test_pipeline(values: dict[str, Any], settings: Settings) -> list[Node]:
    for dataset in _datasets(values, settings, ("test", "val")):
        if steps := dataset.children("pipeline"):
            return _flat(steps)
    return _flat(Node(values, "config", settings).children("test_pipeline"))


def _flat(steps: list[Node]) -> list[Node]:
    """A pipeline with the steps inside MultiScaleFlipAug after it."""
    return [each for step in steps for each in (step, *step.children("transforms"))]


def _read_preprocessor(preprocessor: Node, settings: Settings) -> None:
    flipped = bool(preprocessor("bgr_to_rgb", default=False))
    flipped |= bool(preprocessor("rgb_to_bgr", default=False))
    _set_input(preprocessor, settings, flipped)


def _set_input(node: Node, settings: Settings, to_rgb: Any) -> None:
    mean, std = node("mean", default=[0.0] * 3), node("std", default=[1.0] * 3)
    for name, value in (("mean", mean), ("std", std)):
        if not _three(value) or isinstance(node.values.get(name), Unread):
            node.refuse(name, "three numbers are expected")
            return
    settings.keys["MODEL.PIXEL_MEAN"] = [float(v) for v in mean]
    settings.keys["MODEL.PIXEL_STD"] = [float(v) for v in std]
    settings.keys["INPUT.FORMAT"] = "RGB" if to_rgb else "BGR"
    settings.stated_input = True


def _three(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(isinstance(v, (int, float)) for v in value)
    )


def _read_steps(pipeline: list[Node], settings: Settings) -> None:
    """Test size, and steps that this package has not."""
    keys = settings.keys
    for step in pipeline:
        kind = step("type")
        if kind is not None and kind not in _HARMLESS:
            step.refuse("type", "this package's input has no such step")
        if kind == "LoadImageFromFile":
            step.refuse_unless("color_type", ("color",), "color images are expected")
            if step("channel_order") == "rgb" and settings.stated_input:
                keys["INPUT.FORMAT"] = "BGR" if keys["INPUT.FORMAT"] == "RGB" else "RGB"
        if kind == "MultiScaleFlipAug" and step("flip"):
            settings.notes.append(f"{step.place}.flip True: images are not flipped at test")
        if kind in ("MultiScaleFlipAug", "Resize", "FixScaleResize"):
            _read_size(step, settings)


def _read_size(step: Node, settings: Settings) -> None:
    scale = step("scale", "img_scale")
    if isinstance(scale, list) and scale and isinstance(scale[0], (list, tuple)):
        if len(scale) > 1:
            settings.notes.append(f"{step.place}: one of {len(scale)} test scales is used")
        scale = scale[0]
    keys = settings.keys
    if isinstance(scale, (list, tuple)) and len(scale) == 2:
        if all(isinstance(side, (int, float)) for side in scale):
            keys["INPUT.MAX_SIZE_TEST"], keys["INPUT.MIN_SIZE_TEST"] = (
                int(max(scale)),
                int(min(scale)),
            )
    elif step("scale_factor") is not None:
        if step("scale_factor") in (1, (1, 1), [1, 1]):
            keys["INPUT.MIN_SIZE_TEST"] = 0  # as they are
        else:
            step.refuse("scale_factor", "a size, or a factor of 1, is expected")
    # 3.x calls the size "scale", and does not keep the ratio by default.
    keep = step("keep_ratio", "resize_keep_ratio", default="scale" not in step)
    if not keep and step("scale_factor") is None:
        step.refuse("keep_ratio", "images keep their ratio here (3.x does not by default)")


def class_names_of_config(values: dict[str, Any], settings: Settings) -> Any:
    """What the config itself calls the classes; None where it does not."""
    for dataset in _datasets(values, settings, ("test", "val", "train")):
        names = dataset.child("metainfo")("classes", "CLASSES") or dataset("classes")
        if names:
            return names
    top = Node(values, "config", settings)
    return top.child("metainfo")("classes", "CLASSES") or top("classes", "class_names", "CLASSES")


def read_recipe(values: dict[str, Any], settings: Settings) -> None:
    """One sentence for optimizer, batch and schedule; for people, not for the config."""
    top = Node(values, "config", settings)
    wrapper = top.child("optim_wrapper")
    optimizer = wrapper.child("optimizer") or top.child("optimizer")
    if optimizer:
        terms = [
            f"{k} {optimizer(k)}" for k in ("lr", "momentum", "weight_decay") if k in optimizer
        ]
        settings.recipe.append(f"optimizer: {optimizer('type')}, {', '.join(terms)}")
    paramwise = wrapper.child("paramwise_cfg") or optimizer.child(
        "paramwise_cfg", "paramwise_options"
    )
    if paramwise:
        settings.recipe.append(f"parameters apart: {_items(paramwise)}")
    clip = wrapper.child("clip_grad") or top.child("optimizer_config").child("grad_clip")
    if clip:
        settings.recipe.append(f"gradient clipped: {_items(clip)}")
    data, loader = top.child("data"), top.child("train_dataloader")
    batch = loader.number("batch_size") or data.number("samples_per_gpu", "imgs_per_gpu")
    if batch is not None:
        settings.recipe.append(f"images on each GPU: {batch}")
    if policy := top.child("lr_config"):
        settings.recipe.append(f"schedule: {_items(policy)}")
    for schedule in top.children("param_scheduler"):
        settings.recipe.append(f"schedule: {_items(schedule)}")
    epochs = top.child("train_cfg").number("max_epochs", default=top.number("total_epochs"))
    epochs = top.child("runner").number("max_epochs", default=epochs)
    if epochs is not None:
        settings.recipe.append(f"epochs: {epochs}")
    iterations = top.child("train_cfg").number("max_iters")
    if iterations is not None:
        settings.recipe.append(f"iterations: {iterations}")


def _items(node: Node) -> str:
    return ", ".join(f"{key} {node(key)}" for key in node.values if isinstance(key, str))
