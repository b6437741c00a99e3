"""The tools that measure: they run, their figures mean what they say, README holds them."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hrnet_d2.arguments.benchmark import parser
from hrnet_d2.benchmark import inference, measuring, plotting, prediction, training
from hrnet_d2.benchmark.evaluation import compare_evaluators
from hrnet_d2.cli import benchmark
from hrnet_d2.config_file import ConfigError
from hrnet_d2.prediction.task import Summary
from tests.memory import saved_for_backward

ROOT = Path(__file__).resolve().parents[2]
TINY = ["MODEL.RPN.POST_NMS_TOPK_TEST", "50", "TEST.DETECTIONS_PER_IMAGE", "10"]


def _tool(name: str):
    if str(ROOT / "tools") not in sys.path:  # of the modules that tools share
        sys.path.append(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(words):
    return parser("hrnet-d2 benchmark").parse_args(words)


def measure(words):
    args = parse(words)
    args.command = " ".join(["hrnet-d2 benchmark", *words])
    return benchmark.measure(args)


def test_inference_figures(tmp_path):
    path = tmp_path / "out.json"
    words = f"inference --size 64 96 --repeat 2 --device cpu --json {path} --opts".split()
    report = measure([*words, *TINY])
    assert json.loads(path.read_text()) == json.loads(json.dumps(report))
    (row,) = report["results"]
    plain, fast = row["paths"]["plain"], row["paths"]["optimized"]
    for p in (plain, fast):
        assert 0 < p["min_ms"] <= p["median_ms"] <= p["max_ms"] and p["repeat"] == 2
        assert {"bottom_up", "neck", "proposals", "heads", "other"} <= p["parts_ms"].keys()
    assert fast["difference"]["same_classes"] and fast["difference"]["detections"] == 10
    assert fast["difference"]["box_px"] < 0.02 and fast["difference"]["score"] < 1e-4
    assert report["environment"]["torch"] == torch.__version__
    assert "hrnet-d2 benchmark inference" in report["command"]


def test_growth_table_and_plot(tmp_path, monkeypatch):
    growth = {"megapixels": [(32, 64), (64, 96)], "proposals": [10, 20], "batch": [1, 2]}
    monkeypatch.setattr(inference, "GROWTH", growth)
    plot = tmp_path / "growth.png"
    words = f"growth --size 64 64 --repeat 1 --device cpu --plot {plot} --opts".split()
    report = measure([*words, *TINY])
    assert [row["axis"] for row in report["results"]] == [a for a in growth for _ in range(2)]
    assert plot.read_bytes().startswith(b"\x89PNG")


SMALL_HEADS = ["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"]


def test_training_switches():
    words = [
        "train",
        "--size",
        "64",
        "64",
        "--repeat",
        "1",
        "--batch",
        "1",
        "--device",
        "cpu",
        "--profile",
        "--switches",
        "plain",
    ]
    (row,) = measure([*words, "--opts", *SMALL_HEADS])["results"]
    assert row["switch"] == "plain" and row["speedup"] == 1 and row["images_per_second"] > 0
    shares = list(row["operators"].values())
    assert shares == sorted(shares, reverse=True) and 0.3 < sum(shares) <= 1
    assert any("conv" in name for name in row["operators"])
    # Weights, gradients and momentum of W18's backbone alone are 12 bytes a parameter.
    assert 12 * 10e6 < row["peak_memory_bytes"] < 4 * 2**30


def test_norms_measure_where_the_options_say_so():
    """Training from scratch is another figure than training on loaded weights."""
    measuring_norms = {}
    for opts in ([], ["MODEL.HRNETV2P.NORM_EVAL", "False"]):
        cfg = training._config(parse(["train"]).config[0], "default", "cpu", opts)
        trunk = training._Step(cfg, (64, 64), 1).trainer.model.backbone.bottom_up
        norms = [module for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)]
        measuring_norms[len(opts)] = {norm.training for norm in norms}
    assert measuring_norms == {0: {False}, 2: {True}}


def test_switches_combine_and_unknown_ones_are_named(capsys):
    plain = training.switch_options("plain")
    assert training.switch_options("plain+fused-sgd") == [*plain, "SOLVER.FUSED", "True"]
    with pytest.raises(SystemExit):
        parse(["train", "--switches", "plain+faster"])
    assert "'faster'" in capsys.readouterr().err


def test_curves_compare_switches_and_seeds():
    config = "quick_start/faster_rcnn_hrnetv2p_w18_shapes.yaml"
    words = f"curves --config {config} --switches plain default --seeds 1 2 --iterations 2"
    tiny = ["--device", "cpu", "--opts", "SOLVER.IMS_PER_BATCH", "1", "MODEL.HRNETV2P.WIDTH", "4"]
    *rows, last = measure([*words.split(), *tiny])["results"]
    runs = {(row["switch"], row["seed"]): row["means"] for row in rows}
    assert runs.keys() == {(name, seed) for name in ("plain", "default") for seed in (1, 2)}
    assert all(len(means) == 2 for means in runs.values())
    # The same before the first step. After it, rounding alone selects other proposals: one more
    # bit in the weights changes the second loss of "plain" by three thousandths.
    assert runs["plain", 1][0] == pytest.approx(runs["default", 1][0], rel=1e-4)
    assert runs["plain", 1] != runs["plain", 2]
    assert last["relative_distance_of_its_seeds"] > last["relative_distance_of_switches"]["default"]


def test_loop_figures():
    config = "quick_start/faster_rcnn_hrnetv2p_w18_shapes.yaml"
    words = f"loop --config {config} --iterations 2 --clock cpu --device cpu --opts"
    keys = ["MODEL.HRNETV2P.WIDTH", "4", "INPUT.MIN_SIZE_TRAIN", "(64,)"]
    (row,) = measure([*words.split(), *keys])["results"]
    assert row["bare_mean_ms"] > 0 and row["full_mean_ms"] > 0
    hooks = row["hooks_mean_ms"]
    assert hooks["Averaging"] > 0 and {"PeriodicCheckpointer", "Progress"} <= hooks.keys()
    total = sum(hooks.values()) / row["bare_mean_ms"]
    assert row["hooks_share"] == pytest.approx(total, rel=0.01)


def test_data_figures():
    rows = measure(["data", "--repeat", "1", "--device", "cpu"])["results"]
    steps = [row["step"] for row in rows]
    assert len(steps) == 8 and steps[:2] == ["read_opencv", "resize_opencv"]
    assert all(row["median_ms"] > 0 for row in rows)


def test_fcos_postprocessing_figures():
    words = "fcos-postprocessing --size 64 96 --objects 5 20 --repeat 1 --device cpu"
    rows = measure(words.split())["results"]
    assert [set(row["paths"]) for row in rows] == [{"ours", "detectron2"}] * 2
    for row in rows:
        assert all(path["found"] > 0 for path in row["paths"].values()) and row["speedup"] > 0
    assert rows[0]["candidates"] < rows[1]["candidates"]


def test_htc_heads_figures():
    words = "htc-heads --size 64 96 --proposals 5 --repeat 1 --device cpu"
    rows = measure(words.split())["results"]
    assert [row["step"] for row in rows] == ["semantic branch", "boxes", "masks", "all"]
    assert all(row["paths"]["plain"]["median_ms"] > 0 for row in rows)


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no GPU"):
        measure(["inference", "--device", "cuda"])


def test_evaluators_agree_on_synthetic_results():
    *rows, last = compare_evaluators(30)
    assert [row["evaluator"] for row in rows] == ["pycocotools", "faster-coco-eval"]
    assert rows[0]["AP"].keys() == {"bbox", "segm"} and rows[0]["AP"]["segm"] > 1
    assert last["largest_difference"] < 1e-6 and last["metrics"] > 20


def test_analyzer_counts_by_hand(monkeypatch):
    tool = _tool("analyze_model")
    config = "faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml"
    row = tool.analyze(config, (64, 64), proposals=50)
    assert row["parameters"] == pytest.approx(26.2, abs=0.05)
    # Neck: 270 -> 256 by 1x1 at stride 4, and five levels 3x3 (16, 8, 4, 2, 1 pixels a side).
    pixels = sum(side**2 for side in (16, 8, 4, 2, 1))
    neck = 16**2 * 270 * 256 + pixels * 256 * 256 * 9
    rpn = pixels * 256 * (256 * 9 + 3 * 5)
    heads = 50 * (12544 * 1024 + 1024 * 1024 + 1024 * (81 + 320))
    parts = row["by_part"]
    assert parts["backbone"] - parts["backbone.bottom_up"] == pytest.approx(neck / 2**30, abs=0.02)
    assert parts["proposal_generator"] == pytest.approx(rpn / 2**30, abs=0.01)
    assert parts["roi_heads"] == pytest.approx(heads / 2**30, rel=0.05)
    assert row["operations"] < row["operations_all"] < 1.1 * row["operations"]


def test_saved_for_backward_counts_each_tensor_once():
    x = torch.zeros(1000, requires_grad=True)
    held = saved_for_backward(lambda: (x.exp() * x.exp()).sum())
    assert held == 2 * 4000  # two results of exp: each is saved by exp and by the product
    layer = nn.Linear(10, 10)
    assert saved_for_backward(lambda: layer(torch.zeros(2, 10)).sum()) > 0


def test_time_interleaved_takes_turns():
    order = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    seconds = measuring.time_interleaved(calls, 3, "cpu", warmup=1)
    assert order == ["a", "b"] * 4
    assert {name: len(s) for name, s in seconds.items()} == {"a": 3, "b": 3}


def test_readmes_hold_the_tables_of_the_figures():
    tool = _tool("build_speed_table")
    for path, table in tool.documents(tool.load()).items():
        text = path.read_text()
        assert tool.insert(text, table) == text, "run python tools/build_speed_table.py"


def test_the_handbook_states_that_formats_make_no_difference():
    root = Path(__file__).parents[2]
    results = json.loads((root / "benchmarks" / "formats_cpu.json").read_text())["results"]
    first = results[0]
    assert [r["format"] for r in results] == ["COCO", "YOLO", "VOC"]
    for key in ("counts", "AP", "weights_sha256"):
        assert all(result[key] == first[key] for result in results)
    page = (root / "docs" / "train.md").read_text()
    counts = [[c[k] for c in first["counts"].values()] for k in ("images", "objects")]
    columns = [" + ".join(map(str, numbers)) for numbers in counts]
    columns += [f"{first[key]:.4f}" for key in ("AP", "AP50")]
    assert page.count(f"| {' | '.join(columns)} |") == 3


def test_the_handbook_states_the_baseline():
    root = Path(__file__).parents[2]
    runs = json.loads((root / "benchmarks" / "baseline_cpu.json").read_text())["results"]
    page = " ".join((root / "docs" / "train.md").read_text().split())
    for place in (0, 1):
        rows = [run["evaluations"][place] for run in runs]
        assert [row["iteration"] for row in rows] == [(250, 500)[place]] * 2
        for kind in ("raw", "averaged"):
            assert " and ".join(f"{row[kind]['AP']:.1f}" for row in rows) in page


def test_table_of_a_report():
    tool = _tool("build_speed_table")
    difference = {"detections": 100, "same_classes": True, "box_px": 2e-4, "score": 3e-6}
    path = {"median_ms": 4000.0, "difference": difference}
    result = {"config": "a/b.yaml", "size": [800, 1200], "speedup": 2.5}
    result["paths"] = {"plain": path, "optimized": {**path, "median_ms": 1600.0}}
    where = {"processor": "A CPU", "threads": 2, "instructions": "AVX2", "torch": "2.11.0+cpu"}
    report = {"task": "inference", "results": [result], "environment": where}
    table = _tool("cpu_tables").inference_table([{"task": "analyze"}, report])
    assert "| `b`      | AVX2        | 800x1200 | 4.00       | 1.60           | 2.50x" in table
    assert "A CPU, 2 threads (AVX2), torch 2.11.0" in table
    with pytest.raises(ValueError, match="speed-table"):
        tool.insert("no markers", table)


def test_tables_of_runtimes_and_start():
    tool = _tool("cpu_tables")
    where = {"processor": "A CPU", "threads": 2, "instructions": "AVX512", "torch": "2.11.0+cpu"}
    paths = {"plain": {"median_ms": 900.0, "speedup": 1.0, "ready_s": 0.5}}
    paths["onnxruntime"] = {"median_ms": 300.0, "speedup": 3.0, "ready_s": 40.0}
    runs = {"task": "runtimes", "environment": where}
    runs["results"] = [{"config": "a/b.yaml", "paths": paths}]
    amx = runs | {"environment": where | {"instructions": "AMX"}}
    lines = tool.runtimes_table([runs, amx]).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:6]]
    assert rows[1] == ["`b`", "AVX512", "onnxruntime", "300", "3.00x", "40.0"]
    assert [row[1] for row in rows] == ["AVX512", "AVX512", "AMX", "AMX"]
    keys = ("file_bytes", "import_s", "load_s", "first_image_s", "load_bytes", "peak_memory_bytes")
    start = {"task": "startup", "environment": where}
    start["results"] = [{"config": "a/b.yaml", **dict.fromkeys(keys, 2**20)}]
    assert tool.startup_table([start, runs]).count("1048576.0") == 3


def test_tables_of_prediction_and_tiles():
    tool = _tool("cpu_tables")
    where = {"processor": "A CPU", "threads": 2, "instructions": "AVX512", "torch": "2.11.0+cpu"}
    row = {"config": "a/b.yaml", "images": 1000, "size": [128, 96], "streams": 2}
    row |= {"images_per_second": 20.04, "cpu_ms_per_image": 61.7, "network_share": 0.931}
    row |= {"peak_memory_bytes": 2**30, "growth_bytes": -(2**19), "bytes_of_an_image": 8800}
    folder = {"task": "predict", "environment": where}
    folder["results"] = [row | {"bytes_written_per_image": 4957}]
    head, _, line, *_ = tool.prediction_table([folder]).splitlines()
    assert head.split("|")[1].strip() == "images" and head.count("|") == line.count("|") == 10
    cells = [c.strip() for c in line.split("|")[1:-1]]
    expected = ["1,000", "128x96", "float32", "2", "20.0", "62", "93%", "1024", "-0.5"]
    assert cells == expected
    assert "other programs" not in tool.prediction_table([folder])
    busy = folder | {"environment": where | {"load_average": 9.6}}
    assert "(load average 10)" in " ".join(tool.prediction_table([busy]).split())
    one = {"case": "whole", "size": [4000, 6000], "tile": 800, "overlap": 0.2, "objects": 30}
    one |= {"precision": 0.5, "recall": 0.25, "seconds": 3.2, "more_memory_bytes": 2**21}
    one |= {"recall below 32 px": 0.125, "objects below 32 px": 20}
    large = {"task": "tiles", "environment": where, "results": [one]}
    table = tool.tiles_table([large, folder])
    assert "below 32 px (20)" in table and "6000x4000" in table
    cells = [c.strip() for c in table.splitlines()[2].split("|")[1:-1]]
    assert cells == ["whole", "0.125", "0.250", "0.500", "2"]
    lead = {"images": 2000, "size": [64, 64], "actors": 2, "driver_cpu_ms_per_image": 2.5}
    table = tool.ray_table([{"task": "ray", "environment": where, "results": [lead]}, folder])
    cells = [c.strip() for c in table.splitlines()[2].split("|")[1:-1]]
    assert cells == ["2,000", "64x64", "2", "2.5", "400"]


def test_table_of_operators():
    tool = _tool("cpu_tables")
    where = {"processor": "A CPU", "threads": 2, "instructions": "AVX512", "torch": "2.11.0+cpu"}
    result = {"config": "a/b.yaml", "switch": "bf16", "size": [800, 1333], "batch": 2}
    result |= {"speedup": 1.0, "peak_memory_bytes": 2**30}
    result |= {"median_ms": 8000.0, "operators": {"aten::convolution_backward": 0.25}}
    profiled = {"task": "train", "environment": where, "results": [result]}
    plain = {"task": "train", "environment": where | {"instructions": "AVX2"}}
    plain["results"] = [{k: v for k, v in result.items() if k != "operators"}]
    tables = tool.training_tables([plain, profiled])
    table = tables[tables.index("operator") :]
    assert "| `aten::convolution_backward` | 25  | 2.00 " in table and "bf16" in table
    assert "AVX2" not in table


@pytest.mark.slow
def test_startup_and_runtimes(tmp_path):
    arguments = ["--size", "96", "128", "--repeat", "1", "--device", "cpu"]
    (row,) = measure(["startup", *arguments])["results"]
    assert 0 < row["load_bytes"] < row["peak_memory_bytes"]
    (row,) = measure(["runtimes", *arguments, "--runtimes", "bf16"])["results"]
    assert list(row["paths"]) == ["plain", "optimized", "bf16"]
    assert row["paths"]["optimized"]["difference"]["same_classes"]


def test_plot_of_time_and_memory(tmp_path):
    rows = [{"config": "c", "axis": "batch", "value": i, "plain": {"median_ms": i}} for i in (1, 2)]
    memory = {"peak_memory_bytes": 2**30}
    rows += [{"config": "c", "axis": "training batch", "value": 1, "plain": memory}]
    plotting.plot_growth(rows, str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_prediction_of_a_folder(tmp_path):
    config = "quick_start/faster_rcnn_hrnetv2p_w18_shapes.yaml"
    words = ["predict", "--config", config, "--images", "12", "--size", "64", "96"]
    words += ["--repeat", "1", "--device", "cpu", "--streams", "1", "2", "--formats", "jsonl,coco"]
    report = measure([*words, "--opts", "MODEL.HRNETV2P.WIDTH", "4", *TINY])
    assert [row["streams"] for row in report["results"]] == [1, 2]
    for row in report["results"]:
        assert row["images"] == 12 and row["images_per_second"] > 0
        assert 0.2 < row["network_share"] <= 1.01
        assert row["bytes_written_per_image"] > 100 and row["bytes_of_an_image"] > 500


def test_a_signal_ends_the_benchmark(monkeypatch):
    """``predict`` ends its run in good order; no further one begins."""
    summary = Summary(images=1, seconds=1.0, signal=15)
    monkeypatch.setattr(prediction, "predict", lambda *_: summary)
    config = "quick_start/faster_rcnn_hrnetv2p_w18_shapes.yaml"
    words = ["predict", "--config", config, "--images", "1", "--size", "64", "64"]
    with pytest.raises(KeyboardInterrupt):
        measure([*words, "--device", "cpu", "--opts", "MODEL.HRNETV2P.WIDTH", "4", *TINY])


def test_loader_figures():
    words = "loader --processes 0 1 --batch 2 --repeat 2 --device cpu"
    rows = measure(words.split())["results"]
    assert [(row["workers"], row["images"]) for row in rows] == [(0, 4), (1, 4)]
    assert all(row["images_per_second"] > 0 for row in rows)


def test_gpu_figures_have_tables_of_their_own():
    tool = _tool("build_speed_table")
    reports = tool.load()
    names = ("Inference on a GPU", "Training on a GPU", "Loading for a GPU", "Exactness on a GPU")
    text = tool.all_tables(reports)
    assert all(f"## {name}\n" in text for name in names)
    cpu, gpu = text.split(f"## {names[0]}\n")
    assert "H100" in gpu and "H100" not in cpu and "AMD EPYC" not in gpu
    row = next(line for line in gpu.splitlines() if "w18_20e" in line and "| bf16 " in line)
    assert row.endswith("| 10.8              |")  # as MMDetection states
