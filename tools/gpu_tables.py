"""The tables of what was measured on a GPU; see build_speed_table.py."""

import json
import textwrap
from pathlib import Path

from tables import all_results, config_name, markdown, of_task

HOW = (
    "medians from images in main memory to detections, all alternated in one run; float32 is "
    "PyTorch's default, whose convolutions round to TF32."
)
ZOO = Path(__file__).resolve().parent.parent / "hrnet_d2" / "model_zoo.json"


def is_on_gpu(report: dict) -> bool:
    """Whether a report was measured on a GPU."""
    return "gpu" in report.get("environment", {})


def _place(report: dict) -> str:
    where = report["environment"]
    torch = where["torch"].split("+")[0]
    return f"{where['gpu']}, driver {where['driver']}, CUDA {where['cuda']}, torch {torch}"


def _measured(reports: list[dict], how: str) -> str:
    places = "; ".join(dict.fromkeys(map(_place, reports)))
    return "\n\n" + textwrap.fill(f"Measured on {places}: {how}", 118, break_on_hyphens=False)


def inference_table(reports: list[dict]) -> str:
    """Time of each path, by config and batch."""
    reports = of_task(reports, "inference")
    rows = []
    for result in sorted(all_results(reports), key=lambda r: (r["config"], r["batch"])):
        size = f"{result['batch']} x " + "{}x{}".format(*result["size"])
        for name, path in result["paths"].items():
            figures = [f"{path['median_ms']:.1f}", f"{path['speedup']:.1f}x"]
            rate = f"{path['images_per_second']:.0f}"
            rows.append([config_name(result["config"]), size, name, *figures, rate])
    columns = ["config", "images", "path", "ms", "speedup vs. plain", "images/s"]
    return markdown(rows, columns) + _measured(reports, HOW)


def short_inference_table(reports: list[dict]) -> str:
    """Single images by the paths that matter most, one row per config."""
    reports = of_task(reports, "inference")
    names = ("plain", "optimized", "cuda-graphs", "bf16+cuda-graphs")
    rows = [
        [
            config_name(result["config"]),
            "{}x{}".format(*result["size"]),
            *(
                f"{path['median_ms']:.1f} ({path['speedup']:.1f}x)"
                for path in (result["paths"][name] for name in names)
            ),
        ]
        for result in all_results(reports)
        if result["batch"] == 1
    ]
    columns = ["config", "image", *(f"{name}, ms" for name in names)]
    return markdown(rows, columns) + _measured(reports, HOW)


def training_table(reports: list[dict]) -> str:
    """Time and memory of an iteration, beside the memory that MMDetection's page states."""
    reports = of_task(reports, "train")
    stated = {m["config"]: m.get("memory_gb") for m in _models()}
    rows = [
        [
            config_name(result["config"]),
            result["switch"],
            f"{result['median_ms']:.0f}",
            f"{result['images_per_second']:.1f}",
            f"{result['peak_memory_bytes'] / 2**30:.2f}",
            f"{stated.get(result['config']) or '':}",
        ]
        for result in all_results(reports)
    ]
    columns = ["config", "switches", "ms/iter", "images/s", "peak, GiB", "MMDetection, GB"]
    how = (
        "2 x 800x1333 images, medians, all alternated in one run; times vary by a third between "
        "iterations. Peaks are of PyTorch's allocator, for one model alone. MMDetection's "
        "column is what its page states for the same batch."
    )
    return markdown(rows, columns) + _measured(reports, how)


def _models() -> list[dict]:
    found = json.loads(ZOO.read_text(encoding="utf-8"))
    return found["models"] if isinstance(found, dict) else found


def loader_table(reports: list[dict]) -> str:
    """Images per second that the training loader delivers."""
    reports = of_task(reports, "loader")
    results = all_results(reports)
    processes = list(dict.fromkeys(result["workers"] for result in results))
    rates = {(r["config"], r["workers"]): f"{r['images_per_second']:.0f}" for r in results}
    configs = list(dict.fromkeys(result["config"] for result in results))
    rows = [[config_name(c), *(rates.get((c, n), "") for n in processes)] for c in configs]
    columns = ["config", *(f"{n} processes" if n else "no process" for n in processes)]
    where = reports[0]["environment"]
    how = f"\n\nImages/s, on the {where['threads']} threads of {where['processor']} beside the GPU."
    return markdown(rows, columns) + how


def exactness_table(reports: list[dict]) -> str:
    """The reference cases, one row per way to compute them."""
    reports = of_task(reports, "exactness")
    results = all_results(reports)
    rows = []
    for variant in dict.fromkeys(result["variant"] for result in results):
        found = [result for result in results if result["variant"] == variant]
        held = f"{sum(result['ok'] for result in found)} of {len(found)}"
        if "neck" in found[0]:
            worst = f"{max(result['neck'] for result in found):.0e}"
            same = f"{min(result['same'] for result in found)}"
            alike = f"{min(result['same_within_type'] for result in found)}"
            rows.append([variant, held, worst, same, alike, ""])
        else:
            loss = f"{max(result['loss'] for result in found):.0e}"
            rows.append([variant, held, "", "", "", loss])
    columns = [
        "computed by",
        "cases held",
        "worst map",
        "fewest the same",
        "fewest within the type",
        "worst loss",
    ]
    how = (
        "each case has 100 detections of an untrained detector, the worst case for rounding. *The "
        "same* is as the tests on a CPU demand (IoU 0.99, score 0.002); *within the type* are the "
        "bounds of `hrnet-d2 export` (float16 and TF32: IoU 0.8, score 0.02; bfloat16: 0.5, 0.1). "
        "The first three rows are with `FLOAT32_PRECISION highest`."
    )
    return markdown(rows, columns) + _measured(reports, how)


SECTIONS = {
    "Inference on a GPU": ("inference", inference_table),
    "Training on a GPU": ("train", training_table),
    "Loading for a GPU": ("loader", loader_table),
    "Exactness on a GPU": ("exactness", exactness_table),
}
