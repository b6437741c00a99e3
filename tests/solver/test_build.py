"""The optimizer: rate and decay of each kind of parameter, and clipping of the whole gradient."""

import copy
from collections import Counter

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer as detectron2_build_optimizer
from packaging.version import Version
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hrnet_d2 import add_hrnet_config, model_zoo
from hrnet_d2.config_file import ConfigError
from hrnet_d2.engine.setup import argument_parser, setup
from hrnet_d2.solver import sgd
from hrnet_d2.solver.build import (
    build_optimizer,
    clip_full_model_gradient,
    get_optimizer_params,
)
from tests.configs import FOLDER, LEAVES, QUICK_START, load_config


def model_of(config):
    cfg = model_zoo.get_config(config)
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    return cfg, build_model(cfg)


def kinds(model) -> dict[int, str]:
    """Kind of each parameter, by its id."""
    found = {}
    for module in model.modules():
        layer = "other"
        if isinstance(module, (_BatchNorm, nn.GroupNorm)):
            layer = "norm"
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            layer = "conv"
        for name, parameter in module.named_parameters(recurse=False):
            found[id(parameter)] = f"{layer} {name}"
    return found


def table(model, optimizer) -> dict[str, tuple[int, set]]:
    """Kind -> (how many parameters, their pairs of rate and decay)."""
    kind_of = kinds(model)
    counts, settings, seen = Counter(), {}, Counter()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            kind = kind_of[id(parameter)]
            seen[id(parameter)] += 1
            counts[kind] += 1
            settings.setdefault(kind, set()).add((group["lr"], group["weight_decay"]))
    assert set(seen.values()) == {1}  # each parameter once
    assert seen.keys() == {id(p) for p in model.parameters() if p.requires_grad}
    return {kind: (counts[kind], settings[kind]) for kind in counts}


def test_fcos_recipe():
    cfg, model = model_of("fcos/fcos_hrnetv2p_w18_gn-head_4x4_1x_coco.yaml")
    optimizer = build_optimizer(cfg, model)
    assert table(model, optimizer) == {
        "conv weight": (305 + 6 + 8 + 3, {(0.01, 1e-4)}),
        "conv bias": (6 + 3, {(0.02, 0.0)}),
        "norm weight": (305 + 8, {(0.01, 1e-4)}),
        "norm bias": (305 + 8, {(0.01, 1e-4)}),
        "other scale": (5, {(0.01, 1e-4)}),
    }
    assert len(optimizer.param_groups) == 2
    biases = [id(p) for g in optimizer.param_groups if g["lr"] == 0.02 for p in g["params"]]
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[i] for i in biases} == {
        "backbone.reduction_conv.bias",
        *(f"backbone.fpn_output{i}.bias" for i in range(3, 8)),
        *(f"head.{name}.bias" for name in ("cls_score", "bbox_pred", "ctrness")),
    }
    assert all(g["momentum"] == 0.9 and not g["nesterov"] for g in optimizer.param_groups)


def test_two_stage_recipe():
    cfg, model = model_of("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml")
    settings = table(model, build_optimizer(cfg, model))
    assert settings.keys() == {"conv weight", "conv bias", "norm weight", "norm bias"}
    assert all(pairs == {(0.02, 1e-4)} for _, pairs in settings.values())


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.GroupNorm(2, 4)
        self.linear = nn.Linear(4, 2)
        self.shared = self.linear  # the same module twice
        self.frozen = nn.Conv2d(4, 4, 1)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.linear(self.norm(self.conv(x)).mean(dim=(2, 3))).pow(2).sum()


def small_cfg(**solver):
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SOLVER.WEIGHT_DECAY = 0.01
    for key, value in solver.items():
        node = cfg.SOLVER
        *path, last = key.split(".")
        for name in path:
            node = node[name]
        node[last] = value
    return cfg


