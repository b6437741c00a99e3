"""Batch normalization in training when the network chooses: hold what was loaded, measure the rest.

Only public doors: configs, ``state_dict``, Detectron2's and this package's checkpointers.
"""

import copy
import io
import logging
import pickle

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hrnet_d2 import add_hrnet_config
from hrnet_d2.checkpoint import Checkpointer
from hrnet_d2.config_check import check_config
from hrnet_d2.config_file import ConfigError, merge_file, merge_options
from hrnet_d2.modeling import HRFPN, HRNet
from tests.configs import load_config
from tests.depth import SHALLOW, of_depth


def config():
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_hrnetv2_backbone"
    cfg.MODEL.HRNETV2P.WIDTH = 4
    return cfg


def image(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def step(net: nn.Module, iteration: int | None = None) -> dict:
    """A pass of training, as the iteration of a Detectron2 trainer if it has a number."""
    if iteration is None:
        return net.train()(image())
    with EventStorage(iteration):
        return net.train()(image())


def norms(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, _BatchNorm)]


def measures(net: nn.Module) -> bool:
    """Whether all layers measure (True) or all hold (False) their statistics in training."""
    net.train()(image())
    (mode,) = {m.training for m in norms(net)}
    before = net.state_dict()["bn1.running_mean"].clone()
    net(image())
    moved = not torch.equal(before, net.state_dict()["bn1.running_mean"])
    assert moved == mode
    return mode


@pytest.fixture(scope="module", autouse=True)
def shallow():
    with of_depth(SHALLOW):
        yield


@pytest.fixture(scope="module")
def measured() -> dict:
    """The weights of a network that was trained from scratch."""
    torch.manual_seed(0)
    net = HRNet(4)
    for i in range(3):
        step(net, i)
    return net.state_dict()


def plain(state: dict) -> dict:
    """The tensors alone, as in files that another program wrote."""
    return {name: value.clone() for name, value in state.items()}


def records(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if "NORM_EVAL" in r.getMessage()]


def test_from_scratch_statistics_are_measured_and_one_line_says_so(caplog):
    net = build_backbone(config())
    with caplog.at_level(logging.INFO):
        step(net)
        step(net.eval())
    assert measures(net)
    (line,) = records(caplog)
    assert "measure" in line and f" {len(norms(net))} " in line


def test_loaded_statistics_are_held_and_one_line_says_so(caplog, measured):
    net = build_backbone(config())
    net.train()  # as trainers do, before they load
    net.load_state_dict(plain(measured))
    with caplog.at_level(logging.INFO):
        step(net, 0)
        step(net.eval(), 1)
    assert not measures(net)
    (line,) = records(caplog)
    assert "keep" in line and f" {len(norms(net))} " in line


def test_with_loaded_weights_it_is_norm_eval_to_the_bit(measured):
    grads = []
    for norm_eval in ("auto", True):
        net = HRNet(4, norm_eval=norm_eval)
        net.load_state_dict(plain(measured))
        sum(f.square().mean() for f in step(net).values()).backward()
        grads.append([p.grad for p in net.parameters()])
        assert all(torch.equal(v, measured[k]) for k, v in net.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_from_scratch_it_is_no_norm_eval_to_the_bit():
    states = []
    for norm_eval in ("auto", False):
        torch.manual_seed(0)
        net = HRNet(4, norm_eval=norm_eval)
        step(net)
        states.append(net.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[1])


def test_layers_that_were_not_in_the_file_are_measured(caplog, measured):
    net = HRNet(4)
    stem = {k: v for k, v in plain(measured).items() if k.startswith(("conv", "bn", "layer1"))}
    net.load_state_dict(stem, strict=False)
    with caplog.at_level(logging.INFO):
        step(net)
    assert not net.bn1.training and not net.layer1[0].bn1.training
    assert all(m.training for m in norms(net.stage2))
    (line,) = records(caplog)
    assert "measure" in line and "keep" in line


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: HRFPN(net, out_channels=8)])
def test_a_resumed_run_that_measures_goes_on(tmp_path, wrap):
    """With Detectron2's checkpointer, as DefaultTrainer, plain_train_net and lazyconfig_train_net
    use it: statistics look loaded, but the iteration is not the first."""
    net = wrap(HRNet(4))
    for i in range(2):
        step(net, i)
    DetectionCheckpointer(net, str(tmp_path)).save("model_0000001", iteration=1)

    def again(resume: bool) -> nn.Module:
        fresh = wrap(HRNet(4)).train()
        checkpointer = DetectionCheckpointer(fresh, str(tmp_path))
        file = str(tmp_path / "model_0000001.pth")
        start = checkpointer.resume_or_load(file, resume=resume)["iteration"] + 1 if resume else 0
        if not resume:
            checkpointer.load(file)
        step(fresh, start)
        return fresh

    assert all(m.training for m in norms(again(resume=True)))
    assert not any(m.training for m in norms(again(resume=False)))


