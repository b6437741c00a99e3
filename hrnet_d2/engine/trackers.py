"""Metrics and pictures of a training for Weights & Biases and MLflow, as Detectron2's writers."""

import importlib
import os
import re
import time
from abc import abstractmethod
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

from hrnet_d2.config_file import ConfigError

__all__ = ["MLflowWriter", "WandbWriter", "build_trackers"]

WINDOW = 20  # iterations of the median of noisy metrics, as in metrics.json


class _Tracker(EventWriter):
    """Writes what is new since the last time.

    It belongs before Detectron2's ``TensorboardXWriter``, which takes the pictures away.
    """

    package: str

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: the full config, which is logged as well. The run of an earlier training in the
                same ``OUTPUT_DIR`` goes on, if that training is resumed.

        Raises:
            ConfigError: if the library is not installed.
        """
        self._library = _import(self.package)
        self._cfg = cfg
        self._last = -1
        self._name = cfg.TRACKER.RUN or os.path.basename(os.path.abspath(cfg.OUTPUT_DIR))
        self._id_file = Path(cfg.OUTPUT_DIR, f".{self.package}_run")
        self._run: Any = None

    def write(self) -> None:
        """Log the newest metrics and pictures; the run is opened with the first of them."""
        storage = get_event_storage()
        if self._run is None:
            self._run = self._open(self._earlier_id(storage))
        news: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, step) in storage.latest_with_smoothing_hint(WINDOW).items():
            if step > self._last:
                news[step][name] = value
        for step in sorted(news):
            self._log(news[step], step)
            self._last = step
        for name, image, step in storage._vis_data:
            self._log_picture(name, np.asarray(image).transpose(1, 2, 0), step)

    def close(self) -> None:
        """End the run."""
        if self._run is not None:
            self._close()
            self._run = None

    def _earlier_id(self, storage: EventStorage) -> str | None:
        # The first write of a new training comes soon after iteration 0.
        resumed = min((h.values()[0][1] for h in storage.histories().values()), default=0) > 0
        return self._id_file.read_text("utf-8") if resumed and self._id_file.is_file() else None

    def _remember(self, run_id: str) -> None:
        self._id_file.write_text(run_id, "utf-8")

    @abstractmethod
    def _open(self, earlier: str | None) -> Any: ...

    @abstractmethod
    def _log(self, metrics: dict[str, float], step: int) -> None: ...

    @abstractmethod
    def _log_picture(self, name: str, image: np.ndarray, step: int) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...


class WandbWriter(_Tracker):
    """Weights & Biases.  Its own environment variables (``WANDB_MODE=offline``) apply."""

    package = "wandb"

    def _open(self, earlier: str | None) -> Any:
        run = self._library.init(
            project=self._cfg.TRACKER.PROJECT,
            name=self._name,
            dir=self._cfg.OUTPUT_DIR,
            id=earlier,
            resume="allow" if earlier else None,
            config=_plain(self._cfg),
        )
        # Not wandb's own steps, which cannot go back to the iteration of the checkpoint.
        run.define_metric("iteration")
        run.define_metric("*", step_metric="iteration")
        self._remember(run.id)
        return run

    def _log(self, metrics: dict[str, float], step: int) -> None:
        self._run.log({**metrics, "iteration": step})

    def _log_picture(self, name: str, image: np.ndarray, step: int) -> None:
        self._run.log({name: self._library.Image(image), "iteration": step})

    def _close(self) -> None:
        self._run.finish()


class MLflowWriter(_Tracker):
    """MLflow.  Its own environment variables (``MLFLOW_TRACKING_URI``) apply."""

    package = "mlflow"

    def _open(self, earlier: str | None) -> Any:
        self._client = self._library.MlflowClient()
        if earlier:
            self._client.update_run(earlier, status="RUNNING")
            return earlier
        project = self._cfg.TRACKER.PROJECT
        experiment = self._client.get_experiment_by_name(project)
        number = experiment.experiment_id if experiment else self._client.create_experiment(project)
        run_id = self._client.create_run(number, run_name=self._name).info.run_id
        self._client.log_text(run_id, self._cfg.dump(), "config.yaml")
        self._remember(run_id)
        return run_id

    def _log(self, metrics: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        entities = [
            self._library.entities.Metric(_allowed(name), value, now, step)
            for name, value in metrics.items()
        ]
        self._client.log_batch(self._run, metrics=entities)

    def _log_picture(self, name: str, image: np.ndarray, step: int) -> None:
        self._client.log_image(self._run, image, key=_allowed(name), step=step)

    def _close(self) -> None:
        self._client.set_terminated(self._run)


WRITERS = {"wandb": WandbWriter, "mlflow": MLflowWriter}


def build_trackers(cfg: CfgNode) -> list[EventWriter]:
    """The writers of ``TRACKER.NAMES``.

    Raises:
        ConfigError: if a library is not installed.
    """
    return [WRITERS[name](cfg) for name in cfg.TRACKER.NAMES]


def _import(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"--tracker {package} needs the package {package}, which is not installed: "
            f"pip install 'hrnet_d2[{package}]' ({error})"
        ) from error


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    return list(node) if isinstance(node, tuple) else node


def _allowed(name: str) -> str:
    """A name with the characters that MLflow allows."""
    return re.sub(r"[^\w\-. /:]", "_", name)
