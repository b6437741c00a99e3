"""The process that reads mutated checkpoints, under limits and with a canary.

    python -m tests.fuzz.child SAMPLES SCRATCH SEED SECONDS

Any finding ends it with a message and status 1: an error that is not a CheckpointError or does not
name the file, a file opened for writing outside the scratch folder, a process, a socket, code that
is compiled or run, an import of something new, or an execution that takes longer than 20 s.
"""

import faulthandler
import random
import resource
import sys
import time
from pathlib import Path

import torch

from hrnet_d2.checkpoint import CheckpointError, load_file
from hrnet_d2.checkpoint.formats import unwrap
from hrnet_d2.checkpoint.reading import read_file
from tests.fuzz.canary import Canary
from tests.fuzz.mutation import Mutator

LIMIT_S = 20


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
