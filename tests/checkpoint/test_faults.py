"""Files that are wrong in one way each: refused whole, with the file and the tensor named."""

import functools
import logging
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hrnet_d2.checkpoint import Checkpointer, CheckpointError, convert, load_file, non_finite
from tests.checkpoint import samples
from tests.checkpoint.test_checkpointer import assert_untouched, snapshot

NAME = "proposal_generator.rpn_head.anchor_deltas.bias"  # the last tensor but those of the heads


@pytest.fixture(scope="module")
def source():
    return samples.model()


@functools.cache
def target_of(width: int):
    """A model that nothing may change, and its tensors."""
    target = samples.model(seed=1, width=width)
    return target, snapshot(target)


def refuse(path, *parts, width=2, **options):
    """Loading fails, names the file and ``parts``, and leaves the model as it is."""
    target, before = target_of(width)
    with pytest.raises(CheckpointError) as error:
        Checkpointer(target, **options).load(str(path))
    assert_untouched(target, before)
    message = str(error.value)
    for part in (str(path).partition("?")[0], *parts):
        assert part in message, message


def nested(value):
    return torch.nested.nested_tensor([value.double(), value[:1].double()])


WRONG_KINDS = {
    "sparse": (lambda v: v.to_sparse(), "sparse"),
    "sparse CSR": (lambda v: torch.eye(4).to_sparse_csr(), "sparse"),
    "meta": (lambda v: v.to("meta"), "meta"),
    "quantized": (lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8), "quantized"),
    "nested": (nested, "nested"),
    "complex": (lambda v: v + 1j, "complex64"),
    "bool": (lambda v: v > 0, "bool"),
    "int32": (lambda v: v.int(), "int32"),
    "int64": (lambda v: v.long(), "int64"),
    "NaN": (lambda v: v * float("nan"), "NaN or infinite in 1 tensors"),
    "one infinity": (lambda v: v.clone().index_fill_(0, torch.tensor([3]), float("inf")), "inf"),
    "float64 too large": (lambda v: v.double() * 0 + 1e300, "NaN or infinite"),
}


@pytest.mark.parametrize("kind", WRONG_KINDS)
@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.filterwarnings("ignore:.*(Sparse|beta state|prototype|TypedStorage)")
def test_one_tensor_of_another_kind(source, tmp_path, kind, zip_format):
    change, named = WRONG_KINDS[kind]
    state = dict(source.state_dict())
    state[NAME] = change(state[NAME])
    path = tmp_path / "x.pth"
    torch.save({"model": state}, path, _use_new_zipfile_serialization=zip_format)
    refuse(path, NAME, named, "nothing was loaded")
    refuse(path, NAME, named, "nothing was loaded", partial=True)


def test_kinds_that_are_fine(source, tmp_path):
    """Other widths of floating point, and counters of any integer kind."""
    state = dict(source.state_dict())
    for i, name in enumerate(state):
        if name.endswith("num_batches_tracked"):
            state[name] = state[name].to([torch.int32, torch.float32, torch.int64][i % 3])
        else:
            state[name] = state[name].bfloat16().to([torch.bfloat16, torch.float64][i % 2])
    torch.save({"model": state}, tmp_path / "x.pth")
    target = samples.model(seed=1)
    Checkpointer(target).load(str(tmp_path / "x.pth"))
    for name, value in target.state_dict().items():
        assert torch.equal(value, state[name].to(value.dtype)), name


def test_large_values_whose_sum_overflows_are_finite():
    large = torch.full((1000,), 3e38)
    broken = {"nan": torch.tensor([1, float("nan")]), "inf": torch.tensor([float("-inf")])}
    broken["half"] = torch.tensor([float("inf")], dtype=torch.float16)
    sound = {"large": large, "int": torch.tensor(3), "half sum": torch.full((10,), 6e4).half()}
    assert non_finite({**sound, **broken, "text": "x"}) == ["nan", "inf", "half"]


