"""What a training shows on a terminal and in a pipe, and what it assumes for one's own data."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hrnet_d2.data.datasets.shapes import write_shapes
from hrnet_d2.engine import DivergedError, argument_parser, run_folder, setup
from hrnet_d2.engine.console import _Screen
from hrnet_d2.engine.own_data import suit_own_data
from tests.engine.tiny import QUICK_START, TINY, tiny_config

ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}


def command(folder, *words):
    words = [*words, *TINY, "SOLVER.MAX_ITER", "21", "SOLVER.STEPS", "()"]
    return [
        *(sys.executable, "train_net.py", "--config-file", QUICK_START),
        *(*words, "OUTPUT_DIR", str(folder)),
    ]


@pytest.fixture(scope="module")
def piped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("piped")
    result = subprocess.run(command(folder), cwd=ROOT, env=ENV, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_a_pipe_gets_the_settings_that_matter_and_plain_lines(piped):
    folder, out = piped
    for name in ("model", "weights", "data", "batch", "optimizer", "length", "output"):
        assert re.search(rf"^  {name} +\S", out, re.M), name
    assert "21 iterations (0.135 epochs)" in out and "shapes_train (312 images)" in out
    line = re.search(r"iter 20/21  epoch 0.13/0.1346  loss [\d.]+  .*", out)[0]
    words = ["box_reg", "rpn_cls", "img/s", "data", "lr 0.01", "mem", "eta 0:00:0"]
    assert all(word in line for word in words), line


def test_every_key_goes_to_the_file_alone(piped):
    folder, out = piped
    log = (folder / "log.txt").read_text()
    for text in ("Running with full config", "Environment info", "Command line arguments"):
        assert text in log and text not in out
    assert "GeneralizedRCNN(" in log and "GeneralizedRCNN(" not in out
    assert len(out.splitlines()) < 60 < len(log.splitlines())
    assert "iter 20/21" in log


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_gets_one_line_that_stays(tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 40, 220, 0, 0))
    process = subprocess.Popen(
        command(tmp_path), cwd=ROOT, env={**ENV, "TERM": "xterm"}, stdout=slave, stderr=slave
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # the other end was closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait() == 0
    text = shown.decode("utf-8", "replace")
    assert re.search(r"\r21/21 \S+ +epoch 0.13/0.1346  loss [\d.]+  eta 0:00:00  ", text)
    assert "iter 20/21" not in text and "iter 20/21" in (tmp_path / "log.txt").read_text()
    assert "Running with full config" not in text


def test_settings_for_data_of_ones_own(tmp_path, capsys):
    write_shapes(tmp_path / "shapes")
    data = [str(tmp_path / "shapes" / name) for name in ("train.json", "train", "val.json", "val")]
    words = ["--config-file", QUICK_START, "--train-data", *data[:2], "--val-data", *data[2:]]
    tiny = [w for w in TINY if w not in ("DATASETS.TEST", "()")]
    tiny += ["SOLVER.CHECKPOINTS_TO_KEEP", "7", "OUTPUT_DIR", str(tmp_path / "out")]
    cfg = setup(argument_parser().parse_args([*words, "--tracker", "wandb", *tiny]))
    run_folder.release(cfg.OUTPUT_DIR)
    assert (cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD) == (0, -1)
    assert (cfg.SOLVER.CHECKPOINT_MINUTES, cfg.SOLVER.CHECKPOINTS_TO_KEEP) == (10, 7)
    assert cfg.TEST.VAL_LOSS and cfg.TRACKER.NAMES == ["wandb"]
    said = capsys.readouterr().out
    assert "TEST.EVAL_PERIOD -1 (evaluate after about an epoch)" in said
    assert "CHECKPOINTS_TO_KEEP" not in said.split("Training with")[0].split("Not given")[1]


def test_what_is_given_stays(tmp_path):
    cfg = tiny_config(tmp_path, "DATASETS.TEST", "('a',)", "TEST.EVAL_PERIOD", "0")
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.MAX_ITER = 20, 100
    assumed = suit_own_data(cfg, ["TEST.EVAL_PERIOD", "0"])
    assert cfg.TEST.EVAL_PERIOD == 0 and cfg.SOLVER.CHECKPOINT_PERIOD == 20
    assert not [line for line in assumed if "PERIOD" in line]


def logged(name, text, error=None, level=logging.INFO):
    info = (type(error), error, None) if error else None
    return logging.LogRecord(name, level, "", 0, text, (), info)


def test_what_each_evaluation_repeats_is_not_shown_while_training():
    shown = logged("detectron2.evaluation.coco_evaluation", "Per-category bbox AP: ...")
    names = ("data.common", "data.datasets.coco", "data.dataset_mapper", "evaluation.testing")
    hidden = [logged(f"detectron2.{name}", "text") for name in names]
    hidden += [logged("detectron2.evaluation.coco_evaluation", "COCO summary of bbox:")]
    for training in (True, False):
        screen = _Screen(training)
        assert screen.filter(shown)
        assert [screen.filter(record) for record in hidden] == [not training] * 5
    assert screen.filter(logged(hidden[0].name, "trouble", level=logging.WARNING))
    told = [logged("detectron2.data.build", text) for text in ("312 images", "80 images")]
    screen = _Screen(training=True)
    assert [screen.filter(record) for record in [*told, *told]] == [True, True, False, False]


def test_tracebacks_of_errors_that_explain_themselves_are_not_shown():
    name, text = "detectron2.engine.train_loop", "Exception during training:"
    errors = (DivergedError("lower it"), OSError(28, "full")), (ValueError("a bug"),)
    for error, is_shown in [(e, shown) for shown in (False, True) for e in errors[shown]]:
        record = logged(name, text, error, logging.ERROR)
        assert _Screen(True).filter(record) == is_shown
