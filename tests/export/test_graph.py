"""The graph, the settings and the runtime together detect what the model detects."""

import io

import numpy as np
import pytest
import torch
from torch.export import Dim
from torchvision.ops import nms

from hrnet_d2 import Predictor
from hrnet_d2.config_file import ConfigError
from hrnet_d2.data import read_image
from hrnet_d2.export import ExportedPredictor, ExportError
from hrnet_d2.export.building import build_graph, let_nms_keep_few
from hrnet_d2.export.checking import TOLERANCES, compare
from hrnet_d2.export.exporting import Source, cpu_predictor
from hrnet_d2.export.graph import best_of_each, bounded, grouped_nms
from hrnet_d2.export.runtime import Detector
from hrnet_d2.export.settings import settings_of
from tests.export.models import CASES, MMDET1_CASES, case_config, case_predictor
from tests.extras import needs_export
from tests.parity import FOLDER

IMAGE = read_image(str(FOLDER / "images" / "coffee.png"))
SLOW = ("mmdet1/v1_fcos_w48", "mmdet1/v1_htc_w18", "htc_hrnetv2p_w18")


def eager(predictor):
    """An exported predictor whose graph runs as it is, without an export."""
    source = Source(predictor, torch.float32)

    @torch.no_grad()
    def run(inputs):
        return [x.numpy() for x in source.graph(*map(torch.from_numpy, inputs.values()))]

    return ExportedPredictor(Detector(settings_of(source, "pt2", "float32"), run))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in [*CASES, *MMDET1_CASES]
    ],
)
def test_detections_are_the_models(name, tmp_path):
    predictor = case_predictor(name, tmp_path)
    exported = eager(predictor)
    images = [IMAGE[:300, :401], IMAGE[:400, :230]]
    for image, made in zip(images, exported(images), strict=True):
        made, expected = made["instances"], predictor(image)["instances"]
        assert len(expected) > 20
        assert made.image_size == expected.image_size
        torch.testing.assert_close(
            made.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=2e-4
        )
        torch.testing.assert_close(made.scores, expected.scores, rtol=0, atol=1e-6)
        assert torch.equal(made.pred_classes, expected.pred_classes)
        assert made.has("pred_masks") == expected.has("pred_masks")
        if expected.has("pred_masks"):
            differing = (made.pred_masks != expected.pred_masks).sum()
            assert differing <= 1e-4 * expected.pred_masks.sum()


class Suppressed(torch.nn.Module):
    def forward(self, boxes, scores):
        return boxes[bounded(nms(boxes, scores, 0.5))]


@needs_export("pt2")
def test_a_program_takes_images_with_one_object_or_none():
    """torchvision tells the recorder that non-maximum suppression keeps two boxes at least."""
    inputs = torch.tensor([[0.0, 0, 9, 9], [20, 20, 30, 30]]).repeat(2, 1), torch.rand(4)
    shapes = ({0: Dim("boxes", min=0)},) * 2
    program = torch.export.export(Suppressed(), inputs, dynamic_shapes=shapes)
    let_nms_keep_few(program)
    written = io.BytesIO()
    torch.export.save(program, written)
    written.seek(0)
    module = torch.export.load(written).module()
    for count, kept in ((4, 2), (1, 1), (0, 0)):
        assert len(module(inputs[0][:count], inputs[1][:count])) == kept