def arrays_of(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


BARE = {
    "pickle": lambda arrays, path: path.write_bytes(pickle.dumps(arrays)),
    "ordered": lambda arrays, path: path.write_bytes(pickle.dumps(OrderedDict(arrays), 2)),
    "blobs": lambda arrays, path: path.write_bytes(pickle.dumps({"blobs": arrays})),
    "model": lambda arrays, path: path.write_bytes(
        pickle.dumps({"model": arrays, "__author__": "x", "matching_heuristics": True})
    ),
    "npz": lambda arrays, path: np.savez(path, **arrays),
    "npz, compressed": lambda arrays, path: np.savez_compressed(path, **arrays),
    "torch": lambda arrays, path: torch.save(
        {name: torch.from_numpy(value) for name, value in arrays.items()}, path
    ),
    "safetensors": lambda arrays, path: save_file(
        {name: torch.from_numpy(value) for name, value in arrays.items()}, path
    ),
}


@pytest.mark.parametrize("container", BARE)
def test_our_own_names_load_from_every_container(source, tmp_path, container):
    path = tmp_path / ("x.npz" if "npz" in container else "x.pkl")
    BARE[container](arrays_of(source), path)
    target = samples.model(seed=1)
    Checkpointer(target).load(str(path))
    samples.assert_same(source, target)


@pytest.mark.parametrize("container", BARE)
def test_what_matches_only_in_part_is_an_error(source, tmp_path, container):
    path = tmp_path / ("x.npz" if "npz" in container else "x.pkl")
    arrays = arrays_of(source)
    BARE[container](dict(list(arrays.items())[::2]), path)
    refuse(path, "missing from the file: ")
    BARE[container]({f"x{i}.y": value for i, value in enumerate(arrays.values())}, path)
    refuse(path, "nothing was loaded")
    refuse(path, "nothing was loaded", partial=True)
    BARE[container](arrays, path)
    refuse(path, "Another width", width=4)
    refuse(f"{path}?matching_heuristics=True", "width", width=4)


def test_a_file_name_with_a_question_mark_is_a_file(source, tmp_path):
    folder = tmp_path / "run?a=b#c"
    folder.mkdir()
    Checkpointer(source, str(folder)).save("model?final", iteration=3)
    target = samples.model(seed=1)
    Checkpointer(target).load(str(folder / "model?final.pth"))
    samples.assert_same(source, target)
    resumed = Checkpointer(samples.model(seed=2), str(folder)).resume_or_load("", resume=True)
    assert resumed["iteration"] == 3


def test_no_variable_of_the_environment_changes_what_is_read(source, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    path = samples.save_mmdet(source, tmp_path / "x.pth", extra=np.float64(3), seed=np.int64(1))
    target = samples.model(seed=1)
    Checkpointer(target).load(path)
    samples.assert_same(source, target)


def test_files_without_numbers_in_npz(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([object()], dtype=object))
    refuse(tmp_path / "x.npz", "a.npy is an array of 'O' values")
    np.savez(tmp_path / "y.npz", a=np.zeros(3, [("x", "f4")]))
    refuse(tmp_path / "y.npz", "not of numbers")
    np.save(tmp_path / "z.npy", np.zeros(3))
    refuse(tmp_path / "z.npy", "without a name")


@pytest.mark.parametrize("length", [2**31, 2**25 + 1])
def test_a_safetensors_header_of_gigabytes(tmp_path, length):
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b'{"a":')
    refuse(path, f"header has {length:,} bytes")


@pytest.mark.parametrize("change", [(b"[0,16]", b"[0,99]"), (b"[16,32]", b"[8,24] ")])
def test_safetensors_with_offsets_outside_or_overlapping(tmp_path, change):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(4), "b": torch.ones(4)}, path)
    path.write_bytes(path.read_bytes().replace(*change))
    refuse(path, "truncated or damaged")


def test_flipped_bytes_in_our_own_safetensors(source, tmp_path):
    path = tmp_path / "x.safetensors"
    convert(samples.save_mmdet(source, tmp_path / "x.pth"), str(path))
    data = bytearray(path.read_bytes())
    data[-5000:-904] = bytes(byte ^ 1 for byte in data[-5000:-904])  # all values stay finite
    path.write_bytes(data)
    refuse(path, "is damaged: its tensors have the CRC-32")


@pytest.mark.parametrize("version", ["2.x", "1.x"])
def test_the_tensor_that_htc_never_used(tmp_path, version):
    prefix = "roi_head." if version == "2.x" else ""
    state = {
        "backbone.conv1.weight": torch.zeros(1),
        "rpn_head.rpn_conv.weight": torch.zeros(1),
        f"{prefix}bbox_head.0.fc_cls.bias": torch.zeros(3),
        f"{prefix}mask_head.0.conv_res.conv.weight": torch.zeros(1),
        f"{prefix}mask_head.1.conv_res.conv.weight": torch.zeros(1),
    }
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    checkpoint = load_file(str(tmp_path / "x.pth"))
    assert "2020-02-15" in checkpoint.unused["roi_head.mask_head.0.conv_res.conv.weight"]
    assert "roi_heads.mask_head.1.conv_res.weight" in checkpoint.state
    assert not any("mask_head.0" in name for name in checkpoint.state)


def test_diverged_weights_are_saved_and_an_error_is_logged(tmp_path, caplog):
    model = samples.model()
    model.state_dict()[NAME][0] = float("nan")
    with caplog.at_level(logging.ERROR):
        Checkpointer(model, str(tmp_path)).save("model_final")
    assert NAME in caplog.text and "model_final.pth" in caplog.text and "diverged" in caplog.text
    refuse(tmp_path / "model_final.pth", NAME)


def test_negative_variances_are_named(source, tmp_path):
    state = {name: value.clone() for name, value in source.state_dict().items()}
    name = [name for name in state if name.endswith(".running_var")][-1]
    state[name][0] = -1e-3
    torch.save({"model": state}, tmp_path / "x.pth")
    refuse(tmp_path / "x.pth", name, "variances of batch normalization", "nothing was loaded")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_what_is_no_file_is_told(tmp_path):
    refuse(tmp_path, "it is a folder; give the checkpoint in it")
    os.mkfifo(tmp_path / "pipe.pth")
    refuse(tmp_path / "pipe.pth", "it is not a regular file")
    os.symlink(tmp_path / "loop.pth", tmp_path / "loop.pth")
    refuse(tmp_path / "loop.pth", "there is no such file")
    for name in ("detector.py", "settings.json"):
        (tmp_path / name).touch()
    refuse(tmp_path, "it is a folder of `hrnet-d2 export`", "hrnet_d2.export.load")
