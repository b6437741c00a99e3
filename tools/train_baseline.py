#!/usr/bin/env python
"""Train from scratch on own data, once for each seed; evaluate the raw and the averaged weights.

python tools/train_baseline.py --train-data train.json images/ --val-data val.json images/ \
    --seeds 1 2 --json baseline.json --opts MODEL.DEVICE cuda

``--resume`` goes on where SIGTERM or Ctrl-C stopped, which save a checkpoint.

The settings are those of the MMDetection run of the reference: Faster R-CNN with HRNetV2p-W18,
images of (320, 240), batch 2, 128 regions an image, learning rate 0.005 that drops at 400.
"""

import argparse
import json
import multiprocessing
import shlex
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

CONFIG = "faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml"
SETTINGS = {
    "MODEL.WEIGHTS": "",
    "INPUT.MIN_SIZE_TRAIN": "(240,)",
    "INPUT.MAX_SIZE_TRAIN": "320",
    "INPUT.MIN_SIZE_TEST": "240",
    "INPUT.MAX_SIZE_TEST": "320",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.BASE_LR": "0.005",
    "SOLVER.WARMUP_ITERS": "100",
    "SOLVER.WARMUP_FACTOR": "0.001",
    "SOLVER.STEPS": "(400,)",
    "SOLVER.MAX_ITER": "500",
    "SOLVER.EMA.ENABLED": "True",
    "SOLVER.CHECKPOINT_PERIOD": "100000",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "128",
    "TEST.EVAL_PERIOD": "250",
    "TEST.PICTURES": "0",
    "TEST.VAL_LOSS": "False",
    "VIS_FIRST_BATCH": "off",
    "DATALOADER.NUM_WORKERS": "2",
}


def train(seed: int, data: list[str], options: list[str], folder: str, resume: bool) -> dict:
    """One run; AP of both sets of weights by iteration, and the seconds of an iteration."""
    from hrnet_d2.engine import Trainer
    from hrnet_d2.engine.setup import argument_parser, setup

    output = Path(folder, f"seed_{seed}")
    results, finished = output / "both.jsonl", output / "result.json"
    if resume and finished.is_file():
        return json.loads(finished.read_text("utf-8"))
    if not resume:
        results.unlink(missing_ok=True)
        finished.unlink(missing_ok=True)

    class Both(Trainer):
        def _evaluate(self):
            averaged = super()._evaluate()
            row = {"seed": seed, "iteration": self.iter + 1}
            for name, found in (("raw", self.test(self.cfg, self.model)), ("averaged", averaged)):
                row[name] = {key: round(found["bbox"][key], 2) for key in ("AP", "AP50", "AP75")}
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            return averaged

    values = [word for setting in SETTINGS.items() for word in setting]
    values += [*options, "SEED", str(seed), "OUTPUT_DIR", str(output)]
    again = "--resume" if resume else "--overwrite"
    args = argument_parser().parse_args(["--config-file", CONFIG, again, *data, *values])
    trainer = Both(setup(args))
    trainer.resume_or_load(resume=resume)
    trainer.train()
    result = result_of(seed, output)
    finished.write_text(json.dumps(result), "utf-8")
    return result


def result_of(seed: int, output: Path) -> dict:
    """What a run has shown so far."""
    metrics = _lines(output / "metrics.json")
    trained = 1 + max(line["iteration"] for line in metrics if "total_loss" in line)
    seconds = median(line["time"] for line in metrics if "time" in line)
    return {
        "seed": seed,
        # After the last iteration the trainer counts one more.
        "evaluations": [
            {**row, "iteration": min(row["iteration"], trained)}
            for row in _lines(output / "both.jsonl")
        ],
        "losses": [
            [line["iteration"] + 1, round(line["total_loss"], 4)]
            for line in metrics
            if "total_loss" in line
        ],
        "median_s_per_iteration": round(seconds, 4),
    }


def _lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train-data", nargs=2, required=True, metavar=("JSON", "IMAGES"))
    parser.add_argument("--val-data", nargs=2, required=True, metavar=("JSON", "IMAGES"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--processes", type=int, default=1, help="runs at the same time")
    parser.add_argument("--output", default="output/baseline", help="folder of the runs")
    parser.add_argument("--resume", action="store_true", help="go on with runs that were stopped")
    parser.add_argument("--collect", action="store_true", help="what these runs have shown so far")
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ...")
    args = parser.parse_args(argv)
    data = ["--train-data", *args.train_data, "--val-data", *args.val_data]
    if args.collect:
        runs = [result_of(seed, Path(args.output, f"seed_{seed}")) for seed in args.seeds]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.processes, mp_context=context) as pool:
            jobs = [
                pool.submit(train, seed, data, args.opts, args.output, args.resume)
                for seed in args.seeds
            ]
            runs = [job.result() for job in jobs]
    from hrnet_d2.benchmark.measuring import environment

    device = dict(zip(args.opts[::2], args.opts[1::2], strict=True)).get("MODEL.DEVICE", "cuda")
    command = shlex.join(["python", "tools/train_baseline.py", *(argv or sys.argv[1:])])
    report = {"task": "baseline", "command": command, "environment": environment(device)}
    report["results"] = runs
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
