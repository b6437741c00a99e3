"""The runtime by itself: no PyTorch, and the same images and masks as the package's."""

import hashlib
import json
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from PIL import Image

from hrnet_d2 import model_zoo
from hrnet_d2.data import InferenceInput, read_image
from hrnet_d2.export import runtime
from hrnet_d2.export.readme import readme
from hrnet_d2.modeling.mmdet1.boxes import resize_factor
from hrnet_d2.modeling.mmdet1.masks import paste_masks
from tests.extras import needs_extra

SIZES = [(370, 620), (620, 370), (480, 640), (33, 45), (97, 301), (800, 1333), (256, 256), (1, 999)]


def settings(cfg, **changes):
    entry = {
        "format": cfg.INPUT.FORMAT,
        "resize": cfg.INPUT.BACKEND,
        "short_edge": cfg.INPUT.MIN_SIZE_TEST,
        "long_edge": cfg.INPUT.MAX_SIZE_TEST,
        "size_divisibility": 32,
    }
    return {
        "format_version": runtime.FORMAT_VERSION,
        "format": "onnx",
        "graph": "detector.onnx",
        "files": {"detector.onnx": hashlib.sha256(b"graph").hexdigest()},
        "outputs": list(runtime.OUTPUTS),
        "arithmetic": "mmdet2",
        "classes": ["cat"],
        "score_thresh": 0.05,
        "input": entry,
        **changes,
    }


@pytest.mark.parametrize("backend", ["opencv", "detectron2"])
@pytest.mark.parametrize("channels", ["BGR", "RGB"])
def test_the_input_is_the_predictors(backend, channels):
    cfg = model_zoo.get_config("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml")
    cfg.defrost()
    cfg.INPUT.BACKEND, cfg.INPUT.FORMAT = backend, channels
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 200, 333
    detector = runtime.Detector(settings(cfg), lambda inputs: [])
    prepare = InferenceInput(cfg)
    for height, width in SIZES:
        image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        made, expected = detector.prepare(image), prepare(image)["image"].numpy()
        assert made["size"].tolist() == [list(expected.shape[1:])]
        inside = made["images"][0, :, : expected.shape[1], : expected.shape[2]]
        np.testing.assert_array_equal(inside, expected)
        assert all(side % 32 == 0 for side in made["images"].shape[2:])
        assert made["images"].sum() == expected.sum()


def test_the_resize_factor_of_1x_is_the_packages():
    entry = {"short_edge": 200, "long_edge": 333}
    for original in SIZES:
        scale = min(333 / max(original), 200 / min(original))
        resized = tuple(int(side * scale + 0.5) for side in original)
        for size in (resized, (190, 300)):
            expected = resize_factor(original, size, 200, 333)
            assert runtime._resize_factor(original, size, entry) == expected


@pytest.fixture
def masks():
    rng = np.random.default_rng(0)
    coarse = rng.random((12, 7, 7), dtype=np.float32)
    masks = np.stack([cv2.resize(mask, (28, 28)) for mask in coarse])
    low = rng.uniform(0, 60, (12, 2))
    boxes = np.concatenate((low, low + rng.uniform(0.5, 70, (12, 2))), axis=1).astype(np.float32)
    boxes[0] = 0, 0, 120, 90
    return masks, boxes.clip(0, [[120, 90, 120, 90]]).astype(np.float32)


def test_masks_are_pasted_as_detectron2_does(masks):
    masks, boxes = masks
    made = runtime._paste_masks(masks, boxes, (90, 120))
    tensors = torch.from_numpy(masks), torch.from_numpy(boxes)
    expected = paste_masks_in_image(*tensors, (90, 120)).numpy()
    assert expected.any(axis=(1, 2)).sum() >= 10
    assert (made != expected).sum() <= 2  # pixels whose value is the threshold to rounding


