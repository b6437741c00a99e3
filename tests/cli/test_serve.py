"""`hrnet-d2 serve` as a process: it starts, answers, and stops gracefully."""

import re
import signal
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from hrnet_d2.checkpoint import Checkpointer
from hrnet_d2.cli import main
from tests.engine.tiny import tiny_config
from tests.serving.servers import Client, picture


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    cfg = tiny_config(folder)
    Checkpointer(build_model(cfg), str(folder), cfg=cfg).save("model_final")
    return folder / "model_final.pth"


class Process:
    """The command, until the end of a ``with`` block."""

    def __init__(self, *words):
        command = [sys.executable, "-m", "hrnet_d2.cli", "serve", *map(str, words), "--port", "0"]
        flags = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if WINDOWS else {}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **flags)
        # There may be warnings before it.
        lines = iter(self.process.stdout.readline, "")
        self.line = next((line for line in lines if "http://" in line), "")
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.line)
        assert found, self.process.communicate()[1]
        self.client = Client(int(found[1]))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def stop(self, number):
        """Send a signal; returns the status and the rest of the output."""
        self.process.send_signal(number)
        out, errors = self.process.communicate(timeout=60)
        return self.process.returncode, out, errors


WINDOWS = sys.platform == "win32"
STOPS = (
    ["CTRL_BREAK_EVENT"] if WINDOWS else ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.slow)]
)


@pytest.mark.parametrize("name", STOPS)
def test_a_server_starts_answers_and_stops(checkpoint, name):
    """Requests that wait when the signal comes are answered."""
    limits = ["--max-megabytes", "0.05", "--max-megapixels", "0.01", "--allow-host", "me.example"]
    with Process(checkpoint, "--batch-size", "1", *limits) as server:
        assert server.client.post(bytes(200_000)).status == 413
        assert "0.01 million" in server.client.post(picture(height=400)).json["error"]
        assert server.client.get("/health", headers={"Host": "me.example"}).status == 200
        assert server.client.get("/health", headers={"Host": "you.example"}).status == 421
        assert "/model_final.pth on cpu" in server.line and "Ctrl-C" in server.line
        assert server.client.get("/health").json["classes"] == 4
        assert b"<!doctype html>" in server.client.get("/").body
        image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
        body = cv2.imencode(".png", image)[1].tobytes()
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(server.client.post(body)))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        while server.client.get("/health").json["requests"] + len(answers) < len(threads):
            time.sleep(0.005)
        status, out, errors = server.stop(getattr(signal, name))
        for thread in threads:
            thread.join()
    assert status == 0 and out.strip() == "stopped" and not errors, errors
    assert [answer.status for answer in answers] == [200] * 6
    assert all(answer.json["annotations"] for answer in answers)


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(tmp_path, capsys):
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert main(["serve", str(tmp_path / "none.pth"), "--port", port]) == 1
    error = capsys.readouterr().err
    assert f"Port {port} of 127.0.0.1 cannot be used" in error and "with --port" in error
    # Of documentation: no machine has it.
    assert main(["serve", str(tmp_path / "none.pth"), "--host", "192.0.2.1"]) == 1
    assert "Give another one with --host" in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded(tmp_path, capsys):
    assert main(["serve", str(tmp_path / "none.pth"), "--port", "0"]) == 1
    assert "none.pth is not a file" in capsys.readouterr().err


def test_the_extra_is_named_in_one_line(monkeypatch, capsys):
    for name in list(sys.modules):
        if name.startswith("hrnet_d2.serving"):
            monkeypatch.delitem(sys.modules, name)
        elif name.startswith("starlette"):
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert main(["serve", "model.pth"]) == 1
    error = capsys.readouterr().err
    assert 'pip install "hrnet_d2[serve]"' in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [["--port", "70000"], ["--batch-size", "0"], ["--max-megabytes", "nan"], ["--host"]],
)
def test_arguments_that_are_wrong(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(["serve", "model.pth", *words])
    assert end.value.code == 2