@pytest.mark.parametrize(
    "solver, expected",
    [
        ({}, {"conv bias": (0.1, 0.01), "norm bias": (0.1, 0.0)}),
        ({"CONV_BIAS_LR_FACTOR": 2.0}, {"conv bias": (0.2, 0.01), "norm bias": (0.1, 0.0)}),
        ({"CONV_BIAS_WEIGHT_DECAY": 0.0}, {"conv bias": (0.1, 0.0), "norm bias": (0.1, 0.0)}),
        # Detectron2's keys apply to every bias; this package's take precedence.
        (
            {"BIAS_LR_FACTOR": 3.0, "WEIGHT_DECAY_BIAS": 0.5},
            {"conv bias": (0.3, 0.5), "norm bias": (0.3, 0.5)},
        ),
        (
            {"BIAS_LR_FACTOR": 3.0, "CONV_BIAS_LR_FACTOR": 2.0, "WEIGHT_DECAY_NORM": 0.2},
            {"conv bias": (0.2, 0.01), "norm bias": (0.3, 0.2)},
        ),
    ],
)
def test_keys(solver, expected):
    model = Small()
    made = table(model, build_optimizer(small_cfg(**solver), model))
    assert made["conv weight"] == (2, {(0.1, 0.01)})
    for kind, (lr, decay) in expected.items():
        ((rate, wd),) = made[kind][1]
        assert (rate, wd) == (pytest.approx(lr), decay)
    assert made["conv bias"][0] == 2 and made["norm bias"][0] == 1


def test_params_for_lazy_config():
    """Without an override the groups are Detectron2's own."""
    model = Small()
    (group,) = get_optimizer_params(model, 0.1)
    assert group["lr"] == 0.1 and "weight_decay" not in group and len(group["params"]) == 6


FULL = {"CLIP_GRADIENTS.ENABLED": True, "CLIP_GRADIENTS.FULL_MODEL": True}
FULL["CLIP_GRADIENTS.CLIP_TYPE"] = "norm"
# As configs of earlier versions have it.
ALIAS = {"CLIP_GRADIENTS.ENABLED": True, "CLIP_GRADIENTS.CLIP_TYPE": "full_model"}


def gradients(model, scale):
    torch.manual_seed(0)
    model.zero_grad()
    (model(torch.randn(2, 3, 4, 4)) * scale).backward()


@pytest.mark.parametrize("scale", [100.0, 1e-3])
def test_full_model_clipping_equals_clipping_by_hand(scale):
    torch.manual_seed(0)
    made = Small()
    by_hand = copy.deepcopy(made)
    solver = {**FULL, "CLIP_GRADIENTS.CLIP_VALUE": 0.5, "CONV_BIAS_LR_FACTOR": 2.0}
    optimizer = build_optimizer(small_cfg(**solver), made)
    plain = build_optimizer(small_cfg(CONV_BIAS_LR_FACTOR=2.0), by_hand)
    for _ in range(3):
        gradients(made, scale)
        optimizer.step()
        gradients(by_hand, scale)
        norm = torch.cat([p.grad.flatten() for p in by_hand.parameters() if p.requires_grad]).norm()
        if norm > 0.5:
            for p in by_hand.parameters():
                if p.requires_grad:
                    p.grad *= 0.5 / norm
        plain.step()
    assert (norm > 0.5) == (scale > 1)
    for a, b in zip(made.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)


def test_full_model_clipping_keeps_the_direction_where_norm_does_not():
    steps = {}
    for kind, full in (("full_model", True), ("alias", False), ("norm", False)):
        torch.manual_seed(0)
        model = Small()
        solver = {**(ALIAS if kind == "alias" else FULL), "WEIGHT_DECAY": 0.0}
        solver["CLIP_GRADIENTS.FULL_MODEL"] = full
        optimizer = build_optimizer(small_cfg(**solver), model)
        gradients(model, 100.0)
        raw = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
        optimizer.step()
        clipped = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
        steps[kind] = clipped.norm().item(), torch.cosine_similarity(raw, clipped, 0).item()
    assert steps["full_model"] == (pytest.approx(1.0, rel=1e-4), pytest.approx(1.0, rel=1e-5))
    assert steps["alias"] == steps["full_model"]
    assert steps["norm"][0] > 1.5 and steps["norm"][1] < 0.99


def test_clipping_acts_on_unscaled_gradients():
    """As Detectron2's AMPTrainer steps, with a scaler whose factor is far above the norm."""
    models = []
    for scaled in (False, True):
        torch.manual_seed(0)
        model = Small()
        optimizer = build_optimizer(small_cfg(**FULL, **{"WEIGHT_DECAY": 0.0}), model)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        torch.manual_seed(1)
        scaler.scale(model(torch.randn(2, 3, 4, 4)) * 50).backward()
        scaler.step(optimizer)
        scaler.update()
        models.append(model)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)