def test_masks_are_pasted_as_1x_does(masks):
    masks, boxes = masks
    made = runtime._paste_masks_mmdet1(masks, boxes, (90, 120))
    expected = paste_masks(torch.from_numpy(masks), torch.from_numpy(boxes), (90, 120)).numpy()
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (None, TypeError, "got NoneType"),
        (np.zeros((4, 4), np.uint8), ValueError, "must have the shape"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "at least one pixel"),
        (np.zeros((4, 4, 3), np.float32), TypeError, "uint8"),
    ],
)
def test_what_is_no_image_is_named(image, error, words):
    cfg = model_zoo.get_config("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml")
    detector = runtime.Detector(settings(cfg), lambda inputs: [])
    with pytest.raises(error, match=words):
        detector(image)
    with pytest.raises(error, match=f"image 0 of 1: .*{words}"):
        detector([image])


def test_it_imports_neither_torch_nor_the_package(tmp_path):
    """In a process that has no torch, Detectron2 or hrnet_d2 to import."""
    target = tmp_path / "detector.py"
    target.write_text(Path(runtime.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    code = (
        "import sys\n"
        "for name in ('torch', 'detectron2', 'hrnet_d2'): sys.modules[name] = None\n"
        "import detector\n"
        "print(detector.Detector)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "detector.Detector" in done.stdout


def one_of_each(inputs):
    """A graph that finds one object in each image, whose score is the image's red corner."""
    count = len(inputs["images"])
    boxes = np.repeat(np.array([[0, 0, 1, 1]], np.float32), count, axis=0)
    scores = inputs["images"][:, 2, 0, 0].astype(np.float32)
    return boxes, scores, np.zeros(count, np.int64), np.arange(count)


def stream_of(shapes, batch):
    """A detector, the sizes of its batches as they run, and images whose corners count."""
    cfg = model_zoo.get_config("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml")
    sizes: list[int] = []

    def run(inputs):
        sizes.append(len(inputs["images"]))
        return one_of_each(inputs)

    entry = settings(cfg)
    entry["input"] |= {"short_edge": 0, "format": "BGR"}
    images = [np.full((*shape, 3), i, np.uint8) for i, shape in enumerate(shapes)]
    return runtime.Detector(entry, run, batch), sizes, images


@pytest.mark.parametrize(
    ("batch", "expected"), [(1, [1] * 6), (2, [2, 1, 1, 2]), (3, [3, 1, 2]), (8, [3, 1, 2])]
)
def test_images_of_one_padded_size_run_together(batch, expected):
    shapes = [(60, 60), (50, 64), (64, 1), (65, 64), (10, 10), (20, 20)]
    detector, sizes, images = stream_of(shapes, batch)
    outputs = detector(images)
    assert sizes == expected
    for i, output in enumerate(outputs):
        assert output["instances"].image_size == images[i].shape[:2]
        assert output["instances"].scores.tolist() == [i]


def test_a_stream_gives_what_is_complete():
    """A batch as soon as it is full; before an error, what was found in the images before it."""
    detector, sizes, images = stream_of([(60, 60)] * 5, 2)
    stream = detector.stream(iter(images))
    next(stream)
    assert sizes == [2]
    assert len(list(stream)) == 4 and sizes == [2, 2, 1]

    def failing():
        yield from images[:3]
        raise OSError("the camera is gone")

    found = []
    with pytest.raises(OSError, match="camera"):
        for output in detector.stream(failing()):
            found.append(output["instances"].scores[0])
    assert found == [0, 1, 2]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.zeros((60, 60), np.uint8), "must have the shape"),
        (np.zeros((60, 60, 4), np.uint8), "must have the shape"),
        (np.zeros((60, 60, 3), np.float32), "uint8"),
        (None, "got NoneType"),
    ],
)
def test_a_stream_refuses_what_is_no_image(wrong, words):
    detector, _, images = stream_of([(60, 60)] * 3, 8)
    found = []
    with pytest.raises((TypeError, ValueError), match=words):
        for output in detector.stream([*images, wrong]):
            found.append(output["instances"].scores[0])
    assert found == [0, 1, 2]


@pytest.fixture
def folder(tmp_path):
    """An exported folder whose graph is no graph."""
    cfg = model_zoo.get_config("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml")
    (tmp_path / "settings.json").write_text(json.dumps(settings(cfg)))
    (tmp_path / "detector.onnx").write_bytes(b"graph")
    return tmp_path


