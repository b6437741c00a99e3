"""A run from start to end: nothing of the user's is overwritten, nothing lost, nothing twice."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from hrnet_d2.cli import main
from tests.prediction.models import encoded, predict, rows, write_pictures, write_tar, write_video

ROOT = Path(__file__).parents[2]
ALL = ("--format", "coco,jsonl,csv,cvat,draw", "--confidence-threshold", "0")
JSONL = ("--format", "jsonl")


def images(output):
    return [row["image"] for row in rows(output)]


def whole(output):
    """The tables are complete and agree: names of their images."""
    found = images(output)
    assert len(found) == len(set(found)), "an image is there twice"
    results = json.loads((output / "predictions.json").read_text())
    listed = json.loads((output / "images.json").read_text())["images"]
    assert [image["file_name"] for image in listed] == found
    assert len({image["id"] for image in listed}) == len(listed)
    assert len(results) == sum(len(row["detections"]) for row in rows(output))
    import csv
    import xml.etree.ElementTree as ET

    ET.parse(output / "annotations.xml")
    with open(output / "predictions.csv", newline="", encoding="utf-8") as file:
        table = [row["image"] for row in csv.DictReader(file)]
    assert list(dict.fromkeys(table)) == found
    return found


def test_equal_names_of_three_folders(model, tmp_path):
    write_pictures(tmp_path, "x/1/a.png", "x/2/a.png", "y/1/a.png", "y/1/b.png")
    inputs = [tmp_path / "x", tmp_path / "y", tmp_path / "x/1/a.png"]
    assert predict(model, *inputs, output=tmp_path / "out") == 0
    written = {
        p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png")
    }
    assert written == {"x/1/a.png", "2/a.png", "y/1/a.png", "1/b.png"}


def test_the_output_inside_the_input_is_no_input(model, tmp_path):
    write_pictures(tmp_path, "a.png", "b.png")
    for _ in range(2):
        assert predict(model, tmp_path, output=tmp_path / "drawn") == 0
        assert len(list((tmp_path / "drawn").glob("*.png"))) == 2


def test_files_of_others_are_not_replaced(model, tmp_path, capsys):
    (path,) = write_pictures(tmp_path / "in", "a.png")
    for extra, name in (((), "a.png"), (JSONL, "predictions.jsonl"), (ALL, "annotations.xml")):
        output = tmp_path / f"out{len(extra)}{name}"
        output.mkdir()
        (output / name).write_text("mine")
        assert predict(model, path, output=output, extra=extra) == 1
        assert name in capsys.readouterr().err and (output / name).read_text() == "mine"
        assert predict(model, path, output=output, extra=(*extra, "--overwrite")) == 0
    # A list of inputs in the output folder is an input too.
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(str(path))
    extra = ("--format", "yolo", "--overwrite")
    assert predict(model, tmp_path / "labels" / "a.txt", output=tmp_path, extra=extra) == 1
    assert "would replace the input" in capsys.readouterr().err


def test_tables_of_an_earlier_run_need_a_word(model, tmp_path, capsys):
    write_pictures(tmp_path / "in", "a.png", "b.png")
    output = tmp_path / "out"
    assert predict(model, tmp_path / "in", output=output, extra=ALL) == 0
    before = (output / "predictions.json").read_bytes()
    assert predict(model, tmp_path / "in", output=output, extra=ALL) == 1
    said = capsys.readouterr().err
    assert "--resume" in said and "--overwrite" in said
    assert (output / "predictions.json").read_bytes() == before
    assert (
        predict(model, tmp_path / "in" / "a.png", output=output, extra=(*ALL, "--overwrite")) == 0
    )
    assert len(whole(output)) == 1


def test_drawings_are_drawn_again(model, tmp_path):
    write_pictures(tmp_path / "in", "a.png")
    for _ in range(2):
        assert predict(model, tmp_path / "in", output=tmp_path / "out") == 0


def test_resuming_a_finished_run_does_what_is_new(model, tmp_path, capsys):
    write_pictures(tmp_path / "in", "a.png", "c.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    output = tmp_path / "out"
    extra = (*ALL, "--resume")  # of nothing: the first run
    assert predict(model, tmp_path / "in", output=output, extra=extra) == 1
    write_pictures(tmp_path / "in", "b.png", "a.jpg")
    capsys.readouterr()
    assert predict(model, tmp_path / "in", output=output, extra=extra) == 1
    said = capsys.readouterr().out
    assert "2 of 2 images" in said and "3 were done before" in said and "1 failed" in said
    assert len(whole(output)) == 5
    assert sorted(p.name for p in output.glob("*.??g")) == ["a.jpg", "a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    "change",
    [
        ("--confidence-threshold", "0.3"),
        ("--format", "jsonl"),
        ("--max-frames", "3"),
        ("--opts", "MODEL.ROI_HEADS.NMS_THRESH_TEST", "0.3"),
    ],
)
def test_other_settings_are_not_mixed(model, tmp_path, capsys, change):
    write_pictures(tmp_path / "in", "a.png")
    assert predict(model, tmp_path / "in", output=tmp_path / "out", extra=ALL) == 0
    words = ["predict", "--config-file", str(model.parent / "config.yaml"), "--weights", str(model)]
    words += ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), *ALL, "--resume"]
    assert main([*words, *change]) == 1
    said = capsys.readouterr().err
    assert "other settings" in said and "before" in said and "now" in said


def test_a_table_that_was_changed_is_not_continued(model, tmp_path, capsys):
    write_pictures(tmp_path / "in", "a.png")
    output = tmp_path / "out"
    assert predict(model, tmp_path / "in", output=output, extra=ALL) == 0
    (output / "predictions.csv").write_text("")
    assert predict(model, tmp_path / "in", output=output, extra=(*ALL, "--resume")) == 1
    assert "predictions.csv" in capsys.readouterr().err
    (output / "prediction_record" / "settings").write_text("{")
    assert predict(model, tmp_path / "in", output=output, extra=(*ALL, "--resume")) == 1
    assert "is no record" in capsys.readouterr().err


def test_unknown_formats_are_named(model, tmp_path, capsys):
    write_pictures(tmp_path, "a.png")
    for text, said in (("cocoo", "did you mean coco"), (",", "no format"), ("draw,x", "x")):
        assert predict(model, tmp_path, output=tmp_path / "out", extra=("--format", text)) == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_that_cannot_be_written(model, tmp_path, capsys):
    write_pictures(tmp_path, "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o500)
    assert predict(model, tmp_path / "a.png", output=tmp_path / "out" / "x") == 1
    assert "Permission denied" in capsys.readouterr().err


def test_an_output_that_the_system_refuses(model, tmp_path, monkeypatch, capsys):
    """In one line, with what to do; for root too."""

    def refuse(folder):
        raise OSError(30, "Read-only file system", folder)

    monkeypatch.setattr("hrnet_d2.prediction.claiming.claim", refuse)
    write_pictures(tmp_path, "a.png")
    assert predict(model, tmp_path / "a.png", output=tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "out cannot be written (Read-only file system): give a folder" in error


def test_a_full_disk_leaves_whole_tables(model, tmp_path, monkeypatch, capsys):
    from hrnet_d2.prediction.writers import appended

    write_pictures(tmp_path / "in", *(f"{i}.png" for i in range(6)))
    real = appended.AppendedFile._put
    calls = []

    class Full:
        """A file whose disk is full after some bytes."""

        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            if len(data) > 10:
                self.file.write(bytes(data[:10]))
                raise OSError(28, "No space left on device")
            return self.file.write(data)

    def put(self, part):
        calls.append(part)
        if len(calls) == 14:
            self._file = Full(self._file)
        return real(self, part)

    monkeypatch.setattr(appended.AppendedFile, "_put", put)
    output = tmp_path / "out"
    assert predict(model, tmp_path / "in", output=output, extra=ALL) == 1
    assert "No space left" in capsys.readouterr().err
    json.loads((output / "predictions.json").read_text())
    monkeypatch.setattr(appended.AppendedFile, "_put", real)
    assert predict(model, tmp_path / "in", output=output, extra=(*ALL, "--resume")) == 0
    assert len(whole(output)) == 6


SLOWED = """
import sys, time
from hrnet_d2.modeling.backbone import hrnet
from hrnet_d2.prediction import detector, run
from tests.depth import SHALLOW
vars(hrnet).update(SHALLOW)
run.COMMIT_SECONDS = 0.1
inner = detector.Detector._run
def slow(self, images):
    time.sleep(0.15 * len(images))
    return inner(self, images)
