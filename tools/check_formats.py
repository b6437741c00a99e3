#!/usr/bin/env python
"""Train from the same data as COCO, YOLO and Pascal VOC with the same seed: the same AP.

python tools/check_formats.py --train-data train.json images/ --val-data val.json images/ \
    --json benchmarks/formats_cpu.json
python tools/check_formats.py --formats YOLO ...  # one of them, for runs side by side
python tools/check_formats.py --collect ...       # then the results of all

Each dataset is checked and trained on by one command of ``hrnet-d2``, which is in the results.
"""

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch  # noqa: E402
import yaml  # noqa: E402
from train_baseline import CONFIG, SETTINGS  # noqa: E402

from hrnet_d2.benchmark.measuring import environment  # noqa: E402
from hrnet_d2.data import find_data  # noqa: E402
from hrnet_d2.data.datasets.summary import inspect  # noqa: E402

FORMATS = ("COCO", "YOLO", "VOC")
FOLDERS = {"train": "train", "val": "valid"}
RUN = {
    "MODEL.DEVICE": "cpu",
    "SOLVER.MAX_ITER": "300",
    "SOLVER.STEPS": "(240,)",
    "SOLVER.EMA.ENABLED": "False",
    "TEST.EVAL_PERIOD": "300",
    "TEST.VAL_LOSS": "False",
    "SEED": "1",
}


def read(file: Path) -> tuple[list[str], list[tuple[dict, list[dict]]]]:
    """Names of the classes by id; and images by id, each with its annotations."""
    data = json.loads(file.read_text("utf-8"))
    categories = sorted(data["categories"], key=lambda c: c["id"])
    index = {c["id"]: i for i, c in enumerate(categories)}
    objects: dict = {image["id"]: [] for image in data["images"]}
    for annotation in data["annotations"]:
        number = index[annotation["category_id"]]
        objects[annotation["image_id"]].append({**annotation, "class": number})
    images = sorted(data["images"], key=lambda image: image["id"])
    return [c["name"] for c in categories], [(image, objects[image["id"]]) for image in images]


def write_coco(root: Path, sources: dict[str, tuple[Path, Path]]) -> None:
    """Roboflow's layout: a file beside the images of each split."""
    for split, (file, images) in sources.items():
        folder = root / FOLDERS[split]
        folder.mkdir(parents=True)
        shutil.copyfile(file, folder / "_annotations.coco.json")
        for image, _ in read(file)[1]:
            shutil.copyfile(images / image["file_name"], folder / image["file_name"])


def write_yolo(root: Path, sources: dict[str, tuple[Path, Path]]) -> None:
    """Rows of six digits, as most programs write them."""
    for split, (file, images) in sources.items():
        names, content = read(file)
        folder = root / FOLDERS[split]
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True)
        for image, objects in content:
            shutil.copyfile(images / image["file_name"], folder / "images" / image["file_name"])
            rows = []
            for item in objects:
                x, y, w, h = item["bbox"]
                sides = (image["width"], image["height"]) * 2
                values = (x + w / 2, y + h / 2, w, h)
                relative = [f"{v / s:.6f}" for v, s in zip(values, sides, strict=True)]
                rows.append(" ".join([str(item["class"]), *relative]) + "\n")
            labels = (folder / "labels" / image["file_name"]).with_suffix(".txt")
            labels.write_text("".join(rows), "utf-8")
    description = {"train": "../train/images", "val": "../valid/images"}
    description |= {"nc": len(names), "names": names}
    (root / "data.yaml").write_text(yaml.safe_dump(description), "utf-8")


