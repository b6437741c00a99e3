"""The same predictions on many machines, by Ray Data.

Rows stream from Parquet files through tasks that read and decode and a pool of actors that hold the
model to Parquet files; Ray bounds what is on its way.  Ray also writes down which rows are in
finished files, so that a run that was stopped goes on, and does again what a dead actor held.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hrnet_d2.config_file import ConfigError

from .ray_inputs import find_columns, is_parquet, write_manifest
from .ray_stages import Decoder, Network
from .record import FOLDER, settings_changed
from .task import Summary, Task
from .writers.parquet import import_pyarrow

__all__ = ["Cluster", "predict_on_ray"]

ROWS_AT_ONCE = 16
ROWS_OF_A_BLOCK = 64
ROWS_OF_A_FILE = 1000  # at least, but for the last


@dataclass
class Cluster:
    """Where and how wide a run is."""

    address: str | None = None
    """Of a Ray cluster; None is the environment's RAY_ADDRESS, or else this machine."""
    actors: tuple[int, int] = (1, 1)
    """The least and the most actors with a model."""
    cpus: int = 1
    """Of each actor, as threads of the network."""
    gpus: float = 0.0
    """Of each actor."""
    decoders: tuple[int, int] = (1, 4)
    """The least and the most actors that read and decode, with a CPU each."""

    @property
    def least_cpus(self) -> int:
        """Fewer could not run at the same time: Ray's own tasks need one, too."""
        return self.actors[0] * self.cpus + self.decoders[0] + 1


def predict_on_ray(
    cfg: Any,
    task: Task,
    cluster: Cluster,
    *,
    batch_size: int | None = None,
    tiles: tuple[int, float, str] | None = None,
) -> Summary:
    """Predict on all inputs and write ``predictions.parquet`` in the output folder.

    Args:
        cfg: of the model, complete.
        task: see there; "output" may be a URL, and "formats" is Parquet alone.
        cluster: see there.
        batch_size: see ``Detector``.
        tiles: of ``TiledDetector``.

    Returns:
        What is in the files: of all runs, if this one went on with others.

    Raises:
        ConfigError: if Ray is not installed, or the task cannot be done.
        FileNotFoundError: if an input does not exist.
    """
    ray = _import_ray()
    import_pyarrow()
    if list(task.formats) != ["parquet"]:
        raise ConfigError("--engine ray writes Parquet: leave --format out, or give parquet")
    if task.track or task.max_frames or task.shard.count > 1:
        raise ConfigError("--engine ray has no --track, --max-frames and --shard")
    output = str(task.output)
    files, root = _files(output)
    record = f"{root}/{FOLDER}"
    _begin(files, root, record, task, output)
    if is_parquet(task.inputs):
        sources = list(task.inputs)
    else:
        write_manifest(task.inputs, f"{record}/inputs", output, files)
        sources = [_url(files, f"{record}/inputs")]
    with _connected(ray, cluster):
        context = ray.data.DataContext.get_current()
        before = context.checkpoint_config
        try:
            data = _pipeline(ray, context, cfg, task, cluster, sources, record, batch_size, tiles)
            data.write_parquet(
                _url(files, f"{root}/predictions.parquet"),
                min_rows_per_file=ROWS_OF_A_FILE,
                mode=ray.data.SaveMode.APPEND,
            )
        finally:
            context.checkpoint_config = before
    return _count(files, f"{root}/predictions.parquet")


def _pipeline(
    ray: Any,
    context: Any,
    cfg: Any,
    task: Task,
    cluster: Cluster,
    sources: list[str],
    record: str,
    batch_size: int | None,
    tiles: tuple[int, float, str] | None,
) -> Any:
    columns = find_columns(ray.data.read_parquet(sources).schema().names)
    context.checkpoint_config = ray.data.checkpoint.CheckpointConfig(
        id_column=columns.path,
        checkpoint_path=f"{_url_of_record(task, record)}/done",
        delete_checkpoint_on_success=False,
    )
    wanted = [columns.path, *([columns.data] if columns.data else [])]
    rows = ray.data.read_parquet(sources).select_columns(wanted)
    # What an actor decodes at a time. Ray would read a million paths as one piece of work.
    rows = rows.repartition(target_num_rows_per_block=ROWS_OF_A_BLOCK)
    weights = _weights(cfg)
    decoded = rows.map(
        Decoder,
        fn_constructor_args=(columns, cfg.INPUT.BACKEND, cfg.INPUT.MAX_PIXELS),
        compute=_pool(ray, cluster.decoders),
        num_cpus=1,
    )
    return decoded.map_batches(
        Network,
        fn_constructor_args=(
            cfg.dump(),
            weights,
            columns,
            0.0 if task.threshold is None else task.threshold,
            cluster.cpus,
            batch_size,
            tiles,
            list(task.category_ids),
        ),
        batch_size=ROWS_AT_ONCE,
        batch_format="numpy",
        compute=_pool(ray, cluster.actors),
        num_cpus=cluster.cpus,
        num_gpus=cluster.gpus or None,
    )


