"""What the checkpointer loads, and what it refuses whole."""

import copy
import hashlib
import logging
import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone, build_model
from safetensors.torch import save_file
from torch import nn

import hrnet_d2
from hrnet_d2.checkpoint import Checkpointer, CheckpointError, UnsafeCheckpointError
from hrnet_d2.modeling import HRFPN, HRNet
from tests.checkpoint import samples
from tests.checkpoint.test_reading import Payload

WIDTH = 2
PUBLISHED = "faster_rcnn_hrnetv2p_w18_1x_coco_20200130-56651a6d.pth"


def official_state(backbone: HRNet, classes: int = 10) -> dict[str, torch.Tensor]:
    """A backbone as the official ImageNet files have it, with parts of the classifier."""
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    state["incre_modules.0.0.conv1.weight"] = torch.rand(32, WIDTH, 1, 1)
    state["incre_modules.0.0.bn1.num_batches_tracked"] = torch.tensor(0)
    state["downsamp_modules.0.0.bias"] = torch.rand(8)
    state["final_layer.1.running_var"] = torch.rand(8)
    state["classifier.weight"] = torch.rand(classes, 8)
    state["classifier.bias"] = torch.rand(classes)
    return state


def random_backbone(seed: int = 0) -> HRNet:
    torch.manual_seed(seed)
    backbone = HRNet(WIDTH)
    for value in backbone.state_dict().values():
        if value.is_floating_point():
            value.uniform_()
    return backbone


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_untouched(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.fixture(scope="module")
def source():
    return samples.model()


@pytest.fixture(scope="module")
def mmdet_file(source, tmp_path_factory):
    return samples.save_mmdet(source, tmp_path_factory.mktemp("mmdet") / "model.pth")


def assert_equal_where(target: nn.Module, wanted: dict, before: dict, fresh) -> None:
    """Tensors that ``fresh`` names are as before, all others as wanted."""
    for name, value in target.state_dict().items():
        assert torch.equal(value, before[name] if fresh(name) else wanted[name]), name


def variants(state):
    other = {name: value + 1 for name, value in state.items()}
    yield "plain", {"state_dict": state, "optimizer": {"state": {}}, "meta": {"epoch": 3}}
    yield "bare", dict(state)
    yield "module", {"state_dict": {f"module.{n}": v for n, v in state.items()}}
    yield "ema prefix", {"state_dict": {f"ema_{n}": v for n, v in state.items()}}
    # 2.x keeps the weights that were averaged beside the average, under one word each
    beside = {f"ema_{n.replace('.', '_')}": v for n, v in other.items()}
    yield "ema beside", {"state_dict": {**state, **beside}}
    average = {f"module.{n}": v for n, v in other.items()} | {"steps": torch.tensor(9)}
    yield "ema_state_dict", {"state_dict": state, "ema_state_dict": average}
    only = {f"module.{n}": v for n, v in state.items()} | {"steps": torch.tensor(9)}
    yield "only ema_state_dict", {"ema_state_dict": only}
    no_counters = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    yield "old PyTorch without counters", {"state_dict": no_counters}


VARIANTS = [name for name, _ in variants({"a": torch.zeros(1)})]


@pytest.mark.parametrize("variant", VARIANTS)
def test_wrappings_of_mmdetection(source, tmp_path, variant):
    content = dict(variants(samples.mmdet_state(source)))[variant]
    torch.save(content, tmp_path / "x.pth")
    target = samples.model(seed=1)
    Checkpointer(target).load(str(tmp_path / "x.pth"))
    counter = "num_batches_tracked"
    wanted, loaded = source.state_dict(), target.state_dict()
    for name in loaded:
        assert name.endswith(counter) or torch.equal(loaded[name], wanted[name]), name


def test_safetensors_of_a_detector(source, tmp_path):
    save_file(samples.mmdet_state(source), tmp_path / "x.safetensors")
    target = samples.model(seed=1)
    Checkpointer(target).load(str(tmp_path / "x.safetensors"))
    samples.assert_same(source, target)


@pytest.mark.parametrize(
    "changes, cause",
    [
        ({"width": 4}, "Another width: the file needs MODEL.HRNETV2P.WIDTH 2, the model has 4"),
        ({"classes": 7}, "Another number of classes: 5 in the file, 7 in the model"),
        ({"name": samples.MASK}, "Another family: use a config of Faster R-CNN"),
        ({"name": samples.CASCADE}, "Another family: use a config of Faster R-CNN"),
        ({"name": samples.FCOS}, "Another family: use a config of Faster R-CNN"),
    ],
)
def test_a_detector_that_does_not_match_is_refused_whole(mmdet_file, changes, cause):
    target = samples.model(seed=1, **changes)
    before = snapshot(target)
    with pytest.raises(CheckpointError) as error:
        Checkpointer(target).load(mmdet_file)
    message = str(error.value)
    assert mmdet_file in message and cause in message and "nothing was loaded" in message
    assert_untouched(target, before)
    if "classes" in changes:
        assert "roi_heads.box_predictor.cls_score.weight: (6, 16) in the file, (8, 16)" in message
        assert "MODEL.ROI_HEADS.NUM_CLASSES 5" in message and "MODEL.PARTIAL_LOAD True" in message
    if changes.get("name") == samples.FCOS:  # shares nothing worth fine-tuning from
        assert "PARTIAL_LOAD" not in message


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_one_wrong_tensor_is_enough(source, tmp_path, change):
    state = samples.mmdet_state(source)
    if change == "missing":
        del state["rpn_head.rpn_reg.bias"]
        named = "proposal_generator.rpn_head.anchor_deltas.bias"
    elif change == "unexpected":
        state["rpn_head.rpn_extra.bias"] = torch.zeros(2)
        named = "rpn_head.rpn_extra.bias"
    else:
        state["rpn_head.rpn_reg.bias"] = torch.zeros(3)
        named = "proposal_generator.rpn_head.anchor_deltas.bias: (3,) in the file, (12,)"
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    target = samples.model(seed=1)
    before = snapshot(target)
    with pytest.raises(CheckpointError) as error:
        Checkpointer(target).load(str(tmp_path / "x.pth"))
    assert named in str(error.value)
    assert_untouched(target, before)


def test_the_checkpointer_can_go_on_after_a_refusal(source, mmdet_file, tmp_path):
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"nothing")
    target = samples.model(seed=1)
    checkpointer = Checkpointer(target)
    with pytest.raises(CheckpointError, match=r"bad\.pth"):
        checkpointer.load(str(bad))
    checkpointer.load(mmdet_file)
    samples.assert_same(source, target)