def test_a_resumed_run_that_holds_goes_on(tmp_path, measured):
    net = HRNet(4)
    net.load_state_dict(plain(measured))
    step(net, 0)
    DetectionCheckpointer(net, str(tmp_path)).save("model_0000000")
    fresh = HRNet(4)
    DetectionCheckpointer(fresh, str(tmp_path)).resume_or_load("")
    step(fresh, 1)
    assert not measures(fresh)


class Detector(nn.Module):
    """Somebody's own, around the backbone."""

    def __init__(self):
        super().__init__()
        self.backbone = HRFPN(HRNet(4), out_channels=8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(f.mean() for f in self.backbone(x).values())


def test_our_checkpointer_resumes_in_a_loop_without_event_storage(tmp_path, measured):
    for loaded in (False, True):
        folder, net = str(tmp_path / str(loaded)), Detector()
        (tmp_path / str(loaded)).mkdir()
        if loaded:
            net.backbone.bottom_up.load_state_dict(plain(measured))
        step(net)
        Checkpointer(net, folder).save("model_0000000")
        resumed, tuned = Detector().train(), Detector()
        Checkpointer(resumed, folder).resume_or_load("")
        Checkpointer(tuned).load(f"{folder}/model_0000000.pth")
        assert measures(resumed.backbone.bottom_up) != loaded
        assert not measures(tuned.backbone.bottom_up)


def test_the_choice_adds_nothing_to_the_state_dict(measured):
    assert measured.keys() == HRNet(4, norm_eval=False).state_dict().keys()
    for norm_eval in (True, False, "auto"):
        HRNet(4, norm_eval=norm_eval).load_state_dict(measured, strict=True)
    file = io.BytesIO()
    torch.save(measured, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    net = HRNet(4)
    net.load_state_dict(loaded)
    step(net, 7)  # in the middle of a run
    assert measures(net)


def test_copies_choose_as_the_original(measured):
    net = HRNet(4)
    step(net)
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert measures(copied)
    average = copy.deepcopy(net).eval()  # a moving average of the weights, tensors alone
    average.load_state_dict(plain(measured))
    net.load_state_dict(average.state_dict())  # evaluated with the average, then trained on
    assert not average.bn1.training
    assert measures(net)


@pytest.mark.parametrize("loaded", [True, False])
def test_activation_checkpointing(loaded, measured):
    grads = []
    for stages in ((), ("stage1", "stage2", "stage3", "stage4")):
        torch.manual_seed(0)
        net = HRNet(4, act_checkpoint=stages)
        if loaded:
            net.load_state_dict(plain(measured))
        sum(f.square().mean() for f in step(net).values()).backward()
        grads.append({n: p.grad for n, p in net.named_parameters()} | dict(net.named_buffers()))
        assert net.bn1.training != loaded
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], msg=name)


