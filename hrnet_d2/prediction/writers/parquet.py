"""Parquet, by pyarrow: a folder of parts, each complete, with a row for each image."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_d2.config_file import ConfigError
from hrnet_d2.file_io import atomic_write
from hrnet_d2.prediction.result import Prediction

from .base import Context, Writer, plain_text

__all__ = ["PART_IMAGES", "ParquetWriter", "parquet_row", "parquet_schema"]

PART_IMAGES = 1000
PART_SECONDS = 60.0


def import_pyarrow() -> Any:
    """
    Raises:
        ConfigError: if pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "The format parquet needs pyarrow, which is not installed: pip install "
            f"'hrnet_d2[predict]' ({error})"
        ) from error
    return pyarrow


def parquet_schema() -> Any:
    """The columns: an image in each row, its detections as lists of equal length."""
    pa = import_pyarrow()
    return pa.schema(
        [
            ("image", pa.string()),
            ("id", pa.int64()),
            ("frame", pa.int32()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("error", pa.string()),
            ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
            ("scores", pa.list_(pa.float32())),
            ("classes", pa.list_(pa.int32())),
            ("names", pa.list_(pa.string())),
            ("masks", pa.list_(pa.string())),
            ("tracks", pa.list_(pa.int64())),
        ]
    )


def parquet_row(prediction: Prediction, context: Context) -> dict[str, Any]:
    """The row of an image; "masks" are the "counts" of COCO's encoding, of size height x width."""
    p = prediction
    return {
        "image": plain_text(p.source),
        "id": context.image_ids(p),
        "frame": p.frame,
        "width": None if p.error else p.width,
        "height": None if p.error else p.height,
        "error": plain_text(p.error) or None,
        "boxes": p.boxes.tolist(),
        "scores": p.scores.tolist(),
        "classes": p.classes.tolist(),
        "names": [context.name(int(c)) for c in p.classes],
        "masks": None if p.masks is None else [rle["counts"] for rle in p.masks],
        "tracks": None if p.tracks is None else p.tracks.tolist(),
    }


class ParquetWriter(Writer):
    """``predictions.parquet/``, which pandas and pyarrow read as one table."""

    def __init__(self, context: Context):
        super().__init__(context)
        self._pyarrow = import_pyarrow()
        self.folder = context.output / "predictions.parquet"
        self._key = f"predictions.parquet{context.suffix}"
        self._rows: list[dict[str, Any]] = []
        self._parts = 0
        self._written_at = time.monotonic()

    def tables(self) -> list[Path]:
        return sorted(self.folder.glob(f"part{self.context.suffix}-?????.parquet"))

    def start(self, sizes: Mapping[str, int] | None) -> None:
        self._parts = 0 if sizes is None else sizes.get(self._key, 0)
        self.folder.mkdir(exist_ok=True)
        kept = {self._path(i) for i in range(self._parts)}
        if missing := sorted(path for path in kept if not path.exists()):
            raise ConfigError(
                f"{missing[0]} is gone, which the run that --resume goes on with wrote: begin anew "
                "with --overwrite, or give another --output"
            )
        for path in self.tables():
            if path not in kept:
                path.unlink()

    @property
    def full(self) -> bool:
        """Whether it is time for a part; parts of a few images would make reading slow."""
        late = time.monotonic() - self._written_at > PART_SECONDS
        return len(self._rows) >= PART_IMAGES or (late and bool(self._rows))

    def add(self, prediction: Prediction, image: np.ndarray | None) -> None:
        """See :class:`Writer`."""
        self._rows.append(parquet_row(prediction, self.context))

    def flush(self) -> dict[str, int]:
        if self._rows:
            table = self._pyarrow.Table.from_pylist(self._rows, schema=parquet_schema())
            with atomic_write(self._path(self._parts)) as part:
                self._pyarrow.parquet.write_table(table, part)
            self._parts += 1
            self._rows = []
        self._written_at = time.monotonic()
        return {self._key: self._parts}

    def finish(self) -> None:
        self.flush()

    def _path(self, index: int) -> Path:
        return self.folder / f"part{self.context.suffix}-{index:05d}.parquet"
