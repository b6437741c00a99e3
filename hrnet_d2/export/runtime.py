"""Runs an exported detector. Needs NumPy, OpenCV and the format's own runtime, not PyTorch.

This file is copied into every exported folder as ``detector.py`` and imports nothing of hrnet_d2::

    from detector import load

    detect = load("exported")
    for output in detect(["a.jpg", "b.jpg"]):  # or arrays, as cv2.imread returns them
        found = output["instances"]
        print(found.pred_boxes, found.scores, found.pred_classes)

From a shell: ``python exported/detector.py a.jpg b.jpg`` prints a line of JSON for each image.

D = number of detections of an image.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

__all__ = ["Detections", "Detector", "UntrustedError", "digest", "load", "read_image"]

SETTINGS = "settings.json"
FORMAT_VERSION = 2
# Pixels: torch.export records no graph for sides of one cell of the coarsest level and of more.
MIN_SIDE = 64
CHANNELS = ("RGB", "BGR")
OUTPUTS = ("boxes", "scores", "classes", "batch_index")  # and "masks"


def _is_whole(x: Any, least: int) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and least <= x < 2**64


# What the program reads of settings.json, and what it may be.
REQUIRED: dict[str, Callable[[Any], bool]] = {
    "format": lambda x: isinstance(x, str) and x in _RUNTIMES,
    "graph": lambda x: isinstance(x, str),
    "files": lambda x: isinstance(x, dict),
    "outputs": lambda x: x in ([*OUTPUTS], [*OUTPUTS, "masks"]),
    "arithmetic": lambda x: x in ("mmdet2", "mmdet1"),
    "classes": lambda x: isinstance(x, list),
    "score_thresh": lambda x: (
        isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < 2**64
    ),
    "input": lambda x: isinstance(x, dict),
}
REQUIRED_OF_INPUT: dict[str, Callable[[Any], bool]] = {
    "format": lambda x: x in CHANNELS,
    "resize": lambda x: x in ("opencv", "detectron2"),
    "short_edge": lambda x: _is_whole(x, 0),
    "long_edge": lambda x: _is_whole(x, 1),
    "size_divisibility": lambda x: _is_whole(x, 1) and x % 32 == 0,
}
LONGEST = 200  # characters of a damaged entry in a message

MAY_HOLD_CODE = ("torchscript", "pt2")


class UntrustedError(ValueError):
    """A file that may hold code, which loading would run, was not said to be trusted."""


@dataclass
class Detections:
    """The detections of one image, sorted by descending score.

    Attributes:
        image_size: height and width of the image.
        pred_boxes: (D, 4) float32, left, top, right and bottom in pixels of the image.
        scores: (D,) float32.
        pred_classes: (D,) int64, positions in ``Detector.classes``.
        pred_masks: (D, height, width) bool; None for models without masks.
    """

    image_size: tuple[int, int]
    pred_boxes: np.ndarray
    scores: np.ndarray
    pred_classes: np.ndarray
    pred_masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)


# Name of an input -> its values, for one image or more.
Inputs = dict[str, np.ndarray]
# From named inputs to the outputs, in the order of the settings.
Run = Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]


class Detector:
    """From images to detections. Several threads may call it; OpenVINO runs one call at a time.

    Attributes:
        batch: at most so many images run together: those that follow each other in a list and have
            the same padded size, so that the detections are those of each image by itself. May be
            set.
        settings: of the export; see its README.
        classes: names by position; empty if the model has none.
        score_thresh: scores must be above it; for FCOS the probabilities of the classes, and a
            score is such a probability times the centerness. May be set, also below the model's.
    """

    def __init__(self, settings: dict[str, Any], run: Run, batch: int = 1):
        """
        Args:
            settings: as in ``settings.json``.
            run: runs the graph.
            batch: see the attribute.
        """
        self.settings = settings
        self.batch = batch
        self.classes: list[str] = list(settings["classes"])
        self.score_thresh = float(settings["score_thresh"])
        self._run = run

    def __call__(self, images: Any) -> Any:
        """
        Args:
            images: one image, or a list or tuple of images. An image is the path of a file, or a
                (H, W, 3) uint8 array in BGR order, as ``cv2.imread`` returns it.

        Returns:
            ``{"instances": Detections}``, or a list of them.

        Raises:
            FileNotFoundError: if there is no such file.
            TypeError, ValueError: if something is no image.
        """
        if not isinstance(images, list | tuple):
            return next(self.stream([images]))
        for i, image in enumerate(images):
            try:
                _checked(image)
            except (TypeError, ValueError) as error:
                raise type(error)(f"image {i} of {len(images)}: {error}") from None
        return list(self.stream(images))

    def stream(self, images: Iterable[Any]) -> Iterator[dict[str, Detections]]:
        """The detections in images, in their order, as soon as a batch is complete.

        If ``images`` raises an error or gives what is no image, the detections in the images
        before come first.
        """
        waiting: list[tuple[tuple[int, int], Inputs]] = []
        images = iter(images)
        while True:
            try:
                image = self._read(next(images))
                inputs = self.prepare(image)
            except StopIteration:
                break
            except Exception:
                yield from self._detect(waiting)
                raise
            if waiting and waiting[0][1]["images"].shape != inputs["images"].shape:
                yield from self._detect(waiting)
                waiting = []
            waiting.append(((image.shape[0], image.shape[1]), inputs))
            if len(waiting) >= self.batch:
                yield from self._detect(waiting)
                waiting = []
        yield from self._detect(waiting)

    def _read(self, image: Any) -> np.ndarray:
        if isinstance(image, str | os.PathLike):
            return read_image(image, self.settings["input"]["resize"])
        return _checked(image)

    def prepare(self, image: np.ndarray) -> Inputs:
        """The graph's inputs for an image, a batch of one.

        Returns:
            "images" (1, 3, H, W) uint8 at the network's size, padded at the right and the bottom,
            to 64 pixels at least;
            "size" (1, 2) int64 height and width without padding; "score_thresh" () float32; in the
            arithmetic of MMDetection 1.x also "scale" (1,) float32.
        """
        entry = self.settings["input"]
        if entry["format"] == "RGB":
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        original = image.shape[:2]
        image = _resize(image, entry)
        height, width = image.shape[:2]
        divisor = entry["size_divisibility"]
        padded = [max(-(-side // divisor) * divisor, MIN_SIDE) for side in (height, width)]
        images = np.zeros((1, 3, *padded), np.uint8)
        images[0, :, :height, :width] = image.transpose(2, 0, 1)
        inputs = {
            "images": images,
            "size": np.array([[height, width]], np.int64),
            "score_thresh": np.array(self.score_thresh, np.float32),
        }
        if self.settings["arithmetic"] == "mmdet1":
            factor = _resize_factor(original, (height, width), entry)
            inputs["scale"] = np.array([factor], np.float32)
        return inputs

    def _detect(
        self, batch: Sequence[tuple[tuple[int, int], Inputs]]
    ) -> Iterator[dict[str, Detections]]:
        """The detections in images of one padded size, given by their own sizes and inputs."""
        if not batch:
            return
        inputs = {
            name: value if value.ndim == 0 else np.concatenate([own[name] for _, own in batch])
            for name, value in batch[0][1].items()
        }
        arrays = map(np.asarray, self._run(inputs))
        outputs = dict(zip(self.settings["outputs"], arrays, strict=True))
        index = outputs.pop("batch_index")
        for i, (size, own) in enumerate(batch):
            found = {name: value[index == i] for name, value in outputs.items()}
            yield {"instances": self._in_image(found, size, own["size"][0])}

    def _in_image(
        self, found: dict[str, np.ndarray], size: tuple[int, int], resized: np.ndarray
    ) -> Detections:
        """The graph's outputs for an image, in its own pixels."""
        boxes, kept = found["boxes"], np.full(len(found["boxes"]), True)
        if self.settings["arithmetic"] == "mmdet1":
            scale = _resize_factor(size, resized, self.settings["input"])
            boxes = np.concatenate((boxes[:, :2] / scale, (boxes[:, 2:] - 1) / scale + 1), axis=1)
            paste = _paste_masks_mmdet1
        else:
            boxes = _to_image(boxes, resized, size)
            kept, paste = np.all(boxes[:, 2:] > boxes[:, :2], axis=1), _paste_masks
        boxes = boxes[kept].astype(np.float32)
        classes = found["classes"][kept].astype(np.int64)
        masks = paste(found["masks"][kept], boxes, size) if "masks" in found else None
        return Detections(size, boxes, found["scores"][kept], classes, masks)


