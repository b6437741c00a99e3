"""Pickles that overflow the stack, allocate or hang: refused in time, in every container."""

import io
import pickle
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
import torch
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from hrnet_d2.checkpoint import CheckpointError, UnsafeCheckpointError
from hrnet_d2.checkpoint.reading import read_file

DEEP = 300_000  # hashing tuples in tuples overflows a stack of 8 MiB at half of that
LESS_DEEP = 100_000
MANY = 3_000_000
SYS_INFO = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}

BOMBS = {
    # a tuple in a tuple in a tuple ... as a key: its hash overflows the C stack
    "deep tuple as key": b"}" + b")" + b"\x85" * DEEP + b"K\x01s",
    "deep tuple in a set": b"\x8f(" + b")" + b"\x85" * LESS_DEEP + b"\x90",
    "deep tuple in a frozenset": b"()" + b"\x85" * LESS_DEEP + b"\x91",
    "deep tuple by set()": b"cbuiltins\nset\n](" + b")" + b"\x85" * LESS_DEEP + b"e\x85R",
    "deep list": b"]" * LESS_DEEP + b"a" * (LESS_DEEP - 1),
    "deep dictionary": b"}K\x00" * LESS_DEEP + b"N" + b"s" * LESS_DEEP,
    "wide tuple as key": b"})" + b"2\x86" * 60 + b"K\x01s",  # 2**60 items for a hash
    "doubled 60 times": b")" + b"2\x86" * 60,
    "contains itself": b"]q\x00h\x00a",
    "contains itself, deeper": b"]q\x00]q\x01h\x00aa",
    "many sets": b"(" + b"\x8f" * MANY + b"l",
    "many marks": b"(" * MANY,
    "copies": b"cbuiltins\nbytearray\nq\x000"
    + b"B" + (2**24).to_bytes(4, "little") + bytes(2**24) + b"q\x010"
    + b"(" + b"h\x00h\x01\x85R" * 1000 + b"l",
    "colliding keys": b"}("
    + b"".join(
        b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"N" for i in range(1, 1000)
    )
    + b"u",
    "huge integer": b"\x8b" + (2**20).to_bytes(4, "little") + b"\x7f" * 2**20,
    "many digits": b"L" + b"9" * 100_000 + b"L\n",
    "huge memo": b"Nr\xff\xff\xff\xff",
    "announced bytes": b"B\xff\xff\xff\xff",
    "announced text": b"\x8d" + (2**62).to_bytes(8, "little"),
    "extension code": b"\x82\x01",
    "buffer outside": b"\x97",
}  # fmt: skip


def with_protocol(body: bytes) -> bytes:
    return b"\x80\x04" + body + b"."


def as_zip(body: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", with_protocol(body))
        archive.writestr("x/version", "3\n")
    return buffer.getvalue()


def legacy(place: int):
    def build(body: bytes) -> bytes:
        pieces = [
            pickle.dumps(part, 2) for part in (MAGIC_NUMBER, PROTOCOL_VERSION, SYS_INFO, {}, [])
        ]
        pieces[place] = with_protocol(body)
        return b"".join(pieces)

    return build


CONTAINERS = {
    "pkl": with_protocol,
    "zip": as_zip,
    "legacy": legacy(3),
    "legacy keys": legacy(4),
    "legacy sys_info": legacy(2),
}

CHILD = """
    import resource, sys
    from hrnet_d2.checkpoint.reading import read_file
    from hrnet_d2.checkpoint import CheckpointError
    resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))
    for path in sys.argv[1:]:
        try:
            read_file(path)
        except CheckpointError as error:
            assert path in str(error), error
            print("refused", flush=True)
        else:
            print("read", flush=True)
        # Not ru_maxrss, which begins with that of the process that started this one.
        status = open("/proc/self/status").read()
        peak = int(status.split("VmHWM:")[1].split()[0]) / 2**20
        assert peak < 4, (path, peak)
"""


def test_bombs_are_refused_and_the_process_lives(tmp_path):
    """Each in each container, in a child process with limits of time and memory."""
    paths = []
    for i, body in enumerate(BOMBS.values()):
        for name, build in CONTAINERS.items():
            if len(body) > 2**21 and name != "zip":
                continue
            path = tmp_path / f"{i}-{name}.pth"
            path.write_bytes(build(body))
            paths.append(str(path))
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), *paths],
        capture_output=True,
        text=True,
        timeout=600,
    )
    verdicts = child.stdout.split()
    assert child.returncode == 0, child.stderr[-2000:]
    read = {p for p, v in zip(paths, verdicts, strict=True) if v != "refused"}
    harmless = str(list(BOMBS).index("huge memo"))  # a number in a dictionary here, 32 GB elsewhere
    assert all(path.rsplit("/", 1)[1].startswith(f"{harmless}-") for path in read), read


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_is_read(tmp_path, protocol):
    content = {
        "text": "ä\n'",
        "bytes": b"\x00\xff",
        "numbers": [0, -1, 255, 65536, 2**40, -(2**70), 1.5, float("inf"), True, None],
        "nested": {"a": (1, (2,), (), (1, 2, 3, 4)), "b": {1, 2}, "c": frozenset([3])},
        ("a", 1): [[], {}],
        "array": np.arange(6.0).reshape(2, 3),
        "same": 0,
        "buffer": bytearray(b"abc"),
    }
    content["same"] = content["nested"]
    path = tmp_path / "x.pkl"
    with open(path, "wb") as file:
        pickle.dump(content, file, protocol=protocol)
    read = read_file(str(path)).content
    assert np.array_equal(read.pop("array"), content.pop("array"))
    assert read == content and list(read) == list(content)
    assert read["same"] is read["nested"]


