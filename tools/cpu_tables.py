"""The tables of what was measured on a CPU; see build_speed_table.py."""

import textwrap

from tables import all_results, config_name, markdown, of_task


def _results(reports: list[dict]) -> list[dict]:
    """The results of reports, each with the "instructions" of its processor."""
    return [
        {**result, "instructions": report["environment"]["instructions"]}
        for report in reports
        for result in report["results"]
    ]


def _place(report: dict) -> str:
    """Where a report was measured."""
    where = report["environment"]
    threads = where["threads"]
    place = f"{where.get('gpu', where['processor'])}, {threads} thread{'s' * (threads != 1)}"
    if any(result.get("clock") == "cpu" for result in report["results"]):
        place += ", CPU time on a shared machine"
    return f"{place} ({where['instructions']}), torch {where['torch'].split('+')[0]}"


def _measured(reports: list[dict], how: str) -> str:
    text = f"Measured on {'; '.join(dict.fromkeys(map(_place, reports)))}: {how}"
    return "\n\n" + "\n".join(textwrap.wrap(text, 120, break_long_words=False))


def inference_table(reports: list[dict]) -> str:
    """Plain and optimized, one row per config."""
    rows = []
    reports = of_task(reports, "inference")
    for result in _results(reports):
        plain, fast = result["paths"]["plain"], result["paths"]["optimized"]
        apart = fast["difference"]
        rows.append(
            [
                config_name(result["config"]),
                result["instructions"],
                "{}x{}".format(*result["size"]),
                f"{plain['median_ms'] / 1e3:.2f}",
                f"{fast['median_ms'] / 1e3:.2f}",
                f"{result['speedup']:.2f}x",
                f"{apart['box_px']:.0e} px, score {apart['score']:.0e}"
                if "box_px" in apart
                else "see the JSON file",
            ]
        )
    columns = [
        "config",
        "processor",
        "image",
        "plain, s",
        "optimized, s",
        "speedup",
        "largest difference",
    ]
    how = "medians, both paths interleaved in one run."
    return markdown(rows, columns) + _measured(reports, how)


def runtimes_table(reports: list[dict]) -> str:
    """Milliseconds of everything that can run a detector."""
    reports = of_task(reports, "runtimes")
    rows = [
        [
            config_name(result["config"]),
            result["instructions"],
            name,
            f"{path['median_ms']:.0f}",
            f"{path['speedup']:.2f}x",
            f"{path['ready_s']:.1f}",
        ]
        for result in _results(reports)
        for name, path in result["paths"].items()
    ]
    how = (
        "medians of an image of 800x1200, from pixels to detections, all of a config alternated in "
        "one run. To get ready is to load a checkpoint, and to export it or to convert it."
    )
    columns = ["config", "processor", "run by", "ms", "speedup vs. plain", "ready, s"]
    return markdown(rows, columns) + _measured(reports, how)


def startup_table(reports: list[dict]) -> str:
    """Import, loading and the first image, in a process of its own."""
    reports = of_task(reports, "startup")
    rows = [
        [
            config_name(result["config"]),
            f"{result['file_bytes'] / 2**20:.0f}",
            f"{result['import_s']:.1f}",
            f"{result['load_s']:.1f}",
            f"{result['first_image_s']:.1f}",
            f"{result['load_bytes'] / 2**20:.0f}",
            f"{result['peak_memory_bytes'] / 2**20:.0f}",
        ]
        for result in _results(reports)
    ]
    columns = ["config", "file, MiB", "import, s", "load, s", "first image, s"]
    columns += ["loading, MiB", "peak, MiB"]
    return markdown(rows, columns) + _measured(reports, "medians of fresh processes.")


def parts_table(reports: list[dict]) -> str:
    """Seconds of each part, plain and optimized."""
    rows = []
    names = ["bottom_up", "neck", "proposals", "heads", "other"]
    for result in _results(of_task(reports, "inference")):
        for path in ("plain", "optimized"):
            parts = result["paths"][path]["parts_ms"]
            figures = [f"{parts[n] / 1e3:.2f}" if n in parts else "" for n in names]
            rows.append([config_name(result["config"]), result["instructions"], path, *figures])
    return markdown(rows, ["config", "processor", "path", *names])


