"""What runs on Ray's workers: reading and decoding, and the network."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .ray_inputs import Columns
from .result import Prediction

__all__ = ["Decoder", "Network", "image_id"]


def image_id(source: str) -> int:
    """A number for an image that depends on its path alone: 63 bits of a hash."""
    digest = hashlib.blake2b(source.encode("utf-8", "backslashreplace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Decoder:
    """From rows of paths, or of encoded images, to decoded images or errors."""

    def __init__(self, columns: Columns, backend: str, max_pixels: int):
        """
        Args:
            columns: of the rows.
            backend, max_pixels: see ``decode_image``.
        """
        self.columns = columns
        self.backend = backend
        self.max_pixels = max_pixels

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            row: of the input.

        Returns:
            The path, the pixels (H, W, 3) and the error ("" if there is none).
        """
        from hrnet_d2.data.image_io import decode_image

        from .loading import READ_ERRORS
        from .sources.files import read_file

        source = row[self.columns.path]
        try:
            data = row[self.columns.data] if self.columns.data else read_file(source)
            image = decode_image(
                bytes(data), source, backend=self.backend, max_pixels=self.max_pixels
            )
            error = ""
        except READ_ERRORS as problem:
            # Arrays without pixels of several shapes would not fit into one column.
            image, error = np.zeros((1, 1, 3), np.uint8), str(problem) or type(problem).__name__
        return {self.columns.path: source, "pixels": image, "error": error}


class Network:
    """A predictor in an actor; loads the model once."""

    def __init__(
        self,
        config: str,
        weights: bytes | None,
        columns: Columns,
        threshold: float,
        threads: int,
        batch_size: int | None,
        tiles: tuple[int, float, str] | None,
        category_ids: list[int],
    ):
        """
        Args:
            config: of the model, as YAML; its ``MODEL.WEIGHTS`` if ``weights`` is None.
            weights: the checkpoint file.
            columns: of the rows.
            threshold: the least score.
            threads: of the CPU.
            batch_size: see :class:`Detector`.
            tiles: of :class:`tiles.TiledDetector`.
            category_ids: see ``Context``.
        """
        import torch

        from .detector import Detector
        from .tiles import TiledDetector
        from .writers import Context

        torch.set_num_threads(threads)
        predictor = _load(config, weights)
        self.detector = Detector(predictor, threshold, batch_size)
        if tiles is not None:
            self.detector = TiledDetector(self.detector, *tiles)
        self.columns = columns
        names = list(predictor.metadata.get("thing_classes") or ())
        self.context = Context(Path(), class_names=names, category_ids=category_ids)
        self.context.image_ids = lambda prediction: image_id(prediction.source)

    def __call__(self, batch: dict[str, Any]) -> Any:
        """
        Args:
            batch: rows of :class:`Decoder`, as arrays.

        Returns:
            A table of pyarrow with the columns of ``parquet_schema``.
        """
        from .writers.parquet import import_pyarrow, parquet_row, parquet_schema

        pa = import_pyarrow()
        sources, errors = batch[self.columns.path].tolist(), batch["error"].tolist()
        good = [i for i, error in enumerate(errors) if not error]
        found = iter(self.detector([np.ascontiguousarray(batch["pixels"][i]) for i in good]))
        rows = []
        for source, error in zip(sources, errors, strict=True):
            prediction = Prediction() if error else next(found)
            prediction.source, prediction.error = source, error
            rows.append(parquet_row(prediction, self.context))
        table = pa.Table.from_pylist(rows, schema=parquet_schema())
        if self.columns.path != "image":  # what is done is known by this column
            table = table.append_column(self.columns.path, pa.array(sources, pa.string()))
        return table


def _load(config: str, weights: bytes | None) -> Any:
    import hrnet_d2
    from hrnet_d2 import model_zoo

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "config.yaml")
        Path(path).write_text(config, encoding="utf-8")
        cfg = model_zoo.load_config(path)
        if weights is not None:
            file = os.path.join(folder, os.path.basename(cfg.MODEL.WEIGHTS) or "model.pth")
            Path(file).write_bytes(weights)
            cfg.MODEL.WEIGHTS = file
        return hrnet_d2.Predictor(cfg)
