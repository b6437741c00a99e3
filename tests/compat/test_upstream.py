"""Detectron2's main branch differs from the installed copy in a key of the config: either works."""

import re
from pathlib import Path

import pytest
import torch

import hrnet_d2
from hrnet_d2 import Predictor, model_zoo
from hrnet_d2.checkpoint import Checkpointer
from hrnet_d2.config_check import check_config
from hrnet_d2.modeling import build_model
from tests.engine.tiny import tiny_config


@pytest.fixture
def upstream(tmp_path):
    """A tiny config as Detectron2's main makes it."""
    cfg = tiny_config(tmp_path / "run")
    cfg.FLOAT32_PRECISION = ""
    return cfg


def test_a_config_with_keys_of_another_detectron2_is_accepted(upstream):
    check_config(upstream)
    hrnet_d2.add_hrnet_config(upstream)
    assert upstream.FLOAT32_PRECISION == ""
    assert build_model(upstream).training


def test_a_checkpoint_that_was_saved_with_another_detectron2_predicts(upstream):
    torch.manual_seed(0)
    Checkpointer(build_model(upstream), upstream.OUTPUT_DIR, cfg=upstream).save("model_final")
    file = str(Path(upstream.OUTPUT_DIR) / "model_final.pth")
    assert model_zoo.config_from_checkpoint(file).MODEL.HRNETV2P.WIDTH == 4
    picture = torch.randint(0, 256, (60, 80, 3), dtype=torch.uint8).numpy()
    assert "instances" in Predictor(file)(picture)


def test_nothing_depends_on_detectron2s_version():
    """It is printed by ``hrnet-d2 env`` and read nowhere else."""
    package = Path(hrnet_d2.__file__).parent
    version = re.compile(r"detectron2\W{0,2}\.__version__|version\(.detectron2")
    readers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if version.search(path.read_text("utf-8"))
    }
    assert readers == {"cli/env.py"}
