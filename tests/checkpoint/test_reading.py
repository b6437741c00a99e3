"""Formats are told apart by content; damaged files are named; pickles run nothing."""

import argparse
import collections
import hashlib
import pathlib
import pickle
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint import CheckpointError, UnsafeCheckpointError, load_file
from hrnet_d2.checkpoint.digest import check_digest
from hrnet_d2.checkpoint.reading import read_file

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor(3, dtype=torch.int64)}


def save_zip(content, path):
    torch.save(content, path)


def save_zip_protocol_4(content, path):
    torch.save(content, path, pickle_protocol=4)


def save_legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content, path):
    with open(path, "wb") as file:
        pickle.dump(content, file)


def save_pickle_protocol_2(content, path):
    with open(path, "wb") as file:
        pickle.dump(content, file, protocol=2)


TORCH_FORMATS = [save_zip, save_zip_protocol_4, save_legacy]
PICKLES = [save_pickle, save_pickle_protocol_2]


@pytest.mark.parametrize("save", [*TORCH_FORMATS, lambda state, path: save_file(state, path)])
@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl", "weights"])
def test_the_content_tells_the_format_and_not_the_name(tmp_path, save, name):
    save(STATE, tmp_path / name)
    content = read_file(str(tmp_path / name)).content
    assert content.keys() == STATE.keys()
    for key, value in STATE.items():
        assert torch.equal(content[key], value)


@pytest.mark.parametrize("save", PICKLES)
@pytest.mark.parametrize("name", ["weights.pkl", "weights.pth"])
def test_arrays_of_a_pickle(tmp_path, save, name):
    arrays = {
        "float": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big endian": np.arange(3, dtype=">i4"),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.float64(2.5),
        "0-d": np.array(7),
    }
    save({"model": arrays, "__author__": "someone"}, tmp_path / name)
    content = read_file(str(tmp_path / name)).content
    assert content["__author__"] == "someone"
    for key, value in arrays.items():
        assert np.array_equal(content["model"][key], value), key
        assert np.shape(content["model"][key]) == np.shape(value)