def test_malicious_weights_never_reach_the_model(tmp_path):
    marker = tmp_path / "was-run"
    torch.save(
        {"state_dict": {}, "meta": Payload(eval, f"open({str(marker)!r}, 'w')")},
        tmp_path / "x.pth",
    )
    target = samples.model()
    before = snapshot(target)
    with pytest.raises(UnsafeCheckpointError, match=r"x\.pth.*builtins\.eval"):
        Checkpointer(target).load(str(tmp_path / "x.pth"))
    assert not marker.exists()
    assert_untouched(target, before)


def test_missing_file_is_named():
    with pytest.raises(CheckpointError, match=r"nowhere/model\.pth: there is no such file"):
        Checkpointer(samples.model()).load("nowhere/model.pth")


def test_no_path_loads_nothing():
    target = samples.model()
    before = snapshot(target)
    assert Checkpointer(target).load("") == {}
    assert_untouched(target, before)


# Partial loading


@pytest.mark.parametrize("name", [samples.FASTER, samples.MASK])
def test_other_classes_are_reinitialized_when_asked(tmp_path, name, caplog):
    source = samples.model(name)
    path = samples.save_mmdet(source, tmp_path / "x.pth")
    target = samples.model(name, seed=1, classes=3)
    before = snapshot(target)
    with caplog.at_level(logging.WARNING):
        Checkpointer(target, partial=True).load(path)
    heads = {"roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"}
    if name == samples.MASK:
        heads.add("roi_heads.mask_head.predictor")
    assert_equal_where(
        target, source.state_dict(), before, lambda key: key.rpartition(".")[0] in heads
    )
    assert all(head in caplog.text for head in heads)