def test_folders_that_are_no_export(tmp_path):
    with pytest.raises(FileNotFoundError, match="no exported detector: it has no settings.json"):
        runtime.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        runtime.load(tmp_path / "missing")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 99}, "format version 99, this program reads 2: use the detector.py"),
        ({"format_version": 1}, "format version 1, this program reads 2.*or export again"),
        ({"outputs": ["boxes", "scores", "classes"]}, "is damaged.*'outputs' is"),
        ({"outputs": ["scores", "boxes", "classes", "batch_index"]}, "is damaged.*'outputs' is"),
        ({"outputs": [*runtime.OUTPUTS, ["masks"]]}, "is damaged.*'outputs' is"),
        ({"format_version": "new"}, "is damaged"),
        ({"format": "pickle"}, "is damaged"),
        ({"graph": "other.onnx"}, "is damaged"),
        ({"classes": None}, "is damaged.*'classes' is None"),
        ({"score_thresh": "0.5"}, "is damaged.*'score_thresh' is '0.5'"),
        ({"arithmetic": "mmdet3"}, "is damaged.*'arithmetic' is 'mmdet3'"),
        ({"input": {"format": "RGB"}}, "is damaged.*no 'resize'"),
        ({"input": ["RGB"]}, "is damaged.*'input' is"),
        ({"score_thresh": float("nan")}, "is damaged.*'score_thresh' is nan"),
        ({"score_thresh": True}, "is damaged.*'score_thresh' is True"),
        ({"score_thresh": 10**400}, "is damaged.*'score_thresh' is 1000"),
        ({"long_edge": 10**400}, "is damaged.*'long_edge' is 1000"),
        ({"size_divisibility": 0}, "is damaged.*'size_divisibility' is 0"),
        ({"size_divisibility": 16}, "is damaged.*'size_divisibility' is 16"),
        ({"long_edge": -1}, "is damaged.*'long_edge' is -1"),
        ({"short_edge": "800"}, "is damaged.*'short_edge' is '800'"),
        ({"files": {"detector.onnx": "0" * 64}}, "SHA-256 differs"),
        ({"graph": "../x", "files": {"../x": "0" * 64}}, "'../x', which is not in the folder"),
        ({"graph": "/etc/x", "files": {"/etc/x": "0" * 64}}, "which is not in the folder"),
    ],
)
def test_settings_that_are_refused(folder, changes, words):
    file = folder / "settings.json"
    entries = json.loads(file.read_text())
    for name, value in changes.items():
        place = entries if name in entries else entries["input"]
        place[name] = value
    file.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=words):
        runtime.load(folder)


def test_damaged_folders(folder):
    (folder / "detector.onnx").write_bytes(b"graPh")
    with pytest.raises(ValueError, match="is not the file that was exported, its SHA-256"):
        runtime.load(folder)
    (folder / "detector.onnx").unlink()
    with pytest.raises(FileNotFoundError, match="detector.onnx is missing"):
        runtime.load(folder)
    with pytest.raises(ValueError, match="dtype is for OpenVINO"):
        runtime.load(folder, dtype="bfloat16")
    with pytest.raises(ValueError, match="batch is a number of images, at least 1; got 0"):
        runtime.load(folder, batch=0)
    with pytest.raises(ValueError, match="threads is a number of threads, at least 1; got -1"):
        runtime.load(folder, threads=-1)
    content = (folder / "settings.json").read_text()
    for text in (content[:100], "[]", "{}", content.replace('"classes"', '"names"')):
        (folder / "settings.json").write_text(text)
        with pytest.raises(ValueError, match="settings.json is damaged"):
            runtime.load(folder)


def test_settings_may_begin_with_a_byte_order_mark(folder):
    text = (folder / "settings.json").read_text()
    (folder / "settings.json").write_text(text, encoding="utf-8-sig")
    assert runtime._read_settings(folder) == json.loads(text)


@pytest.mark.parametrize("format", ["pt2", "torchscript"])
def test_files_that_may_hold_code_must_be_trusted(folder, format):
    file = folder / "settings.json"
    file.write_text(file.read_text().replace('"format": "onnx"', f'"format": "{format}"'))
    with pytest.raises(ValueError, match="runs code that is in it: pass trusted=True"):
        runtime.load(folder)


