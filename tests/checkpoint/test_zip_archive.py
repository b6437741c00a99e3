"""Zip archives: only those that every reader understands in the same way are read."""

import io
import re
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch

from hrnet_d2.checkpoint import CheckpointError
from hrnet_d2.checkpoint.reading import read_file
from hrnet_d2.checkpoint.zip_archive import MAX_ENTRIES, ZipArchive

# TorchScript is what must not run here, whatever PyTorch thinks of its future.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

STATE = {"a": torch.arange(1000.0), "b": torch.arange(3)}


def saved(content=STATE) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def repacked(**options) -> bytes:
    """The same checkpoint, packed by Python's zipfile."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved())) as source,
        zipfile.ZipFile(buffer, "w", **options) as target,
    ):
        for name in source.namelist():
            with target.open(name, "w", force_zip64=True) as entry:
                entry.write(source.read(name))
    return buffer.getvalue()


class Unseekable(io.BytesIO):
    def seekable(self):
        return False

    def tell(self):
        raise OSError


def streamed() -> bytes:
    """Sizes and checksums after the entries instead of before."""
    buffer = Unseekable()
    with zipfile.ZipFile(buffer, "w") as target, zipfile.ZipFile(io.BytesIO(saved())) as source:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return buffer.getvalue()


SOUND = {
    "torch.save": saved,
    "zipfile, zip64": repacked,
    "deflated": lambda: repacked(compression=zipfile.ZIP_DEFLATED),
    "streamed": streamed,
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_archives_read_as_torch_reads_them(tmp_path, name):
    path = tmp_path / "x.pth"
    path.write_bytes(SOUND[name]())
    content = read_file(str(path)).content
    wanted = torch.load(path, weights_only=True)
    for key in STATE:
        assert torch.equal(content[key], STATE[key]) and torch.equal(wanted[key], STATE[key])
    records = torch._C.PyTorchFileReader(str(path)).get_all_records()
    names = [entry.partition("/")[2] for entry in ZipArchive(str(path)).names]
    assert sorted(names) == sorted(records)


def torchscript() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def end_record(data: bytes) -> int:
    return data.rindex(b"PK\x05\x06")


def directory(data: bytes) -> bytes:
    size, offset = struct.unpack_from("<LL", data, end_record(data) + 12)
    return data[offset : offset + size]


def two_directories() -> bytes:
    """One for Python's zipfile (which looks before the end record), one for torch (which trusts
    the offset in it): the first is a checkpoint, the second TorchScript."""
    script, plain = torchscript(), saved()
    offset = struct.unpack_from("<L", script, end_record(script) + 16)[0]
    body = script + plain[: end_record(plain)]
    return body + struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, 4, 4, len(directory(plain)), offset, 0
    )


def comment_with_archive() -> bytes:
    plain, script = saved(), torchscript()
    data = bytearray(plain + script)
    data[len(plain) - 2 : len(plain)] = struct.pack("<H", min(len(script), 65535))
    return bytes(data)


def patched(data: bytes, pattern: bytes, offset: int, new: bytes) -> bytes:
    at = data.index(pattern) + offset
    return data[:at] + new + data[at + len(new) :]


def with_duplicate() -> bytes:
    buffer = io.BytesIO(saved())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(archive.namelist()[0], b"second")
    return buffer.getvalue()


def overlapping() -> bytes:
    """The second entry of the directory begins where the first one does."""
    data = repacked()
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    return data[: second + 42] + bytes(4) + data[second + 46 :]


def several_roots() -> bytes:
    buffer = io.BytesIO(saved())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("elsewhere/data.pkl", b"")
    return buffer.getvalue()


REFUSED = {
    "two directories": (two_directories, "refused"),
    "an archive in the comment": (comment_with_archive, "refused|TorchScript"),
    "an archive appended": (lambda: saved() + torchscript(), "refused"),
    "an archive in front": (lambda: torchscript() + saved(), "refused"),
    "bytes behind": (lambda: saved() + bytes(100), "bytes follow the end"),
    "bytes in front": (lambda: b"PK\x03\x04" + bytes(60) + saved(), "refused"),
    "duplicate": (with_duplicate, "two entries of one name"),
    "overlap": (overlapping, "overlap|not there"),
    "several roots": (several_roots, "several root folders"),
    "TorchScript": (torchscript, "TorchScript program"),
    "other local name": (lambda: patched(saved(), b"archive/", 0, b"archivE/"), "not there"),
    "encrypted": (lambda: patched(repacked(), b"PK\x01\x02", 8, b"\x01\x00"), "encrypted"),
    "other count": (lambda: patched(repacked(), b"PK\x05\x06", 8, b"\x01\0\x01\0"), "refused"),
    "other sizes": (lambda: patched(repacked(), b"PK\x01\x02", 20, b"\x01\0\0\0"), "two sizes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_archives_that_readers_disagree_about_are_refused(tmp_path, name):
    make, message = REFUSED[name]
    path = tmp_path / "x.pth"
    path.write_bytes(make())
    with pytest.raises(CheckpointError, match=rf"x\.pth.*({message})"):
        read_file(str(path))


def test_a_program_in_a_file_of_two_archives_never_runs(tmp_path, monkeypatch):
    """Today's readers disagree about this file, and nothing may come near torch.jit."""
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("torch.jit.load"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load"))
    for make in (two_directories, torchscript, comment_with_archive):
        path = tmp_path / "x.pth"
        path.write_bytes(make())
        with pytest.raises(CheckpointError):
            read_file(str(path))


@pytest.mark.parametrize("place", ["tensor", "pickle"])
def test_flipped_bytes_are_found(tmp_path, place):
    state = {"w": torch.rand(100, 100)}
    data = bytearray(saved(state))
    needle = state["w"].numpy().tobytes()[:64] if place == "tensor" else b"_rebuild_tensor_v2"
    at = bytes(data).index(needle)
    for i in range(at, at + (4096 if place == "tensor" else 4)):
        data[i] ^= 0xFF
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    torch.load(path, weights_only=True) if place == "tensor" else None  # torch does not notice
    with pytest.raises(CheckpointError, match=r"x\.pth is damaged: the content of .* CRC-32"):
        read_file(str(path))


def many_entries(count: int) -> bytes:
    """An archive of empty entries, all alike but for their names."""
    body, central = bytearray(), bytearray()
    for i in range(count):
        name, at = b"x/%07d" % i, len(body)
        common = struct.pack("<5H3L2H", 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0)
        body += b"PK\x03\x04" + common + name
        central += b"PK\x01\x02" + struct.pack("<H", 20) + common
        central += struct.pack("<3H2L", 0, 0, 0, 0, at) + name
    start = len(body)
    record = struct.pack(
        "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(central), start
    )
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + len(central), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    return bytes(body + central + record + locator + end)


def test_a_million_entries_are_refused_at_once(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(many_entries(10))
    assert len(ZipArchive(str(path)).names) == 10
    path.write_bytes(many_entries(MAX_ENTRIES + 1))
    with pytest.raises(CheckpointError, match=r"x\.pth is refused: it has 100,001 entries"):
        read_file(str(path))


def test_a_decompression_bomb_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(2**26))
    with pytest.raises(CheckpointError, match=r"x\.pth is refused: x/data\.pkl is .* unpacked"):
        read_file(str(path))


def test_a_deflated_entry_longer_than_it_says_is_refused(tmp_path):
    data = repacked(compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        info = archive.infolist()[0]
    short = struct.pack("<L", info.file_size - 1)
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 30 + len(info.filename) + 4)):
        data = patched(data, signature, offset, short)
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"x\.pth is refused"):
        read_file(str(path))


def test_byte_order_of_other_machines(tmp_path):
    values = {"f": torch.rand(7), "d": torch.rand(3, dtype=torch.float64), "i": torch.arange(5)}
    values["c"] = torch.rand(3, dtype=torch.complex64)
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(values))) as source,
        zipfile.ZipFile(buffer, "w") as target,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("byteorder"):
                content = b"big"
            elif match := re.search(r"/data/(\d)$", name):
                unit = [4, 8, 8, 4][int(match[1])]
                content = np.frombuffer(content, f"u{unit}").byteswap().tobytes()
            target.writestr(name, content)
    path = tmp_path / "x.pth"
    path.write_bytes(buffer.getvalue())
    content = read_file(str(path)).content
    assert all(torch.equal(content[name], value) for name, value in values.items())


def test_tensors_are_views_of_the_file_and_never_change_it(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(saved())
    before = zlib.crc32(path.read_bytes())
    content = read_file(str(path)).content
    content["a"].zero_()
    assert content["a"].sum() == 0 and zlib.crc32(path.read_bytes()) == before
    path.unlink()  # the mapping outlives the name
    assert content["b"].tolist() == [0, 1, 2]