def load(
    folder: str | Path,
    *,
    device: str = "CPU",
    threads: int | None = None,
    dtype: str | None = None,
    batch: int = 1,
    trusted: bool = False,
) -> Detector:
    """The detector of an exported folder.

    Args:
        folder: made by ``hrnet-d2 export``.
        device: "CPU", or what the runtime has beside it: "GPU" or "NPU" (OpenVINO), "CUDA" (ONNX
            Runtime). PyTorch's formats run on the CPU only.
        threads: of the CPU, at least 1; None is the runtime's choice.
        dtype: in which OpenVINO computes: "float32", "bfloat16" or "float16"; None is the
            export's.
        batch: at most so many images of a list run together, see :class:`Detector`.
        trusted: for "torchscript" and "pt2": the folder is one's own. PyTorch's loaders run code
            that such files may hold. The graphs of ONNX and OpenVINO hold no code.

    Raises:
        FileNotFoundError: if a file of the folder is missing.
        ImportError: if the format's runtime is not installed.
        ValueError: if the folder was made by another version, a file in it is damaged or was
            changed, or the runtime is too old for it or has no such device or dtype.
        UntrustedError: if a file that may hold code is not trusted; it is a ValueError.
    """
    folder = Path(folder)
    settings = _read_settings(folder)
    name = settings["format"]
    if batch < 1:
        raise ValueError(f"batch is a number of images, at least 1; got {batch}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads is a number of threads, at least 1; got {threads}")
    if dtype is not None and name != "openvino":
        raise ValueError(f"{name} computes in the type of its file; dtype is for OpenVINO alone")
    if name in MAY_HOLD_CODE and not trusted:
        raise UntrustedError(
            f"Loading {folder / settings['graph']} runs code that is in it: pass trusted=True if "
            "you made it, or export to onnx or openvino"
        )
    for file, expected in settings["files"].items():
        _check_file(folder, file, expected)
    try:
        if settings["input"]["resize"] == "detectron2":
            import PIL.Image  # noqa: F401  here, and not at the first image
        run = _RUNTIMES[name](folder / settings["graph"], settings, device, threads, dtype)
    except ModuleNotFoundError as error:
        package = "pillow" if str(error.name).startswith("PIL") else error.name
        raise ImportError(
            f"This detector needs {package}, which is not installed: pip install {package}"
        ) from error
    except (ImportError, MemoryError, OSError, ValueError):
        raise
    except Exception as error:  # of the runtimes, whose classes have no other base
        raise ValueError(
            f"{folder / settings['graph']} cannot be loaded by the runtime that is installed here "
            f"({SETTINGS} has the versions that it was made with): {' '.join(str(error).split())}"
        ) from error
    return Detector(settings, run, batch)


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS
    if not path.is_file():
        what = f"it has no {SETTINGS}" if folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"{folder} is no exported detector: {what}")
    try:
        # "-sig": editors on Windows put a byte order mark before the text.
        settings = json.loads(path.read_text(encoding="utf-8-sig"))
        version = int(settings["format_version"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"[:LONGEST]
        raise ValueError(f"{path} is damaged, copy the folder or export again: {problem}") from None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, this program reads {FORMAT_VERSION}: use the "
            "detector.py in the folder, or export again with this version"
        )
    problem = (
        _wrong_entry(settings, REQUIRED)
        or _wrong_entry(settings["input"], REQUIRED_OF_INPUT)
        or ("" if settings["graph"] in settings["files"] else "the graph is not among the files")
    )
    if problem:
        raise ValueError(f"{path} is damaged, copy the folder or export again: {problem}")
    return settings


def _wrong_entry(entries: dict[str, Any], required: dict[str, Callable[[Any], bool]]) -> str:
    """What is missing or wrong; "" if nothing is."""
    for name, is_right in required.items():
        if name not in entries:
            return f"no {name!r}"
        if not is_right(entries[name]):
            return f"{name!r} is {entries[name]!r}"[:LONGEST]
    return ""


def _check_file(folder: Path, name: str, expected: str) -> None:
    """That a file of the graph is the one that was checked when the folder was made."""
    path = folder / name
    if path.parent != folder or len(name) > 255:  # settings must not lead elsewhere
        raise ValueError(
            f"{folder / SETTINGS} names the file {name[:LONGEST]!r}, which is not in the folder"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: copy the whole folder, or export again")
    if digest(path) != expected:
        raise ValueError(
            f"{path} is not the file that was exported, its SHA-256 differs from the one in "
            f"{SETTINGS}: copy the whole folder, or export again"
        )


def digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


# ---------------------------------------------------------------------- runtimes


def _onnx_runtime(
    path: Path, settings: dict[str, Any], device: str, threads: int | None, dtype: str | None
) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Errors only: it warns of buffers whose sizes it foresaw wrongly, and allocates others.
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    providers = ["CPUExecutionProvider"]
    if device.upper() != "CPU":
        provider = f"{device.upper()}ExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise ValueError(f"This onnxruntime has no {provider} for the device {device!r}")
        providers.insert(0, provider)
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    names = [{x.name for x in values} for values in (session.get_inputs(), session.get_outputs())]
    _check_names(path, settings, *names)
    return lambda inputs: session.run(settings["outputs"], inputs)


def _openvino(
    path: Path, settings: dict[str, Any], device: str, threads: int | None, dtype: str | None
) -> Run:
    import openvino

    hints = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
    dtype = dtype or settings.get("run_dtype", "float32")
    if dtype not in list(hints):  # an edited file may hold what has no hash
        raise ValueError(f"OpenVINO computes in {', '.join(hints)}, not in {dtype!r}")
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hints[dtype]}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()
    device = device.upper()
    try:
        model = core.compile_model(str(path), device, config)
    except RuntimeError as error:
        if device in core.available_devices:
            raise
        raise ValueError(
            f"OpenVINO has no device {device!r} here, only {', '.join(core.available_devices)}"
        ) from error
    values = model.inputs, model.outputs
    _check_names(path, settings, *(set().union(*(x.get_names() for x in v)) for v in values))
    # The compiled model has one set of inputs and outputs, which another thread would overwrite.
    lock = threading.Lock()

    def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        with lock:
            results = model(inputs)
        return [results[name] for name in settings["outputs"]]

    return run


def _check_names(path: Path, settings: dict[str, Any], inputs: set[str], outputs: set[str]) -> None:
    """That the settings are those of the graph, whose inputs and outputs have these names."""
    if ("scale" in inputs) != (settings["arithmetic"] == "mmdet1"):
        entry = f"the arithmetic {settings['arithmetic']!r}"
    elif missing := set(settings["outputs"]) - outputs:
        entry = f"the output {', '.join(sorted(missing))}"
    else:
        return
    raise ValueError(
        f"{path.parent / SETTINGS} is damaged, copy the folder or export again: {path.name} was "
        f"not made for {entry}"
    )


def _torchscript(
    path: Path, settings: dict[str, Any], device: str, threads: int | None, dtype: str | None
) -> Run:
    import torch
    import torchvision  # noqa: F401  registers RoIAlign and NMS

    _check_on_cpu(settings, device)
    if threads is not None:
        torch.set_num_threads(threads)
    with warnings.catch_warnings():
        # Nothing that a caller can do: the format is TorchScript, which torch calls deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(str(path), map_location="cpu")
    return _torch_run(module)


def _pt2(
    path: Path, settings: dict[str, Any], device: str, threads: int | None, dtype: str | None
) -> Run:
    import torch
    import torchvision  # noqa: F401  registers RoIAlign and NMS

    _check_on_cpu(settings, device)
    if threads is not None:
        torch.set_num_threads(threads)
    with warnings.catch_warnings():
        # That the weights' memory cannot be written to, which nothing does.
        warnings.simplefilter("ignore", UserWarning)
        program = torch.export.load(str(path))
    try:
        # The guards hold the remainders that the example's size happened to have, which no result
        # depends on: the exports are checked at other sizes.
        module = program.module(check_guards=False)
    except TypeError:  # torch before 2.9 has no guards here
        module = program.module()
    return _torch_run(module)


def _check_on_cpu(settings: dict[str, Any], device: str) -> None:
    """Recording writes the device into the graph, wherever it makes a tensor."""
    if device.upper() != "CPU":
        raise ValueError(
            f"A {settings['format']} export was recorded on the CPU and runs there, not on the "
            f"device {device!r}: export to onnx, or run the checkpoint with hrnet_d2.Predictor"
        )


def _torch_run(module: Any) -> Run:
    import torch

    def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [x.numpy() for x in module(*map(torch.from_numpy, inputs.values()))]

    return run


_RUNTIMES: dict[str, Callable[..., Run]] = {
    "onnx": _onnx_runtime,
    "openvino": _openvino,
    "torchscript": _torchscript,
    "pt2": _pt2,
}

# ---------------------------------------------------------------------- before the network


def read_image(path: str | os.PathLike[str], backend: str = "opencv") -> np.ndarray:
    """Read a file upright (EXIF orientation applied), as hrnet_d2 does.

    Gray images become three channels and alpha is dropped. OpenCV scales 16 bits to 8; Pillow cuts
    values at 255.

    Args:
        path: of the file.
        backend: what decodes it, "opencv" or "detectron2" (by Pillow).

    Returns:
        (H, W, 3) uint8, BGR.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be decoded.
    """
    path = os.fspath(path)
    # Not cv2.imread, which cannot open every name on Windows.
    with open(path, "rb") as file:
        data = file.read()
    if backend == "detectron2":
        from PIL import Image

        try:
            with Image.open(path) as picture:
                return np.asarray(_upright(picture).convert("RGB"))[:, :, ::-1]
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} cannot be decoded as an image: {error}") from error
    if data[:2] == b"\xff\xd8" and _is_truncated(data):
        raise ValueError(f"{path} cannot be decoded: the file is truncated")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error as error:
        if "MAX_IMAGE" in error.err:
            raise ValueError(
                f"{path} has more pixels than OpenCV decodes: the environment variable "
                "OPENCV_IO_MAX_IMAGE_PIXELS, which it reads when imported, says how many"
            ) from error
        image = None
    if image is None:
        raise ValueError(f"{path} cannot be decoded: it is damaged, or OpenCV has no such format")
    return image


