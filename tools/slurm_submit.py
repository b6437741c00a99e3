#!/usr/bin/env python
r"""Submit a training to SLURM; a job that is preempted or reaches its time limit is requeued.

    python tools/slurm_submit.py --gpus 8 --hours 24 --partition gpu -- \
        --config-file configs/faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml \
        OUTPUT_DIR output/w18

What follows "--" are the arguments of train_net.py. The job runs on one machine; it always resumes
from the last checkpoint in OUTPUT_DIR, if there is one, and on the signal that announces its end it
saves one. Several machines: start torchrun by srun instead. Needs `pip install 'hrnet_d2[slurm]'`.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class Training:
    """The job: ``train_net.py --resume`` in a process of its own.

    ``submitit`` calls ``checkpoint`` when the job is about to end, and submits what it returns.
    """

    def __init__(self, arguments: Sequence[str]):
        self.arguments = list(arguments)
        self.process: subprocess.Popen | None = None

    def __call__(self) -> int:
        """Train to the end.

        Raises:
            RuntimeError: if the training fails.
        """
        command = [sys.executable, str(ROOT / "train_net.py"), "--resume", *self.arguments]
        self.process = subprocess.Popen(command, cwd=os.getcwd())
        status = self.process.wait()
        if status:
            raise RuntimeError(f"{' '.join(command)} ended with status {status}")
        return status

    def checkpoint(self, *_: Any) -> Any:
        """Let the training save where it is; the next job resumes from there."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            # Not Popen.wait, whose lock is held by the call that this signal interrupted.
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.process.pid, signal.SIGTERM)
                os.waitpid(self.process.pid, 0)
        return DelayedSubmission(Training(self.arguments))


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit; print the number of the job and where its output goes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cluster", choices=("slurm", "local"), help="default: slurm if there")
    parser.add_argument("--logs", default="slurm", help="folder of the jobs' output")
    parser.add_argument("--name", default="hrnet_d2")
    parser.add_argument("--gpus", type=int, default=1, help="on one machine; 0 trains on the CPU")
    parser.add_argument("--cpus", type=int, default=8, help="cores for each GPU")
    parser.add_argument("--hours", type=float, default=24)
    parser.add_argument("--partition")
    parser.add_argument("--requeues", type=int, default=20, help="the most times to resume")
    parser.add_argument("--wait", action="store_true", help="until the training has ended")
    parser.add_argument("training", nargs="*", metavar="-- ARGUMENT", help="of train_net.py")
    args = parser.parse_args(arguments)
    try:
        import submitit
    except ImportError:
        print("Submitting needs submitit: pip install 'hrnet_d2[slurm]'", file=sys.stderr)
        return 1
    executor = submitit.AutoExecutor(folder=args.logs, cluster=args.cluster)
    keys = {"slurm_max_num_timeout": args.requeues} if executor.cluster == "slurm" else {}
    if args.partition and executor.cluster == "slurm":
        keys["slurm_partition"] = args.partition
    executor.update_parameters(
        name=args.name,
        timeout_min=int(60 * args.hours),
        gpus_per_node=args.gpus,
        tasks_per_node=1,
        cpus_per_task=args.cpus * max(1, args.gpus),
        **keys,
    )
    training = list(args.training)
    if args.gpus > 1:
        training = ["--num-gpus", str(args.gpus), *training]
    job = executor.submit(Training(training))
    print(f"job {job.job_id}: {job.paths.stdout}")
    if args.wait:
        job.result()
    return 0


if __name__ == "__main__":
    sys.exit(main())
