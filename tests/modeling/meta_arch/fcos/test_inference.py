"""FCOS's post-processing, against a plain loop over images, levels and pairs."""

import math

import pytest
import torch

from hrnet_d2.modeling.meta_arch.fcos import inference
from hrnet_d2.modeling.meta_arch.fcos.inference import detect
from hrnet_d2.modeling.meta_arch.fcos.targets import level_locations

STRIDES = [8, 16]
SIZES = [(6, 8), (3, 4)]
IMAGE_SIZES = [(48, 64), (40, 50), (33, 64)]
CLASSES = 3
OPTIONS = {"score_thresh": 0.3, "topk": 30, "nms_thresh": 0.5, "max_detections": 20}


def random_predictions(seed=0, num_images=3):
    generator = torch.Generator().manual_seed(seed)

    def make(channels, scale, shift):
        return [
            torch.randn(num_images, channels, *size, generator=generator) * scale + shift
            for size in SIZES
        ]

    return make(CLASSES, 2.0, 0.0), [x.exp() for x in make(4, 0.4, 2.5)], make(1, 2.0, 0.0)


def run(predictions, image_sizes=IMAGE_SIZES, **options):
    points = level_locations(SIZES, STRIDES, torch.device("cpu"))
    return detect(*predictions, points, image_sizes, **{**OPTIONS, **options})


def iou(a, b):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])  # noqa: E731
    return w * h / (area(a) + area(b) - w * h)


def plain_detections(predictions, image, image_size, options):
    """(score, class, box) of one image, sorted by descending score."""
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    height, width = image_size
    candidates = []
    for logits, distances, ctrness, stride in zip(*predictions, STRIDES, strict=True):
        cells = [(i, j) for i in range(logits.shape[2]) for j in range(logits.shape[3])]
        probability = {
            (c, *cell): sigmoid(float(logits[image, c, cell[0], cell[1]]))
            for c in range(CLASSES)
            for cell in cells
        }
        if options.get("topk_by") == "locations":
            best = {
                cell: max(probability[(c, *cell)] for c in range(CLASSES))
                * sigmoid(float(ctrness[image, 0, cell[0], cell[1]]))
                for cell in cells
            }
            cells = sorted(cells, key=lambda cell: -best[cell])[: options["topk"]]
        pairs = [
            (p, *key)
            for key, p in probability.items()
            if p > options["score_thresh"] and key[1:] in cells
        ]
        if options.get("topk_by") != "locations":
            pairs = sorted(pairs, reverse=True)[: options["topk"]]
        for p, c, row, column in pairs:
            left, top, right, bottom = distances[image, :, row, column].tolist()
            x, y = (column + 0.5) * stride, (row + 0.5) * stride
            box = (
                min(max(x - left, 0), width),
                min(max(y - top, 0), height),
                min(max(x + right, 0), width),
                min(max(y + bottom, 0), height),
            )
            score = p * sigmoid(float(ctrness[image, 0, row, column]))
            if box[2] > box[0] and box[3] > box[1]:
                candidates.append((score, c, box))
    kept = []
    for score, c, box in sorted(candidates, reverse=True):
        if all(c != k or iou(box, b) <= options["nms_thresh"] for _, k, b in kept):
            kept.append((score, c, box))
    return kept[: options["max_detections"]]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"topk": 1000},
        {"topk": 5},
        {"score_thresh": 0.0},
        {"max_detections": 3},
        {"topk_by": "locations"},
        {"topk_by": "locations", "topk": 5},
        {"topk_by": "locations", "topk": 1000, "score_thresh": 0.0},
    ],
)
def test_equals_plain_loop(seed, options):
    predictions = random_predictions(seed)
    results = run(predictions, **options)
    options = {**OPTIONS, **options}
    for image, (size, made) in enumerate(zip(IMAGE_SIZES, results, strict=True)):
        expected = plain_detections(predictions, image, size, options)
        assert made.image_size == size
        assert made.pred_classes.tolist() == [c for _, c, _ in expected]
        assert made.scores.tolist() == pytest.approx([s for s, _, _ in expected], abs=1e-6)
        boxes = torch.tensor([box for _, _, box in expected])
        assert torch.allclose(made.pred_boxes.tensor, boxes, atol=1e-4)
        assert len(expected) > 2


@pytest.mark.parametrize("first", [1, 4, 12, 40])
def test_the_best_candidates_first_gives_the_same(first, monkeypatch):
    for seed in range(5):
        predictions = random_predictions(seed)
        for limit in (1, 3, 20):
            options = {"topk_by": "locations", "max_detections": limit, "score_thresh": 0.1}
            expected = run(predictions, **options)
            with monkeypatch.context() as patch:
                patch.setattr(inference, "FIRST_CANDIDATES", first)
                made = run(predictions, **options)
            for a, b in zip(expected, made, strict=True):
                assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
                assert torch.equal(a.scores, b.scores)
                assert torch.equal(a.pred_classes, b.pred_classes)