def write_voc(root: Path, sources: dict[str, tuple[Path, Path]]) -> None:
    """XML files beside the images, and the order of the classes."""
    for split, (file, images) in sources.items():
        names, content = read(file)
        folder = root / FOLDERS[split]
        folder.mkdir(parents=True)
        for image, objects in content:
            shutil.copyfile(images / image["file_name"], folder / image["file_name"])
            items = []
            for item in objects:
                x, y, w, h = item["bbox"]
                items.append(
                    f"<object><name>{escape(names[item['class']])}</name><bndbox>"
                    f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
                    "</bndbox></object>\n"
                )
            (folder / image["file_name"]).with_suffix(".xml").write_text(
                f"<annotation><filename>{escape(image['file_name'])}</filename>\n"
                f"<size><width>{image['width']}</width><height>{image['height']}</height>"
                f"<depth>3</depth></size>\n{''.join(items)}</annotation>\n",
                "utf-8",
            )
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in names), "utf-8")


WRITERS = {"COCO": write_coco, "YOLO": write_yolo, "VOC": write_voc}


def commands_of(data: Path, output: Path, options: list[str]) -> list[list[str]]:
    """What a user types: check the data, and train on them."""
    values = [word for item in (SETTINGS | RUN).items() for word in item]
    values += [*options, "OUTPUT_DIR", str(output)]
    train = ["train", "--config-file", CONFIG, "--overwrite", "--train-data", str(data), *values]
    return [["check", str(data)], train]


def result_of(name: str, data: Path, output: Path, options: list[str]) -> dict:
    """What was read, and the metrics and last losses of the finished run."""
    found = inspect(find_data(data).splits)
    counts = {
        split: {
            "images": contents.images,
            "objects": contents.objects,
            "classes": {label: count for label, count, _ in contents.classes},
        }
        for split, contents in found.contents.items()
    }
    last: dict[str, float] = {}
    for line in (output / "metrics.json").read_text("utf-8").splitlines():
        last.update(json.loads(line))
    metrics = {key: last[f"bbox/{key}"] for key in ("AP", "AP50", "AP75")}
    commands = [shlex.join(["hrnet-d2", *c]) for c in commands_of(data, output, options)]
    result = {"format": name, "commands": commands, "counts": counts}
    result |= metrics | {"total_loss": last["total_loss"]}
    return result | {"weights_sha256": digest(output / "model_final.pth")}


def digest(file: Path) -> str:
    """Of all weights and buffers of a checkpoint."""
    found = hashlib.sha256()
    for name, value in sorted(torch.load(file, weights_only=True)["model"].items()):
        found.update(name.encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train-data", nargs=2, required=True, metavar=("JSON", "IMAGES"))
    parser.add_argument("--val-data", nargs=2, required=True, metavar=("JSON", "IMAGES"))
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--collect", action="store_true", help="of runs that were made before")
    parser.add_argument("--output", default="output/formats", help="folder of data and runs")
    parser.add_argument("--json", help="write the results here")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ...")
    args = parser.parse_args(argv)
    folder = Path(args.output)
    sources = {
        split: (Path(file), Path(images))
        for split, (file, images) in (("train", args.train_data), ("val", args.val_data))
    }
    results = []
    for name in args.formats:
        data, output = folder / name, folder / f"run_{name}"
        if not args.collect:
            shutil.rmtree(data, ignore_errors=True)
            WRITERS[name](data, sources)
            for words in commands_of(data, output, args.opts):
                subprocess.run([sys.executable, "-m", "hrnet_d2.cli", *words], check=True)
        results.append(result_of(name, data, output, args.opts))
    command = shlex.join(["python", "tools/check_formats.py", *(argv or sys.argv[1:])])
    report = {"task": "formats", "command": command, "environment": environment("cpu")}
    report["results"] = results
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    same = all(result["counts"] == results[0]["counts"] for result in results)
    apart = max(result["AP"] for result in results) - min(result["AP"] for result in results)
    for result in results:
        print(f"{result['format']}: AP {result['AP']:.4f}, total loss {result['total_loss']:.4f}")
    print(f"The same numbers of images, objects and classes: {same}. AP apart by {apart:.1e}")
    return 0 if same and apart <= 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
