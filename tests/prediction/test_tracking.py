"""Numbers of objects in videos, by the library trackers."""

import csv
import sys

import cv2
import numpy as np
import pytest

from hrnet_d2.prediction import Prediction
from tests.prediction.models import predict, rows, write_video


def library():
    pytest.importorskip("trackers", reason="needs trackers: pip install 'hrnet_d2[track]'")


def frame(number, boxes, source="v.mp4"):
    return Prediction(
        source=source,
        frame=number,
        width=400,
        height=300,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.linspace(0.95, 0.9, len(boxes)).astype(np.float32),
        classes=np.arange(len(boxes)),
        masks=[{"size": [300, 400], "counts": str(i)} for i in range(len(boxes))],
    )


@pytest.mark.parametrize("kind", ["bytetrack", "sort", "ocsort"])
def test_an_object_keeps_its_number(kind):
    library()
    from hrnet_d2.prediction.tracking import VideoTracker

    tracker = VideoTracker(kind)
    numbers = {0: set(), 1: set()}
    for i in range(12):
        # The order changes from frame to frame; classes and masks stay with their boxes.
        boxes = [[20 + 6 * i, 50, 60 + 6 * i, 90], [300 - 6 * i, 150, 340 - 6 * i, 190]]
        found = tracker(frame(i, boxes), 25.0)
        assert found.tracks is not None and len(found.tracks) == len(found)
        for cls, number, mask, box in zip(
            found.classes, found.tracks, found.masks, found.boxes, strict=True
        ):
            assert mask["counts"] == str(cls) and box.tolist() == boxes[cls]
            numbers[int(cls)].add(int(number))
    assert len(numbers[0]) == len(numbers[1]) == 1 and numbers[0] != numbers[1]
    # Another video begins anew, and a frame without detections is no error.
    empty = tracker(frame(0, [], "other.mp4"), 25.0)
    assert len(empty) == 0 and len(empty.tracks) == 0


class Disk:
    """Stands for a trained model: finds the disk of ``write_video``."""

    def __init__(self, predictor):
        self.inner = predictor

    def __call__(self, images):
        outputs = self.inner(images)
        for image, output in zip(images, outputs, strict=True):
            instances = output["instances"][:1]
            y, x = np.nonzero(image[:, :, 2] > 180)
            box = [x.min(), y.min(), x.max() + 1, y.max() + 1]
            instances.pred_boxes.tensor[0] = instances.pred_boxes.tensor.new_tensor(box)
            instances.scores[0] = 0.9
            output["instances"] = instances
        return outputs


def test_numbers_are_drawn_and_written(model, tmp_path, monkeypatch):
    library()
    from hrnet_d2.prediction import detector

    inner = detector.Detector._run

    def run(self, images):
        real, self.predictor = self.predictor, Disk(self.predictor)
        try:
            return inner(self, images)
        finally:
            self.predictor = real

    monkeypatch.setattr(detector.Detector, "_run", run)
    for name in ("one.mp4", "two.mp4"):
        write_video(tmp_path / name, 10)
    inputs = [tmp_path / "one.mp4", tmp_path / "two.mp4"]
    extra = ("--format", "draw,jsonl,csv", "--track", "--streams", "1")
    assert predict(model, *inputs, output=tmp_path / "out", extra=extra) == 0
    found = rows(tmp_path / "out")
    assert len(found) == 20
    for video in (found[:10], found[10:]):
        numbers = [d["track"] for row in video for d in row["detections"]]
        assert len(numbers) >= 7 and len(set(numbers)) == 1
    with open(tmp_path / "out" / "predictions.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert {row["track"] for row in table if row["score"]} == {str(numbers[0])}
    capture = cv2.VideoCapture(str(tmp_path / "out" / "two.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 10


def test_a_missing_library_is_named(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trackers", None)
    write_video(tmp_path / "v.mp4", 2)
    assert predict(model, tmp_path / "v.mp4", output=tmp_path / "out", extra=("--track",)) == 1
    assert "pip install 'hrnet_d2[track]'" in capsys.readouterr().err