@pytest.mark.parametrize("format", ["pt2", "torchscript"])
def test_what_was_recorded_on_the_cpu_runs_there(folder, format):
    file = folder / "settings.json"
    file.write_text(file.read_text().replace('"format": "onnx"', f'"format": "{format}"'))
    with pytest.raises(ValueError, match=f"A {format} export was .* not on the device 'CUDA'"):
        runtime.load(folder, trusted=True, device="CUDA")


@pytest.mark.parametrize(
    "format",
    [pytest.param(name, marks=needs_extra(name)) for name in ("onnx", "openvino", "torchscript")],
)
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_graph_that_the_runtime_cannot_load(folder, format):
    """As those of a newer opset: runtimes raise classes of their own."""
    file = folder / "settings.json"
    file.write_text(file.read_text().replace('"format": "onnx"', f'"format": "{format}"'))
    with pytest.raises(
        ValueError, match=r"detector.onnx cannot be loaded by .*settings.json has.*: \w+"
    ):
        runtime.load(folder, trusted=True)


def test_a_missing_runtime_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        runtime.load(folder)
    file = folder / "settings.json"
    file.write_text(file.read_text().replace('"opencv"', '"detectron2"'))
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match="pip install pillow"):
        runtime.load(folder)


def exif_photo(path):
    """A JPEG stored on its side."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(path, exif=exif, quality=95)


@pytest.mark.parametrize("backend", ["opencv", "detectron2"])
def test_files_are_read_as_the_predictor_reads_them(tmp_path, backend):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (30, 44, 4), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "alpha.png"), pixels)
    cv2.imwrite(str(tmp_path / "gray.png"), pixels[:, :, 0])
    cv2.imwrite(str(tmp_path / "photo.jpg"), pixels[:, :, :3])
    Image.fromarray(pixels[:, :, 0]).convert("P").save(tmp_path / "palette.png")
    exif_photo(tmp_path / "side.jpg")
    shutil.copyfile(tmp_path / "side.jpg", tmp_path / "图 \u00e9 '\".jpg")
    if backend == "opencv":
        cv2.imwrite(str(tmp_path / "deep.png"), pixels[:, :, :3].astype(np.uint16) * 257)
    for file in tmp_path.iterdir():
        made = runtime.read_image(file, backend)
        np.testing.assert_array_equal(made, read_image(str(file), backend=backend), str(file))
    assert runtime.read_image(tmp_path / "side.jpg", backend).shape == (60, 40, 3)


@pytest.mark.parametrize("backend", ["opencv", "detectron2"])
def test_files_that_are_no_images(tmp_path, backend):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("text")
    for name in ("empty.png", "text.png"):
        with pytest.raises(ValueError, match=f"{name} cannot be decoded"):
            runtime.read_image(tmp_path / name, backend)
    with pytest.raises(FileNotFoundError):
        runtime.read_image(tmp_path / "missing.png", backend)
    exif_photo(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-40])
    with pytest.raises(ValueError, match="half.jpg cannot be decoded.*truncated"):
        runtime.read_image(tmp_path / "half.jpg", backend)


def test_an_image_of_too_many_pixels_is_refused_by_its_header(tmp_path):
    header = struct.pack("<2s4I2i2H6I", b"BM", 54, 0, 54, 40, 40000, 40000, 1, 24, *[0] * 6)
    (tmp_path / "bomb.bmp").write_bytes(header)
    with pytest.raises(ValueError, match="more pixels than OpenCV decodes.*IO_MAX_IMAGE_PIXELS"):
        runtime.read_image(tmp_path / "bomb.bmp")
    with pytest.raises(ValueError, match="bomb.bmp cannot be decoded.*exceeds limit"):
        runtime.read_image(tmp_path / "bomb.bmp", "detectron2")


def test_a_jpeg_without_its_end_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    """OpenCV 4 decodes it, as 5 does not, and fills what is missing with gray."""
    exif_photo(tmp_path / "half.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "half.jpg").read_bytes()[:-40])
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: np.full((40, 60, 3), 128, np.uint8))
    with pytest.raises(ValueError, match="half.jpg cannot be decoded: the file is truncated"):
        runtime.read_image(tmp_path / "half.jpg")


def test_a_video_behind_a_jpeg_is_no_reason_to_refuse_it(tmp_path):
    exif_photo(tmp_path / "motion.jpg")
    expected = runtime.read_image(tmp_path / "motion.jpg")
    with open(tmp_path / "motion.jpg", "ab") as file:
        file.write(b"\xff\xda\xff\xd9" + bytes(200) + b"\xff\xda")
    np.testing.assert_array_equal(runtime.read_image(tmp_path / "motion.jpg"), expected)


def test_damaged_exif_data_are_no_reason_to_refuse_an_image(tmp_path):
    """Tag 0x0100, a number, as text: Pillow's own exif_transpose raises struct.error."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    data = exif.tobytes().replace(b"\x01\x0f\x00\x02", b"\x01\x00\x00\x02")
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.jpg", exif=data)
    expected = read_image(str(tmp_path / "a.jpg"), backend="detectron2")
    made = runtime.read_image(tmp_path / "a.jpg", "detectron2")
    np.testing.assert_array_equal(made, expected)
    assert made.shape == (60, 40, 3)


