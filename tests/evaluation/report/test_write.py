"""The report's files, from the command line: what they contain, and what is refused."""

import json
import re

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.config import get_cfg

from hrnet_d2.cli import main
from hrnet_d2.data import register_custom_data
from hrnet_d2.data.cache import cached_json
from hrnet_d2.evaluation.report import write_report, write_reports
from tests.evaluation.report import planted

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>"


def data_of(page: str, name: str):
    text = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.S)[1]
    return json.loads(text)


def run(folder, *arguments) -> int:
    truth, results, images = planted.write(folder)
    output = str(folder / "out" / "page.html")
    return main(
        ["report", str(results), "--annotations", str(truth), "--output", output, *arguments]
    )


def test_files_of_the_command(tmp_path, capsys):
    assert run(tmp_path, "--images", str(tmp_path / "images"), "--title", "Cats & dogs") == 0
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["page.html", "page.md", "page.metrics.json"]
    assert all(name in capsys.readouterr().out for name in ["page.html"])
    page = (tmp_path / "out" / "page.html").read_text()
    assert "<title>Cats &amp; dogs" in page
    assert len(data_of(page, "pictures")) == 5
    summary = json.loads((tmp_path / "out" / "page.metrics.json").read_text())
    assert set(summary) == {"schema", "title", "dataset", "runs"}
    assert summary["schema"] == "hrnet_d2.report/1"
    assert summary["dataset"] == {
        "annotations": "truth.json", "images": 5, "objects": 6, "crowds": 1, "classes": 2
    }  # fmt: skip
    assert set(summary["runs"][0]["tasks"]["bbox"]) == {
        "detections", "metrics", "threshold", "classes", "errors", "calibration", "by_size",
        "by_crowding", "confusion",
    }  # fmt: skip
    assert "comparison" in json.loads(_compared(tmp_path))


def _compared(folder) -> str:
    files = write_report(
        folder / "results.json", folder / "truth.json", folder / "b.html",
        against=folder / "results.json",
    )  # fmt: skip
    return files.metrics.read_text()