BATCHES = ["mask_rcnn_w18_3_classes", "fcos_hrnetv2p_w18", "mmdet1/v1_faster_rcnn_w48"]


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_detects_what_its_images_do(name, tmp_path):
    """Images of one padded size and of several own sizes, with other numbers of detections."""
    exported = eager(case_predictor(name, tmp_path))
    detector, batches = exported.detector, []
    run = detector._run
    detector._run = lambda inputs: batches.append(inputs["images"].shape) or run(inputs)
    blank = np.full((280, 370, 3), 127, np.uint8)
    images = [IMAGE[:300, :399], blank, IMAGE[100:380, 20:390], IMAGE[:400, :230], IMAGE[:300]]
    # Between two scores in the middle, so that the images keep different numbers (not FCOS's,
    # whose threshold is for the probability without the centerness).
    scores = torch.cat([output["instances"].scores for output in exported(images)]).sort().values
    detector.score_thresh = float(scores[len(scores) // 2 :][:2].mean())
    batches.clear()
    alone = [output["instances"] for output in exported(images)]
    assert [shape[0] for shape in batches] == [1] * 5
    batches.clear()
    detector.batch = 4
    together = [output["instances"] for output in exported(images)]
    assert [shape[0] for shape in batches] == [3, 1, 1] and len(set(batches)) == 3
    assert len({len(found) for found in alone}) > 1 or name.startswith("fcos")
    for made, expected in zip(together, alone, strict=True):
        assert made.image_size == expected.image_size and len(made) == len(expected)
        boxes = expected.pred_boxes.tensor
        torch.testing.assert_close(made.pred_boxes.tensor, boxes, rtol=0, atol=5e-4)
        torch.testing.assert_close(made.scores, expected.scores, rtol=0, atol=1e-5)
        assert torch.equal(made.pred_classes, expected.pred_classes)
        if expected.has("pred_masks"):
            differing = (made.pred_masks != expected.pred_masks).sum()
            assert differing <= 1e-4 * expected.pred_masks.numel()


@pytest.mark.parametrize("name", ["faster_rcnn_hrnetv2p_w18", "fcos_hrnetv2p_w18"])
def test_settings_that_a_user_changed(name, tmp_path):
    """Every key of the input and of the selection of detections reaches the export."""
    cfg = case_config(name, tmp_path)
    usual = eager(Predictor(cfg, optimize=False))(IMAGE)["instances"]
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 120, 180
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [120.0, 110.0, 100.0], [50.0, 60.0, 70.0]
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.FCOS.SCORE_THRESH_TEST = 0.02
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = cfg.MODEL.FCOS.NMS_THRESH_TEST = 0.3
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST, cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 300, 400
    cfg.MODEL.RPN.NMS_THRESH = 0.6
    cfg.MODEL.FCOS.TOPK_CANDIDATES_TEST = 200
    cfg.TEST.DETECTIONS_PER_IMAGE = 37
    predictor = Predictor(cfg, optimize=False)
    made, expected = eager(predictor)(IMAGE)["instances"], predictor(IMAGE)["instances"]
    assert len(made) == len(expected) == 37
    torch.testing.assert_close(made.scores, expected.scores, rtol=0, atol=1e-6)
    boxes = made.pred_boxes.tensor
    torch.testing.assert_close(boxes, expected.pred_boxes.tensor, rtol=0, atol=5e-4)
    assert not torch.allclose(made.scores, usual.scores[:37], atol=1e-3)


def test_class_names_of_other_data_are_left_out(tmp_path):
    cfg = case_config("faster_rcnn_w18_1_class", tmp_path)
    assert eager(Predictor(cfg, optimize=False)).detector.classes == ["class 0"]
    cfg.DATASETS.CLASS_NAMES = ["a", "b"]
    source = Source(Predictor(cfg, optimize=False), torch.float32)
    assert settings_of(source, "onnx", "float32")["classes"] == []
    assert settings_of(source, "onnx", "float32")["category_ids"] == []


def test_category_ids_are_those_of_the_dataset(tmp_path):
    source = Source(case_predictor("faster_rcnn_hrnetv2p_w18", tmp_path), torch.float32)
    made = settings_of(source, "onnx", "float32")
    assert dict(zip(made["classes"], made["category_ids"], strict=True))["toothbrush"] == 90


def test_test_time_augmentation_is_refused(tmp_path):
    cfg = case_config("faster_rcnn_hrnetv2p_w18", tmp_path)
    cfg.TEST.AUG.ENABLED = True
    with pytest.raises(ConfigError, match="set TEST.AUG.ENABLED False"):
        cpu_predictor(cfg)
    cfg.TEST.AUG.ENABLED, cfg.INPUT.FORMAT = False, "L"
    with pytest.raises(ConfigError, match="INPUT.FORMAT is 'L': .* take only RGB or BGR"):
        cpu_predictor(cfg)


def test_an_image_without_detections(tmp_path):
    exported = eager(case_predictor("faster_rcnn_hrnetv2p_w18", tmp_path))
    exported.detector.score_thresh = 1.0
    found = exported(IMAGE)["instances"]
    assert len(found) == 0 and found.pred_boxes.tensor.shape == (0, 4)


def test_the_model_stays_as_it_is(tmp_path):
    predictor = case_predictor("faster_rcnn_hrnetv2p_w18", tmp_path)
    before = {name: x.clone() for name, x in predictor.model.state_dict().items()}
    build_graph(predictor.model, torch.bfloat16)
    after = predictor.model.state_dict()
    assert all(
        torch.equal(after[name], x) and after[name].dtype == x.dtype for name, x in before.items()
    )


def test_groups_suppress_only_themselves():
    """As torchvision's own batched NMS, one group after the other, for very many groups."""
    from torchvision.ops import nms

    generator = torch.Generator().manual_seed(0)
    low = torch.rand(4000, 2, generator=generator) * 700
    boxes = torch.cat((low, low + 5 + torch.rand(4000, 2, generator=generator) * 95), dim=1)
    scores = torch.rand(4000, generator=generator)
    groups = torch.randint(0, 1203, (4000,), generator=generator)
    kept = grouped_nms(boxes, scores, groups, torch.tensor(1203), torch.tensor(800.0), 0.5)
    expected = []
    for group in groups.unique():
        rows = (groups == group).nonzero()[:, 0]
        expected += rows[nms(boxes[rows], scores[rows], 0.5)].tolist()
    assert sorted(kept.tolist()) == sorted(expected)
    assert 3000 < len(kept) < 4000
    assert (scores[kept].diff() <= 0).all()


@pytest.mark.parametrize("most", [2, 0, -1])
def test_the_best_of_each_image(most):
    image = torch.tensor([2, 0, 2, 2, 0, 0, 0])
    kept = best_of_each(image, torch.arange(4), most)
    expected = [[1, 4, 5, 6], [], [0, 2, 3], []]
    assert kept.tolist() == [row for rows in expected for row in rows[: most if most >= 0 else 9]]


def test_soft_nms_is_refused(tmp_path):
    cfg = case_config("faster_rcnn_hrnetv2p_w18", tmp_path)
    cfg.MODEL.ROI_HEADS.SOFT_NMS.ENABLED = True
    with pytest.raises(ExportError, match="Soft-NMS cannot be exported"):
        build_graph(Predictor(cfg, optimize=False).model)


@pytest.mark.parametrize("name", ["faster_rcnn_hrnetv2p_w18", "fcos_hrnetv2p_w18"])
@pytest.mark.parametrize("shape", [(4, 400), (400, 4), (1, 1)])
def test_a_thin_image_is_padded_as_in_a_batch(name, shape, tmp_path):
    """A batch pads to its largest image, of two rows of the coarsest level at least here."""
    predictor = case_predictor(name, tmp_path)
    exported = eager(predictor)
    height, width = shape
    image = np.ascontiguousarray(IMAGE[:height, :width])
    padded = exported.detector.prepare(image)["images"].shape[2:]
    assert min(padded) >= 64 and all(side % 32 == 0 for side in padded)

    @torch.no_grad()
    def in_a_batch(image):
        inputs = exported.detector.prepare(image)
        rows, columns = inputs["size"][0]
        pixels = torch.from_numpy(inputs["images"][0])
        own = {"image": pixels[:, :rows, :columns], "height": height, "width": width}
        return predictor.model([own, {"image": pixels}])[0]

    model, detector = predictor.model, exported.detector
    for found in compare(detector, in_a_batch, model, [image], TOLERANCES["float32"]):
        assert found.ok and found.made >= 5, found