def test_images_that_pillow_takes_for_bombs_are_refused(tmp_path, monkeypatch):
    exif_photo(tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # twice as many are an error
    with pytest.raises(ValueError, match="a.jpg cannot be decoded as an image: Image size"):
        runtime.read_image(tmp_path / "a.jpg", "detectron2")


def test_the_program_says_what_is_wrong_in_a_line(folder, capsys):
    (folder / "detector.onnx").write_bytes(b"graPh")
    assert runtime.main(["photo.jpg", "--folder", str(folder)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("ValueError: ") and error.count("\n") == 1


def test_the_program_goes_on_after_a_bad_image(tmp_path, monkeypatch, capsys):
    cfg = model_zoo.get_config("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml")
    detector = runtime.Detector(settings(cfg), one_of_each)
    monkeypatch.setattr(runtime, "load", lambda folder, trusted: detector)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((60, 60, 3), np.uint8))
    files = [str(tmp_path / name) for name in ("missing.png", "a.png")]
    assert runtime.main(files) == 1
    output = capsys.readouterr()
    assert output.err.count("missing.png") == 1
    (line,) = output.out.splitlines()
    assert json.loads(line)["detections"][0]["class"] == "cat"


def test_the_program_goes_on_after_an_image_that_the_runtime_fails_on(
    tmp_path, monkeypatch, capsys
):
    """The runtimes have errors of their own, such as ONNX Runtime's when memory is short."""
    cfg = model_zoo.get_config("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml")

    class Fail(Exception):
        pass

    def run(inputs):
        if inputs["images"].shape[2] > inputs["images"].shape[3]:
            raise Fail("Failed to allocate\nmemory")
        return one_of_each(inputs)

    monkeypatch.setattr(
        runtime, "load", lambda folder, trusted: runtime.Detector(settings(cfg), run)
    )
    files = [str(tmp_path / "tall.png"), str(tmp_path / "a.png")]
    cv2.imwrite(files[0], np.zeros((90, 60, 3), np.uint8))
    cv2.imwrite(files[1], np.zeros((60, 60, 3), np.uint8))
    assert runtime.main(files) == 1
    output = capsys.readouterr()
    assert output.err == f"{files[0]}: Failed to allocate memory\n"
    (line,) = output.out.splitlines()
    assert json.loads(line)["file"] == files[1]


def test_the_program_prints_scores_above_the_threshold(tmp_path, monkeypatch, capsys):
    """Also if the graph compares another number with it, as FCOS does."""
    cfg = model_zoo.get_config("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml")

    def run(inputs):
        boxes, scores, *others = one_of_each(inputs)
        return boxes, scores / 100, *others

    detector = runtime.Detector(settings(cfg), run)
    monkeypatch.setattr(runtime, "load", lambda folder, trusted: detector)
    files = []
    for value in (10, 20, 30):
        files.append(str(tmp_path / f"{value}.png"))
        cv2.imwrite(files[-1], np.full((60, 60, 3), value, np.uint8))
    assert runtime.main([*files, "--score-thresh", "0.25"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [[x["score"] for x in line["detections"]] for line in lines]
    assert found == [[], [], [pytest.approx(0.3)]]


@pytest.mark.parametrize("value", ["nan", "-0.1", "50"])
def test_the_program_refuses_thresholds_that_are_no_scores(value, capsys):
    with pytest.raises(SystemExit):
        runtime.main(["photo.jpg", "--score-thresh", value])
    assert f"{value} is no score: give a number from 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["onnx", "openvino", "pt2", "torchscript"])
def test_the_readme_says_how_to_run_it(format):
    cfg = model_zoo.get_config("mask_rcnn/mask_rcnn_hrnetv2p_w18_1x_coco.yaml")
    more = {"model": "StandardROIHeads", "weights": "a.pth", "dtype": "float32"}
    more |= {"outputs": ["boxes", "masks"], "max_detections": 100, "classes": ["{}"] * 3}
    text = readme(settings(cfg, format=format, **more))
    assert "| out | `masks` |" in text and "3 classes" in text
    assert "scores must be above it" in text
    assert "class probabilities must be above it" in readme(
        settings(cfg, **more | {"model": "FCOS"})
    )
    assert ("trusted=True" in text) == (format in runtime.MAY_HOLD_CODE)


def save_openvino_graph(path, inputs=("images",), outputs=runtime.OUTPUTS):
    """A graph whose outputs are all the sums of the rows of its first input."""
    import openvino
    from openvino import opset13 as ops

    parameters = [ops.parameter([-1, 512], np.float32, name=name) for name in inputs]
    product = ops.matmul(parameters[0], np.ones((512, 512), np.float32), False, False)
    for _ in range(20):  # takes long enough for other threads to come
        product = ops.matmul(product, np.eye(512, dtype=np.float32), False, False)
    results = [ops.result(ops.add(product, np.float32(0))) for _ in outputs]
    for result, name in zip(results, outputs, strict=True):
        result.input_value(0).get_tensor().set_names({name})
    for parameter, name in zip(parameters, inputs, strict=True):
        parameter.output(0).get_tensor().set_names({name})
    openvino.save_model(openvino.Model(results, parameters), path)


@needs_extra("openvino")
def test_threads_get_the_results_of_their_own_images(tmp_path):
    cfg = model_zoo.get_config("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml")
    save_openvino_graph(tmp_path / "detector.xml")
    run = runtime._openvino(tmp_path / "detector.xml", settings(cfg), "cpu", 1, None)

    def wrong(value):
        inputs = {"images": np.full((64, 512), value, np.float32)}
        return sum(np.any(run(inputs)[0] != 512 * value) for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(wrong, range(4))) == 0


@needs_extra("openvino")
@pytest.mark.parametrize(
    ("inputs", "outputs", "changes", "words"),
    [
        (("images",), runtime.OUTPUTS, {"arithmetic": "mmdet1"}, "the arithmetic 'mmdet1'"),
        (("images", "scale"), runtime.OUTPUTS, {}, "the arithmetic 'mmdet2'"),
        (("images",), runtime.OUTPUTS, {"outputs": [*runtime.OUTPUTS, "masks"]}, "output masks"),
        (("images",), runtime.OUTPUTS, {"run_dtype": ["bf16"]}, r"not in \['bf16'\]"),
    ],
)
def test_settings_of_another_graph(tmp_path, inputs, outputs, changes, words):
    cfg = model_zoo.get_config("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml")
    save_openvino_graph(tmp_path / "detector.xml", inputs, outputs)
    entries = settings(cfg, **changes)
    with pytest.raises(ValueError, match=words):
        runtime._openvino(tmp_path / "detector.xml", entries, "CPU", 1, None)
    names = set(inputs), set(outputs)
    if "run_dtype" not in changes:  # what ONNX Runtime's sessions are checked with
        with pytest.raises(ValueError, match=f"settings.json is damaged.*{words}"):
            runtime._check_names(tmp_path / "detector.onnx", entries, *names)
