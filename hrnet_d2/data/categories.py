"""Ids of categories in COCO's files."""

from collections.abc import Sequence
from typing import Any

__all__ = ["category_id", "category_ids"]


def category_ids(metadata: Any) -> list[int]:
    """Of a dataset's classes, by number; empty if it states none."""
    to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    ids = {contiguous: category for category, contiguous in to_contiguous.items()}
    return [ids[i] for i in range(len(ids))] if sorted(ids) == list(range(len(ids))) else []


def category_id(number: int, ids: Sequence[int]) -> int:
    """Of a class by its number; without ids counted from 1, as COCO's files do."""
    return ids[number] if number < len(ids) else number + 1
