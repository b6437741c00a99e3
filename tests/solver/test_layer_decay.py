"""AdamW, layer-wise rates and the cosine schedule."""

import math

import pytest
import torch
from torch import nn

from hrnet_d2.config_file import ConfigError
from hrnet_d2.engine import Trainer
from hrnet_d2.solver.build import build_optimizer
from hrnet_d2.solver.layer_decay import layer_factors
from tests.configs import load_config
from tests.engine.tiny import tiny_config


def rates(cfg, model):
    names = {id(p): name for name, p in model.named_parameters()}
    groups = build_optimizer(cfg, model).param_groups
    return {
        names[id(p)]: group["lr"] / cfg.SOLVER.BASE_LR for group in groups for p in group["params"]
    }


@pytest.mark.parametrize(
    "config, depths",
    [
        (
            "faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml",
            ["conv2", "layer1.0", "transition1", "transition2", "stage4"],
        ),
        ("htc/htc_x101_64x4d_fpn_28e_coco.yaml", [None, None, "res3", "res4", "res5"]),
    ],
)
def test_rates_fall_with_the_distance_from_the_heads(config, depths):
    cfg = load_config(config)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.SOLVER.LAYER_DECAY = "cpu", "", 0.5
    cfg.SOLVER.CONV_BIAS_LR_FACTOR = 2.0
    found = rates(cfg, Trainer.build_model(cfg))
    for depth, name in enumerate(depths):
        weights = [
            rate
            for key, rate in found.items()
            if name is not None and f"bottom_up.{name}." in key and key.endswith("weight")
        ]
        assert weights == pytest.approx([0.5 ** (5 - depth)] * len(weights))
        assert weights or name is None
    heads = {k: v for k, v in found.items() if "bottom_up" not in k}
    assert {round(v, 6) for k, v in heads.items() if k.endswith("weight")} == {1.0}
    assert heads["proposal_generator.rpn_head.conv.bias"] == 2.0


def test_a_model_without_stages_is_an_error():
    with pytest.raises(ConfigError, match="SOLVER.LAYER_DECAY"):
        layer_factors(nn.Linear(2, 2), 0.5)


def test_adamw_and_cosine_train(tmp_path):
    options = ["SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", "0.001", "SOLVER.BETAS", "[0.8,0.9]"]
    options += ["SOLVER.LAYER_DECAY", "0.9", "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"]
    options += ["SOLVER.WARMUP_ITERS", "0", "MODEL.HRNETV2P.FREEZE_AT", "2"]
    trainer = Trainer(tiny_config(tmp_path, *options))
    assert type(trainer.optimizer) is torch.optim.AdamW
    assert trainer.optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    trainer.resume_or_load(resume=False)
    frozen = trainer.model.backbone.bottom_up.layer1[0].conv1.weight.detach().clone()
    trainer.train()
    assert torch.equal(frozen, trainer.model.backbone.bottom_up.layer1[0].conv1.weight)
    top = max(group["initial_lr"] for group in trainer.optimizer.param_groups)
    assert top == pytest.approx(0.001)
    now = max(group["lr"] for group in trainer.optimizer.param_groups)
    assert now == pytest.approx(0.001 * 0.5 * (1 + math.cos(math.pi)), abs=1e-6)
    saved = torch.load(tmp_path / "model_final.pth", weights_only=False)["trainer"]["_trainer"]
    assert "exp_avg_sq" in saved["optimizer"]["state"][0]
