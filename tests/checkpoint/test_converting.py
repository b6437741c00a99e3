"""Conversion: an account of every tensor, and a file that loads as the source does."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from hrnet_d2.checkpoint import Checkpointer, CheckpointError, convert, load_file
from hrnet_d2.cli import main
from tests.checkpoint import samples

CLASSES = ["red cell", "white cell", "platelet", "four", "five"]


@pytest.fixture(scope="module")
def source():
    return samples.model(samples.MASK)


@pytest.fixture(scope="module")
def file(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("convert") / "epoch_12.pth"
    return samples.save_mmdet(
        source,
        path,
        meta={"CLASSES": tuple(CLASSES), "epoch": 12},
        optimizer={"state": {0: {"momentum_buffer": torch.rand(1000)}}},
    )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_converted_equals_direct(source, file, tmp_path, suffix):
    target = str(tmp_path / f"converted{suffix}")
    conversion = convert(file, target, samples.model(samples.MASK))
    assert conversion.problems == []
    assert len(conversion.rows) == len(source.state_dict())
    assert {row[3] for row in conversion.rows} == {"renamed"}
    direct, converted = (samples.model(samples.MASK, seed=1) for _ in range(2))
    Checkpointer(direct).load(file)
    beside = Checkpointer(converted).load(target)
    samples.assert_same(direct, source)
    samples.assert_same(converted, source)
    assert beside["class_names"] == CLASSES
    assert not os.path.exists(f"{target}.part")


def test_what_is_written(source, file, tmp_path):
    """Tensors and names; no optimizer, nothing that needs more than PyTorch's safe reader."""
    convert(file, str(tmp_path / "x.pth"))
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    assert content.keys() == {"model", "__author__", "class_names", "config"}
    assert content["model"].keys() == source.state_dict().keys()
    convert(file, str(tmp_path / "x.safetensors"))
    with safe_open(tmp_path / "x.safetensors", framework="pt") as opened:
        assert set(opened.keys()) == source.state_dict().keys()
        assert opened.metadata()["class_names"].split("\n") == CLASSES


@pytest.mark.parametrize(
    "meta, names",
    [
        ({"CLASSES": ("a", "b")}, ["a", "b"]),
        ({"dataset_meta": {"classes": ("a", "b"), "palette": [(1, 2, 3)]}}, ["a", "b"]),
        ({"dataset_meta": {"CLASSES": ["a"]}}, ["a"]),
        ({"CLASSES": "a"}, ["a"]),
        ({"CLASSES": None}, None),
        ({}, None),
    ],
)
def test_class_names_of_each_version(source, tmp_path, meta, names):
    path = samples.save_mmdet(source, tmp_path / "x.pth", meta=meta)
    assert load_file(path).class_names == names


def test_a_backbone_is_converted_alone(source, tmp_path):
    backbone = source.backbone.bottom_up
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    torch.save({**state, "classifier.bias": torch.zeros(10)}, tmp_path / "imagenet.pth")
    target = str(tmp_path / "backbone.safetensors")
    conversion = convert(str(tmp_path / "imagenet.pth"), target)
    assert conversion.problems == []
    assert ("classifier.bias", "-", "", "unused: ImageNet classifier") in conversion.rows
    model = samples.model(samples.MASK, seed=1)
    Checkpointer(model).load(target)
    samples.assert_same(model.backbone.bottom_up, backbone)


def test_nothing_is_written_of_what_is_not_accounted_for(source, tmp_path):
    state = samples.mmdet_state(source)
    state["roi_head.bbox_head.fc_iou.weight"] = torch.zeros(1)
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    target = tmp_path / "y.pth"
    conversion = convert(str(tmp_path / "x.pth"), str(target))
    assert "roi_head.bbox_head.fc_iou.weight" in conversion.problems[0]
    assert ("roi_head.bbox_head.fc_iou.weight", "-", "1", "UNKNOWN") in conversion.rows
    assert not target.exists()


def test_weights_of_something_else_are_not_taken_for_ours(tmp_path):
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "x.pth")
    conversion = convert(str(tmp_path / "x.pth"), str(tmp_path / "y.pth"))
    assert "features.0.weight" in conversion.problems[0]
    assert not (tmp_path / "y.pth").exists()


def test_targets_that_cannot_be(file, tmp_path):
    with pytest.raises(CheckpointError, match=r"\.pth or \.safetensors"):
        convert(file, str(tmp_path / "x.onnx"))
    with pytest.raises(CheckpointError, match="the source itself"):
        convert(file, file)


@pytest.fixture(scope="module")
def tool():
    return SimpleNamespace(main=lambda arguments: main(["convert", *arguments]))


def test_the_tool_says_what_became_of_every_tensor(source, file, tmp_path, tool, capsys):
    assert tool.main([file, str(tmp_path / "y.pth")]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in source.state_dict())
    assert "5 class names kept" in output and "names of MMDetection 2.x or 3.x" in output
    assert (tmp_path / "y.pth").exists()


def test_the_tool_refuses_in_words(file, tmp_path, tool, capsys):
    target = tmp_path / "z.pth"
    # A tiny model is none of the zoo's
    assert tool.main([file, str(target), "--quiet", "--config", samples.MASK]) == 1
    assert "Another width" in capsys.readouterr().err
    assert tool.main(["absent.pth", str(target)]) == 1
    assert "absent.pth" in capsys.readouterr().err
    assert not target.exists()


def test_the_tool_takes_changes_of_the_config(file, tmp_path, tool):
    tiny = samples.config(samples.MASK)
    (tmp_path / "tiny.yaml").write_text(tiny.dump())
    arguments = [file, str(tmp_path / "z.pth"), "--quiet", "--config", str(tmp_path / "tiny.yaml")]
    assert tool.main(arguments) == 0
    assert tool.main([*arguments, "--opts", "MODEL.ROI_HEADS.NUM_CLASSES", "9"]) == 1


def test_a_target_in_a_folder_that_is_not_there(tmp_path):
    path = samples.save_mmdet(samples.model(), tmp_path / "x.pth")
    target = tmp_path / "gone" / "y.pth"
    with pytest.raises(FileNotFoundError, match=f"no folder {target.parent}") as error:
        convert(path, str(target))
    assert error.value.filename == str(target) and ".part" not in str(error.value)


LIMITED = """
import resource, signal, sys
from hrnet_d2.checkpoint import convert
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    convert(sys.argv[1], sys.argv[2])
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_disk_that_becomes_full(tmp_path, suffix):
    """The operating system refuses to write beyond a limit, as on a full disk."""
    path = samples.save_mmdet(samples.model(), tmp_path / "x.pth")
    target = tmp_path / f"y{suffix}"
    target.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, path, str(target)],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert str(target) in done.stdout and "MiB" in done.stdout and "free" in done.stdout
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.pth", target.name]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_disk_that_is_full(tmp_path, monkeypatch, suffix):
    path = samples.save_mmdet(samples.model(), tmp_path / "x.pth")
    (tmp_path / f"y{suffix}").write_text("old")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(OSError, match=rf"needs \d+\.\d MiB, 0.0 MiB are free.*y\{suffix}"):
        convert(path, str(tmp_path / f"y{suffix}"))
    assert (tmp_path / f"y{suffix}").read_text() == "old"