def test_batch_equals_single_images():
    predictions = random_predictions(7)
    together = run(predictions)
    for i, size in enumerate(IMAGE_SIZES):
        alone = run([[x[i : i + 1] for x in levels] for levels in predictions], [size])[0]
        for field in ("scores", "pred_classes"):
            assert torch.equal(together[i].get(field), alone.get(field))
        assert torch.equal(together[i].pred_boxes.tensor, alone.pred_boxes.tensor)


def one_class(*, p, ctr=0.9, sides=(10.0, 10.0, 10.0, 10.0), where=(2, 3), more=()):
    """Predictions of one image where only some cells of the finest level have a class at all."""
    logits = [torch.full((1, CLASSES, *size), -20.0) for size in SIZES]
    distances = [torch.full((1, 4, *size), 8.0) for size in SIZES]
    ctrness = [torch.zeros(1, 1, *size) for size in SIZES]
    for cell in [(p, ctr, sides, where), *more]:
        probability, centerness, to_sides, (row, column) = cell
        logits[0][0, 0, row, column] = torch.tensor(probability).logit()
        ctrness[0][0, 0, row, column] = torch.tensor(centerness).logit()
        distances[0][0, :, row, column] = torch.tensor(to_sides)
    return logits, distances, ctrness


def test_threshold_is_on_the_class_alone_and_strict():
    made = run(one_class(p=0.6, ctr=0.1), [(48, 64)])[0]
    assert made.scores.tolist() == pytest.approx([0.06])  # below the threshold, and kept
    predictions = one_class(p=0.6)
    p = float(predictions[0][0][0, 0, 2, 3].sigmoid())
    assert len(run(predictions, [(48, 64)], score_thresh=p)[0]) == 0
    assert len(run(predictions, [(48, 64)], score_thresh=p - 1e-6)[0]) == 1


def test_boxes_are_clipped_before_suppression():
    """Two boxes that differ only outside the image suppress each other."""
    lower = (0.8, 0.9, (10.0, 18.0, 100.0, 2.0), (3, 7))
    predictions = one_class(p=0.9, sides=(10.0, 10.0, 20.0, 10.0), where=(2, 7), more=[lower])
    made = run(predictions, [(48, 64)])[0]
    assert made.pred_boxes.tensor.tolist() == [[50.0, 10.0, 64.0, 30.0]]
    assert len(run(predictions, [(480, 640)])[0]) == 2


def test_boxes_outside_the_image_are_dropped():
    made = run(one_class(p=0.9, sides=(1.0, 1.0, 1.0, 1.0), where=(5, 7)), [(40, 50)])[0]
    assert len(made) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", range(3))
def test_nonfinite_predictions_are_dropped_and_leave_the_others(kind, value):
    clean = random_predictions(3)
    broken = [[x.clone() for x in levels] for levels in clean]
    hidden = [[x.clone() for x in levels] for levels in clean]
    for where in ((0, 0, 2, 2), (1, 0, 5, 7)):
        broken[kind][0][where] = value
        # What remains if the location (for a class: the pair) is not a candidate at all.
        image, channel, row, column = where
        classes = [channel] if kind == 0 else range(CLASSES)
        for c in classes:
            hidden[0][0][image, c, row, column] = -40.0
    options = {"score_thresh": 0.0, "max_detections": -1, "topk": 1000}
    for made, expected in zip(run(broken, **options), run(hidden, **options), strict=True):
        assert made.scores.isfinite().all() and made.pred_boxes.tensor.isfinite().all()
        # Class probability 4e-18 of a hidden pair is above a threshold of 0.
        expected = expected[expected.scores > 1e-12]
        made = made[made.scores > 1e-12]
        assert torch.equal(made.pred_boxes.tensor, expected.pred_boxes.tensor)
        assert torch.equal(made.pred_classes, expected.pred_classes)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nonfinite_predictions_do_not_rank_as_locations(value):
    predictions = random_predictions(3)
    logits, _, ctrness = predictions
    logits[0][:, 1, :3] = value
    ctrness[0][:, 0, 3:] = math.nan
    for instances in run(predictions, topk_by="locations", topk=5):
        assert instances.scores.isfinite().all() and len(instances) > 0


def test_many_nonfinite_predictions_do_not_displace_others():
    clean = random_predictions(4)
    broken = [[x.clone() for x in levels] for levels in clean]
    broken[0][0][:, 0] = math.nan  # 48 pairs, more than the 30 candidates
    hidden = [[x.clone() for x in levels] for levels in clean]
    hidden[0][0][:, 0] = -40.0
    for made, expected in zip(run(broken), run(hidden), strict=True):
        assert len(made) > 5
        assert torch.equal(made.pred_boxes.tensor, expected.pred_boxes.tensor)


def test_nothing_found():
    for made in run(one_class(p=0.1), [(48, 64)]):
        assert len(made) == 0
        assert made.pred_boxes.tensor.shape == (0, 4)
