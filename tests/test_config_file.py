"""Reading configs: safely, with errors that name the file, the key and the remedy."""

import pytest
import yaml

from hrnet_d2 import model_zoo
from hrnet_d2.config_file import ConfigError

EVIL = """
MODEL:
  WEIGHTS: !!python/object/apply:pathlib.Path.write_text
    - !!python/object/apply:pathlib.Path ["{}"]
    - ran
"""


@pytest.mark.parametrize("base", [False, True], ids=["file", "base"])
def test_a_config_runs_no_code(tmp_path, base):
    target = tmp_path / "ran.txt"
    evil = tmp_path / "evil.yaml"
    evil.write_text(EVIL.format(target))
    path = evil
    if base:
        path = tmp_path / "leaf.yaml"
        path.write_text("_BASE_: [evil.yaml]\nSEED: 1\n")
    with pytest.raises(
        ConfigError, match=r"evil\.yaml, line 3: the tag !!python/object/apply:pathlib"
    ):
        model_zoo.load_config(str(path))
    assert not target.exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n- b\n", "holds a list"),
        ("just words", "holds a str"),
        ("MODEL: {WEIGHTS: [", "not valid YAML"),
        ("MODEL: {WEIGHT: a.pth}\n", r"no key MODEL.WEIGHT; did you mean MODEL.WEIGHTS"),
        ("SOLVER: {MAX_ITER: many}\n", "MAX_ITER"),
        ("_BASE_: gone.yaml\n", r"gone\.yaml"),
        ("_BASE_: leaf.yaml\n", "circle"),
        ("_BASE_: /gone/base.yaml\n", r"leaf.yaml: of the files that its _BASE_ names, /gone/base"),
        (f"_BASE_: {'base.yaml' * 3000}\n", r"\.\.\. \(27001 characters\) cannot read"),
        ("_BASE_: 5\n", "_BASE_"),
        ("VERSION: new\n", "leaf.yaml"),
        ("INPUT:\nMODEL:\n  MASK_ON: True\n", "the section INPUT is empty"),
        ("\x00\x01", "not valid YAML"),
        (f"SEED: {'9' * 5000}\n", "a value that cannot be read"),
        ("SEED: 2026-13-01\n", "a value that cannot be read"),
        ("SEED: !!bool x\n", "a value that cannot be read"),
        ("SEED: !!int ''\n", "a value that cannot be read"),
        (f"SEED: '{'-' * 10**5}1'\n", "leaf.yaml: a value is nested too deeply"),
        (f"SEED: '{'1+' * 10**5}1j'\n", "leaf.yaml: a value is nested too deeply"),
        ("SEED: '{[]: 1}'\n", "leaf.yaml: unhashable type"),
        ("SEED: !!set [a]\n", "!!set|mapping"),
    ],
)
def test_unusable_files_are_named(tmp_path, text, message):
    path = tmp_path / "leaf.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        model_zoo.load_config(str(path))
    assert "leaf.yaml" in str(error.value)


def test_python_binary_and_folders_are_named(tmp_path):
    script = tmp_path / "lazy.py"
    script.write_text("model = dict()\n")
    with pytest.raises(ConfigError, match=r"lazy\.py is a LazyConfig, which is a program"):
        model_zoo.load_config(str(script))
    binary = tmp_path / "weights.yaml"
    binary.write_bytes(b"\x80\x02\xff\xfe")
    with pytest.raises(ConfigError, match=r"weights\.yaml is not a text file"):
        model_zoo.load_config(str(binary))
    with pytest.raises(ConfigError, match="is a folder"):
        model_zoo.load_config(str(tmp_path))


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbfSEED: 7\n")
    assert model_zoo.load_config(str(path)).SEED == 7


@pytest.mark.parametrize(
    "options, message",
    [
        (["SOLVER.MAX_ITER"], "pairs of KEY VALUE"),
        (["SOLVER.MAX_ITERS", "5"], r"no key SOLVER.MAX_ITERS; did you mean SOLVER.MAX_ITER"),
        (["MODEL.BASE_LR", "5"], r"did you mean .*SOLVER.BASE_LR"),
        (["SOLVER.MAX_ITER", "many"], r"SOLVER.MAX_ITER cannot be 'many': its value is int"),
        (["SOLVER.MAX_ITER", f"{'-' * 10**5}1"], "SOLVER.MAX_ITER cannot be"),
        (["SOLVER.MAX_ITER", "{[]: 1}"], r"cannot be '{\[\]: 1}': its value is int"),
        (["SOLVER", "many"], "section"),
        (["_BASE_", "a.yaml"], "files only"),
        (["SOLVER.MAX_ITER.X", "1"], "no key SOLVER.MAX_ITER.X"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        model_zoo.load_config("", options)


def test_a_whole_number_is_a_float_where_one_is_due():
    name = "faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml"
    cfg = model_zoo.load_config(name, ["SOLVER.BASE_LR", "1", "SOLVER.MAX_ITER", "9"])
    assert (cfg.SOLVER.BASE_LR, type(cfg.SOLVER.BASE_LR)) == (1.0, float)
    assert type(cfg.SOLVER.MAX_ITER) is int
    for value in ("True", "(1,)", "x"):
        with pytest.raises(ConfigError, match="SOLVER.BASE_LR cannot be"):
            model_zoo.load_config(name, ["SOLVER.BASE_LR", value])


def test_a_saved_config_reads_back(tmp_path):
    cfg = model_zoo.get_config("htc_hrnetv2p_w18_20e_coco")
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    saved = yaml.safe_load(cfg.dump())
    assert yaml.safe_load(model_zoo.load_config(str(path)).dump()) == saved


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("SOLVER: {MAX_ITER: 3}\nSOLVER: {BASE_LR: 0.1}\n", "SOLVER", 2),
        ("SOLVER:\n  MAX_ITER: 3\n  BASE_LR: 0.1\n  MAX_ITER: 4\n", "MAX_ITER", 4),
    ],
)
def test_a_key_given_twice(tmp_path, text, key, line):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"a\.yaml.*the key {key} is there twice.*line {line}"):
        model_zoo.load_config(str(tmp_path / "a.yaml"))