def test_a_layer_is_loaded_whole_or_not_at_all(source, tmp_path):
    state = samples.mmdet_state(source)
    state["roi_head.bbox_head.shared_fcs.1.bias"] = torch.zeros(3)
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    target = samples.model(seed=1)
    before = snapshot(target)
    Checkpointer(target, partial=True).load(str(tmp_path / "x.pth"))
    kept = "roi_heads.box_head.fc2."
    assert_equal_where(target, source.state_dict(), before, lambda key: key.startswith(kept))


def test_a_detector_grows_a_mask_head_when_asked(source, mmdet_file):
    target = samples.model(samples.MASK, seed=1)
    before = snapshot(target)
    Checkpointer(target, partial=True).load(mmdet_file)
    assert_equal_where(target, source.state_dict(), before, lambda key: "mask_head" in key)


def test_the_backbone_must_match_even_partially(mmdet_file):
    target = samples.model(seed=1, width=4)
    before = snapshot(target)
    with pytest.raises(CheckpointError, match="Another width"):
        Checkpointer(target, partial=True).load(mmdet_file)
    assert_untouched(target, before)


# Backbones


@pytest.mark.parametrize("form", ["bare", "state_dict", "module", "safetensors", "mmpretrain"])
def test_imagenet_weights_fill_the_backbone(tmp_path, form, caplog):
    backbone = random_backbone()
    state = official_state(backbone)
    path = tmp_path / ("x.safetensors" if form == "safetensors" else "x.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "mmpretrain":
        body = {f"backbone.{n}": v for n, v in backbone.state_dict().items()}
        torch.save({"state_dict": {**body, "head.fc.weight": torch.zeros(10, 8)}}, path)
    elif form == "module":
        torch.save({"state_dict": {f"module.{n}": v for n, v in state.items()}}, path)
    else:
        torch.save({"state_dict": state} if form == "state_dict" else state, path)
    target = samples.model(seed=1)
    before = snapshot(target)
    target.train()
    with caplog.at_level(logging.INFO):
        Checkpointer(target).load(str(path))
    prefix = "backbone.bottom_up."
    wanted = {prefix + name: value for name, value in backbone.state_dict().items()}
    assert_equal_where(target, wanted, before, lambda name: not name.startswith(prefix))
    assert "roi_heads.box_head.fc1" in caplog.text and "keep their initial values" in caplog.text
    assert not any(record.levelno >= logging.WARNING for record in caplog.records)


def test_predicting_with_a_backbone_is_warned_of(tmp_path, caplog):
    torch.save(official_state(random_backbone()), tmp_path / "x.pth")
    with caplog.at_level(logging.WARNING):
        Checkpointer(samples.model().eval()).load(str(tmp_path / "x.pth"))
    assert "keep their initial values" in caplog.text


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_an_incomplete_backbone_is_refused(tmp_path, change):
    state = official_state(random_backbone())
    name = "stage4.0.fuse_layers.0.3.0.weight"
    if change == "missing":
        del state[name]
    else:
        state[name] = torch.zeros(1, 2)
    torch.save(state, tmp_path / "x.pth")
    target = samples.model(seed=1)
    before = snapshot(target)
    with pytest.raises(CheckpointError, match=rf"backbone\.bottom_up\.{name}"):
        Checkpointer(target).load(str(tmp_path / "x.pth"))
    assert_untouched(target, before)


def test_backbones_alone_in_other_places(tmp_path):
    backbone = random_backbone()
    torch.save(official_state(backbone), tmp_path / "x.pth")
    alone, with_neck = HRNet(WIDTH), HRFPN(HRNet(WIDTH), out_channels=8)
    Checkpointer(alone).load(str(tmp_path / "x.pth"))
    samples.assert_same(alone, backbone)
    Checkpointer(with_neck).load(str(tmp_path / "x.pth"))
    samples.assert_same(with_neck.bottom_up, backbone)


def test_the_backbone_of_a_detector(source, mmdet_file):
    with_neck, alone = HRFPN(HRNet(WIDTH), out_channels=32), HRNet(WIDTH)
    Checkpointer(with_neck).load(mmdet_file)
    samples.assert_same(with_neck, source.backbone)
    Checkpointer(alone).load(mmdet_file)
    samples.assert_same(alone, source.backbone.bottom_up)


def test_stock_retinanet_on_hrnet(tmp_path):
    cfg = get_cfg()
    hrnet_d2.add_hrnet_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.BACKBONE.NAME = "build_hrnetv2p_backbone"
    cfg.MODEL.HRNETV2P.WIDTH = WIDTH
    cfg.MODEL.HRNETV2P.NECK.OUT_CHANNELS = 8
    cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4", "p5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128]]
    backbone, target = random_backbone(), build_model(cfg)
    torch.save(official_state(backbone), tmp_path / "x.pth")
    Checkpointer(target).load(str(tmp_path / "x.pth"))
    samples.assert_same(target.backbone.bottom_up, backbone)