def _is_truncated(jpeg: bytes) -> bool:
    """Whether a JPEG has no end: OpenCV 4 fills what is missing with gray."""
    if jpeg.rfind(b"\xff\xd9") > jpeg.rfind(b"\xff\xda"):  # the last end, and start of a scan
        return False
    # Else something is missing, or follows the image, such as a phone's video: read the markers,
    # which in the data of a scan are neither zero, fill bytes nor restarts.
    place = 2
    marker = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
    while found := marker.search(jpeg, place):
        place = found.end()
        if found[0] == b"\xff\xd9":
            return False
        if found[0] != b"\xff\x01":  # which has no length
            place += int.from_bytes(jpeg[place : place + 2], "big")
    return True


def _upright(picture: Any) -> Any:
    """A Pillow image turned as its EXIF data say, which may be damaged, as Detectron2 turns it."""
    from PIL import Image

    try:
        orientation = picture.getexif().get(0x0112)
    except Exception:  # whatever Pillow raises for such data
        return picture
    turns = Image.Transpose
    turn = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_270,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_90,
    }.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def _checked(image: Any) -> Any:
    """The image or path itself."""
    if isinstance(image, str | os.PathLike):
        return image
    if not isinstance(image, np.ndarray):
        raise TypeError(
            "An image must be the path of a file or a NumPy array (height, width, 3), got "
            f"{type(image).__name__}"
        )
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            "An image must have the shape (height, width, 3), with channels in BGR order, and at "
            f"least one pixel; got {image.shape}. Convert gray images with "
            "cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), images with alpha with cv2.COLOR_BGRA2BGR"
        )
    if image.dtype != np.uint8:
        raise TypeError(f"An image must be of type uint8 with values 0 to 255, got {image.dtype}")
    return image