class Payload:
    """Runs ``function(*arguments)`` when unpickled by Python's own pickle."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def _payloads(marker):
    command = f"open({str(marker)!r}, 'w').close()"
    import os

    return {
        f"{os.system.__module__}.system": Payload(os.system, f"touch {marker}"),
        "builtins.eval": Payload(eval, command),
        "builtins.exec": Payload(exec, command),
        "io.open": Payload(open, str(marker), "w"),
        "builtins.getattr": Payload(getattr, collections.OrderedDict, "fromkeys"),
        # Python 3.13's own pickles name the module pathlib._local.
        f"{pathlib.Path.__module__}.Path.touch": Payload(pathlib.Path.touch, pathlib.Path(marker)),
        "torch.storage._load_from_bytes": Payload(torch.storage._load_from_bytes, b""),
        "torch.serialization.load": Payload(torch.load, str(marker)),
        "numpy.memmap": Payload(np.memmap, str(marker), "uint8", "w+", 0, (4,)),
    }


@pytest.mark.parametrize("save", [*TORCH_FORMATS, *PICKLES])
@pytest.mark.parametrize("name", sorted(_payloads("")))
def test_malicious_pickles_are_refused_by_name_and_not_run(tmp_path, save, name):
    marker = tmp_path / "was-run"
    payload = _payloads(marker)[name]
    path = tmp_path / "model.pth"
    # Python's pickle has no persistent storages: tensors would be refused before the payload
    state = {"w": np.zeros(3)} if save in PICKLES else dict(STATE)
    save({"state_dict": state, "meta": payload}, path)
    with pytest.raises(UnsafeCheckpointError) as error:
        read_file(str(path))
    assert str(path) in str(error.value) and name in str(error.value)
    assert not marker.exists()
    if name in ("builtins.eval", "builtins.exec", "io.open"):  # the payload is a real one
        pickle.loads(pickle.dumps(payload))
        assert marker.exists()


def test_paths_as_python_3_13_writes_them(tmp_path):
    content = {"state_dict": {"w": np.ones(3)}, "meta": {"work_dir": pathlib.PurePosixPath("a/b")}}
    data = pickle.dumps(content, protocol=2)
    module = pathlib.PurePosixPath.__module__.encode()
    written = data.replace(b"c" + module + b"\n", b"cpathlib._local\n")
    assert b"cpathlib._local\nPurePosixPath" in written
    path = tmp_path / "model.pkl"
    path.write_bytes(written)
    read = read_file(str(path)).content
    np.testing.assert_array_equal(read["state_dict"]["w"], np.ones(3))


def test_a_pickle_cannot_alter_what_stands_for_classes_and_functions(tmp_path):
    """BUILD on a class or a function would set attributes that later loads see."""
    for module, name in [
        ("collections", "OrderedDict"),
        ("mmengine.logging.history_buffer", "HistoryBuffer"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("numpy", "ndarray"),
    ]:
        state = pickle.dumps((None, {"__setstate__": "x", "_function": "x"}), protocol=2)[2:-1]
        global_ = f"c{module}\n{name}\n".encode()
        path = tmp_path / "model.pkl"
        path.write_bytes(b"\x80\x02" + global_ + state + b"b.")
        with pytest.raises(CheckpointError):
            read_file(str(path))
    save_zip(STATE, tmp_path / "good.pth")
    assert read_file(str(tmp_path / "good.pth")).content.keys() == STATE.keys()


def test_an_array_larger_than_its_bytes_is_refused(tmp_path):
    array = np.zeros(4, np.float32)
    data = pickle.dumps(array, protocol=2)
    assert data.count(b"K\x04\x85") == 1  # the shape, (4,)
    path = tmp_path / "model.pkl"
    path.write_bytes(data.replace(b"K\x04\x85", b"K\x40\x85"))
    with pytest.raises(CheckpointError, match=r"shape \(64,\) has 16 bytes"):
        read_file(str(path))


@pytest.fixture
def fake_modules():
    """Modules that MMDetection's trainers pickle objects of; gone before anything is read."""
    names = {
        "mmengine.logging.history_buffer": ["HistoryBuffer"],
        "mmengine.config.config": ["ConfigDict"],
        "mmcv.utils.config": ["Config"],
    }
    made = {}
    for module_name, classes in names.items():
        parts = module_name.split(".")
        for i in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
        for name in classes:
            base = dict if name == "ConfigDict" else object
            kind = type(name, (base,), {"__module__": module_name, "mean": lambda self: 0})
            kind.mean.__qualname__, kind.mean.__module__ = f"{name}.mean", module_name
            setattr(sys.modules[module_name], name, kind)
            made[name] = kind
    yield made
    for module in [m for m in sys.modules if m.split(".")[0] in ("mmengine", "mmcv")]:
        del sys.modules[module]


@pytest.mark.parametrize("save", TORCH_FORMATS)
def test_what_trainers_keep_beside_the_weights(tmp_path, save, fake_modules):
    history = fake_modules["HistoryBuffer"]()
    history._log_history = np.linspace(0, 1, 5)
    history._count_history = np.ones(5, np.int64)
    history.max_length = 1000
    config = fake_modules["ConfigDict"](classes=("cat", "dog"), lr=0.02)
    old = fake_modules["Config"]()
    old.filename = "x.py"
    content = {
        "state_dict": collections.OrderedDict(STATE),
        "meta": {
            "seed": np.int64(3),
            "loss": np.float32(0.5),
            "dataset_meta": config,
            "config": old,
            "args": argparse.Namespace(lr=1),
            "path": pathlib.PurePosixPath("a/b"),
        },
        "message_hub": {
            "log_scalars": collections.OrderedDict({"train/loss": history}),
            "recent": collections.deque([1, 2], maxlen=5),
            "counts": collections.defaultdict(list, {"a": [1]}),
            "array": np.arange(3),
            "done": {"a", "b"},
            "parameter": torch.nn.Parameter(torch.ones(2)),
        },
    }
    path = tmp_path / "epoch_12.pth"
    save(content, path)
    for module in [m for m in sys.modules if m.split(".")[0] in ("mmengine", "mmcv")]:
        del sys.modules[module]
    read = read_file(str(path)).content
    assert torch.equal(read["state_dict"]["a.weight"], STATE["a.weight"])
    assert read["meta"]["seed"] == 3 and read["meta"]["loss"] == 0.5
    assert read["meta"]["dataset_meta"]["classes"] == ("cat", "dog")
    assert np.array_equal(read["message_hub"]["array"], np.arange(3))
    assert read["message_hub"]["done"] == {"a", "b"}
    assert torch.equal(read["message_hub"]["parameter"], torch.ones(2))
    assert not any(m.startswith("mmengine") for m in sys.modules)