def test_norms_fold_only_where_statistics_are_held(measured):
    """Folded, layers are no longer called."""
    for loaded in (True, False):
        net, called = HRNet(4), []
        norm = net.stage4[0].branches[0][0].bn1
        forward = norm.forward  # a hook would keep the layer from folding
        norm.forward = lambda x, c=called, f=forward: c.append(1) or f(x)
        if loaded:
            net.load_state_dict(plain(measured))
        step(net)
        step(net)
        assert len(called) == (0 if loaded else 2)


def test_frozen_stages_hold_and_are_not_counted(caplog):
    net = HRNet(4, freeze_at=2)
    with caplog.at_level(logging.INFO):
        step(net)
    assert not net.bn1.training and net.stage2[0].branches[0][0].bn1.training
    (line,) = records(caplog)
    assert f" {len(norms(net))} " not in line


@pytest.mark.parametrize("norm", ["GN", "FrozenBN", nn.InstanceNorm2d])
def test_other_layers_have_nothing_to_choose(caplog, norm):
    net = HRNet(4, norm=norm)
    with caplog.at_level(logging.INFO):
        step(net)
    assert not records(caplog)
    assert all(m.training for m in net.modules() if not isinstance(m, FrozenBatchNorm2d))


def test_synchronized_layers_are_held_too(measured):
    net = HRNet(4, norm="SyncBN")
    net.load_state_dict(plain(measured))
    step(net)
    assert not any(m.training for m in norms(net))


def test_evaluation_chooses_nothing(measured):
    net = HRNet(4).eval()
    with torch.no_grad():
        net(image())
    net.load_state_dict(plain(measured))
    assert not measures(net)


VALUES = {"True": True, "False": False, "auto": "auto", "None": None}


@pytest.mark.parametrize("text", VALUES)
def test_yaml_and_overrides_by_stock_detectron2(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_text(f"MODEL: {{HRNETV2P: {{NORM_EVAL: {'null' if text == 'None' else text}}}}}\n")
    from_file, from_list = config(), config()
    from_file.merge_from_file(str(file))
    from_list.merge_from_list(["MODEL.HRNETV2P.NORM_EVAL", text])
    for cfg in (from_file, from_list):
        assert cfg.MODEL.HRNETV2P.NORM_EVAL is VALUES[text] or text == "auto"
        check_config(cfg, train=False)
        assert build_backbone(cfg).norm_eval == ("auto" if text == "None" else VALUES[text])
        saved = tmp_path / "saved.yaml"
        saved.write_text(cfg.dump())
        again = config()
        again.merge_from_file(str(saved))
        assert again.MODEL.HRNETV2P.NORM_EVAL == VALUES[text]
    # Whatever a file has, None puts the choice back.
    from_file.merge_from_list(["MODEL.HRNETV2P.NORM_EVAL", "None"])
    assert build_backbone(from_file).norm_eval == "auto"


def test_our_readers_take_any_value_over_any(tmp_path):
    cfg = config()
    for text in (*VALUES, *reversed(VALUES)):
        merge_options(cfg, ["MODEL.HRNETV2P.NORM_EVAL", text])
        assert cfg.MODEL.HRNETV2P.NORM_EVAL == VALUES[text]
        file = tmp_path / "config.yaml"
        file.write_text("MODEL: {HRNETV2P: {NORM_EVAL: auto}}\n")
        merge_file(cfg, str(file))
        assert cfg.MODEL.HRNETV2P.NORM_EVAL == "auto"


def test_the_configs_of_the_table_and_the_quick_start_choose():
    for name in ("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml",
                 "quick_start/fcos_hrnetv2p_w18_shapes.yaml"):  # fmt: skip
        assert load_config(name).MODEL.HRNETV2P.NORM_EVAL is None


@pytest.mark.parametrize("value", ["yes", 1])
def test_other_values_are_refused(value):
    cfg = config()
    cfg.MODEL.HRNETV2P.NORM_EVAL = value
    with pytest.raises(ConfigError, match="NORM_EVAL is .* True, False or 'auto'"):
        check_config(cfg, train=False)
    with pytest.raises(ValueError, match="norm_eval"):
        build_backbone(cfg)