def _pool(ray: Any, size: tuple[int, int]) -> Any:
    return ray.data.ActorPoolStrategy(min_size=size[0], max_size=size[1])


def _weights(cfg: Any) -> bytes | None:
    """A local checkpoint, which other machines cannot read."""
    path = cfg.MODEL.WEIGHTS
    if "://" in path or not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        return file.read()


def _files(output: str) -> tuple[Any, str]:
    """fsspec's file system of a folder or URL, and the path in it."""
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(output if "://" in output else os.path.abspath(output))
    except (ImportError, ValueError) as error:
        raise ConfigError(f"--output {output} cannot be used: {error}") from error
    return files, path.rstrip("/")


def _url(files: Any, path: str) -> str:
    protocol = files.protocol if isinstance(files.protocol, str) else files.protocol[0]
    return path if protocol in ("file", "local") else str(files.unstrip_protocol(path))


def _url_of_record(task: Task, record: str) -> str:
    return _url(_files(str(task.output))[0], record)


def _begin(files: Any, root: str, record: str, task: Task, output: str) -> None:
    """Begin a record, or check that the run that goes on has the same settings."""
    settings = {**task.settings, "threshold": task.threshold, "engine": "ray"}
    path = f"{record}/settings"
    there = files.exists(f"{root}/predictions.parquet")
    if files.exists(path) and task.resume:
        with files.open(path, "r", encoding="utf-8") as file:
            before = json.load(file)
        if changed := settings_changed(before, settings):
            raise ConfigError(
                f"--resume: the run in {output} had other settings. {'; '.join(changed)}. Give the "
                "same, or another --output"
            )
        if files.exists(f"{record}/inputs"):
            files.rm(f"{record}/inputs", recursive=True)
        return
    if there and not task.overwrite:
        raise ConfigError(
            f"{output} has predictions of an earlier run: continue that run with --resume, replace "
            "it with --overwrite, or give another --output"
        )
    for folder in (f"{root}/predictions.parquet", record):
        if files.exists(folder):
            files.rm(folder, recursive=True)
    files.makedirs(record, exist_ok=True)
    with files.open(path, "w", encoding="utf-8") as file:
        json.dump(settings, file, indent=1)


def _count(files: Any, folder: str) -> Summary:
    """Images, and those that failed, in all files."""
    pa = import_pyarrow()
    import pyarrow.dataset

    data = pyarrow.dataset.dataset(folder, filesystem=files, format="parquet")
    failed = data.count_rows(filter=pa.dataset.field("error").is_valid())
    return Summary(images=data.count_rows(), failed=failed)


@contextlib.contextmanager
def _connected(ray: Any, cluster: Cluster) -> Iterator[None]:
    """A connection to the cluster; one that the caller has is used and kept.

    Raises:
        ConfigError: if the cluster has too few CPUs, with which the run would wait forever.
    """
    owned = not ray.is_initialized()
    if owned:
        address = cluster.address or os.environ.get("RAY_ADDRESS")
        # On this machine alone Ray's CPUs are a number like any other.
        here = {} if address else {"num_cpus": max(os.cpu_count() or 1, cluster.least_cpus)}
        ray.init(address=address, log_to_driver=False, **here)
    try:
        cpus = ray.cluster_resources().get("CPU", 0)
        if cpus < cluster.least_cpus:
            raise ConfigError(
                f"The Ray cluster has {cpus:g} CPUs: {cluster.actors[0]} actors of {cluster.cpus} "
                f"and those that decode need {cluster.least_cpus}. Give fewer --actors"
            )
        yield
    finally:
        if owned:
            ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray.data.checkpoint
    except ImportError as error:
        raise ConfigError(
            "--engine ray needs the package ray, which is not installed: pip install "
            f"'hrnet_d2[ray]' ({error})"
        ) from error
    return ray
