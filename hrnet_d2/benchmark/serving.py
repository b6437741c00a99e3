"""A server under the load of many clients: throughput, latency, memory, and wrong answers."""

import argparse
import contextlib
import http.client
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util

from hrnet_d2.config_file import ConfigError
from hrnet_d2.data.datasets import shapes

__all__ = ["Load", "check_answers", "measure_server", "run_serve", "same_answer"]

IMAGES = 16  # different ones
SCORE = 0.1  # least, of the detections that are asked for: those below come and go by rounding
BOX_PIXELS, SCORES, MASK_IOU = 0.05, 1e-3, 0.98  # between batches of different sizes


@dataclass
class Load:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)
    """Of each answer."""
    statuses: Counter = field(default_factory=Counter)
    wrong: int = 0
    memory: list[tuple[float, float]] = field(default_factory=list)
    """Seconds since the start, and MiB of the server."""
    batches: float = 0.0
    """Mean number of images."""


def run_serve(args: argparse.Namespace) -> list[dict]:
    """For each ``--batches`` a row, see :func:`measure_server`."""
    if not args.weights:
        raise ConfigError("--weights is missing: name a checkpoint that brings its config")
    rows = []
    for batch in args.batches:
        size = (args.size[0], args.size[1])
        row = measure_server(args.weights, batch, args.clients, args.seconds, size, args.opts)
        rows.append(row)
        latency, memory = row["latency_ms"], row["memory_mib"]
        print(
            f"batches of {batch}, {args.clients} clients: {row['requests']} answers, "
            f"{row['wrong']} wrong, {row['images_per_second']} images/s, "
            f"median {latency['median']} ms, p99 {latency['p99']} ms, memory "
            f"{memory['after_a_quarter']} MiB after a quarter, {memory['end']} MiB at the end"
        )
    return rows


