#!/usr/bin/env python
"""Record what a training shows on a terminal, and write it into docs/train.md.

    python docs/record_terminal.py            # all recordings
    python docs/record_terminal.py failure    # one of them

Each recording is the text of a tmux window in which the command was typed, as
``tmux capture-pane`` gives it; only the name of the temporary folder is left out, and lines that
are longer then are wrapped. tmux is Debian's package ``tmux``.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from hrnet_d2.data.datasets.shapes import write_shapes

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "train.md"
COLUMNS, LINES = 120, 36
PROMPT = "$ "
CONFIG = "quick_start/faster_rcnn_hrnetv2p_w18_shapes.yaml"


@dataclass
class Recording:
    command: str
    seconds: float
    """When to look, unless the command has ended by then."""


RECORDINGS = {
    "training": Recording(
        f"hrnet-d2 train --config-file {CONFIG} --train-data shapes OUTPUT_DIR output/shapes", 60
    ),
    "failure": Recording(
        f"hrnet-d2 train --config-file {CONFIG} --train-data shapes SOLVER.BASE_LR 100 "
        "SOLVER.WARMUP_ITERS 0 OUTPUT_DIR output/diverged",
        300,
    ),
    "data": Recording("hrnet-d2 check damaged", 300),
}


def damage(folder: Path) -> None:
    """Three things that are wrong with a dataset."""
    (folder / "train" / "0003.png").unlink()
    picture = folder / "train" / "0005.png"
    picture.write_bytes(picture.read_bytes()[:-100])
    (folder / "val" / "0001.png").write_bytes((folder / "train" / "0001.png").read_bytes())


def tmux(*words: str) -> str:
    """Run a command of tmux on a server of its own."""
    command = ["tmux", "-L", f"recording-{os.getpid()}", "-f", "/dev/null", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def record(recording: Recording, folder: Path) -> str:
    """The text of a window after a command was typed, from its first line on."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    shell = shlex.join(["env", f"PATH={path}", f"PS1={PROMPT}", "bash", "--norc", "--noprofile"])
    size = ("-x", str(COLUMNS), "-y", str(LINES))
    tmux("new-session", "-d", *size, "-c", str(folder), shell)
    try:
        while not tmux("capture-pane", "-p").strip():  # until the shell is ready
            time.sleep(0.1)
        tmux("send-keys", "-l", recording.command)
        tmux("send-keys", "Enter")
        start = time.monotonic()
        text = ""
        while time.monotonic() - start < recording.seconds:
            time.sleep(1)
            text = tmux("capture-pane", "-p", "-S", "-").rstrip()
            if text.endswith(f"\n{PROMPT.strip()}"):
                text = text.removesuffix(PROMPT.strip())
                break
    finally:
        tmux("kill-server")
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip()


def fold(text: str) -> str:
    """Lines that are longer than the terminal's, as it wraps them."""
    lines = [
        line[start : start + COLUMNS]
        for line in text.splitlines()
        for start in range(0, max(len(line), 1), COLUMNS)
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(RECORDINGS)}; default: all")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for data in ("shapes", "damaged"):
            write_shapes(folder / data)
        damage(folder / "damaged")
        for chosen in args.names or RECORDINGS:
            # A path may be wrapped at the terminal's edge.
            path = r"\n?".join(map(re.escape, f"{folder}{os.sep}"))
            text = fold(re.sub(path, "", record(RECORDINGS[chosen], folder)))
            begin, end = (f"<!-- recording {chosen} {side} -->" for side in ("begin", "end"))
            page = PAGE.read_text("utf-8")
            before, _, rest = page.partition(begin)
            after = rest.partition(end)[2]
            page = f"{before}{begin}\n```text\n{text}\n```\n{end}{after}"
            PAGE.write_text(page, "utf-8")
            print(text)


if __name__ == "__main__":
    main()