def _resize(image: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    """As the test loader of hrnet_d2, to the bit."""
    height, width = image.shape[:2]
    short, long = entry["short_edge"], entry["long_edge"]
    if short == 0:
        return image
    if entry["resize"] == "opencv":
        scale = min(long / max(height, width), short / min(height, width))
        size = max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)
        if size == (height, width):
            return image
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    from PIL import Image

    # Detectron2 rounds once, after scaling twice.
    scale = short * 1.0 / min(height, width)
    sides = (short * 1.0, scale * width) if height < width else (scale * height, short * 1.0)
    if max(sides) > long:
        shrink = long * 1.0 / max(sides)
        sides = sides[0] * shrink, sides[1] * shrink
    new_height, new_width = (max(int(side + 0.5), 1) for side in sides)
    resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def _resize_factor(
    original: Sequence[int], resized: Sequence[int] | np.ndarray, entry: dict[str, Any]
) -> float:
    """The one factor of both axes, as MMDetection 1.x has it."""
    short, long = entry["short_edge"], entry["long_edge"]
    if short > 0:
        factor = float(min(long / max(original), short / min(original)))
        if [int(side * factor + 0.5) for side in original] == list(resized):
            return factor
    return float(max(resized) / max(original))


# ---------------------------------------------------------------------- after the network