def measure_server(
    weights: str,
    batch: int,
    clients: int,
    seconds: float,
    size: tuple[int, int],
    opts: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure ``hrnet-d2 serve`` on loopback.

    Args:
        weights: what it serves.
        batch: its ``--batch-size``.
        clients: that ask all the time, each as soon as it has its answer.
        seconds: to do so.
        size: height and width of the images.
        opts: KEY VALUE of the config.

    Returns:
        "requests", "images_per_second", "latency_ms" (median, p95, p99, max), "wrong" answers,
        "statuses", "mean_batch", "memory_mib" (after a quarter of the time and at the end).
    """
    bodies = [_image(i, *size) for i in range(IMAGES)]
    with _server(weights, batch, clients, opts) as port:
        load = Load()
        expected = check_answers(port, bodies, weights, opts)
        _run_clients(port, bodies, expected, clients, seconds, load)
        load.batches = _metric(port, "hrnet_d2_batch_images_sum") / max(
            1.0, _metric(port, "hrnet_d2_batch_images_count")
        )
    return {"batch_size": batch, "clients": clients, "size": list(size)} | _row(load, seconds)


def _image(number: int, height: int, width: int) -> bytes:
    """The JPEG of one of the built-in pictures."""
    image = cv2.resize(shapes.draw(seed=5, index=number)[0], (width, height))
    return cv2.imencode(".jpg", image)[1].tobytes()


def _row(load: Load, seconds: float) -> dict[str, Any]:
    latency = np.array(load.seconds or [np.nan]) * 1e3
    quarter = [mib for at, mib in load.memory if at >= seconds / 4]
    return {
        "seconds": seconds,
        "requests": len(load.seconds),
        "images_per_second": round(len(load.seconds) / seconds, 2),
        "latency_ms": {
            "median": round(float(np.median(latency)), 1),
            "p95": round(float(np.percentile(latency, 95)), 1),
            "p99": round(float(np.percentile(latency, 99)), 1),
            "max": round(float(latency.max()), 1),
        },
        "wrong": load.wrong,
        "statuses": {str(status): n for status, n in sorted(load.statuses.items())},
        "mean_batch": round(load.batches, 2),
        "memory_mib": {
            "after_a_quarter": round(quarter[0], 1) if quarter else None,
            "end": round(quarter[-1], 1) if quarter else None,
        },
    }


def check_answers(
    port: int, bodies: Sequence[bytes], weights: str, opts: Sequence[str]
) -> list[dict]:
    """The answers to single requests, which must be those of ``Predictor``.

    Raises:
        RuntimeError: if one is not.
    """
    from hrnet_d2.serving import load_model
    from hrnet_d2.serving.results import to_json

    model = load_model(weights, opts=opts, batch_size=1)
    answers = []
    for i, body in enumerate(bodies):
        image: Any = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
        found = to_json(model.detect([image])[0], model.categories, threshold=SCORE)
        status, answer = _ask(http.client.HTTPConnection("127.0.0.1", port, timeout=120), body)
        if status != 200 or not same_answer(json.loads(answer), json.loads(found)):
            raise RuntimeError(f"The answer to image {i} is not what Predictor finds ({status})")
        answers.append(json.loads(found))
    return answers


def same_answer(one: dict, other: dict) -> bool:
    """Whether two answers have the same detections, to what different batches round.

    A detection at the threshold may be in one of them alone.
    """
    found, expected = one["annotations"], other["annotations"]
    used: set[int] = set()
    for annotation in found:
        near = (
            i for i, e in enumerate(expected) if i not in used and _same_detection(annotation, e)
        )
        match = next(near, None)
        if match is None and annotation["score"] > SCORE + SCORES:
            return False
        if match is not None:
            used.add(match)
    missing = (e for i, e in enumerate(expected) if i not in used)
    return one["images"] == other["images"] and all(e["score"] <= SCORE + SCORES for e in missing)


def _same_detection(one: dict, other: dict) -> bool:
    if one["category_id"] != other["category_id"] or abs(one["score"] - other["score"]) > SCORES:
        return False
    if np.abs(np.subtract(one["bbox"], other["bbox"])).max() > BOX_PIXELS:
        return False
    if ("segmentation" in one) != ("segmentation" in other):
        return False
    if "segmentation" not in one or not one["area"] + other["area"]:
        return True
    iou = mask_util.iou([one["segmentation"]], [other["segmentation"]], [0])
    return bool(iou[0][0] >= MASK_IOU)


@contextlib.contextmanager
def _server(weights: str, batch: int, clients: int, opts: Sequence[str]) -> Iterator[int]:
    """The port of a server that runs during the block."""
    command = [sys.executable, "-m", "hrnet_d2.cli", "serve", weights, "--port", "0"]
    command += ["--batch-size", str(batch), "--max-requests", str(2 * clients), "--opts", *opts]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")  # there may be warnings before it
            line = next((line for line in lines if "http://" in line), "")
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found is None:
                raise RuntimeError("The server did not start; it says why above")
            yield int(found[1])
        finally:
            process.terminate()
            process.communicate()


def _ask(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, bytes]:
    connection.request("POST", f"/predict?threshold={SCORE}", body)
    response = connection.getresponse()
    return response.status, response.read()


def _run_clients(
    port: int,
    bodies: Sequence[bytes],
    expected: Sequence[dict],
    clients: int,
    seconds: float,
    load: Load,
) -> None:
    start = time.perf_counter()
    lock = threading.Lock()

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        i = number
        while (begun := time.perf_counter()) - start < seconds:
            i = (i + 7) % len(bodies)
            status, answer = _ask(connection, bodies[i])
            took = time.perf_counter() - begun
            right = status == 200 and same_answer(json.loads(answer), expected[i])
            with lock:
                load.statuses[status] += 1
                load.wrong += status == 200 and not right
                if status == 200:
                    load.seconds.append(took)
        connection.close()

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    while (at := time.perf_counter() - start) < seconds:
        load.memory.append((at, _metric(port, "process_resident_memory_bytes") / 2**20))
        time.sleep(min(1.0, max(0.0, seconds - at)))
    for thread in threads:
        thread.join()
    load.memory.append((seconds, _metric(port, "process_resident_memory_bytes") / 2**20))


def _metric(port: int, name: str) -> float:
    """A value of ``/metrics``; nan where the system does not tell it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else float("nan")
