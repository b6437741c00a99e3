import pytest

from tests.prediction.models import write_model


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The path of a checkpoint of a box model, beside its config."""
    return write_model(tmp_path_factory.mktemp("box_model"))


@pytest.fixture(scope="session")
def mask_model(tmp_path_factory):
    """The same for a model with masks."""
    from hrnet_d2 import model_zoo
    from tests.engine.tiny import TINY
    from tests.prediction.models import MASKS, write

    folder = tmp_path_factory.mktemp("mask_model")
    cfg = model_zoo.load_config(
        MASKS, [*TINY, "OUTPUT_DIR", str(folder), "TEST.DETECTIONS_PER_IMAGE", "5"]
    )
    cfg.defrost()
    cfg.DATASETS.CLASS_NAMES = ["circle", "square", "triangle", "star"]
    return write(cfg, folder)
