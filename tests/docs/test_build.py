"""The handbook builds without a warning, and its list of config keys is complete."""

import html
import inspect
import re
import subprocess
import sys

import pytest

import hrnet_d2
from hrnet_d2 import config
from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("html")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    paths = ["-d", str(folder / "doctrees"), str(ROOT / "docs"), str(folder / "html")]
    run = subprocess.run([*command, *paths], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder / "html"


def text_of(page) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.read_text("utf-8"))).split())


@pytest.fixture
def config_keys(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    import config_keys

    return config_keys


def test_every_key_is_listed_with_its_default(built, config_keys):
    page = text_of(built / "config.html")
    keys = config_keys.added_keys()
    assert len(keys) > 50 and keys["MODEL.HRNETV2P.WIDTH"] == 32
    for name, default in keys.items():
        assert f"{name} = {default!r}" in page, name
    assert "Concatenate the upsampled branches" in page  # a description


def test_public_modules_are_in_the_api_reference(built):
    page = (built / "api.html").read_text("utf-8")
    for name in hrnet_d2.__all__:
        if inspect.ismodule(getattr(hrnet_d2, name)):
            assert f'id="hrnet_d2.{name}.' in page, name


def test_keys_of_the_source_are_those_of_the_config(config_keys):
    entries = config_keys.entries(inspect.getsource(config))
    assert sorted(entry.name for entry in entries) == sorted(config_keys.added_keys())


def test_comments_above_a_key_describe_it(config_keys):
    source = (
        "D = {\n"
        "    # One line,\n    # and another.\n    'A.B': 1,\n    'A.C': 'X.Y' if 0 else 2,\n"
        "    # About nothing.\n    #\n    # ---- Part\n    # Of D.\n    'A.D': [],  # trailing\n}\n"
    )
    entries = {e.name: e for e in config_keys.entries(source) if e.name != "X.Y"}
    assert entries["A.B"].text == "One line, and another." and entries["A.B"].heading == ""
    assert entries["A.C"].text == ""
    assert entries["A.D"].text == "Of D." and entries["A.D"].heading == "Part"


def test_public_names_are_in_the_reference(built):
    page = text_of(built / "api.html")
    for name in ("Predictor", "optimize", "HRNet", "HRFPN", "FCOS", "Checkpointer", "convert"):
        assert re.search(rf"\b{name} ?\(", page), name


def test_the_figures_are_those_of_the_tables(built):
    page = text_of(built / "speed.html")
    table = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    figures = re.findall(r"\d+\.\d\dx", table)
    assert len(figures) > 8 and all(figure in page for figure in figures)


def test_the_picture_is_small_and_the_reader_can_make_it(built):
    picture = ROOT / "docs" / "images" / "detections.jpg"
    assert picture.stat().st_size < 300_000
    assert list((built / "_images").glob("detections*.jpg"))
    assert (ROOT / "docs" / "make_picture.py").is_file()
