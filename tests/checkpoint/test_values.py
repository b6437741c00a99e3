"""Weights, names and configs in a file that can be read but are not those of a trained model."""

import logging
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

import hrnet_d2
from hrnet_d2.checkpoint import Checkpointer, CheckpointError, convert, load_file
from hrnet_d2.cli import main
from hrnet_d2.config_file import ConfigError
from tests.checkpoint import samples

ESCAPE = "\x1b]0;title\x07bird\x1b[2J"


@pytest.fixture(scope="module")
def source():
    return samples.model()


def tensors(source):
    return {name: value.clone() for name, value in source.state_dict().items()}


def refused(path, *parts):
    with pytest.raises(CheckpointError) as error:
        Checkpointer(samples.model(seed=1)).load(str(path))
    for part in (str(path), "nothing was loaded", *parts):
        assert part in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("value", [1e38, -1e38, 6e30, 1e13])
def test_absurd_values_are_named(source, tmp_path, value, dtype):
    state = tensors(source)
    name = [name for name in state if name.endswith("conv1.weight")][-1]
    state[name] = state[name].to(dtype)
    state[name].view(-1)[7] = value
    torch.save({"model": state}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", name, "beyond 1e+12 in 1 tensors")
    conversion = convert(str(tmp_path / "x.pth"), str(tmp_path / "y.pth"))
    assert any(name in problem for problem in conversion.problems)
    assert not (tmp_path / "y.pth").exists()


def test_large_statistics_are_fine(source, tmp_path):
    state = tensors(source)
    for name in state:
        if "running" in name:
            state[name] *= 1e9
    torch.save({"model": state}, tmp_path / "x.pth")
    Checkpointer(samples.model(seed=1)).load(str(tmp_path / "x.pth"))


@pytest.mark.parametrize("which", ["all", "convolutions"])
def test_a_model_of_zeros_is_refused(source, tmp_path, which):
    state = tensors(source)
    for value in state.values():
        if which == "all" or value.ndim == 4:
            value.zero_()
    torch.save({"model": state}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "weights that are all 0", "backbone.bottom_up.conv1.weight")


@pytest.mark.parametrize("end", [".weight", ".running_var"])
def test_single_weights_of_zeros_are_a_warning(source, tmp_path, caplog, end):
    state = tensors(source)
    name = [name for name in state if name.endswith(end) and "stage3" in name][0]
    state[name].zero_()
    for other, value in state.items():  # what may be zero
        if other.endswith(".bias") or (value.ndim == 1 and other.endswith(".weight")):
            value.zero_()
    expected = name if state[name].ndim == 4 or end == ".running_var" else None
    torch.save({"model": state}, tmp_path / "x.pth")
    with caplog.at_level(logging.WARNING):
        Checkpointer(samples.model(seed=1)).load(str(tmp_path / "x.pth"))
    assert expected is not None
    assert f"1 weights are all 0, which training does not give: {name}" in caplog.text


def test_an_absurd_model_is_saved_with_an_error(tmp_path, caplog):
    model = samples.model()
    name = "proposal_generator.rpn_head.conv.weight"
    model.state_dict()[name].fill_(6e30)
    with caplog.at_level(logging.ERROR):
        Checkpointer(model, str(tmp_path)).save("model_final")
    assert name in caplog.text and "diverged" in caplog.text


@pytest.mark.parametrize("names", [7, True, [1, 2, 3, 4, 5], {"a": 1}, [["cat"]], 3.5])
def test_class_names_that_are_no_texts_are_said(source, tmp_path, caplog, names):
    torch.save({"model": tensors(source), "class_names": names}, tmp_path / "x.pth")
    with caplog.at_level(logging.WARNING):
        hrnet_d2.model_zoo.config_from_checkpoint(str(tmp_path / "x.pth"))
    kind = type(names).__name__
    assert f"its class names (class_names) are of type {kind}" in caplog.text
    assert Checkpointer(samples.model()).load(str(tmp_path / "x.pth"))["class_names"] is None


def test_no_escape_reaches_the_terminal(source, tmp_path):
    names = [ESCAPE, "cat", "dog", "cow", "fox"]
    cfg = samples.config()
    path = str(tmp_path / "x.pth")
    torch.save({"model": tensors(source), "class_names": names, "config": cfg.dump()}, path)
    checkpoint = load_file(path)
    assert checkpoint.class_names[0] == r"\x1b]0;title\x07bird\x1b[2J"
    loaded = Checkpointer(samples.model()).load(path)
    assert loaded["class_names"] == checkpoint.class_names
    cfg.DATASETS.CLASS_NAMES = names
    text = cfg.dump() + f'"{ESCAPE.encode("unicode_escape").decode()}": 1\n'
    torch.save({"model": tensors(source), "config": text}, path)
    code = "import sys, hrnet_d2; from detectron2.utils.logger import setup_logger; "
    code += "setup_logger(name='hrnet_d2'); print(hrnet_d2.model_zoo.config_from_checkpoint("
    code += "sys.argv[1]).DATASETS.CLASS_NAMES[0])"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, timeout=300)
    assert done.returncode == 0 and b"bird" in done.stdout
    assert b"\x1b]" not in done.stdout + done.stderr and b"\x1b[2J" not in done.stdout
    assert b"unknown here" in done.stdout + done.stderr