PYTHON_2 = (  # {'w': numpy.arange(3, dtype='f4'), u'n': 5L} by Python 2, protocol 0
    b"(dp0\nS'w'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\n"
    b"S'b'\np5\ntp6\nRp7\n(I1\n(I3\ntp8\ncnumpy\ndtype\np9\n(S'f4'\np10\nI0\nI1\ntp11\nRp12\n"
    b"(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nbI00\n"
    b"S'\\x00\\x00\\x00\\x00\\x00\\x00\\x80?\\x00\\x00\\x00@'\np15\ntp16\nbsVn\np17\nL5L\ns."
)


def test_pickles_of_python_2(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(PYTHON_2)
    read = read_file(str(path)).content
    assert read["w"].tolist() == [0, 1, 2] and read["n"] == 5


def test_objects_of_old_protocols_cannot_be_made(tmp_path):
    for body in (b"(ios\nsystem\n.", b"(cos\nsystem\nU\x01xo.", b"(S'x'\nios\nsystem\n."):
        path = tmp_path / "x.pkl"
        path.write_bytes(b"\x80\x01" + body)
        with pytest.raises(UnsafeCheckpointError, match=r"x\.pkl.*(os|posix)\.system"):
            read_file(str(path))


def test_bytes_after_the_pickle_are_an_error(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a": 1}) + b"more")
    with pytest.raises(CheckpointError, match=r"x\.pkl is damaged: 4 bytes follow"):
        read_file(str(path))
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(CheckpointError, match=r"x\.pkl is damaged: 4 bytes follow"):
        read_file(str(path))


@pytest.mark.parametrize("zip_format", [True, False])
def test_views_and_shared_storages(tmp_path, zip_format):
    base = torch.arange(24.0)
    content = {
        "all": base,
        "strided": base.view(4, 6)[:, ::2],
        "transposed": base.view(4, 6).t(),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3.5),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "expanded": torch.ones(1).expand(5),
        "small": torch.ones(3).to(torch.uint8),
    }
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    read = read_file(str(path)).content
    for name, value in content.items():
        assert torch.equal(read[name], value) and read[name].dtype == value.dtype, name
    read["all"][0] = 100
    assert read["strided"][0, 0] == 100


@pytest.mark.parametrize("change", [b"\x40", b"\x00"])
def test_tensors_outside_their_storage_are_refused(tmp_path, change):
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(5.0)}, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    shape = data.index(b"K\x05\x85")  # the size, (5,)
    path = tmp_path / "x.pth"
    path.write_bytes(data[: shape + 1] + b"\x40" + data[shape + 2 :])
    with pytest.raises(CheckpointError, match=r"x\.pth.*64 values.* storage of 5"):
        read_file(str(path))
