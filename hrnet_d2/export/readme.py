"""The README of an exported folder."""

from typing import Any

from .runtime import MAY_HOLD_CODE

__all__ = ["readme"]

# Format -> what it is called, what runs it.
RUNTIMES = {
    "onnx": ("ONNX", "numpy opencv-python onnxruntime"),
    "openvino": ("OpenVINO IR", "numpy opencv-python openvino"),
    "torchscript": ("TorchScript", "numpy opencv-python torch torchvision"),
    "pt2": ("torch.export", "numpy opencv-python torch torchvision"),
}
TEXT = """# An exported detector

{title} of {model} from `{weights}`, {classes} classes, {dtype}.

Runs in Python 3.10 or newer with

```bash
pip install {packages}
python detector.py image.jpg
```

or from Python, with this folder on the path:

```python
from detector import load

detect = load("this folder"{trusted})
found = detect("image.jpg")["instances"]  # or an array, as cv2.imread returns it
print(found.pred_boxes, found.scores, found.pred_classes)
```

`hrnet_d2.export.load("this folder"{trusted})` does the same and returns Detectron2's `Instances`.

## The graph

| | name | type and shape | |
| --- | --- | --- | --- |
| in | `images` | uint8 (N, 3, H, W) | {format}, padded |
| in | `size` | int64 (N, 2) | heights and widths without the padding |
| in | `score_thresh` | float32 () | {compared} must be above it; {score_thresh} in the config |
{scale}| out | `boxes` | float32 (D, 4) | left, top, right, bottom in pixels of the input |
| out | `scores` | float32 (D,) | in descending order for each image |
| out | `classes` | int64 (D,) | positions in `classes` of `settings.json` |
| out | `batch_index` | int64 (D,) | positions of the images in the batch, in ascending order |
{masks}
N is the number of images, from 1 on, and D that of detections in all of them{max_detections}.
The pixel mean and deviation and non-maximum suppression are in the graph. Images are resized so
that the short edge has {short_edge} pixels, unless the long edge would exceed {long_edge}, and
padded at the right and the bottom to multiples of {divisor}, at least 64: see `prepare` in
`detector.py`. Detections in a batch are those in each image by itself if all have the same padded
size; `load(..., batch=8)` makes such batches of a list of images.

In `settings.json` the `classes`, `score_thresh`, `short_edge` and `long_edge` may be edited. The
other thresholds and the pixel mean there only say what is in the graph.

Image files of more than 2**30 pixels are refused. Where others send the files, set the environment
variable `OPENCV_IO_MAX_IMAGE_PIXELS` to what you expect: each pixel takes at least three bytes.

`check.json` is what the comparison with the model gave when this folder was made.
"""
SCALE = "| in | `scale` | float32 (N,) | pixels of the input for each pixel of the image |\n"
MASKS = "| out | `masks` | float32 (D, 28, 28) | probabilities on the area of the box |\n"


def readme(settings: dict[str, Any]) -> str:
    """The text for the settings of an export."""
    title, packages = RUNTIMES[settings["format"]]
    if settings["input"]["resize"] == "detectron2":
        packages += " pillow"
    most = settings["max_detections"]
    return TEXT.format(
        title=title,
        packages=packages,
        trusted=", trusted=True" if settings["format"] in MAY_HOLD_CODE else "",
        model=settings["model"],
        weights=settings["weights"],
        classes=len(settings["classes"]) or "unnamed",
        dtype=settings["dtype"],
        format=settings["input"]["format"],
        divisor=settings["input"]["size_divisibility"],
        score_thresh=settings["score_thresh"],
        compared="class probabilities" if settings["model"] == "FCOS" else "scores",
        scale=SCALE if settings["arithmetic"] == "mmdet1" else "",
        masks=MASKS if "masks" in settings["outputs"] else "",
        max_detections=f", at most {most} each" if most >= 0 else "",
        short_edge=settings["input"]["short_edge"],
        long_edge=settings["input"]["long_edge"],
    )
