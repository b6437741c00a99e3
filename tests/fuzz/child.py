"""The process that reads mutated checkpoints, under limits and with a canary.

    python -m tests.fuzz.child SAMPLES SCRATCH SEED SECONDS

Any finding ends it with a message and status 1: an error that is not a CheckpointError or does not
name the file, a file opened for writing outside the scratch folder, a process, a socket, code that
is compiled or run, an import of something new, or an execution that takes longer than 20 s.
"""

import faulthandler
import os
import random
import resource
import sys
import time
from pathlib import Path

import torch

from hrnet_d2.checkpoint import CheckpointError, load_file
from hrnet_d2.checkpoint.formats import unwrap
from hrnet_d2.checkpoint.reading import read_file
from tests.fuzz.mutation import Mutator

LIMIT_S = 20
_FORBIDDEN = (
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"),
    *("socket.", "exec", "compile", "ctypes.dlopen", "os.remove", "os.rename", "os.mkdir"),
    *("os.symlink", "os.link", "os.chmod", "shutil.", "marshal.", "code.__new__", "function."),
)
# What the libraries import or compile the first time that they meet a rare case.
_MAY_IMPORT = (
    *("torch", "numpy", "encodings", "unicodedata", "ast", "safetensors", "_", "linecache"),
    *("traceback", "tokenize", "textwrap", "colorama", "importlib", "dis", "opcode"),
)


class Canary:
    """An audit hook that ends the process at the first forbidden event."""

    def __init__(self, scratch: str):
        self.scratch = scratch
        self.armed = False

    def __call__(self, event: str, args: tuple) -> None:
        if not self.armed:
            return
        bad = event.startswith(_FORBIDDEN) and not self._literal(event, args)
        if event == "open":
            path, mode, flags = args
            writes = (mode and set(mode) & set("wax+")) or (flags & (os.O_WRONLY | os.O_RDWR))
            bad = bool(writes) and not str(path).startswith(self.scratch)
        elif event == "import":
            bad = not str(args[0]).startswith((*_MAY_IMPORT, "hrnet_d2", "tests."))
        if bad:
            self.armed = False
            os.write(2, f"CANARY {event} {str(args)[:300]}\n".encode())
            os._exit(1)

    @staticmethod
    def _literal(event: str, args: tuple) -> bool:
        """NumPy parses the header of an array as a literal, which compiles it to a tree."""
        return event == "compile" and sys._getframe(2).f_code.co_filename.endswith("ast.py")


def main() -> None:
    samples, scratch, seed, seconds = sys.argv[1:]
    faulthandler.enable()
    torch.set_num_threads(1)
    files = {path.name: path.read_bytes() for path in sorted(Path(samples).iterdir())}
    for name in files:  # imports what the readers import when they are first used
        load_file(f"{samples}/{name}")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**30, used + 2 * 2**30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    canary = Canary(scratch)
    sys.addaudithook(canary)
    mutator = Mutator(files, random.Random(int(seed)))
    target = f"{scratch}/mutated.pth"
    end = time.monotonic() + float(seconds)
    executions = accepted = 0
    while time.monotonic() < end:
        data, how = mutator.next()
        Path(target).write_bytes(data)
        faulthandler.dump_traceback_later(LIMIT_S, exit=True)
        canary.armed = True
        try:
            raw = read_file(target)
            accepted += 1
            for value in unwrap(raw, target).tensors.values():
                value.sum()  # touches every byte that the tensor claims
        except CheckpointError as error:
            canary.armed = False
            if target not in str(error) or len(str(error)) > 5000:
                sys.exit(f"FINDING {how}: the message does not name the file: {str(error)[:500]}")
        except BaseException as error:
            canary.armed = False
            sys.exit(f"FINDING {how}: {type(error).__name__}: {error}")
        canary.armed = False
        faulthandler.cancel_dump_traceback_later()
        executions += 1
    print(executions, accepted, mutator.kinds_used())


if __name__ == "__main__":
    main()
