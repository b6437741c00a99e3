"""The figures in docs/predict.md and docs/train.md are measured ones."""

import json
import re

from tests.docs.pages import ROOT

N = 10_000_000
WEEK = 7 * 86_400


def rows(name):
    return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())["results"]


def folders():
    """Of benchmarks/predict_*.json."""
    files = sorted((ROOT / "benchmarks").glob("predict_*.json"))
    return [row for file in files for row in rows(file.stem)]


def test_folders_of_images():
    """What the network leaves to reading, decoding and writing, and what memory does."""
    found = folders()
    assert {(row["images"], row["size"][0]) for row in found} == {(1000, 128), (1000, 512)}
    shares = [row["network_share"] for row in found]
    assert min(shares) >= 0.85
    text = " ".join((ROOT / "docs" / "predict.md").read_text().split())
    low, high = (f"{100 * share:.0f}" for share in (min(shares), max(shares)))
    assert f"the network took {low} to {high} % of the time" in text
    one, two = (row["images_per_second"] for row in rows("predict_128_cpu"))
    assert f"two streams of small images were {two / one:.1f} times as fast" in text
    assert all(row["growth_bytes"] < 0.01 * row["peak_memory_bytes"] for row in found)


def section():
    text = (ROOT / "docs" / "predict.md").read_text()
    return text[text.index("### Ten million images") : text.index("## From Python")]


def row(start):
    """A row's cells after the first."""
    line = next(line for line in section().splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_network():
    paths = rows("runtimes_avx512_cpu")[0]["paths"]
    for start, name in (("network on a CPU", "optimized"), ("the same in bfloat16", "bf16")):
        seconds = 2 * paths[name]["median_ms"] / 1e3
        measured, _, all_images = row(start)
        assert measured == f"{seconds:.2f} s of a core"
        assert f"{N * seconds / 3600:,.0f} core hours" in all_images
        assert f"in 7 days {N * seconds / WEEK:,.0f} cores" in all_images
    gpu = rows("inference_h100_16")[0]["paths"]["bf16+cuda-graphs"]["images_per_second"]
    measured, _, all_images = row("network on an H100")
    assert measured == f"{gpu:.0f} images/s" and all_images == f"{N / gpu / 3600:.1f} hours"


def test_what_saturates():
    seconds = 2 * rows("runtimes_avx512_cpu")[0]["paths"]["optimized"]["median_ms"] / 1e3
    gpu = rows("inference_h100_16")[0]["paths"]["bf16+cuda-graphs"]["images_per_second"]
    decoding = rows("data_cpu")[0]["median_ms"] / 1e3
    driver = rows("ray_cpu")[0]["driver_cpu_ms_per_image"] / 1e3
    assert row("decoding")[0] == f"{1e3 * decoding:.1f} ms of a core"
    assert f"one core for {seconds / decoding:,.0f} of network" in row("decoding")[2]
    assert row("Ray's driver")[0] == f"at most {1e3 * driver:.1f} ms of a core"
    assert row("Ray's driver")[2] == f"saturates at {1 / driver:,.0f} images/s"
    text = " ".join(section().split())
    assert f"could lead {seconds / driver:,.0f} cores" in text
    assert f"images/s are {1 / driver / gpu:.1f} H100" in text


def test_what_is_read_and_written():
    for start, key, digits in (
        ("reading", "bytes_of_an_image", 0),
        ("writing", "bytes_written", 1),
    ):
        measured, file, all_images = row(start)
        found = rows(re.fullmatch(r"`(\w+)\.json`", file)[1])[-1]
        size = next(value for name, value in found.items() if name.startswith(key))
        assert measured == f"{size / 1e3:.{digits}f} kB for an image"
        assert all_images.startswith(f"{N * size / 1e9:,.0f} GB")
        rate = size / (rows("ray_cpu")[0]["driver_cpu_ms_per_image"] / 1e3) / 1e6
        word = {"reading": "are read", "writing": "written"}[start]
        assert f"{rate:.1f} MB/s {word}" in " ".join(section().split())


def test_training_on_a_cpu():
    found = {row["switch"]: row for row in rows("training_avx512_cpu")}
    default, bf16 = found["default"], found["bf16"]
    text = " ".join((ROOT / "docs" / "train.md").read_text().split())
    assert f"800×1333 pixels {default['speedup']:.2f} times as fast" in text
    ratio = default["median_ms"] / bf16["median_ms"]
    assert f"{bf16['speedup']:.2f} times in bfloat16, which is {ratio:.2f} times float32" in text
    shares = dict(bf16["operators"])
    gradients, results = (
        100 * shares[f"aten::{name}"] for name in ("convolution_backward", "mkldnn_convolution")
    )
    assert f"{gradients:.0f} % of the time is their gradients and {results:.0f} % their" in text
