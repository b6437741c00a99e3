"""Signals save a checkpoint, diverged weights are not saved, and resuming says what differs."""

import logging
import os
import shutil
import signal

import pytest
import torch

from hrnet_d2.checkpoint import CheckpointError
from hrnet_d2.config_file import ConfigError
from hrnet_d2.engine import DivergedError, Trainer
from hrnet_d2.engine.hooks import HookBase
from tests.engine.tiny import tiny_config


class At(HookBase):
    """Calls a function after an iteration, before the checkpoint of that iteration."""

    def __init__(self, iteration, function):
        self.iteration, self.function = iteration, function

    def after_step(self):
        if self.trainer.iter == self.iteration:
            self.function(self.trainer)


def make(folder, *options, hook=None):
    trainer = Trainer(tiny_config(folder, "SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "()", *options))
    if hook is not None:
        trainer.register_hooks([hook])
        trainer._hooks.insert(0, trainer._hooks.pop())
    return trainer


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that SIGTERM stopped after its second iteration."""
    folder = tmp_path_factory.mktemp("stopped")
    trainer = make(folder, hook=At(1, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(SystemExit) as end:
        trainer.train()
    assert end.value.code == 128 + signal.SIGTERM
    return folder


def test_a_signal_saves_a_checkpoint(stopped, caplog):
    assert {p.name for p in stopped.glob("*.pth")} == {"model_0000001.pth", "model_last.pth"}
    assert (stopped / "model_last.pth").samefile(stopped / "model_0000001.pth")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resumed = make(stopped)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2


def test_ctrl_c_saves_and_interrupts(tmp_path):
    trainer = make(tmp_path, hook=At(0, lambda _: os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert (tmp_path / "model_0000000.pth").exists()


def test_changed_settings_take_effect_and_are_named_on_resume(stopped, tmp_path, caplog):
    options = ["SOLVER.BASE_LR", "0.5", "SOLVER.MOMENTUM", "0.5", "SOLVER.WEIGHT_DECAY", "0.1"]
    trainer = make(shutil.copytree(stopped, tmp_path / "run"), *options)
    with caplog.at_level(logging.WARNING, "hrnet_d2"):
        trainer.resume_or_load(resume=True)
    (said,) = [r.getMessage() for r in caplog.records if "Resuming" in r.getMessage()]
    assert "SOLVER.BASE_LR (0.01 before, 0.5 now)" in said and "SOLVER.MOMENTUM" in said
    decays = {group["weight_decay"] for group in trainer.optimizer.param_groups}
    assert all(group["momentum"] == 0.5 for group in trainer.optimizer.param_groups)
    assert 0.1 in decays
    trainer.train()
    assert trainer.storage.history("lr").latest() == 0.5


def test_unchanged_settings_resume_to_the_bit(stopped):
    trainer = make(stopped)
    trainer.resume_or_load(resume=True)
    saved = torch.load(stopped / "model_0000001.pth", weights_only=False)["trainer"]["_trainer"]
    for group, before in zip(
        trainer.optimizer.param_groups, saved["optimizer"]["param_groups"], strict=True
    ):
        del group["params"], before["params"]
        assert group == before


@pytest.mark.parametrize(
    "options",
    [
        ["MODEL.HRNETV2P.FREEZE_AT", "2"],
        ["SOLVER.WEIGHT_DECAY_NORM", "0.5", "SOLVER.LAYER_DECAY", "0.5"],
    ],
)
def test_parameters_keep_their_momentum_in_other_groups(stopped, options):
    saved = torch.load(stopped / "model_0000001.pth", weights_only=False)["trainer"]
    momentum = dict(enumerate(saved["parameters"]))
    momentum = {
        momentum[i]: state["momentum_buffer"]
        for i, state in saved["_trainer"]["optimizer"]["state"].items()
    }
    trainer = make(stopped, *options)
    trainer.resume_or_load(resume=True)
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            state = trainer.optimizer.state[parameter]
            assert torch.equal(state["momentum_buffer"], momentum[name]), name
    frozen = "FREEZE_AT" in options[0]
    assert (len(trainer.optimizer.state) < len(momentum)) == frozen
    assert (len(trainer.optimizer.param_groups) > 5) != frozen


@pytest.mark.parametrize(
    "options, message",
    [
        (["SOLVER.OPTIMIZER", "AdamW"], r"SOLVER.OPTIMIZER \('SGD' before, 'AdamW' now\)"),
        (["DATASETS.CLASS_NAMES", "['a','b','c','d']"], "DATASETS.CLASS_NAMES .*'circle'"),
        (["MODEL.HRNETV2P.WIDTH", "8"], "WIDTH 4"),
    ],
)
def test_what_cannot_change_is_an_error_on_resume(stopped, options, message):
    with pytest.raises(CheckpointError, match=message):
        make(stopped, *options).resume_or_load(resume=True)


def test_a_bad_optimizer_state_is_an_error(stopped, tmp_path):
    saved = torch.load(stopped / "model_0000001.pth", weights_only=False)
    states = saved["trainer"]["_trainer"]["optimizer"]["state"]
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    good = states[0]["momentum_buffer"]
    for bad, message in ((good * float("nan"), "not finite"), (good[:1], "has shape")):
        states[0]["momentum_buffer"] = bad
        torch.save(saved, tmp_path / "model_0000001.pth")
        with pytest.raises(CheckpointError, match=message):
            make(tmp_path).resume_or_load(resume=True)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state.update(iteration="2"), "iteration '2'"),
        (lambda state: state.update(iteration=-1), "iteration -1"),
        (lambda state: state["hooks"].update(LRScheduler="x"), "schedule 'x'"),
        (lambda state: groups_of(state)[0].update(lr="x"), "lr 'x' in group 0"),
        (lambda state: groups_of(state)[0].update(momentum=float("nan")), "momentum nan in group"),
    ],
)
def test_a_bad_training_state_is_an_error(stopped, tmp_path, change, message):
    saved = torch.load(stopped / "model_0000001.pth", weights_only=False)
    change(saved["trainer"])
    torch.save(saved, tmp_path / "model_0000001.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    with pytest.raises(CheckpointError, match=message):
        make(tmp_path).resume_or_load(resume=True)


def groups_of(state):
    """Of a file without the names of parameters, whose groups are loaded as they are."""
    state.pop("parameters", None)
    return state["_trainer"]["optimizer"]["param_groups"]


def test_weights_alone_cannot_be_resumed(stopped, tmp_path):
    saved = torch.load(stopped / "model_0000001.pth", weights_only=False)
    torch.save({"model": saved["model"]}, tmp_path / "model_0000001.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    with pytest.raises(CheckpointError, match="no training state.*MODEL.WEIGHTS"):
        make(tmp_path).resume_or_load(resume=True)


def test_a_checkpoint_past_the_end_is_an_error(stopped):
    with pytest.raises(ConfigError, match="iteration 2, past SOLVER.MAX_ITER 1"):
        make(stopped, "SOLVER.MAX_ITER", "1").resume_or_load(resume=True)


@pytest.mark.parametrize("value", [6e30, float("nan")])
def test_weights_that_diverged_in_the_last_step_are_not_saved(tmp_path, value):
    def diverge(trainer):
        with torch.no_grad():
            trainer.model.backbone.bottom_up.conv1.weight.fill_(value)

    trainer = make(tmp_path, hook=At(2, diverge))
    with pytest.raises(DivergedError, match="bottom_up.conv1.weight.*SOLVER.BASE_LR"):
        trainer.train()
    assert not list(tmp_path.glob("*.pth"))
    with pytest.raises(DivergedError, match="at evaluation"):
        Trainer.test(trainer.cfg, trainer.model)


def test_statistics_that_diverged_are_not_saved(tmp_path):
    """What a checkpoint may not have when it is loaded."""

    def diverge(trainer):
        trainer.model.backbone.bottom_up.bn1.running_var.fill_(1e20)

    norm = ["MODEL.HRNETV2P.NORM", "BN", "MODEL.HRNETV2P.NORM_EVAL", "True"]
    with pytest.raises(DivergedError, match="bn1.running_var is 1e"):
        make(tmp_path, *norm, hook=At(2, diverge)).train()
    assert not list(tmp_path.glob("*.pth"))


def test_a_rate_that_is_too_high_is_named(tmp_path):
    options = ["SOLVER.BASE_LR", "1e8", "SOLVER.WARMUP_ITERS", "0", "SOLVER.MAX_ITER", "9"]
    with pytest.raises(DivergedError, match="diverged.*lower SOLVER.BASE_LR"):
        make(tmp_path, *options).train()