def training_table(reports: list[dict]) -> str:
    """Time and memory of an iteration for each set of switches."""
    reports = of_task(reports, "train")
    rows = [
        [
            config_name(result["config"]),
            result["instructions"],
            f"{result['batch']} x " + "{}x{}".format(*result["size"]),
            result["switch"],
            f"{result['median_ms'] / 1e3:.2f}",
            f"{result['speedup']:.2f}x",
            f"{result['peak_memory_bytes'] / 2**30:.2f}",
        ]
        for result in _results(reports)
    ]
    columns = [
        "config",
        "processor",
        "images",
        "switches",
        "s/iter",
        "speedup vs. plain",
        "peak, GiB",
    ]
    return markdown(rows, columns) + _measured(
        reports, "medians, all interleaved in one run; memory measured in a separate process."
    )


def operators_table(reports: list[dict]) -> str:
    """What the time of an iteration goes into, for the switches that were profiled."""
    rows = [
        [
            result["instructions"],
            f"{result['batch']} x " + "{}x{}".format(*result["size"]),
            result["switch"],
            f"`{name}`",
            f"{100 * share:.0f}",
            f"{share * result['median_ms'] / 1e3:.2f}",
        ]
        for result in _results(reports)
        for name, share in result.get("operators", {}).items()
    ]
    columns = ["processor", "images", "switches", "operator", "%", "s/iter"]
    return markdown(rows, columns) + _measured(
        reports, "each operator's own time in one iteration under PyTorch's profiler."
    )


def training_tables(reports: list[dict]) -> str:
    """Both tables of training, the second if anything was profiled."""
    profiled = [
        report
        for report in of_task(reports, "train")
        if any("operators" in result for result in report["results"])
    ]
    tables = [training_table(reports), *([operators_table(profiled)] if profiled else [])]
    return "\n\n".join(tables)


def growth_table(reports: list[dict]) -> str:
    """Cost by image size, number of proposals and batch size."""
    reports = of_task(reports, "growth")
    rows = []
    for result in all_results(reports):
        for path, figures in result.items():
            if path in ("config", "axis", "value"):
                continue
            if "median_ms" in figures:
                cost = f"{figures['median_ms'] / 1e3:.2f} s"
            else:
                cost = f"{figures['peak_memory_bytes'] / 2**30:.2f} GiB"
            rows.append([result["axis"], f"{result['value']:g}", path, cost])
    return markdown(rows, ["axis", "value", "path", "cost"]) + _measured(
        reports, f"{config_name(reports[0]['results'][0]['config'])}, medians."
    )


def loop_table(reports: list[dict]) -> str:
    """Milliseconds of an iteration, and of what is done around it."""
    reports = of_task(reports, "loop")
    rows, iterations = [], 0
    for result in _results(reports):
        hooks = dict(result["hooks_mean_ms"])
        parts = [hooks.pop("Averaging"), sum(hooks.values())]
        shares = [f"{ms:.2f} ({ms / result['bare_mean_ms']:.2%})" for ms in parts]
        bare, full = result["bare_median_ms"], result["full_median_ms"]
        row = [
            config_name(result["config"]),
            f"{bare:.1f}",
            f"{full:.1f}",
            f"{full / bare - 1:+.1%}",
        ]
        rows.append([*row, *shares, f"{result['checkpoint_s']:.1f}"])
        iterations = result["iterations"]
    columns = ["config", "bare, ms", "with all, ms", "more"]
    columns += ["averaging, ms", "others, ms", "saving, s"]
    how = (
        f"{iterations} iterations, Detectron2's bare loop and ours alternated in one process on "
        "the same images; medians, and means of the hooks. Training on own data saves a "
        "checkpoint about once an epoch."
    )
    return markdown(rows, columns) + _measured(reports, how)


def formats_table(reports: list[dict]) -> str:
    """The same data in several formats: what was read, and the AP of the trained detector."""
    reports = of_task(reports, "formats")
    rows = []
    for result in _results(reports):
        counts = result["counts"].values()
        numbers = [" + ".join(str(c[what]) for c in counts) for what in ("images", "objects")]
        classes = next(iter(result["counts"].values()))["classes"]
        figures = [f"{result[key]:.4f}" for key in ("AP", "AP50", "total_loss")]
        figures.append(f"`{result['weights_sha256'][:12]}`")
        rows.append([result["format"], *numbers, ", ".join(classes), *figures])
    columns = ["format", "images", "objects", "classes", "AP", "AP50", "last loss"]
    columns.append("SHA-256 of the weights")
    how = "training and validation data; one seed."
    return markdown(rows, columns) + _measured(reports, how)