def test_a_tensor_with_escapes_in_its_name(source, tmp_path):
    torch.save({"model": {**tensors(source), ESCAPE: torch.zeros(1)}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"\\x1b\]0;title") as error:
        load_file(str(tmp_path / "x.pth"))
    assert "\x1b" not in str(error.value)


def test_another_number_of_class_names(source, tmp_path, caplog):
    cfg = samples.config()
    cfg.DATASETS.CLASS_NAMES = ["a", "b", "c"]
    torch.save({"model": tensors(source), "config": cfg.dump()}, tmp_path / "x.pth")
    found = hrnet_d2.model_zoo.config_from_checkpoint(str(tmp_path / "x.pth"))
    assert "names 3 classes for a head of 5" in caplog.text
    assert not found.DATASETS.CLASS_NAMES


@pytest.mark.parametrize("beside", [False, True])
def test_unknown_keys_and_bases_of_a_files_config_are_said(source, tmp_path, caplog, beside):
    text = samples.config().dump() + "_BASE_: other.yaml\nMODEL_EMA: {DECAY: 0.9}\n"
    path = str(tmp_path / "x.pth")
    torch.save({"model": tensors(source), "config": text}, path)
    if beside:
        cfg = samples.config()
        cfg.MODEL.WEIGHTS = path
        hrnet_d2.Predictor(cfg)
    else:
        hrnet_d2.Predictor(path)
    assert "MODEL_EMA.DECAY" in caplog.text and "_BASE_" in caplog.text
    assert "nothing was read from the file it names" in caplog.text


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ([1, 2], "its config is of type list ([1, 2])"),
        (7, "its config is of type int (7)"),
        ({"MODEL": 1}, "its config is of type dict"),
        ("lr: 0.1\nepochs: 12\n", "its config has no MODEL section; it has: lr, epochs"),
    ],
)
def test_what_a_files_config_is(source, tmp_path, caplog, config, words):
    path = str(tmp_path / "x.pth")
    torch.save({"model": tensors(source), "config": config}, path)
    hrnet_d2.model_zoo.config_from_checkpoint(path)
    said = "its config has no key of this package" if isinstance(config, str) else words
    assert said in caplog.text
    with pytest.raises(CheckpointError) as error:
        Checkpointer(samples.model(width=4)).load(path)
    assert words in str(error.value)


def test_a_config_that_is_no_mapping(source, tmp_path):
    torch.save({"model": tensors(source), "config": "- a\n- b\n"}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="it is of type list, not a mapping"):
        hrnet_d2.Predictor(str(tmp_path / "x.pth"))


@pytest.mark.parametrize("command", ["train", "eval", "predict"])
def test_options_that_are_no_pairs(tmp_path, capsys, command):
    arguments = [command, "--weights", "x.pth"]
    if command == "predict":
        (tmp_path / "a.jpg").write_bytes(b"")
        arguments += ["--input", str(tmp_path), "--output", str(tmp_path / "out"), "--opts"]
    assert main([*arguments, "SOLVER.MAX_ITER"]) == 1
    error = capsys.readouterr().err
    assert "pairs of KEY VALUE, got 1 words: SOLVER.MAX_ITER" in error
    assert main([*arguments, "MODEL.WEIGHTS", "y.pth"]) == 1
    assert "The weights are x.pth, and the option MODEL.WEIGHTS is y.pth" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.array(["text"]), np.array([None], dtype=object)])
def test_arrays_of_something_other_than_numbers(source, tmp_path, value):
    arrays = {name: tensor.numpy() for name, tensor in tensors(source).items()}
    name = "proposal_generator.rpn_head.anchor_deltas.bias"
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": {**arrays, name: value}}))
    with pytest.raises(CheckpointError, match=f"x.pkl: {name} is an array of objects or texts"):
        load_file(str(tmp_path / "x.pkl"))


def test_a_negated_view_is_named(tmp_path):
    """PyTorch saves such a tensor with its values as they are stored, and a mark."""
    state = {**tensors(samples.model()), "extra.weight": torch._neg_view(torch.rand(2, 2))}
    torch.save({"model": state}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="extra.weight is a negated or conjugated tensor"):
        load_file(str(tmp_path / "x.pth"))


ALIASES = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} {{"
    + ", ".join(f"k{j}: *{chr(97 + i)}" for j in range(9))
    + "}\n"
    for i in range(9)
)


def test_a_config_that_multiplies_itself(source, tmp_path):
    torch.save({"model": tensors(source), "config": ALIASES}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="its config is refused: it repeats"):
        hrnet_d2.Predictor(str(tmp_path / "x.pth"))
    (tmp_path / "x.yaml").write_text(ALIASES)
    with pytest.raises(ConfigError, match="x.yaml repeats or nests itself too often"):
        hrnet_d2.model_zoo.load_config(str(tmp_path / "x.yaml"), [])
