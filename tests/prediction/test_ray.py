"""The engine ray: on a local cluster of two actors, the same detections, nothing lost or twice."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from hrnet_d2.config_file import ConfigError
from hrnet_d2.prediction.ray_inputs import find_columns, is_parquet
from tests.depth import WHOLE, of_depth
from tests.prediction import models
from tests.prediction.models import encoded, predict, rows, write_pictures, write_tar

RAY = ("--engine", "ray", "--actors", "2", "--confidence-threshold", "0")
NAMES = [f"{i % 3}/{i:02d}.png" for i in range(48)]


@pytest.fixture(scope="module", autouse=True)
def whole_here():
    """As in the actors."""
    with of_depth(WHOLE):
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.write_model(tmp_path_factory.mktemp("box_model"))


@pytest.fixture(scope="module")
def mask_model(tmp_path_factory):
    return models.write_mask_model(tmp_path_factory.mktemp("mask_model"))


@pytest.fixture(scope="module")
def cluster():
    """A Ray of this module's own, which ends with it."""
    ray = pytest.importorskip("ray", reason="needs ray: pip install 'hrnet_d2[ray]'")
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'hrnet_d2[ray]'")
    ray.init(num_cpus=5, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


@pytest.fixture
def small_parts(monkeypatch):
    """Work in small pieces, as many images would be in large ones."""
    from hrnet_d2.prediction import ray_engine

    monkeypatch.setattr(ray_engine, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(ray_engine, "ROWS_OF_A_FILE", 4)
    monkeypatch.setattr(ray_engine, "ROWS_OF_A_BLOCK", 4)


def table(output):
    """The rows by image; none is there twice."""
    import pyarrow.parquet

    found = pyarrow.parquet.read_table(str(output / "predictions.parquet")).to_pylist()
    by_image = {row["image"]: row for row in found}
    assert len(by_image) == len(found), "an image is there twice"
    assert len({row["id"] for row in found}) == len(found)
    return by_image


def check_same(found, model, inputs, folder):
    """As the single process has it."""
    extra = ("--format", "jsonl", "--confidence-threshold", "0")
    predict(model, *inputs, output=folder, extra=extra)
    expected = {os.path.abspath(row["image"]): row for row in rows(folder)}
    assert set(found) == set(expected)
    for image, row in found.items():
        other = expected[image]
        assert bool(row["error"]) == bool(other["error"])
        boxes = np.array([d["box"] for d in other["detections"]]).reshape(-1, 4)
        np.testing.assert_allclose(np.array(row["boxes"]).reshape(-1, 4), boxes, atol=5e-3)
        assert row["classes"] == [d["class"] for d in other["detections"]]
        np.testing.assert_allclose(
            row["scores"], [d["score"] for d in other["detections"]], atol=1e-4
        )
        if row["masks"] is not None:
            assert len(row["masks"]) == len(other["detections"])


@pytest.mark.slow
def test_folders_give_what_the_single_process_gives(cluster, mask_model, tmp_path, capsys):
    write_pictures(tmp_path / "in", *NAMES[:20])
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    assert predict(mask_model, tmp_path / "in", output=tmp_path / "out", extra=RAY) == 1
    assert "20 of 21 images" in capsys.readouterr().out
    found = table(tmp_path / "out")
    assert sum(bool(row["error"]) for row in found.values()) == 1
    check_same(found, mask_model, [tmp_path / "in"], tmp_path / "one")
    # Again without a word: refused; with --resume: what is new.
    assert predict(mask_model, tmp_path / "in", output=tmp_path / "out", extra=RAY) == 1
    assert "--resume" in capsys.readouterr().err
    write_pictures(tmp_path / "in", "new/1.png", "new/2.png")
    extra = (*RAY, "--resume")
    before = sorted((tmp_path / "out" / "predictions.parquet").iterdir())
    assert predict(mask_model, tmp_path / "in", output=tmp_path / "out", extra=extra) == 1
    assert len(table(tmp_path / "out")) == 23
    assert set(before) < set((tmp_path / "out" / "predictions.parquet").iterdir())
    extra = (*RAY, "--resume", "--tiles", "64")
    assert predict(mask_model, tmp_path / "in", output=tmp_path / "out", extra=extra) == 1
    assert "other settings" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["paths", "bytes"])
def test_parquet_of_paths_and_of_bytes(cluster, model, tmp_path, kind):
    import pyarrow
    import pyarrow.parquet

    paths = write_pictures(tmp_path / "in", *NAMES[:10])
    columns = {"path": [str(path) for path in paths], "other": list(range(10))}
    if kind == "bytes":
        columns["bytes"] = [path.read_bytes() for path in paths]
        for path in paths:
            path.rename(path.with_suffix(".moved"))
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "list.parquet")
    assert predict(model, tmp_path / "list.parquet", output=tmp_path / "out", extra=RAY) == 0
    found = table(tmp_path / "out")
    if kind == "bytes":
        for path in paths:
            path.with_suffix(".moved").rename(path)
    check_same(found, model, [tmp_path / "in"], tmp_path / "one")