def test_the_page_loads_nothing(tmp_path):
    run(tmp_path, "--images", str(tmp_path / "images"))
    page = (tmp_path / "out" / "page.html").read_text()
    addresses = set(re.findall(r"https?://[^\"' )]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}, "the name of SVG, not an address"
    assert "default-src 'none'" in page and "unsafe" not in page
    assert not re.search(r"<(link|iframe|img|object|embed)\b|@import|url\(", page)


def test_class_and_file_names_are_text(tmp_path):
    truth, results, _ = planted.write(tmp_path, names=(HOSTILE, "dog | `x` *y*"))
    data = json.loads(truth.read_text())
    data["images"][0]["file_name"] = HOSTILE
    truth.write_text(json.dumps(data))
    files = write_report(results, truth, tmp_path / "page.html", title=HOSTILE)
    page = files.html.read_text()
    assert HOSTILE not in page and "<img" not in page
    assert page.count("<script") == 3 == page.count("</script>")
    assert data_of(page, "data")["classes"][0] == HOSTILE
    assert data_of(page, "data")["images"][0] == HOSTILE
    text = files.markdown.read_text()
    assert "<script" not in text and "<img" not in text
    assert r"dog \| \`x\` \*y\*" in text
    assert json.loads(files.metrics.read_text())["runs"][0]["tasks"]["bbox"]["classes"][0][
        "name"
    ] == HOSTILE  # fmt: skip


def test_markdown_is_a_table_of_the_numbers(tmp_path):
    truth, results, _ = planted.write(tmp_path)
    files = write_report(results, truth, tmp_path / "page.html", against=results, title="Both")
    text = files.markdown.read_text()
    lines = text.splitlines()
    assert lines[0] == "## Both" and "### Boxes" in lines
    tables = [line for line in lines if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
    ap = 100 * files.summary["runs"][0]["tasks"]["bbox"]["metrics"]["AP"]
    assert f"| change | {0:+.1f} |" in text and f" {ap:.1f} |" in text
    assert any(line.startswith("| cat | 3 | ") for line in tables)


def test_more_classes_than_a_table_takes(tmp_path):
    data, found = planted.random_data(seed=0)
    data["categories"] += [{"id": 1000 + k, "name": f"other {k}"} for k in range(60)]
    (tmp_path / "truth.json").write_text(json.dumps(data))
    (tmp_path / "results.json").write_text(json.dumps(found))
    files = write_report(tmp_path / "results.json", tmp_path / "truth.json", tmp_path / "p.html")
    rows = re.findall(r"^\| (?:class|other) .*", files.markdown.read_text(), re.MULTILINE)
    assert 40 <= len(rows) <= 41 and sum("| class 0" in row for row in rows) == 1


def test_masks_are_outlines(tmp_path):
    truth, results, images = planted.write(tmp_path, masks=True)
    files = write_report(results, truth, tmp_path / "page.html", images=images)
    entry = next(e for e in data_of(files.html.read_text(), "data")["gallery"] if e["image"] == 0)
    (outline,) = entry["objects"][0]["outline"]
    points = np.array(outline).reshape(-1, 2)
    assert points.min(axis=0).tolist() == [10, 10] and points.max(axis=0).tolist() == [49, 49]
    assert set(entry["runs"][0][0]["kind"]) == {"bbox", "segm"}


def test_the_gallery_is_bounded(tmp_path, monkeypatch):
    truth, results, images = planted.write(tmp_path)
    files = write_report(results, truth, tmp_path / "page.html", images=images, max_images=2)
    page = files.html.read_text()
    assert len(data_of(page, "data")["gallery"]) == 2 == len(data_of(page, "pictures"))
    # The images are chosen in turns: the worst one first, then that of the boldest mistake.
    chosen = [entry["image"] for entry in data_of(page, "data")["gallery"]]
    assert len(set(chosen)) == 2
    monkeypatch.setattr("hrnet_d2.evaluation.report.gallery.BUDGET", 1)
    files = write_report(results, truth, tmp_path / "page.html", images=images)
    page = files.html.read_text()
    assert len(data_of(page, "pictures")) == 1 and len(data_of(page, "data")["gallery"]) == 5


def crowded(folder, images, objects, *, masks=False):
    """Annotations and results of many images that show noise, and of many objects each."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    noise = rng.integers(0, 256, (480, 640, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", cv2.GaussianBlur(noise, (0, 0), 2))[1].tobytes()
    entries, annotations, found = [], [], []
    for image in range(1, images + 1):
        name = f"{image}.jpg"
        (folder / "images" / name).write_bytes(jpeg)
        entries.append({"id": image, "file_name": name, "width": 640, "height": 480})
        for _ in range(objects):
            x, y, w, h = box = rng.uniform((0, 0, 9, 9), (500, 400, 130, 70)).round(1).tolist()
            annotation = {"id": len(annotations) + 1, "image_id": image, "category_id": 1}
            annotation |= {"bbox": box, "area": w * h, "iscrowd": 0}
            result = {"image_id": image, "category_id": 1, "bbox": box}
            result["score"] = float(rng.uniform(0.05, 1))
            if masks:
                angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
                radius = rng.uniform(0.25, 0.5, 24)
                points = np.stack((np.cos(angles) * w, np.sin(angles) * h), 1) * radius[:, None]
                outline = (points + (x + w / 2, y + h / 2)).round(1).reshape(-1).tolist()
                annotation["segmentation"] = [outline]
                rle = mask_util.merge(mask_util.frPyObjects([outline], 480, 640))
                result["segmentation"] = {"size": [480, 640], "counts": rle["counts"].decode()}
            annotations.append(annotation)
            found.append(result)
    data = {"images": entries, "annotations": annotations}
    data["categories"] = [{"id": 1, "name": "thing"}]
    (folder / "truth.json").write_text(json.dumps(data))
    (folder / "results.json").write_text(json.dumps(found))
    return folder / "results.json", folder / "truth.json"


def test_drawings_are_bounded(tmp_path, monkeypatch):
    paths = crowded(tmp_path, images=8, objects=40)

    def gallery(drawings):
        monkeypatch.setattr("hrnet_d2.evaluation.report.gallery.DRAWINGS", drawings)
        page = write_report(*paths, tmp_path / "page.html").html.read_text()
        return data_of(page, "data")["gallery"]

    entries = gallery(10**9)
    sizes = np.cumsum([len(json.dumps(entry)) for entry in entries])
    assert len(entries) == 8
    assert gallery(int(sizes[4])) == entries[:5]
    assert gallery(int(sizes[4]) - 1) == entries[:4]
    assert gallery(1) == entries[:1]


def test_of_too_many_objects_the_missed_ones_are_drawn(tmp_path):
    results, truth = crowded(tmp_path, images=1, objects=400)
    found = json.loads(results.read_text())
    results.write_text(json.dumps([r | {"score": 0.9} for r in found[:98]]))
    page = write_report(results, truth, tmp_path / "page.html").html.read_text()
    (entry,) = data_of(page, "data")["gallery"]
    hits = [o["runs"][0]["bbox"][0] >= 0 for o in entry["objects"]]
    assert len(hits) == 200 and not any(hits)


@pytest.mark.slow
def test_the_page_of_many_crowded_images_is_below_50_megabytes(tmp_path):
    """5,000 images with 100,000 objects, two runs with masks, as many images as are there."""
    results, truth = crowded(tmp_path, images=5000, objects=20, masks=True)
    files = write_report(
        results,
        truth,
        tmp_path / "page.html",
        images=tmp_path / "images",
        against=results,
        max_images=5000,
    )
    assert 25e6 < files.html.stat().st_size < 50e6
    assert len(data_of(files.html.read_text(), "pictures")) > 300


def test_thumbnails_are_small_and_drawings_scaled(tmp_path):
    truth, results, images = planted.write(tmp_path)
    data = json.loads(truth.read_text())
    cv2.imwrite(str(images / "1.png"), np.zeros((1500, 3000, 3), np.uint8))
    data["images"][0] |= {"width": 3000, "height": 1500}
    truth.write_text(json.dumps(data))
    files = write_report(results, truth, tmp_path / "page.html", images=images)
    entry = next(e for e in data_of(files.html.read_text(), "data")["gallery"] if e["image"] == 0)
    assert (entry["width"], entry["height"]) == (560, 280) and entry["picture"] >= 0
    assert entry["objects"][0]["box"] == [1.9, 1.9, 7.5, 7.5]


@pytest.mark.parametrize("fault", ["missing", "damaged", "another size", "outside"])
def test_images_that_cannot_be_shown(tmp_path, fault, caplog):
    truth, results, images = planted.write(tmp_path)
    data = json.loads(truth.read_text())
    first = images / "1.png"
    if fault == "missing":
        first.unlink()
    elif fault == "damaged":
        first.write_bytes(first.read_bytes()[:60])
    elif fault == "another size":
        cv2.imwrite(str(first), np.zeros((50, 50, 3), np.uint8))
    else:
        first.rename(tmp_path / "secret.png")
        data["images"][0]["file_name"] = "../secret.png"
        truth.write_text(json.dumps(data))
    with caplog.at_level("WARNING", logger="hrnet_d2"):
        files = write_report(results, truth, tmp_path / "page.html", images=images)
    assert "1 of 5 images could not be read" in caplog.text
    page = files.html.read_text()
    entries = {entry["image"]: entry for entry in data_of(page, "data")["gallery"]}
    assert entries[0]["picture"] == -1 and entries[1]["picture"] >= 0
    assert len(data_of(page, "pictures")) == 4


def test_no_detections_and_no_objects(tmp_path):
    truth, results, _ = planted.write(tmp_path)
    results.write_text("[]")
    found = write_report(results, truth, tmp_path / "a.html").summary["runs"][0]["tasks"]["bbox"]
    assert found["metrics"]["AP"] == 0 and found["errors"]["missed"]["count"] == 6
    data = json.loads(truth.read_text())
    data["annotations"] = []
    truth.write_text(json.dumps(data))
    results.write_text(json.dumps(planted.results()))
    files = write_report(results, truth, tmp_path / "a.html")
    found = files.summary["runs"][0]["tasks"]["bbox"]
    assert found["metrics"]["AP"] is None and found["by_size"] == []
    assert found["errors"]["background"]["count_at_any_score"] == len(planted.DETECTIONS)


FAULTS = {
    "an annotation file": (lambda found: {"images": []}, "is not a list of COCO results"),
    "another image": (lambda found: [found[0] | {"image_id": 99}], "that the annotations do not"),
    "another class": (lambda found: [found[0] | {"category_id": 1}], "that the annotations do not"),
    "an id that is a list": (lambda found: [found[0] | {"image_id": []}], "is no number"),
    "no score": (lambda found: [{**found[0], "score": None}], '"score" of a result is not'),
    "a score that is nan": (lambda found: [{**found[0], "score": float("nan")}], '"score"'),
    "a score that is a text": (lambda found: [{**found[0], "score": "0.5"}], '"score"'),
    "numbers of a box that are texts": (lambda found: [{**found[0], "bbox": ["1"] * 4}], '"bbox"'),
    "a short box": (lambda found: [{**found[0], "bbox": [1, 2, 3]}], '"bbox" of a result is not'),
    "a negative box": (lambda found: [{**found[0], "bbox": [9, 9, -1, 3]}], "negative"),
    "boxes of some": (lambda found: [found[0], {**found[1], "bbox": None}], "1 of 2 results"),
    "a damaged mask": (
        lambda found: [{**found[0], "segmentation": {"size": [200, 200], "counts": "zzz"}}],
        "run-length encoding",
    ),
    "a mask of another size": (
        lambda found: [{**found[0], "segmentation": planted.encode([1, 1, 9, 9], 50, 50)}],
        "another size than its image",
    ),
    "polygons": (
        lambda found: [{**found[0], "segmentation": [[1, 1, 9, 1, 9, 9]]}],
        "not a run-length encoding",
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_unusable_results_are_refused_in_one_line(tmp_path, what, capsys):
    change, message = FAULTS[what]
    truth, results, _ = planted.write(tmp_path)
    results.write_text(json.dumps(change(planted.results())))
    output = tmp_path / "page.html"
    arguments = ["report", str(results), "--annotations", str(truth), "--output", str(output)]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and "results.json" in error and "Traceback" not in error
    assert len(error.splitlines()) == 1 and not output.exists()


def test_paths_that_cannot_be_used(tmp_path, capsys):
    truth, results, _ = planted.write(tmp_path)
    page = str(tmp_path / "page.html")
    for arguments in (
        [str(tmp_path / "none.json"), "--annotations", str(truth), "--output", page],
        [str(results), "--annotations", str(tmp_path / "none.json"), "--output", page],
        [str(results), "--annotations", str(truth), "--output", page, "--images", "/none"],
    ):
        assert main(["report", *arguments]) == 1
        assert "none" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["report", str(results), "--annotations", str(truth), "--output", "page.pdf"])
    assert "FILE.html" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"not page\.json"):
        write_report(results, truth, tmp_path / "page.json")


def results_of(folder, results):
    """Results where an evaluation writes them; the path below ``folder``."""
    path = folder / "coco_instances_results.json"
    path.parent.mkdir(parents=True)
    path.write_text(results.read_text())
    return path


def test_runs_are_named_after_their_output_folders(tmp_path):
    """Not after the data's, which have a hash in their name; or after what tells them apart."""
    truth, results, _ = planted.write(tmp_path)
    old = results_of(tmp_path / "old" / "inference" / "custom_truth_12345678", results)
    new = results_of(tmp_path / "new" / "inference" / "custom_truth_87654321", results)
    again = results_of(tmp_path / "new" / "inference_TTA" / "custom_truth_87654321", results)
    twin = results_of(tmp_path / "twins" / "new" / "inference" / "custom_truth_1", results)
    alone = results_of(tmp_path / "alone", results)

    def names(*paths):
        against = paths[1] if len(paths) > 1 else None
        summary = write_report(paths[0], truth, tmp_path / "p.html", against=against).summary
        return [summary["title"], *(run["name"] for run in summary["runs"])]

    assert names(new) == ["new on truth", "new"]
    assert names(new, old) == ["new on truth", "new", "old"]
    assert names(alone, old) == ["alone on truth", "alone", "old"]
    assert names(again, new)[1:] == ["inference_TTA", "inference"]
    assert names(twin, new)[1:] == ["twins", tmp_path.name]
    assert names(results, new)[1:] == ["results", "new"]
    predicted = alone.with_name("predictions.json")
    predicted.write_text(results.read_text())
    assert names(predicted, old)[1:] == ["alone", "old"]
    assert names(results, results)[1:] == ["results (1)", "results (2)"]


@pytest.mark.parametrize("folder", ["", "data/"])
def test_own_data_are_named_as_they_are(tmp_path, monkeypatch, folder):
    """Not by the registered name and the completed copy, which have hashes in theirs."""
    monkeypatch.setenv("HRNET_D2_CACHE", str(tmp_path / "cache"))
    truth, results, images = planted.write(tmp_path)
    data = json.loads(truth.read_text())
    for annotation in data["annotations"]:
        del annotation["area"]
    # A layout that has no COCO file is read into one in the cache.
    own = cached_json(data, "valid") if folder else tmp_path / "valid.json"
    own.write_text(json.dumps(data))
    cfg = get_cfg()
    _, name = register_custom_data(val_json=own, val_images=images)
    assert re.search("custom_valid_.*[0-9a-f]{8}", name)
    cfg.DATASETS.TEST = (name,)
    cfg.OUTPUT_DIR = str(tmp_path / "mine" / ".")
    results_of(tmp_path / "mine" / "inference" / name, results)
    (files,) = write_reports(cfg)
    assert files.summary["title"] == "mine on valid"
    assert files.summary["runs"][0]["name"] == "mine"
    assert files.summary["dataset"]["annotations"] == "valid.json"
    assert "custom_" not in files.markdown.read_text()


def test_no_threshold_without_a_correct_detection(tmp_path):
    truth, results, _ = planted.write(tmp_path)
    wrong = [r for r, d in zip(planted.results(), planted.DETECTIONS, strict=True) if d[1] == 7]
    results.write_text(json.dumps([r | {"bbox": [150, 1, 9, 9]} for r in wrong]))
    files = write_report(results, truth, tmp_path / "a.html")
    cat, dog = (c["best"] for c in files.summary["runs"][0]["tasks"]["bbox"]["classes"])
    assert cat == {"threshold": None, "f1": None, "precision": None, "recall": None}
    assert dog == {"threshold": None, "f1": 0, "precision": 0, "recall": 0}
    (row,) = [line for line in files.markdown.read_text().splitlines() if "| dog" in line]
    assert row.endswith("|  | 0.0 |")