def test_step_with_schedule_resumes():
    """Rates follow the schedule for each group, and the state survives a checkpoint."""
    from detectron2.solver import build_lr_scheduler

    model = Small()
    solver = {"STEPS": (2,), "MAX_ITER": 4, "WARMUP_ITERS": 0, "CONV_BIAS_LR_FACTOR": 2.0}
    cfg = small_cfg(**FULL, **solver)
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(3):
        rates.append(sorted({group["lr"] for group in optimizer.param_groups}))
        gradients(model, 1.0)
        optimizer.step()
        scheduler.step()
    assert rates == [pytest.approx([0.1, 0.2])] * 2 + [pytest.approx([0.01, 0.02])]
    again = build_optimizer(cfg, model)
    again.load_state_dict(optimizer.state_dict())
    assert [g["lr"] for g in again.param_groups] == [g["lr"] for g in optimizer.param_groups]


@pytest.mark.parametrize("kind", ["value", "norm"])
def test_detectron2s_clip_types_remain(kind):
    model = Small()
    solver = {"CLIP_GRADIENTS.ENABLED": True, "CLIP_GRADIENTS.CLIP_TYPE": kind}
    if kind == "value":
        solver["CLIP_GRADIENTS.FULL_MODEL"] = True  # of norms alone
    optimizer = build_optimizer(small_cfg(**solver), model)
    gradients(model, 100.0)
    optimizer.step()
    for p in model.parameters():
        if p.requires_grad:
            size = p.grad.abs().max() if kind == "value" else p.grad.norm()
            assert size <= 1.0 + 1e-5


def test_mistakes_are_errors():
    model = Small()
    solver = {"CLIP_GRADIENTS.ENABLED": True, "CLIP_GRADIENTS.CLIP_TYPE": "global"}
    with pytest.raises(ConfigError, match="full_model.*'global'"):
        build_optimizer(small_cfg(**solver), model)
    with pytest.raises(ValueError, match="positive, got 0"):
        build_optimizer(small_cfg(**FULL, **{"CLIP_GRADIENTS.CLIP_VALUE": 0.0}), model)
    scaled = {"FUSED": True, "AMP.ENABLED": True, "AMP.DTYPE": "float16"}
    with pytest.raises(ConfigError, match="bfloat16"):
        build_optimizer(small_cfg(**FULL, **scaled), model)
    fused = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    clip_full_model_gradient(fused, 1.0)
    gradients(model, 1.0)
    fused.step()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(model(torch.randn(2, 3, 4, 4))).backward()
    with pytest.raises(RuntimeError, match="fused"):
        scaler.step(fused)


def test_fused_steps_are_the_same():
    models = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = Small()
        optimizer = build_optimizer(small_cfg(**FULL, FUSED=fused), model)
        assert all(bool(group["fused"]) == fused for group in optimizer.param_groups)
        for _ in range(3):
            gradients(model, 1.0)
            optimizer.step()
        models.append(model)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize("value", [None, True, False])
def test_a_cpu_steps_fused_unless_told_otherwise_or_clipping_all(kind, value):
    optimizer = build_optimizer(small_cfg(OPTIMIZER=kind, FUSED=value), Small())
    assert {group["fused"] for group in optimizer.param_groups} == {value is not False}
    assert {group["foreach"] for group in optimizer.param_groups} == {value is False}
    clipping = build_optimizer(small_cfg(**FULL, FUSED=value), Small())
    assert {group["fused"] for group in clipping.param_groups} == {bool(value)}


@pytest.mark.parametrize("kind", ["norm", "value"])
def test_a_cpu_does_not_step_fused_where_parameters_are_clipped(kind):
    clip = {"CLIP_GRADIENTS.ENABLED": True, "CLIP_GRADIENTS.CLIP_TYPE": kind}
    assert not any(g["fused"] for g in build_optimizer(small_cfg(**clip), Small()).param_groups)