def children_named(name: str) -> list[int]:
    """Processes below this one whose title has ``name``."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text()
                parents[int(entry.name)] = int(status.rpartition(")")[2].split()[1])
                titles[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:  # it has ended
                continue

    def is_mine(process: int) -> bool:
        while process in parents:
            process = parents[process]
            if process == os.getpid():
                return True
        return False

    return [p for p, title in titles.items() if name in title and is_mine(p)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the actor's process in /proc")
def test_the_work_of_a_killed_actor_is_done_again(cluster, model, tmp_path, small_parts):
    write_pictures(tmp_path / "in", *NAMES)
    status = []

    def run() -> None:
        status.append(predict(model, tmp_path / "in", output=tmp_path / "out", extra=RAY))

    thread = threading.Thread(target=run)
    thread.start()
    killed = 0
    while thread.is_alive() and not killed:
        time.sleep(0.05)
        if any((tmp_path / "out" / "predictions.parquet").glob("*.parquet")):
            for process in children_named("MapBatches(Network)")[:1]:
                os.kill(process, signal.SIGKILL)
                killed = process
    written = len(list((tmp_path / "out" / "predictions.parquet").glob("*.parquet")))
    thread.join()
    assert killed and status == [0]
    assert written < len(list((tmp_path / "out" / "predictions.parquet").glob("*.parquet")))
    check_same(table(tmp_path / "out"), model, [tmp_path / "in"], tmp_path / "one")


def test_columns_are_found():
    assert find_columns(["a", "path", "bytes"]).data == "bytes"
    assert find_columns(["url"]).path == "url" and find_columns(["image", "path"]).path == "image"
    with pytest.raises(ConfigError, match="have the columns a, b"):
        find_columns(["a", "b"])
    assert is_parquet(["s3://bucket/list.parquet", "x.PQ"]) and not is_parquet(["folder"])
    with pytest.raises(ConfigError, match="one kind"):
        is_parquet(["a.parquet", "folder"])


def test_what_the_engine_does_not_do_is_said(model, tmp_path, capsys):
    pytest.importorskip("ray", reason="needs ray: pip install 'hrnet_d2[ray]'")
    write_pictures(tmp_path, "a.png")
    write_tar(tmp_path / "t.tar", {"a.png": encoded(0)})
    for name, extra, said in (
        ("a.png", ("--format", "coco"), "writes Parquet"),
        ("a.png", ("--shard", "1/2"), "--shard"),
        ("t.tar", (), "archives"),
    ):
        assert predict(model, tmp_path / name, output=tmp_path / "o", extra=(*RAY, *extra)) == 1
        assert said in capsys.readouterr().err


def test_a_missing_ray_is_named(model, tmp_path, monkeypatch, capsys):
    for name in ("ray", "ray.data", "ray.data.checkpoint"):
        monkeypatch.setitem(sys.modules, name, None)
    write_pictures(tmp_path, "a.png")
    assert predict(model, tmp_path / "a.png", output=tmp_path / "out", extra=RAY) == 1
    assert "pip install 'hrnet_d2[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
