"""Detectron2's checkpointer for checkpoints of every supported project."""

from typing import Any
from urllib.parse import parse_qs

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from fvcore.common.checkpoint import _IncompatibleKeys
from torch import nn

from .describing import describe
from .download import fetch
from .errors import CheckpointError
from .loading import Checkpoint, load_file
from .matching import MatchResult, layers, match_to_model

__all__ = ["Checkpointer"]


class Checkpointer(DetectionCheckpointer):
    """Detectron2's ``DetectionCheckpointer``, which also reads checkpoints of MMDetection, official
    HRNet, timm and torchvision, runs nothing that a file contains, and loads a file completely or
    not at all.

        Checkpointer(model).load("faster_rcnn_hrnetv2p_w18_1x_coco_20200130-56651a6d.pth")

    A detector's file must have exactly the tensors of the model, in the same shapes. A backbone's
    file (ImageNet weights) must fill the model's backbone. With ``partial`` (in configs:
    ``MODEL.PARTIAL_LOAD``), layers outside the backbone that differ keep their initial values, to
    fine-tune on other classes.

    Saving, resuming and Detectron2's own files, with their matching heuristics, work as there.
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
            save_dir: the folder that checkpoints are saved to and resumed from.
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
        self._checkpoint: Checkpoint | None = None
        self._match: MatchResult | None = None

    def save(self, name: str, **kwargs: Any) -> None:
        """As Detectron2's; with the config and the class names."""
        super().save(name, **{**self._description, **kwargs})

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file or URL into the model.

        Args:
            path: a file, or a URL that iopath's PathManager supports; empty loads nothing. A
                SHA-256 prefix in its name is checked.
            checkpointables: names of further objects to load; default: all.

        Returns:
            Everything else in the file: "iteration", "class_names", ....

        Raises:
            UnsafeCheckpointError: if the file refers to code.
            CheckpointError: if it cannot be downloaded or read, or does not match the model. The
                model is unchanged.
        """
        if path:
            address, mark, query = path.partition("?")
            path = fetch(address) + mark + query
        try:
            return super().load(path, checkpointables=checkpointables)
        finally:
            self._parsed_url_during_load = None  # which the parent forgets after an error
            self._checkpoint = self._match = None

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As Detectron2's; a run's own checkpoint must match completely, even with ``partial``."""
        self._resuming = resume and self.has_checkpoint()
        try:
            return super().resume_or_load(path, resume=resume)
        finally:
            self._resuming = False

    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint = load_file(filename)
        parsed: Any = self._parsed_url_during_load
        queries = parse_qs(parsed.query)
        heuristics = queries.pop("matching_heuristics", ["False"]) == ["True"]
        if queries:
            raise CheckpointError(f"{filename}: unknown query {sorted(queries)} in the URL")
        self._checkpoint = checkpoint
        loaded = {**checkpoint.extras, "model": checkpoint.state}
        if heuristics:
            # Detectron2 compares the ends of names, so a backbone's names must not have our prefix.
            names = {name: name.removeprefix("backbone.bottom_up.") for name in checkpoint.state}
            if checkpoint.backbone_only:
                loaded["model"] = {names[name]: value for name, value in checkpoint.state.items()}
            loaded["matching_heuristics"] = True
        if checkpoint.class_names is not None:
            loaded.setdefault("class_names", checkpoint.class_names)
        return loaded

    def _load_model(self, checkpoint: dict[str, Any]) -> _IncompatibleKeys:
        if checkpoint.get("matching_heuristics"):
            return super()._load_model(checkpoint)
        del checkpoint["model"]
        assert self._checkpoint is not None
        self._match = match_to_model(
            self._checkpoint, self.model, self.partial and not self._resuming
        )
        self.model.load_state_dict(self._match.state, strict=False)
        shapes = [(name, *pair) for name, pair in self._match.wrong_shape.items()]
        return _IncompatibleKeys(self._match.missing, self._match.unexpected, shapes)

    def _log_incompatible_keys(self, incompatible: _IncompatibleKeys) -> None:
        if self._match is None or self._checkpoint is None:  # matched by heuristics
            super()._log_incompatible_keys(incompatible)
            return
        source = self._checkpoint
        initial = layers((*self._match.missing, *self._match.wrong_shape))
        left = layers(self._match.unexpected)
        kind = "a backbone" if source.backbone_only else "a detector"
        self.logger.info(
            f"{len(self._match.state)} tensors loaded from {kind} with the names of "
            f"{source.layout.value}"
        )
        if initial:
            # Training usually starts from a backbone; predicting with one gives nothing.
            usual = source.backbone_only and self.model.training
            say = self.logger.info if usual else self.logger.warning
            say(f"Not in the file, keep their initial values: {', '.join(initial)}")
        if left:
            self.logger.warning(f"In the file, but not in the model: {', '.join(left)}")
