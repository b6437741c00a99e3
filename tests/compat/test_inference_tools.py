"""Our six families in Detectron2's tools for inference, analysis and export."""

import copy

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog, detection_utils
from detectron2.engine import DefaultPredictor
from detectron2.export import TracingAdapter
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model
from detectron2.structures import Instances
from detectron2.utils.analysis import FlopCountAnalysis, parameter_count_table
from detectron2.utils.visualizer import Visualizer

from hrnet_d2 import Predictor, model_zoo
from hrnet_d2.checkpoint import Checkpointer
from tests.compat.setting import BASES, VAL, batch, check_instances, check_training, family_config
from tests.test_lazy_configs import TWINS, measure_statistics

pytestmark = pytest.mark.slow
FAMILIES = list(BASES)
each_family = pytest.mark.parametrize("family", FAMILIES)
HAS_MASKS = {"mask_rcnn", "cascade_mask_rcnn", "htc"}


@pytest.fixture(scope="module")
def models():
    """Family to config and model in eval mode, which tests must not change."""
    found = {}
    for family in FAMILIES:
        torch.manual_seed(0)
        cfg = family_config(family)
        model = build_model(cfg)
        measure_statistics(model)
        found[family] = cfg, model.eval()
    return found


def image() -> np.ndarray:
    """A built-in picture, BGR."""
    return detection_utils.read_image(DatasetCatalog.get(VAL)[0]["file_name"], "BGR")


@each_family
def test_default_predictor(models, family, tmp_path):
    cfg, model = models[family]
    DetectionCheckpointer(model, str(tmp_path)).save("model")
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    picture = image()
    output = DefaultPredictor(cfg)(picture)
    check_instances(output, picture.shape[:2])
    assert output["instances"].has("pred_masks") == (family in HAS_MASKS)
    # At the original size nothing is resized, and ours finds the same.
    ours = Predictor(cfg, optimize=False)(picture)["instances"]
    assert torch.equal(ours.scores, output["instances"].scores)


@each_family
def test_checkpointer(models, family, tmp_path):
    """Detectron2's reads what ours saved, and ours what Detectron2's saved."""
    _, model = models[family]
    for writer, reader in ((Checkpointer, DetectionCheckpointer), (DetectionCheckpointer,) * 2,
                           (DetectionCheckpointer, Checkpointer)):  # fmt: skip
        writer(model, str(tmp_path)).save("model", iteration=7)
        other = copy.deepcopy(model)
        for parameter in other.parameters():
            parameter.data.zero_()
        rest = reader(other, str(tmp_path)).resume_or_load("", resume=True)
        assert rest["iteration"] == 7
        state = other.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@each_family
def test_time_augmentation(models, family, tmp_path):
    cfg, model = models[family]
    cfg = cfg.clone()
    cfg.TEST.AUG.ENABLED = True
    cfg.TEST.AUG.MIN_SIZES = (96, 128)
    cfg.TEST.AUG.MAX_SIZE = 200
    picture = image()
    height, width = picture.shape[:2]
    if family == "fcos":
        # Detectron2's class takes R-CNNs only; this package's tools read the same keys.
        Checkpointer(model, str(tmp_path)).save("model")
        cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
        output = Predictor(cfg)(picture)
        cfg.TEST.AUG.ENABLED = False
        plain = Predictor(cfg)(picture)
    else:
        pixels = torch.as_tensor(picture.transpose(2, 0, 1).copy())
        inputs = [{"image": pixels, "height": height, "width": width}]
        with torch.no_grad():
            (output,) = GeneralizedRCNNWithTTA(cfg, model)(inputs)
            (plain,) = model(inputs)
    check_instances(output, (height, width))
    assert output["instances"].has("pred_masks") == (family in HAS_MASKS)
    assert not torch.equal(output["instances"].scores, plain["instances"].scores)


@each_family
def test_visualizer(models, family):
    _, model = models[family]
    picture = image()
    pixels = torch.as_tensor(picture.transpose(2, 0, 1).copy())
    with torch.no_grad():
        (output,) = model([{"image": pixels}])
    drawn = Visualizer(picture[:, :, ::-1], MetadataCatalog.get(VAL)).draw_instance_predictions(
        output["instances"]
    )
    assert drawn.get_image().shape == picture.shape
    assert (drawn.get_image() != picture[:, :, ::-1]).any()


@each_family
def test_analyze_model(models, family):
    """``analyze_model.py``: operations by operator and module, parameters, structure."""
    _, model = models[family]
    flops = FlopCountAnalysis(model, batch()[:1]).unsupported_ops_warnings(False)
    total = flops.uncalled_modules_warnings(False).total()
    by_module = flops.by_module()
    assert 0 < by_module["model.backbone.bottom_up"] < by_module["model.backbone"] < total
    table = parameter_count_table(model, max_depth=3)
    assert "backbone.bottom_up" in table and "HRNet(" in str(model)


@pytest.mark.filterwarnings(r"ignore:.torch.jit.trace\w*. is deprecated:DeprecationWarning")
@each_family
def test_tracing_adapter(models, family):
    """``export_model.py --export-method tracing``: the trace gives what the model gives."""
    _, model = models[family]
    inputs = [{"image": batch()[0]["image"]}]

    def infer(model, inputs):
        if hasattr(model, "inference"):
            return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]
        return model(inputs)

    with torch.no_grad():
        adapter = TracingAdapter(model, inputs, infer)
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
        for entry in batch()[:1]:
            other = [{"image": entry["image"]}]
            (expected,) = infer(model, other)
            (found,) = adapter.outputs_schema(traced(entry["image"]))
    assert isinstance(found["instances"], Instances)
    for name, value in expected["instances"].get_fields().items():
        first, second = (getattr(v, "tensor", v) for v in (found["instances"].get(name), value))
        torch.testing.assert_close(first, second)


@each_family
def test_model_zoo(family):
    """As ``detectron2.model_zoo``: a name gives a config or a model that trains, YAML or lazy."""
    (twin,) = ((y, z) for y, z in TWINS.items() if y.split("/")[0] == family)
    for name in twin:
        assert model_zoo.get_config(name) is not None
        model = model_zoo.get(name, device="cpu")
        assert model.training
        # Untrained statistics: see NORM_EVAL.
        measure_statistics(model)
        inputs = batch(classes=80)
        if family == "htc":
            assert model.roi_heads.semantic_head.num_classes == 183
        check_training(model, inputs)
