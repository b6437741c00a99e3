"""The report's files, from the command line: what they contain, and what is refused."""

import json
import re

import cv2
import numpy as np
import pytest

from hrnet_d2.cli import main
from hrnet_d2.evaluation.report import write_report
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


def test_runs_are_named_by_what_differs(tmp_path):
    truth, results, _ = planted.write(tmp_path)
    paths = []
    for name in ("old", "new"):
        paths.append(tmp_path / name / "inference" / "val" / "coco_instances_results.json")
        paths[-1].parent.mkdir(parents=True)
        paths[-1].write_text(results.read_text())
    summary = write_report(paths[1], truth, tmp_path / "page.html", against=paths[0]).summary
    assert [run["name"] for run in summary["runs"]] == ["new", "old"]