@pytest.mark.parametrize("save", [*TORCH_FORMATS, *PICKLES, lambda s, path: save_file(s, path)])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_truncated_files_are_named(tmp_path, save, kept):
    state = {f"layer{i}.weight": torch.rand(40, 40) for i in range(20)}
    if save in PICKLES:
        state = {name: value.numpy() for name, value in state.items()}
    path = tmp_path / "model.pth"
    save(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(CheckpointError, match=r"model\.pth.*truncated"):
        read_file(str(path))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
        (b"epoch,loss\n1,2\n", "not a checkpoint"),
    ],
)
def test_other_files_are_told_what_they_are(tmp_path, content, message):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"model\.pth.*{message}"):
        read_file(str(path))


def test_other_archives_are_told_what_they_are(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photos/a.txt", "text")
    with pytest.raises(CheckpointError, match="zip archive that does not hold a PyTorch"):
        read_file(str(tmp_path / "photos.zip"))
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_file(str(tmp_path / "script.pt"))
    # a tar archive that begins as a checkpoint of old would
    member = tmp_path / "member"
    member.write_bytes(b"x")
    with tarfile.open(tmp_path / "weights.tar", "w") as archive:
        archive.add(member, "pickle")
    data = bytearray((tmp_path / "weights.tar").read_bytes())
    with pytest.raises(CheckpointError, match="tar archive"):
        read_file(str(tmp_path / "weights.tar"))
    magic = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
    data[: len(magic)] = magic
    data[148:155] = f"{tarfile.calc_chksums(bytes(data[:512]))[0]:06o}\0".encode()
    (tmp_path / "polyglot.pth").write_bytes(data)
    assert tarfile.is_tarfile(tmp_path / "polyglot.pth")
    with pytest.raises(CheckpointError, match="tar archive"):
        read_file(str(tmp_path / "polyglot.pth"))


def test_digest_in_the_name(tmp_path, caplog):
    path = tmp_path / "weights.pth"
    torch.save(STATE, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    check_digest(str(path))
    check_digest(str(path), f"https://host/net_20200130-{digest}.pth")
    check_digest(str(path), "net-20200130.pth")  # a date
    assert not caplog.records
    check_digest(str(path), "https://host/net-0badf00d.pth")
    assert caplog.records[0].levelname == "WARNING"
    assert all(part in caplog.text for part in ("weights.pth", digest, "0badf00d"))
    published = model_zoo.get_checkpoint_url("faster_rcnn_hrnetv2p_w18_1x_coco")
    with pytest.raises(CheckpointError, match=f"weights.pth.*{digest}.*56651a6d"):
        check_digest(str(path), published)


def test_messages_are_short_and_do_not_command_the_terminal(tmp_path):
    path = tmp_path / "odd.pkl"
    path.write_bytes(pickle.dumps({"\x1b[31mred\x1b[2J": {"a": 1}, "m" * 100_000: 2, "é": 3}))
    with pytest.raises(CheckpointError) as caught:
        load_file(str(path))
    message = str(caught.value)
    assert str(path) in message and "é" in message and "red" in message
    assert "\x1b" not in message and len(message) < 1000