detector.Detector._run = slow
from hrnet_d2.cli import main
sys.exit(main(sys.argv[1:]))
"""


@contextlib.contextmanager
def running(model, inputs, output, *extra):
    words = ["predict", "--config-file", str(model.parent / "config.yaml"), "--weights", str(model)]
    words += ["--output", str(output), *ALL, *extra, "--input", *map(str, inputs)]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWED, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_rows(output, count, process):
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        path = output / "predictions.jsonl"
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {count} rows: {process.communicate()}")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_goes_on(model, tmp_path, number):
    write_pictures(tmp_path / "in", *(f"{i:02d}.png" for i in range(40)))
    output = tmp_path / "out"
    with running(model, [tmp_path / "in"], output, "--batch-size", "1") as process:
        wait_for_rows(output, 9, process)
        process.send_signal(number)
        said = process.communicate()[1].decode()
        assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), said
    found = images(output)
    assert 9 <= len(found) < 40
    if number != signal.SIGKILL:
        assert whole(output) == found and "--resume" in said
    else:
        json.loads((output / "predictions.json").read_text())
    for path in output.glob("*.png"):
        assert cv2.imread(str(path)) is not None
    assert predict(model, tmp_path / "in", output=output, extra=(*ALL, "--resume")) == 0
    assert whole(output) == [str(tmp_path / "in" / f"{i:02d}.png") for i in range(40)]
    assert len(list(output.glob("*.png"))) == 40


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_a_video_is_done_as_a_whole(model, tmp_path):
    write_pictures(tmp_path / "in", "a.png")
    video = write_video(tmp_path / "clip.mp4", 30)
    archive = write_tar(tmp_path / "t.tar", {"m.png": encoded(1)})
    inputs = [tmp_path / "in", video, archive]
    output = tmp_path / "out"
    with running(model, inputs, output, "--batch-size", "1") as process:
        wait_for_rows(output, 8, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert cv2.VideoCapture(str(output / "clip.mp4")).read()[0], "what was drawn can be seen"
    assert predict(model, *inputs, output=output, extra=(*ALL, "--resume")) == 0
    found = rows(output)
    assert [row.get("frame") for row in found] == [None, *range(30), None]
    ids = [row["id"] for row in found]
    assert len(set(ids)) == 32
    capture = cv2.VideoCapture(str(output / "clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 30


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_two_runs_do_not_share_a_folder(model, tmp_path, capsys):
    write_pictures(tmp_path / "in", *(f"{i:02d}.png" for i in range(40)))
    output = tmp_path / "out"
    with running(model, [tmp_path / "in"], output, "--batch-size", "1") as process:
        wait_for_rows(output, 1, process)
        extra = (*ALL, "--overwrite")
        assert predict(model, tmp_path / "in", output=output, extra=extra) == 1
        assert "in use by another run" in capsys.readouterr().err


def test_streams_and_workers_change_nothing(model, tmp_path):
    write_pictures(tmp_path / "in", *(f"{i:02d}.png" for i in range(23)))
    (tmp_path / "in" / "05.png").write_bytes(b"")
    found = []
    for i, extra in enumerate(
        (("--streams", 1, "--batch-size", 1), ("--streams", 3, "--workers", 2), ("--workers", 1))
    ):
        output = tmp_path / f"out{i}"
        extra = (*JSONL, "--confidence-threshold", "0", *extra)
        assert predict(model, tmp_path / "in", output=output, extra=extra) == 1
        found.append(rows(output))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert (a["image"], a["id"], a["error"]) == (b["image"], b["id"], b["error"])
            for x, y in zip(a["detections"], b["detections"], strict=True):
                assert x["class"] == y["class"] and x["box"] == pytest.approx(y["box"], abs=2e-3)


def test_help_is_quick():
    code = (
        "import sys; from hrnet_d2.cli import main\n"
        "try: main(['predict', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = ('supervision', 'pyarrow', 'trackers', 'ray', 'hrnet_d2.prediction')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.rstrip().endswith("[]") and "--resume" in result.stdout
