"""What can be named as input: every kind is found, read, and told apart."""

import functools
import http.server
import os
import socket
import sys
import threading

import pytest

from hrnet_d2.cli import main
from hrnet_d2.prediction.sources import Names, expand
from hrnet_d2.prediction.sources.names import safe_name
from tests.prediction.models import (
    encoded,
    predict,
    rows,
    write_pictures,
    write_tar,
    write_video,
)

JSONL = ("--format", "jsonl", "--confidence-threshold", "0")


def sources(output):
    return [row["image"] for row in rows(output)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_with_all_below_in_order(model, here):
    write_pictures(here / "photos", "b.png", "a.jpg", "deep/er/c.PNG", "ü ß.png", ".hidden.png")
    (here / "photos" / "notes.txt").write_text("no image")
    (here / "photos" / "x.jpg").mkdir()
    write_pictures(here / "photos" / "x.jpg", "inside.png")
    assert predict(model, "photos", output="out", extra=JSONL) == 0
    names = ["a.jpg", "b.png", "ü ß.png", "deep/er/c.PNG", "x.jpg/inside.png"]
    assert sources(here / "out") == [os.path.join("photos", *n.split("/")) for n in names]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_links_to_folders_are_followed_once(here):
    write_pictures(here / "photos", "a.png")
    (here / "photos" / "again").symlink_to(here / "photos", target_is_directory=True)
    (here / "other").mkdir()
    (here / "other" / "link").symlink_to(here / "photos", target_is_directory=True)
    assert [u.source for u in expand(["photos"])] == [os.path.join("photos", "a.png")]
    assert len(expand(["photos", "other"])) == 1, "the same file by two paths is one input"


def test_patterns(here):
    write_pictures(here / "data", "1/a.png", "1/b.jpg", "2/c.png", "odd[1].png")
    found = [u.source for u in expand(["data/*/*.png"])]
    assert found == [os.path.join("data", "1", "a.png"), os.path.join("data", "2", "c.png")]
    assert len(expand(["data/**/*.png"])) == 3
    assert len(expand(["data/*"])) == 4, "folders that match are entered"
    assert len(expand([os.path.join("data", "odd[1].png")])) == 1, "a file of that very name"
    assert [u.source for u in expand(["data/{1..2}"])] == [u.source for u in expand(["data/?"])]
    with pytest.raises(FileNotFoundError, match="nothing.*jpeg"):
        expand(["data/nothing*.jpeg"])


def test_lists_of_paths(model, here):
    write_pictures(here, "set/a.png", "set/with space.png")
    (here / "set" / "list.txt").write_text("a.png\r\n\nwith space.png\ngone.png\n", "utf-8")
    assert predict(model, "set/list.txt", output="out", extra=JSONL) == 1
    assert [bool(row["error"]) for row in rows(here / "out")] == [False, False, True]
    (here / "list.lst").write_bytes(b"set/a.png\0" + os.fsencode(here / "set/with space.png"))
    assert [u.name for u in expand(["list.lst"])] == ["set/a.png", "with space.png"]
    (here / "empty.txt").write_text("\n")
    with pytest.raises(FileNotFoundError, match="no path in empty.txt"):
        expand(["empty.txt"])


def test_a_million_paths_stay_small(here):
    import tracemalloc

    count = 100_000
    (here / "list.txt").write_text("".join(f"images/{i:07d}.jpg\n" for i in range(count)))
    tracemalloc.start()
    units = expand(["list.txt"])
    kept = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    assert len(units) == count
    assert kept < 400, f"{kept:.0f} bytes for each path"


def test_archives_as_webdataset_has_them(model, here):
    members = {"0.jpg": encoded(0, ".jpg"), "0.json": b"{}", "0.cls": b"1", "k/1.png": encoded(1)}
    write_tar(here / "shard-000.tar", members)
    write_tar(here / "shard-001.tar.gz", {"2.png": encoded(2)}, "w:gz")
    assert predict(model, "shard-*", output="out", extra=("--format", "jsonl,draw")) == 0
    found = ["shard-000.tar/0.jpg", "shard-000.tar/k/1.png", "shard-001.tar.gz/2.png"]
    assert sources(here / "out") == found
    assert all((here / "out" / name).exists() for name in found)


def test_names_of_members_lead_nowhere(model, here):
    evil = ["../../evil.png", "/abs.png", "C:\\win.png", "a/../../up.png", "con.png", "same.png"]
    members = {name: encoded(i) for i, name in enumerate(evil)}
    write_tar(here / "x.tar", members)
    assert predict(model, "x.tar", output="deep/out", extra=("--format", "draw,yolo")) == 0
    written = {p.relative_to(here).as_posix() for p in here.rglob("*.png")}
    assert written == {
        f"deep/out/x.tar/{name}"
        for name in ("evil.png", "abs.png", "C_/win.png", "a/up.png", "_con.png", "same.png")
    }


def test_a_damaged_archive_is_an_error_of_its_own(model, here, capsys):
    path = write_tar(here / "cut.tar", {"a.png": encoded(0), "b.png": encoded(1)})
    path.write_bytes(path.read_bytes()[: 512 + 8192 + 512])
    (here / "text.tar").write_text("not an archive")
    write_tar(here / "none.tar", {"a.txt": b"x"})
    write_pictures(here, "good.png")
    inputs = ["cut.tar", "text.tar", "none.tar", "good.png"]
    assert predict(model, *inputs, output="out", extra=JSONL) == 1
    found = {row["image"]: row["error"] for row in rows(here / "out")}
    assert found["cut.tar/a.png"] is None and found["good.png"] is None
    assert "damaged" in found["cut.tar"] and "damaged" in found["text.tar"]
    assert "no image in the archive" in found["none.tar"]
    assert "text.tar" in capsys.readouterr().err


@pytest.fixture
def memory_files():
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    for name, data in {
        "/set/a.png": encoded(0),
        "/set/below/b.png": encoded(1),
        "/set/readme.md": b"x",
    }.items():
        files.pipe(name, data)
    yield files
    files.rm("/set", recursive=True)


def test_urls_of_fsspec(model, here, memory_files):
    assert predict(model, "memory://set", output="out", extra=JSONL) == 0
    assert sources(here / "out") == ["memory:///set/a.png", "memory:///set/below/b.png"]
    assert [u.name for u in expand(["memory://set"])] == ["a.png", "below/b.png"]
    assert len(expand(["memory://set/*.png"])) == 1
    memory_files.pipe("/set/list.txt", b"memory://set/a.png\n")
    assert len(expand(["memory://set/list.txt"])) == 1
    archive = write_tar(here / "t.tar", {"m.png": encoded(3)})
    memory_files.pipe("/set/t.tar", archive.read_bytes())
    video = write_video(here / "v.mp4", 3)
    memory_files.pipe("/set/v.mp4", video.read_bytes())
    urls = ["memory://set/t.tar", "memory://set/v.mp4", "memory://set/gone.png"]
    assert predict(model, *urls, output="out2", extra=JSONL) == 1
    found = rows(here / "out2")
    assert [bool(row["error"]) for row in found] == [False] * 4 + [True]


def test_urls_of_files_and_of_iopath(model, here):
    from detectron2.utils.file_io import PathManager
    from iopath.common.file_io import PathHandler

    (path,) = write_pictures(here, "a b.png")

    class Handler(PathHandler):
        def _get_supported_prefixes(self):
            return ["shelf://"]

        def _open(self, path, mode="r", buffering=-1, **kwargs):
            return open(here / path.removeprefix("shelf://"), mode)

        def _isdir(self, path, **kwargs):
            return path == "shelf://"

    PathManager.register_handler(Handler(), allow_override=True)
    inputs = [path.as_uri(), "shelf://a b.png"]
    assert predict(model, *inputs, output="out", extra=JSONL) == 0
    assert sources(here / "out") == [str(path), "shelf://a b.png"]


def test_urls_of_http(model, here):
    write_pictures(here / "served", "a.png")
    handler = functools.partial(_Quiet, directory=str(here / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        urls = [f"{base}/a.png?size=1", f"{base}/gone.png"]
        assert predict(model, *urls, output="out", extra=(*JSONL, "--format", "jsonl,draw")) == 1
        server.shutdown()
    good, bad = rows(here / "out")
    assert good["error"] is None and "404" in bad["error"]
    assert (here / "out" / "a.png").exists()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_a_server_that_is_not_there(here, monkeypatch):
    from hrnet_d2.prediction.sources import remote

    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
        remote.read_url(f"http://127.0.0.1:{port}/a.png")


def test_videos(model, here):
    write_video(here / "clip.mp4", 5)
    (here / "empty.mp4").write_bytes(b"")
    (here / "text.avi").write_text("no video")
    inputs = ["clip.mp4", "empty.mp4", "text.avi", "camera:99"]
    assert predict(model, *inputs, output="out", extra=JSONL) == 1
    found = rows(here / "out")
    assert [row.get("frame") for row in found] == [0, 1, 2, 3, 4, None, None, None]
    assert "is empty" in found[5]["error"] and "cannot be opened" in found[6]["error"]
    assert "no camera 99" in found[7]["error"]
    assert len({row["id"] for row in found}) == 8
    assert predict(model, "clip.mp4", output="two", extra=(*JSONL, "--max-frames", 2)) == 0
    assert len(rows(here / "two")) == 2


def test_inputs_that_are_large_are_refused_unread(model, here, monkeypatch):
    from hrnet_d2.prediction.sources import archives, files

    for module in (files, archives):
        monkeypatch.setattr(module, "MAX_BYTES", 1000)
    write_pictures(here, "a.png")
    write_tar(here / "t.tar", {"b.png": encoded(1)})
    write_video(here / "v.mp4", 2)
    extra = (*JSONL, "--opts", "INPUT.MAX_PIXELS", "2000")
    assert main_with(model, extra, "a.png", "t.tar", "v.mp4") == 1
    errors = [row["error"] for row in rows(here / "out")]
    assert len(errors) == 3
    assert all("this is no image" in e for e in errors[:2]) and "INPUT.MAX_PIXELS" in errors[2]


def main_with(model, extra, *inputs):
    config = str(model.parent / "config.yaml")
    words = ["predict", "--config-file", config, "--weights", str(model), "--input", *inputs]
    return main([*words, "--output", "out", *extra])


@pytest.mark.parametrize("text", ["camera:x", "shard-{9..3}.tar", "gone.png", "gone://x.png"])
def test_what_is_no_input_is_named(here, text, capsys, model):
    assert predict(model, text, output="out", extra=JSONL) == 1
    said = capsys.readouterr()
    assert text in said.err or text in said.out


def test_safe_names():
    for text in ("../../x", "/x", "\\\\host\\x", "a/./../x", "x\n.png", "..", "", "x" * 500):
        name = safe_name(text)
        parts = name.split("/")
        assert name and not os.path.isabs(name) and ".." not in parts and "\n" not in name
        assert all(len(part) <= 255 for part in parts)


def test_names_are_unique_with_and_without_suffix():
    names = Names()
    claimed = [names.claim(n) for n in ("a.jpg", "a.png", "A.JPG", "a.png.png", "b", "b.jpg")]
    for part in zip(*claimed, strict=True):
        assert len({name.casefold() for name in part}) == len(claimed)
    assert claimed[0] == ("a.jpg", "a") and claimed[1] == ("a.png", "a.png")