def baseline_table(reports: list[dict]) -> str:
    """AP of raw and averaged weights by iteration, for each seed."""
    reports = of_task(reports, "baseline")
    rows = [
        [str(run["seed"]), str(row["iteration"])]
        + [f"{row[kind][key]:.1f}" for kind in ("raw", "averaged") for key in ("AP", "AP50")]
        for run in _results(reports)
        for row in run["evaluations"]
    ]
    columns = ["seed", "iterations", "AP", "AP50", "AP, averaged", "AP50, averaged"]
    how = "Faster R-CNN W18 from scratch on photographs of blood cells (BCCD)."
    return markdown(rows, columns) + _measured(reports, how)


def curves_table(reports: list[dict]) -> str:
    """Mean losses over ten equal spans of training, and the distance between the curves."""
    reports = of_task(reports, "curves")
    rows, notes = [], ""
    for report in reports:
        *runs, apart = report["results"]
        for run in runs:
            rows.append([run["switch"], str(run["seed"]), *(f"{m:.3f}" for m in run["means"])])
        others = ", ".join(
            f"{k} {v:.1%}" for k, v in apart["relative_distance_of_switches"].items()
        )
        name, seeds = apart["reference"], apart["relative_distance_of_its_seeds"]
        notes += (
            "\n\nEach column is the mean loss over a tenth of the run.\n"
            f"Mean relative distance from `{name}` with the same seed: {others}.\n"
            f"Between the two seeds of `{name}`: {seeds:.1%}."
        )
    spans = [f"{i + 1}/10" for i in range(max(len(row) for row in rows) - 2)]
    return markdown(rows, ["switches", "seed", *spans]) + notes


def data_table(reports: list[dict]) -> str:
    """Milliseconds per image of each step."""
    reports = of_task(reports, "data")
    rows = [[r["step"], f"{r['median_ms']:.1f}"] for report in reports for r in report["results"]]
    return markdown(rows, ["step", "ms/image"]) + _measured(reports, "medians, one process.")


def evaluation_table(reports: list[dict]) -> str:
    """Time of each evaluator on the same results."""
    reports = of_task(reports, "eval")
    rows, notes = [], ""
    for report in reports:
        *runs, last = report["results"]
        rows += [[r["evaluator"], str(r["images"]), f"{r['seconds']:.1f}"] for r in runs]
        notes += (
            f"\n\nSpeedup: {last['speedup']}x. The largest difference between the "
            f"{last['metrics']} metrics is {last['largest_difference']:.0e}."
        )
    return markdown(rows, ["evaluator", "images", "s"]) + notes


def serving_table(reports: list[dict]) -> str:
    """What clients of a server saw, by the size of its batches."""
    rows = []
    reports = of_task(reports, "serve")
    for result in all_results(reports):
        latency, memory = result["latency_ms"], result["memory_mib"]
        rows.append(
            [
                "{}x{}".format(*result["size"]),
                str(result["clients"]),
                str(result["batch_size"]),
                f"{result['images_per_second']:.1f}",
                *(f"{latency[name] / 1e3:.2f}" for name in ("median", "p95", "p99", "max")),
                f"{result['requests']:,}",
                str(result["wrong"] + sum(result["statuses"].values()) - result["requests"]),
                f"{memory['after_a_quarter']:.0f}, {memory['end']:.0f}",
            ]
        )
    columns = ["image", "clients", "batch", "images/s", "median, s", "p95, s", "p99, s", "max, s"]
    columns += ["requests", "failed", "MiB"]
    how = (
        "each client asks as soon as it has its answer; clients on the same machine.\nFailed: "
        "wrong or refused. MiB: memory after a quarter of the time and at its end."
    )
    return markdown(rows, columns) + _measured(reports, how)