@pytest.mark.usefixtures("whole")
def test_timm_computes_what_our_backbone_computes(tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model("hrnet_w18", pretrained=False).eval()
    for name, value in theirs.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.8, 1.2)
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    save_file(theirs.state_dict(), tmp_path / "x.safetensors")
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        wanted = theirs.stages(
            theirs.act2(theirs.bn2(theirs.conv2(theirs.act1(theirs.bn1(theirs.conv1(image))))))
        )
        for file in ("x.pth", "x.safetensors"):
            ours = HRNet(18).eval()
            Checkpointer(ours).load(str(tmp_path / file))
            for level, want in zip(ours(image).values(), wanted, strict=True):
                torch.testing.assert_close(level, want, rtol=1e-5, atol=1e-5)


# Detectron2's own


def test_own_checkpoints_and_resuming(tmp_path):
    target = samples.model()
    optimizer = torch.optim.SGD(target.parameters(), 0.1, momentum=0.9)
    for parameter in target.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saver = Checkpointer(target, str(tmp_path), optimizer=optimizer)
    saver.save("model_0000009", iteration=9)
    again = samples.model(seed=1)
    second = torch.optim.SGD(again.parameters(), 0.1, momentum=0.9)
    loader = Checkpointer(again, str(tmp_path), partial=True, optimizer=second)
    rest = loader.resume_or_load("", resume=True)
    assert rest["iteration"] == 9
    samples.assert_same(target, again)
    one, two = optimizer.state_dict()["state"], second.state_dict()["state"]
    assert torch.equal(one[0]["momentum_buffer"], two[0]["momentum_buffer"])
    # Detectron2's own checkpointer reads the file too
    stock = samples.model(seed=2)
    DetectionCheckpointer(stock).load(str(tmp_path / "model_0000009.pth"))
    samples.assert_same(target, stock)


def test_resuming_is_never_partial(tmp_path):
    Checkpointer(samples.model(classes=3), str(tmp_path)).save("model_final")
    loader = Checkpointer(samples.model(), str(tmp_path), partial=True)
    with pytest.raises(CheckpointError, match="Another number of classes"):
        loader.resume_or_load("", resume=True)


