from pathlib import Path

import pytest

from hrnet_d2.data.cache import cache_folder, write_once


def test_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HRNET_D2_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("HRNET_D2_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "hrnet_d2"


def test_written_once(tmp_path):
    target = tmp_path / "a" / "b.txt"
    assert write_once(target, lambda p: p.write_text("one")) == target
    write_once(target, lambda p: p.write_text("two"))
    assert target.read_text() == "one"
    assert list(target.parent.iterdir()) == [target]


def test_interrupted_writes_leave_nothing(tmp_path):
    def write(path):
        path.mkdir()
        (path / "half").write_text("")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_once(tmp_path / "a", write)
    assert list(tmp_path.iterdir()) == []


def test_another_process_is_first(tmp_path):
    target = tmp_path / "data"

    def write(path):
        path.mkdir()
        target.mkdir()
        (target / "theirs").write_text("")

    write_once(target, write)
    assert [p.name for p in target.iterdir()] == ["theirs"]
    assert list(tmp_path.iterdir()) == [target]


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Cannot write .*file/data.*HRNET_D2_CACHE"):
        write_once(tmp_path / "file" / "data", lambda p: p.mkdir())
