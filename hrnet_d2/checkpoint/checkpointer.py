"""Detectron2's checkpointer for checkpoints of every supported project."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from fvcore.common.checkpoint import _IncompatibleKeys
from torch import nn

from hrnet_d2.file_io import atomic_write
from hrnet_d2.modeling.backbone.norm_eval import measuring_layers, set_measuring_layers

from . import legacy
from .describing import describe
from .download import fetch
from .errors import CheckpointError
from .loading import Checkpoint, load_file
from .matching import MatchResult, layers, match_saved, match_to_model
from .recognition import Layout
from .saved_files import LAST, find_last, remove_leftovers
from .similar_names import match_similar_names
from .values import LARGEST, examine

__all__ = ["Checkpointer"]

# Names of the layers that NORM_EVAL "auto" chose to measure, which a resumed run continues.
MEASURING = "measuring_layers"


class Checkpointer(DetectionCheckpointer):
    """Detectron2's ``DetectionCheckpointer``, which also reads checkpoints of MMDetection, official
    HRNet, timm and torchvision, runs nothing that a file contains, and loads a file completely or
    not at all.

        Checkpointer(model).load("faster_rcnn_hrnetv2p_w18_1x_coco_20200130-56651a6d.pth")

    A detector's file must have exactly the tensors of the model, in the same shapes. A backbone's
    file (ImageNet weights) must fill the model's backbone. With ``partial`` (in configs:
    ``MODEL.PARTIAL_LOAD``), layers outside the backbone that differ keep their initial values, to
    fine-tune on other classes.

    Saving and resuming work as in Detectron2, but survive a crash or a full disk: files are written
    aside and renamed, and if the last checkpoint is damaged, the newest whole one is used.
    Detectron2's own files, with their matching heuristics, must fill the model's backbone.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        partial: bool = False,
        cfg: CfgNode | None = None,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ):
        """
        Args:
            model: the model to load into and to save.
            save_dir: the folder that checkpoints are saved to and resumed from; the first save
                creates it.
            partial: allow layers outside the backbone to differ from the file.
            cfg: the model's full config; saved with its class names in every file, so that the
                file alone is enough to predict.
            save_to_disk: whether this process saves; default: the main process.
            checkpointables: objects with ``state_dict`` and ``load_state_dict``, saved with the
                model.
        """
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.partial = partial
        self._description = {} if cfg is None else describe(cfg)
        self._resuming = False
        self._heuristics = False
        self._exact = False  # whether the file was loaded as a run's own, without renaming
        self._checkpoint: Checkpoint | None = None
        self._match: MatchResult | None = None

    def save(self, name: str, **kwargs: Any) -> None:
        """Save the model, the checkpointables, the config that the checkpointer was given, and
        ``kwargs`` as ``name``.pth in ``save_dir``, which is created if it does not exist.

        The file is written aside and renamed: a file that was there stays until the new one is
        complete. A model with NaN, infinite or absurdly large values is saved, and an error is
        logged.

        Raises:
            OSError: if it cannot be written; on a full disk the message has the path, the size of
                the checkpoint and the free space.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        kwargs = {**self._description, **kwargs}
        if "://" in self.save_dir:  # not a local folder
            super().save(name, **kwargs)
            return
        state = self.model.state_dict()
        data = {"model": state}
        data.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        measuring = measuring_layers(self.model)
        if measuring is not None:
            data[MEASURING] = measuring
        data.update(kwargs)
        basename = f"{name}.pth"
        path = os.path.join(self.save_dir, basename)
        if os.path.basename(path) != basename:
            raise ValueError(f"{name!r} is not the name of a file in {self.save_dir}")
        findings = examine(state)
        if broken := findings.non_finite + findings.huge:
            self.logger.error(
                f"{len(broken)} tensors of the model have values that are NaN, infinite or beyond "
                f"{LARGEST:.0e}: {', '.join(broken[:4])}{', ...' * (len(broken) > 4)}. The "
                f"training has diverged; {path} is saved, but cannot be used"
            )
        self.logger.info(f"Saving checkpoint to {path}")
        os.makedirs(self.save_dir, exist_ok=True)
        remove_leftovers(path)
        self._write(data, path)
        self.tag_last_checkpoint(basename)

    def _write(self, data: dict[str, Any], path: str) -> None:
        need = _tensor_bytes(data)
        try:
            free = shutil.disk_usage(self.save_dir).free
            if free < need:
                raise OSError(errno.ENOSPC, "The disk is full", path)
            with atomic_write(path) as part:
                torch.save(data, part)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            free = shutil.disk_usage(self.save_dir).free
            raise OSError(
                errno.ENOSPC,
                f"The disk is full: the checkpoint needs {need / 2**20:.1f} MiB and "
                f"{free / 2**20:.1f} MiB are free. Free some space and resume; earlier checkpoints "
                "are unchanged",
                path,
            ) from error

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Record the name of the last checkpoint, so that a crash leaves the old or the new one."""
        if "://" in self.save_dir:
            super().tag_last_checkpoint(last_filename_basename)
            return
        path = os.path.join(self.save_dir, LAST)
        remove_leftovers(path)
        with atomic_write(path) as part:
            Path(part).write_text(last_filename_basename, "utf-8")

    def has_checkpoint(self) -> bool:
        """Whether ``save_dir`` has a checkpoint to resume from.

        Raises:
            CheckpointError: if it had one and no whole one is left.
        """
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """The last checkpoint in ``save_dir`` that is whole; empty if there is none.

        Raises:
            CheckpointError: if ``last_checkpoint`` is there and no whole checkpoint is.
        """
        if "://" in self.save_dir:
            return str(super().get_checkpoint_file()) if super().has_checkpoint() else ""
        return find_last(self.save_dir) if os.path.isdir(self.save_dir) else ""

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file or URL into the model.

        Args:
            path: a file, or a URL that iopath's PathManager supports; empty loads nothing. A
                SHA-256 prefix in its name is checked. "?matching_heuristics=True" after it asks for
                Detectron2's matching of similar names; a file that has a "?" in its name is a file.
            checkpointables: names of further objects to load; default: all.

        Returns:
            Everything else in the file: "iteration", "class_names", ....

        Raises:
            UnsafeCheckpointError: if the file refers to code.
            CheckpointError: if it cannot be downloaded or read, does not match the model, or has
                values that no model can work with. The model is unchanged.
        """
        self._heuristics = False
        if path:
            address, query = path, ""
            if not os.path.isfile(path):
                address, _, query = path.partition("?")
            self._heuristics = _read_query(query, path)
            path = fetch(address)
        try:
            # Detectron2's own method would take a "?" or "#" in the name for parts of a URL.
            return super(DetectionCheckpointer, self).load(path, checkpointables)
        finally:
            self._checkpoint = self._match = None

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As Detectron2's; a run's own checkpoint must match completely, even with ``partial``."""
        last = self.get_checkpoint_file() if resume else ""
        if not last:
            return self.load(path, checkpointables=[])
        self._resuming = True
        try:
            return self.load(last)
        finally:
            self._resuming = False

    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint = load_file(filename)
        self._checkpoint = checkpoint
        # Mapped tensors would stay tied to the file, which others may overwrite.
        # A network of one's own may have the names of another layout, as a bare HRNet does: what is
        # resumed is the run's own file all the same.
        own = self._resuming or checkpoint.layout is Layout.DETECTRON2
        extras = checkpoint.extras if own else {}
        loaded: dict[str, Any] = {key: _own(value) for key, value in extras.items()}
        if checkpoint.class_names is not None:
            loaded.setdefault("class_names", checkpoint.class_names)
        return loaded

    def _load_model(self, checkpoint: dict[str, Any]) -> _IncompatibleKeys:
        assert self._checkpoint is not None
        match = match_saved(self._checkpoint, self.model) if self._resuming else None
        self._exact = match is not None
        if match is None:
            match = self._match_names(checkpoint)
        self.model.load_state_dict(match.state, strict=False)
        if self._resuming and MEASURING in checkpoint:
            set_measuring_layers(self.model, checkpoint[MEASURING])
        self._match = match
        shapes = [(name, *pair) for name, pair in match.wrong_shape.items()]
        return _IncompatibleKeys(match.missing, match.unexpected, shapes)

    def _match_names(self, checkpoint: dict[str, Any]) -> MatchResult:
        assert self._checkpoint is not None
        partial = self.partial and not self._resuming
        if self._heuristics or checkpoint.get("matching_heuristics"):
            caffe2 = checkpoint.get("__author__") == "Caffe2"
            return match_similar_names(self._checkpoint, self.model, partial, caffe2)
        return match_to_model(self._checkpoint, self.model, partial)

    def _log_incompatible_keys(self, incompatible: _IncompatibleKeys) -> None:
        assert self._match is not None and self._checkpoint is not None
        source = self._checkpoint
        if self._exact:
            self.logger.info(f"{len(self._match.state)} tensors loaded: all of the run's model")
            return
        initial = layers((*self._match.missing, *self._match.wrong_shape))
        left = layers(self._match.unexpected)
        kind = "a backbone" if source.backbone_only else "a detector"
        self.logger.info(
            f"{len(self._match.state)} tensors loaded from {kind} with the names of "
            f"{source.layout.value}"
        )
        if source.layout is Layout.MMDET_V1 and getattr(self.model, "arithmetic", "") != "mmdet1":
            self.logger.warning(f"{source.path}: {legacy.WARNING}")
        if initial:
            # Training usually starts from a backbone; predicting with one gives nothing.
            usual = source.backbone_only and self.model.training
            say = self.logger.info if usual else self.logger.warning
            say(f"Not in the file, keep their initial values: {', '.join(initial)}")
        if zero := self._match.zero:
            self.logger.warning(
                f"{source.path}: {len(zero)} weights are all 0, which training does not give: "
                f"{', '.join(zero[:4])}{', ...' * (len(zero) > 4)}. These layers compute nothing; "
                "the file may be damaged"
            )
        if left:
            self.logger.warning(f"In the file, but not in the model: {', '.join(left)}")


def _read_query(query: str, path: str) -> bool:
    """Whether the query of an address asks for the matching of similar names."""
    queries = parse_qs(query, keep_blank_values=True)
    heuristics = queries.pop("matching_heuristics", ["False"]) == ["True"]
    if queries:
        raise CheckpointError(
            f"No checkpoint at {path}: there is no file of this name, and the query "
            f"{', '.join(sorted(queries))} after the '?' is unknown"
        )
    return heuristics


def _own(value: Any) -> Any:
    """A copy of plain containers and tensors."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return type(value)((key, _own(item)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(_own(item) for item in value)
    return value


def _tensor_bytes(value: Any) -> int:
    """About the size of a file with a value, which is that of its tensors."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_tensor_bytes, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_tensor_bytes, value))
    return 0