def prediction_table(reports: list[dict]) -> str:
    """A folder of images from files to results, by the threads that run the network."""
    rows = []
    reports = of_task(reports, "predict")
    for result in all_results(reports):
        rows.append(
            [
                f"{result['images']:,}",
                "{}x{}".format(*result["size"]),
                result.get("dtype", "float32"),
                str(result["streams"]),
                f"{result['images_per_second']:.1f}",
                f"{result['cpu_ms_per_image']:.0f}",
                f"{result['network_share']:.0%}",
                f"{result['peak_memory_bytes'] / 2**20:.0f}",
                f"{result['growth_bytes'] / 2**20:+.1f}",
            ]
        )
    columns = ["images", "size", "computed in", "streams", "images/s", "CPU, ms", "network"]
    columns += ["peak, MiB", "growth, MiB"]
    configs = ", ".join(dict.fromkeys(config_name(r["config"]) for r in _results(reports)))
    how = (
        f"{configs}, random weights, JPEG files to JSON lines, the best of the runs. CPU is the "
        "time of all threads for an image. Network: its share of a "
        "stream's time. Growth: the most memory in the last quarter of the run minus that in the "
        "second."
    )
    return markdown(rows, columns) + _measured(reports, how + _other_load(reports))


def _other_load(reports: list[dict]) -> str:
    """What to say if other programs ran at the same time."""
    load = max(report["environment"].get("load_average") or 0 for report in reports)
    if load <= max(report["environment"]["threads"] for report in reports):
        return ""
    return (
        f" The machine ran other programs too (load average {load:.0f}), which lowers images/s but "
        "hardly changes the CPU time, the share and the memory."
    )


def ray_table(reports: list[dict]) -> str:
    """What the driver of a Ray cluster does for an image."""
    reports = of_task(reports, "ray")
    rows = [
        [
            f"{result['images']:,}",
            "{}x{}".format(*result["size"]),
            str(result["actors"]),
            f"{result['driver_cpu_ms_per_image']:.1f}",
            f"{1e3 / result['driver_cpu_ms_per_image']:,.0f}",
        ]
        for result in all_results(reports)
    ]
    how = (
        "a network so small that it hardly counts, a local cluster, on a machine that ran other "
        "programs too; the driver's CPU time includes waiting, so that it is an upper bound."
    )
    columns = ["images", "size", "actors", "driver's CPU, ms an image", "images/s it can lead"]
    return markdown(rows, columns) + _measured(reports, how)


def tiles_table(reports: list[dict]) -> str:
    """What is found in a large image of known pictures, as a whole and in tiles."""
    reports = of_task(reports, "tiles")
    results = all_results(reports)
    bands = [key for key in results[0] if key.startswith("recall ")]
    rows = [
        [
            result["case"],
            *(f"{result[band]:.3f}" for band in bands),
            f"{result['recall']:.3f}",
            f"{result['precision']:.3f}",
            f"{result['more_memory_bytes'] / 2**20:.0f}",
        ]
        for result in results
    ]
    first = results[0]
    sizes = [band.removeprefix("recall ") for band in bands]
    sizes = [f"{size} ({first[f'objects {size}']:,})" for size in sizes]
    how = (
        f"an image of {first['size'][1]}x{first['size'][0]} pixels, made of built-in pictures with "
        f"{first['objects']:,} objects; tiles of {first['tile']} pixels that overlap by "
        f"{first['overlap']:.0%}. Recall by the side of the objects in pixels (and their number), "
        "and precision, at scores from 0.5 and an IoU of 0.5; memory that the call added."
    )
    columns = ["", *sizes, "recall", "precision", "MiB"]
    return markdown(rows, columns) + _measured(reports, how)


SECTIONS = {
    "Inference": ("inference", inference_table),
    "Runtimes": ("runtimes", runtimes_table),
    "Start": ("startup", startup_table),
    "Inference by part, seconds": ("inference", parts_table),
    "Training": ("train", training_tables),
    "Training loop": ("loop", loop_table),
    "Formats of data": ("formats", formats_table),
    "Training from scratch": ("baseline", baseline_table),
    "Loss curves": ("curves", curves_table),
    "Growth": ("growth", growth_table),
    "Training data": ("data", data_table),
    "Evaluation": ("eval", evaluation_table),
    "Prediction": ("predict", prediction_table),
    "Prediction on Ray": ("ray", ray_table),
    "Tiles": ("tiles", tiles_table),
    "Serving": ("serve", serving_table),
}
