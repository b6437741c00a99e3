import pytest

from tests.depth import shallow  # noqa: F401 (a fixture of every test)
from tests.prediction.models import write_mask_model, write_model


@pytest.fixture(scope="package")
def model(tmp_path_factory):
    """The path of a checkpoint of a box model, beside its config."""
    return write_model(tmp_path_factory.mktemp("box_model"))


@pytest.fixture(scope="package")
def mask_model(tmp_path_factory):
    """The same for a model with masks."""
    return write_mask_model(tmp_path_factory.mktemp("mask_model"))
