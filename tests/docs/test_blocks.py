"""The code on the pages: Python compiles and runs, YAML loads, commands exist and parse."""

import argparse
import importlib
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch.distributed.run import get_args_parser as torchrun_parser

from hrnet_d2 import add_hrnet_config, model_zoo
from hrnet_d2.checkpoint import Checkpointer
from tests.docs.pages import ROOT, blocks_of, commands
from tests.engine.tiny import tiny_config

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

PYTHON = blocks_of("python")
BASH = blocks_of("bash")
YAML = blocks_of("yaml")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, str]:
    """Names that runnable blocks may use: a small model's config file and checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    cfg = tiny_config(folder)
    torch.manual_seed(0)
    Checkpointer(build_model(cfg), str(folder)).save("model_final")
    config_file = folder / "config.yaml"
    config_file.write_text(cfg.dump())
    return {"config_file": str(config_file), "checkpoint": str(folder / "model_final.pth")}


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_compiles(block):
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", [b for b in PYTHON if b.runnable], ids=str)
def test_python_runs(block, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, str(block), "exec"), dict(trained))


def test_runnable_blocks_are_found():
    pages = {block.page.stem for block in PYTHON if block.runnable}
    assert {"predict", "train", "deploy", "backbone", "checkpoints"} <= pages


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml_loads(block):
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.merge_from_other_cfg(CfgNode.load_cfg(block.text))


class Parsed(BaseException):
    """Raised in place of what a program would do after it has read its arguments."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments


@pytest.fixture
def stop_after_parsing(monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, args=None, namespace=None):
        raise Parsed(parse(self, args, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)


@pytest.mark.parametrize("block", BASH, ids=str)
def test_commands_exist_and_parse(block, stop_after_parsing, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    found = list(commands(block))
    assert found, f"{block}: no command"
    for words in found:
        program, *arguments = words
        assert program in PROGRAMS, f"{block}: {program} is no program that these tests know"
        try:
            PROGRAMS[program](arguments, monkeypatch)
        except SystemExit:
            pytest.fail(f"{block}: {' '.join(words)}\n{capsys.readouterr().err}")


def _console_script(arguments, monkeypatch):
    _check_arguments(lambda: importlib.import_module("hrnet_d2.cli").main(arguments))


def _python(arguments, monkeypatch):
    if arguments[0] == "-c":
        compile(arguments[1], "-c", "exec")
        return
    script = ROOT / arguments[0]
    assert script.is_file(), f"there is no {arguments[0]}"
    monkeypatch.setattr(sys, "argv", [str(script), *arguments[1:]])
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    _check_arguments(lambda: runpy.run_path(str(script), run_name="__main__"))


def _torchrun(arguments, monkeypatch):
    """Not by ``parse_args``, which raises :class:`Parsed` here."""
    known = torchrun_parser().parse_known_args(arguments)[0]
    _python([known.training_script, *known.training_script_args], monkeypatch)


def _check_arguments(run):
    """Run up to the arguments, whose config and overrides must then be valid."""
    with pytest.raises(Parsed) as caught:
        run()
    arguments = vars(caught.value.arguments)
    named = arguments.get("config_file") or arguments.get("config")
    named = named if isinstance(named, list) else [named] if named else []
    overrides = list(arguments.get("opts") or [])
    for config in named:
        if config.startswith("output/"):  # written by an earlier command of the page
            config = "faster_rcnn_hrnetv2p_w18_1x_coco"
        model_zoo.load_config(config, overrides)
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        assert re.fullmatch(r"[A-Z0-9_.]+", key) and not value.startswith("--"), (key, value)


def _make(arguments, monkeypatch):
    targets = [word for word in arguments if "=" not in word]
    rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets and set(targets) <= set(rules), f"make {targets}"


def _pip(arguments, monkeypatch):
    assert arguments[0] == "install"
    for option, value in zip(arguments, arguments[1:], strict=False):
        if option == "-r":
            assert (ROOT / value).is_file(), value
    for word in arguments:
        extra = re.fullmatch(r"\.\[(\w+)\]", word)
        if extra and tomllib:
            project = tomllib.loads(Path(ROOT / "pyproject.toml").read_text())["project"]
            assert extra[1] in project["optional-dependencies"], word


PROGRAMS = {
    "hrnet-d2": _console_script,
    "make": _make,
    "pip": _pip,
    "python": _python,
    "torchrun": _torchrun,
}