def _to_image(boxes: np.ndarray, resized: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes in pixels of the image, clipped to it."""
    height, width = size
    scale = np.array([width / resized[1], height / resized[0]] * 2, np.float32)
    limits = np.array([width, height] * 2, np.float32)
    scaled: np.ndarray = np.clip(boxes * scale, 0, limits)
    return scaled


def _paste_masks(masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks (D, h, w) of boxes, sampled bilinearly at the pixels' centers; zero outside."""
    pasted = np.zeros((len(masks), *size), bool)
    for out, mask, box in zip(pasted, masks.astype(np.float32), boxes, strict=True):
        rows, row_weights = _weights(box[1], box[3], size[0], mask.shape[0])
        columns, column_weights = _weights(box[0], box[2], size[1], mask.shape[1])
        out[rows, columns] = row_weights @ mask @ column_weights.T >= 0.5
    return pasted


def _weights(low: float, high: float, side: int, cells: int) -> tuple[slice, np.ndarray]:
    """The pixels around low ... high, and the weight (pixels, cells) of each cell there."""
    first, last = max(int(np.floor(low)) - 1, 0), min(int(np.ceil(high)) + 1, side)
    centers = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    position = (centers - low) / (high - low) * cells - np.float32(0.5)
    distance = np.abs(position[:, None] - np.arange(cells, dtype=np.float32))
    return slice(first, last), np.maximum(1 - distance, 0)


def _paste_masks_mmdet1(masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks resized to the whole pixels of their boxes, as MMDetection 1.x."""
    pasted = np.zeros((len(masks), *size), bool)
    first = boxes[:, :2].astype(np.int32)
    extents = ((boxes[:, 2:] - 1).astype(np.int32) - first + 1).clip(min=1)
    for out, mask, (x, y), (width, height) in zip(
        pasted, masks.astype(np.float32), first.tolist(), extents.tolist(), strict=True
    ):
        region = out[y : y + height, x : x + width]
        resized = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
        region[...] = resized[: region.shape[0], : region.shape[1]]
    return pasted


# ---------------------------------------------------------------------- shell


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the detections in images, one line of JSON for each."""
    parser = argparse.ArgumentParser(description="Detect objects in images.")
    parser.add_argument("images", nargs="+", help="files that OpenCV reads")
    parser.add_argument("--folder", default=str(Path(__file__).parent), help="exported detector")
    parser.add_argument(
        "--score-thresh",
        type=_fraction,
        help="print scores above it, 0 to 1; default: what the model returns",
    )
    args = parser.parse_args(arguments)
    try:
        # Whoever runs this program trusts the folder that it is in.
        own = Path(args.folder).resolve() == Path(__file__).parent.resolve()
        detector = load(args.folder, trusted=own)
    except (OSError, ImportError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if args.score_thresh is not None:
        detector.score_thresh = args.score_thresh
    failed = 0
    for name in args.images:
        try:
            found = detector(name)["instances"]
        except Exception as error:  # of the runtimes too, as when memory is short: see above
            failed += 1
            text = " ".join(str(error).split()) or type(error).__name__
            print(text if name in text else f"{name}: {text}", file=sys.stderr)
            continue
        detections: list[dict[str, Any]] = []
        for box, score, label in zip(
            found.pred_boxes.tolist(),
            found.scores.tolist(),
            found.pred_classes.tolist(),
            strict=True,
        ):
            if args.score_thresh is not None and score <= args.score_thresh:
                continue  # of FCOS, see Detector.score_thresh
            known = detector.classes[label] if label < len(detector.classes) else label
            detections.append({"box": box, "score": score, "class": known})
        print(json.dumps({"file": name, "detections": detections}), flush=True)
    return 1 if failed else 0


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no score: give a number from 0 to 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
