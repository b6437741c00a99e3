"""The numbers of the report: those of pycocotools, and those of a case counted by hand."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hrnet_d2.evaluation.report import write_report
from hrnet_d2.evaluation.report.analysis import analyze
from hrnet_d2.evaluation.report.errors import CORRECT, IGNORED, KINDS, average_precision
from hrnet_d2.evaluation.report.inputs import read_results, read_truth
from tests.evaluation.report import planted

STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def reference(data, found, task, *, area=None, image_ids=None) -> COCOeval:
    """pycocotools' evaluation."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(data)
        truth.createIndex()
        field = {"bbox": "bbox", "segm": "segmentation"}[task]
        keys = ("image_id", "category_id", "score", field)
        evaluation = COCOeval(truth, truth.loadRes([{k: r[k] for k in keys} for r in found]), task)
        if area is not None:
            evaluation.params.areaRng[0] = area
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def close(value, expected) -> bool:
    return value is None if expected == -1 else abs(value - expected) < 1e-6


@pytest.fixture(scope="module", params=["bbox", "segm"])
def evaluated(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    data, found = planted.random_data(seed=4, masks=request.param == "segm")
    (folder / "truth.json").write_text(json.dumps(data))
    (folder / "results.json").write_text(json.dumps(found))
    files = write_report(folder / "results.json", folder / "truth.json", folder / "page.html")
    summary = json.loads(files.metrics.read_text())
    truth = read_truth(folder / "truth.json")
    detections = read_results(folder / "results.json", truth)
    assert detections.tasks == (("bbox",) if request.param == "bbox" else ("bbox", "segm"))
    analysis = analyze(truth, detections, request.param)
    return request.param, data, found, summary["runs"][0]["tasks"][request.param], analysis


def test_every_metric_equals_pycocotools(evaluated):
    task, data, found, written, _ = evaluated
    expected = reference(data, found, task)
    for name, value in zip(STATS, expected.stats, strict=True):
        assert close(written["metrics"][name], value), name
    assert len({written["metrics"][name] for name in STATS}) > 8
    for k, entry in enumerate(written["classes"]):
        precision = expected.eval["precision"][:, :, k, 0, -1]
        assert close(entry["metrics"]["AP"], precision.mean()), entry["name"]
        assert close(entry["metrics"]["AP75"], precision[5].mean())
        small = expected.eval["precision"][:, :, k, 1, -1]
        assert close(entry["metrics"]["APs"], small.mean())
        assert close(entry["metrics"]["AR100"], expected.eval["recall"][:, k, 0, -1].mean())
    assert written["classes"][5]["metrics"]["AP"] is None, "a class without objects"


def test_size_and_crowding_equal_pycocotools(evaluated):
    task, data, found, written, _ = evaluated
    assert len(written["by_size"]) > 3 and len(written["by_crowding"]) > 2
    for row in written["by_size"]:
        high = row["high"] or 1e5
        area = [row["low"] ** 2, np.nextafter(high**2, 0)]
        expected = reference(data, found, task, area=area)
        assert close(row["AP"], expected.stats[0]) and close(row["AR100"], expected.stats[8])
        objects = [a for a in data["annotations"] if not a["iscrowd"]]
        assert row["objects"] == sum(row["low"] ** 2 <= a["area"] < high**2 for a in objects)
    for row in written["by_crowding"]:
        counts = {image["id"]: 0 for image in data["images"]}
        for a in data["annotations"]:
            counts[a["image_id"]] += not a["iscrowd"]
        ids = [i for i, n in counts.items() if row["low"] <= n <= (row["high"] or n)]
        assert row["images"] == len(ids)
        expected = reference(data, found, task, image_ids=ids)
        assert close(row["AP"], expected.stats[0]) and close(row["AP50"], expected.stats[1])


def test_matching_is_that_of_pycocotools(evaluated):
    """Which detections are correct, false and ignored at an IoU of 0.5, one by one."""
    task, data, found, _, analysis = evaluated
    expected = reference(data, found, task)
    outcome = {}
    for image in expected.evalImgs[: len(expected.evalImgs)]:
        if image is None or image["aRng"] != expected.params.areaRng[0]:
            continue
        for d, g, ignored in zip(
            image["dtIds"], image["dtMatches"][0], image["dtIgnore"][0], strict=True
        ):
            outcome[d] = "ignored" if ignored else "correct" if g else "false"
    numbers = {"correct": 0, "false": 0, "ignored": 0}
    for value in outcome.values():
        numbers[value] += 1
    kind = analysis.errors.kind
    assert (kind == CORRECT).sum() == numbers["correct"] > 50
    assert (kind == IGNORED).sum() == numbers["ignored"] > 0
    assert (kind >= 0).sum() == numbers["false"] > 50
    # Scores are rounded in the data: the order within ties matters too.
    ours = sorted(analysis.detections.score[kind == CORRECT])
    theirs = sorted(found[d - 1]["score"] for d, value in outcome.items() if value == "correct")
    assert ours == theirs


def test_own_average_precision_equals_pycocotools(evaluated):
    task, data, found, written, analysis = evaluated
    kind = analysis.errors.kind
    counted = kind != IGNORED
    ap = average_precision(
        analysis.detections.score[counted],
        kind[counted] == CORRECT,
        analysis.detections.cls[counted],
        analysis.truth.objects,
    )
    expected = reference(data, found, task).eval["precision"][0, :, :, 0, -1].mean(axis=0)
    np.testing.assert_allclose(np.nan_to_num(ap, nan=-1), expected, atol=1e-6)
    assert abs(analysis.errors.ap50 - written["metrics"]["AP50"]) < 1e-6


def test_counts_agree_with_each_other(evaluated):
    _, _, _, written, analysis = evaluated
    threshold = written["threshold"]["score"]
    errors, images = written["errors"], analysis.by_image()
    false = sum(errors[kind]["count"] for kind in KINDS if kind != "missed")
    assert images["false"].sum() == false
    found = int(images["true"].sum())
    objects = int(analysis.truth.objects.sum())
    assert images["lost"].sum() == objects - found >= errors["missed"]["count"]
    assert written["threshold"]["recall"] == pytest.approx(found / objects)
    assert written["threshold"]["precision"] == pytest.approx(found / (found + false))
    # No other threshold in steps of 0.01 has a larger F1.
    step = round(threshold * 100)
    true, wrong = analysis.counts.true.sum(axis=0), analysis.counts.false.sum(axis=0)
    values = [2 * true[i:].sum() / (true[i:].sum() + wrong[i:].sum() + objects) for i in range(100)]
    assert max(values) == values[step] == pytest.approx(written["threshold"]["f1"])
    matrix = np.array(written["confusion"]["matrix"])
    assert matrix[:-1].sum() == objects
    assert matrix[:, :-1].sum() == found + false + _taken_from_crowds(analysis)
    # What the page adds up from bins.
    bins = analysis.counts.kinds[:, :, step:].sum(axis=(0, 2))
    assert bins[:5].tolist() == [errors[kind]["count"] for kind in KINDS[:5]]
    missed = analysis.errors.missed.sum() + analysis.counts.kinds[:, 5, :step].sum()
    assert missed == errors["missed"]["count"]


def _taken_from_crowds(analysis) -> int:
    """Detections on a crowd region that lie on an object of another class."""
    taken = (analysis.matches.any_class_of >= 0) & analysis.matches.ignored & analysis.shown
    return int(taken.sum())


def test_best_threshold_of_a_class(evaluated):
    """Against all scores of the class, one by one."""
    _, _, _, written, analysis = evaluated
    kind, detections = analysis.errors.kind, analysis.detections
    for k, entry in enumerate(written["classes"][:5]):
        of_class = (detections.cls == k) & (kind != IGNORED)
        score, right = detections.score[of_class], kind[of_class] == CORRECT
        objects = int(analysis.truth.objects[k])
        best = max(2 * right[score >= t].sum() / ((score >= t).sum() + objects) for t in set(score))
        assert entry["best"]["f1"] == pytest.approx(best)
        at = score >= entry["best"]["threshold"]
        assert 2 * right[at].sum() / (at.sum() + objects) == pytest.approx(best)
    assert written["classes"][5]["best"]["threshold"] is None


def test_calibration(evaluated):
    _, _, _, written, analysis = evaluated
    kind = analysis.errors.kind
    score = analysis.detections.score[kind != IGNORED]
    right = (kind == CORRECT)[kind != IGNORED]
    total = 0.0
    for row in written["calibration"]["bins"]:
        last = row["high"] == 1.0
        inside = (score >= row["low"]) & ((score < row["high"]) | last)
        assert row["detections"] == inside.sum()
        if inside.any():
            assert row["precision"] == pytest.approx(right[inside].mean())
            total += abs(right[inside].mean() - score[inside].mean()) * inside.mean()
    assert written["calibration"]["ece"] == pytest.approx(total)


@pytest.mark.parametrize("masks", [False, True])
def test_planted_mistakes_are_found_exactly(tmp_path, masks):
    truth, results, _ = planted.write(tmp_path, masks=masks)
    summary = write_report(results, truth, tmp_path / "page.html").summary
    tasks = summary["runs"][0]["tasks"]
    assert list(tasks) == (["bbox", "segm"] if masks else ["bbox"])
    read = read_truth(truth)
    detections = read_results(results, read)
    for task, written in tasks.items():
        errors = written["errors"]
        counts = {kind: error["count_at_any_score"] for kind, error in errors.items()}
        assert counts == dict.fromkeys(KINDS, 1) | {"missed": 2}
        for kind, cost in planted.COSTS.items():
            assert errors[kind]["cost_ap50"] == pytest.approx(cost, abs=1e-9), kind
        assert written["metrics"]["AP50"] == pytest.approx(34 / 101)
        # Each detection is the one that was planted.
        kinds = analyze(read, detections, task).errors.kind
        names = [*KINDS, "ignored", "correct"]
        found = {
            (read.image_ids[i], round(float(score), 2)): names[kind]
            for i, score, kind in zip(detections.image, detections.score, kinds, strict=True)
        }
        assert found == {(image, score): kind for image, _, _, score, kind in planted.DETECTIONS}


def test_planted_confusion_and_thresholds(tmp_path):
    truth, results, _ = planted.write(tmp_path)
    written = write_report(results, truth, tmp_path / "page.html").summary["runs"][0]["tasks"]
    found = written["bbox"]
    # F1 is best with the detection of 0.95 or more: 2 of 2 correct, 2 of 6 objects found.
    assert 0.90 < found["threshold"]["score"] <= 0.95
    assert found["threshold"]["precision"] == 1 and found["threshold"]["recall"] == 1 / 3
    assert found["confusion"]["labels"] == ["cat", "dog", "background"]
    assert found["confusion"]["matrix"] == [[1, 0, 2], [0, 1, 2], [0, 0, 0]]
    missed = {kind: error["count"] for kind, error in found["errors"].items()}
    assert missed == dict.fromkeys(KINDS, 0) | {"missed": 4}
    read = read_truth(truth)
    low = analyze(read, read_results(results, read), "bbox")
    everything = np.zeros((3, 3), int)
    for row, column, _, count in low.confusion:
        everything[row, column] += count
    # The dog of 0.9 on the cat; the duplicate, the background, the loose and the near one.
    assert everything.tolist() == [[1, 1, 0], [0, 1, 0], [2, 2, 0]]


def test_comparison(tmp_path):
    truth, results, _ = planted.write(tmp_path)
    found = json.loads(results.read_text())
    better = [r for r in found if r["score"] not in (0.90, 0.99)]  # no false dog, one dog less
    better.append({"image_id": 4, "category_id": planted.CAT, "bbox": [10, 10, 40, 40]})
    better[-1]["score"] = 0.97
    (tmp_path / "better.json").write_text(json.dumps(better))
    summary = write_report(
        tmp_path / "better.json", truth, tmp_path / "page.html", against=results
    ).summary
    assert [run["name"] for run in summary["runs"]] == ["better", "results"]
    change = summary["comparison"]["bbox"]
    one, other = (run["tasks"]["bbox"]["metrics"] for run in summary["runs"])
    assert change["metrics"]["AP"] == pytest.approx(one["AP"] - other["AP"])
    assert change["objects"] == {"gained": 1, "lost": 1}
    assert change["images"]["better"] == 1 and change["images"]["worse"] == 1