def test_matching_heuristics_of_detectron2(tmp_path):
    """Files that Detectron2 matches by likeness, asked for in the address or by the file."""
    backbone = random_backbone()
    arrays = {name: value.numpy() for name, value in backbone.state_dict().items()}
    content = {"model": arrays, "__author__": "someone", "matching_heuristics": True}
    with open(tmp_path / "x.pkl", "wb") as file:
        pickle.dump(content, file)
    torch.save(backbone.state_dict(), tmp_path / "x.pth")
    for address in (tmp_path / "x.pkl", f"{tmp_path / 'x.pth'}?matching_heuristics=True"):
        target = samples.model(seed=1)
        Checkpointer(target).load(str(address))
        samples.assert_same(target.backbone.bottom_up, backbone)
    with pytest.raises(CheckpointError, match="query partial.* is unknown"):
        Checkpointer(target).load(f"{tmp_path / 'x.pth'}?partial=True")


def caffe2_name(name: str) -> str:
    """Caffe2's name of a tensor of a Detectron2 ResNet-50."""
    if name.startswith("stem."):
        return {
            "weight": "conv1_w",
            "norm.weight": "res_conv1_bn_s",
            "norm.bias": "res_conv1_bn_b",
        }[name.removeprefix("stem.conv1.")]
    stage, block, layer, part = name.split(".", 3)
    branch = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}[layer]
    ending = {"weight": "w", "norm.weight": "bn_s", "norm.bias": "bn_b"}[part]
    return f"{stage}_{block}_branch{branch}_{ending}"


@pytest.fixture(scope="module")
def resnet():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    return build_backbone(cfg)


def test_caffe2_names_still_work(resnet, tmp_path):
    blobs, wanted = {}, {}
    for name, value in resnet.bottom_up.state_dict().items():
        if "running_" not in name:  # Caffe2 folded them into scale and shift
            wanted[name] = torch.rand_like(value)
            blobs[caffe2_name(name)] = wanted[name].numpy()
    blobs["conv1_w_momentum"] = blobs["conv1_w"]
    blobs["fc1000_w"] = np.zeros((1000, 2048), np.float32)
    for content in ({"blobs": blobs}, blobs):
        with open(tmp_path / "x.pkl", "wb") as file:
            pickle.dump(content, file)
        target = copy.deepcopy(resnet)
        Checkpointer(target).load(str(tmp_path / "x.pkl"))
        for name, value in wanted.items():
            assert torch.equal(target.bottom_up.state_dict()[name], value), name


def test_scalars_with_and_without_a_dimension(tmp_path):
    source = samples.model(samples.FCOS)
    state = snapshot(source)
    scales = [name for name in state if name.startswith("head.scales.")]
    assert len(scales) == 5 and all(state[name].shape == () for name in scales)
    torch.save(
        {"model": {n: v.reshape(1) if n in scales else v for n, v in state.items()}},
        tmp_path / "x.pth",
    )
    target = samples.model(samples.FCOS, seed=1)
    Checkpointer(target).load(str(tmp_path / "x.pth"))
    samples.assert_same(source, target)


# Addresses


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server over a folder, and an empty cache for what comes from it."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def test_downloads_are_checked_against_the_digest_in_their_name(source, mmdet_file, server, caplog):
    folder, address = server
    data = Path(mmdet_file).read_bytes()
    good = f"model_20200130-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    for name in (good, "model_20200130-0badf00d.pth"):
        (folder / name).write_bytes(data)
    target = samples.model(seed=1)
    Checkpointer(target).load(f"{address}/{good}")
    samples.assert_same(source, target)
    with caplog.at_level(logging.WARNING):
        Checkpointer(samples.model(seed=2)).load(f"{address}/model_20200130-0badf00d.pth")
    assert "0badf00d" in caplog.text and good[15:23] in caplog.text
    (folder / PUBLISHED).write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256.*56651a6d"):
        Checkpointer(target).load(f"{address}/{PUBLISHED}")
    with pytest.raises(CheckpointError, match="No checkpoint at .*absent.pth.*by hand"):
        Checkpointer(target).load(f"{address}/absent.pth")