@pytest.mark.parametrize("value", [None, True, False])
def test_sgd_of_parameters_and_of_groups(value):
    model = Small()
    for params in (model.parameters(), [{"params": list(model.parameters()), "lr": 0.2}]):
        (group,) = sgd(params, lr=0.1, fused=value).param_groups
        assert group["fused"] is (value is not False) and group["foreach"] is (value is False)
        assert len(group["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("of_model", [nn.Module.parameters, nn.Module.named_parameters])
def test_sgd_of_iterators_names_and_numbers(of_model):
    if of_model is nn.Module.named_parameters and Version(torch.__version__) < Version("2.6"):
        pytest.skip("PyTorch's optimizers take no names yet")
    model = nn.Linear(2, 2)
    (group,) = sgd([{"params": of_model(model)}], lr=0.1).param_groups
    assert len(group["params"]) == 2 and group["fused"]
    assert ("param_names" in group) == (of_model is nn.Module.named_parameters)
    assert len(sgd(of_model(model), lr=0.1).param_groups[0]["params"]) == 2
    scale = nn.Parameter(torch.tensor(1.0))
    assert sgd([{"params": scale}], lr=0.1).param_groups[0]["params"] == [scale]
    assert not sgd(of_model(model), lr=0.1, dampening=0.5, momentum=0.9).param_groups[0]["fused"]


def steps_of_two(optimizer, layers, first):
    """Gradients for ``first`` in the first step and for both layers in the others."""
    torch.manual_seed(0)
    for step in range(3):
        for layer in layers:
            if layer is first or step:
                layer.weight.grad = torch.randn(layer.weight.shape)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "sgd"])
def test_a_parameter_that_begins_to_learn_later(kind):
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        layers = nn.ModuleList(nn.Conv2d(2, 3, 3, bias=False) for _ in range(2))
        if kind == "sgd":
            optimizer = sgd(layers.parameters(), lr=0.1, momentum=0.9, fused=fused)
        else:
            optimizer = build_optimizer(small_cfg(OPTIMIZER=kind, FUSED=fused), layers)
        steps_of_two(optimizer, layers, layers[0])
        results.append([layer.weight.detach() for layer in layers])
    for fused_weight, weight in zip(*results, strict=True):
        torch.testing.assert_close(fused_weight, weight)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_a_step_counts_as_a_change_of_the_weights(kind, fused):
    model = Small()
    optimizer = build_optimizer(small_cfg(OPTIMIZER=kind, FUSED=fused), model)
    gradients(model, 1.0)
    before = [p._version for p in model.parameters()]
    optimizer.step()
    for p, version in zip(model.parameters(), before, strict=True):
        assert (p._version > version) == p.requires_grad


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_state_saved_in_another_memory_format(kind):
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = nn.Conv2d(4, 3, 3, bias=False)
        cfg = small_cfg(OPTIMIZER=kind, FUSED=fused)
        optimizer = build_optimizer(cfg, model)
        steps_of_two(optimizer, [model], model)
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        resumed = build_optimizer(cfg, last)
        resumed.load_state_dict(optimizer.state_dict())
        grad = torch.randn(model.weight.shape)
        last.weight.grad = grad.contiguous(memory_format=torch.channels_last)
        resumed.step()
        assert last.weight.is_contiguous(memory_format=torch.channels_last)
        results.append(last.weight.detach())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", [*LEAVES, *QUICK_START])
def test_stock_detectron2_builds_an_optimizer_from_every_config(name):
    """As DefaultTrainer, plain_train_net.py and benchmark.py do."""
    optimizer = detectron2_build_optimizer(load_config(name), Small())
    assert isinstance(optimizer, torch.optim.SGD)


def test_a_config_of_an_earlier_version_is_upgraded_by_the_setup(tmp_path):
    """So that the config.yaml of the run is one that Detectron2's tools can use."""
    old = tmp_path / "old.yaml"
    base = FOLDER / "quick_start" / "fcos_hrnetv2p_w18_shapes.yaml"
    old.write_text(
        f"_BASE_: {base}\nSOLVER: {{CLIP_GRADIENTS: {{CLIP_TYPE: full_model, FULL_MODEL: False}}}}"
    )
    output = tmp_path / "run"
    arguments = ["--config-file", str(old), "MODEL.HRNETV2P.WIDTH", "4", "OUTPUT_DIR", str(output)]
    cfg = setup(argument_parser().parse_args(arguments))
    assert cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "norm" and cfg.SOLVER.CLIP_GRADIENTS.FULL_MODEL
    saved = small_cfg()
    saved.merge_from_file(str(output / "config.yaml"))
    detectron2_build_optimizer(saved, Small())
