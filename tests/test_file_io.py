"""Files are replaced whole or not at all."""

import errno
import os
import stat

import pytest

from hrnet_d2.file_io import atomic_write


def test_replaces_a_file_and_leaves_nothing_beside_it(tmp_path):
    target = tmp_path / "a.json"
    for text in ("first", "second"):
        with atomic_write(target) as part, open(part, "w") as f:
            f.write(text)
        assert target.read_text() == text
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_write(target) as part:
        with open(part, "w") as f:
            f.write("half")
        raise error
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
    ],
)
def test_a_full_disk_names_the_file_and_the_space(tmp_path, error):
    target = tmp_path / "model.pth"
    target.write_text("old")
    full = pytest.raises(OSError, match=r"disk is full.*MiB are free.*model\.pth")
    with full, atomic_write(target) as part:
        assert part.endswith(".pth")
        raise error
    assert target.read_text() == "old"


def test_the_mode_is_that_of_ordinary_files(tmp_path):
    target = tmp_path / "a"
    umask = os.umask(0o022)
    try:
        with atomic_write(target) as part, open(part, "w") as f:
            f.write("x")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
