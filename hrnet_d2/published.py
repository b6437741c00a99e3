"""The table of published models: names, configs, checkpoints, results, and what each file needs.

The data are in ``model_zoo.json``.  :mod:`hrnet_d2.model_zoo` is the public face.
"""

import difflib
import fnmatch
import functools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = [
    "ModelZooError",
    "file_keys",
    "get_checkpoint_url",
    "get_config_file",
    "info",
    "is_lazy",
    "list_models",
    "published_file",
    "sources",
]

# "...-c24bac34.pth": the first digits of the file's SHA-256.
_DIGEST = re.compile(r"-([0-9a-f]{8})\b[^/\\]*$")


class ModelZooError(RuntimeError):
    """There is no such model or config, or no checkpoint of it."""


def list_models(pattern: str = "*", trained: bool = False) -> list[str]:
    """Names of the table's models.

    Args:
        pattern: as in a shell, on its name or its path: ``fcos*``, ``*w18*``, ``htc/*``.
        trained: only those with a published checkpoint.
    """
    pattern = pattern.removesuffix(".yaml")
    return [
        name
        for name, row in _table().items()
        if any(fnmatch.fnmatchcase(form, pattern) for form in _forms(name))
        and (row["url"] or not trained)
    ]


def info(name: str) -> Mapping[str, Any]:
    """What was published about a model.

    Returns:
        "config" (its name), "url" of the checkpoint, "box_ap" and "mask_ap" on COCO val 2017,
        "memory_gb" of training on one GPU, "fps" on a V100 ("fps_later": measured again with later
        software), "source"; None if not published. "later" if it was trained again: another
        checkpoint with its own "url", "box_ap" and "source". "v1" if MMDetection 1.x published
        one: "url" (which no longer answers: for holders of the file), "box_ap", "mask_ap". What
        each file needs: "input" (of ``model_zoo.json``), "arithmetic" and, for FCOS, "topk_by".

    Raises:
        ModelZooError: if the table has no such model.
    """
    if is_lazy(name):  # of the same model as the YAML config of this name
        name = PurePosixPath(name).stem
    return _table()[_find(name, _table())]


def sources() -> Mapping[str, str]:
    """What each "source" of :func:`info` is."""
    return _data()["sources"]


def get_checkpoint_url(name: str) -> str:
    """The address of the published checkpoint, for ``cfg.MODEL.WEIGHTS``.

    Raises:
        ModelZooError: if the table has no such model, or none was published for it.
    """
    row = info(name)
    if row["url"] is None:
        others = list_models(f"{PurePosixPath(row['config']).parent}/*", trained=True)
        raise ModelZooError(
            f"{_no_checkpoint(row)}. Models of its family that have one: "
            f"{', '.join(others) or 'none'}"
        )
    return row["url"]


def get_config_file(name: str) -> str:
    """The path of a config file, in the installed package or in the checkout.

    Args:
        name: of a YAML config; with ".py" at its end, that of a LazyConfig under ``configs/lazy/``.

    Raises:
        ModelZooError: if there is no such config.
    """
    folder = _config_folder()
    found = folder.glob("lazy/*.py") if is_lazy(name) else folder.rglob("*.yaml")
    leaves = [
        path.relative_to(folder).as_posix()
        for path in sorted(found)
        if not path.name.startswith("Base-")
    ]
    return str(folder / _find(name, leaves))


def is_lazy(name: str) -> bool:
    """Whether a config's name or path is that of a LazyConfig, which is a Python file."""
    return name.endswith(".py")


def published_file(address: str) -> Mapping[str, Any] | None:
    """What the table has of a published file, told by the digest in its name.

    Args:
        address: a path or URL.

    Returns:
        "config" (the model's name) and "keys": Detectron2 key to value, of the input and the rules
        that the file needs; None if the table has no such file.
    """
    digest = _DIGEST.search(address)
    return None if digest is None else _files().get(digest[1])


@functools.cache
def _files() -> dict[str, Mapping[str, Any]]:
    """By digest."""
    files: dict[str, Mapping[str, Any]] = {}
    for row in _table().values():
        for file in (row, row.get("later"), row.get("v1")):
            if file is not None and file["url"] is not None:
                digest = _DIGEST.search(file["url"])
                assert digest is not None, file["url"]
                files[digest[1]] = {"config": row["config"], "keys": file_keys(file)}
    return files


def file_keys(file: Mapping[str, Any]) -> dict[str, Any]:
    """The input and the rules that a file needs, by Detectron2's keys."""
    read = _data()["inputs"][file["input"]]
    keys = {
        "INPUT.FORMAT": read["format"],
        "MODEL.PIXEL_MEAN": read["pixel_mean"],
        "MODEL.PIXEL_STD": read["pixel_std"],
        "MODEL.ARITHMETIC": file["arithmetic"],
    }
    if "topk_by" in file:
        keys["MODEL.FCOS.TOPK_BY"] = file["topk_by"]
    return keys


def _no_checkpoint(row: Mapping[str, Any]) -> str:
    if "v1" not in row:
        return f"No checkpoint was published for {row['config']}"
    return (
        f"The only checkpoint of {row['config']} is a file of MMDetection 1.x, whose host no "
        f"longer answers: if you have {PurePosixPath(row['v1']['url']).name}, set MODEL.WEIGHTS "
        "to it"
    )


@functools.cache
def _data() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("model_zoo.json").read_text(encoding="utf-8"))


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    return {row["config"]: row for row in _data()["models"]}


def _config_folder() -> Path:
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise ModelZooError(f"No configs beside {package}: the installation is incomplete, repeat it")


def _forms(config: str) -> tuple[str, str]:
    """The two ways to write a config's name: with and without its folder."""
    path = PurePosixPath(config.removesuffix(".yaml").removesuffix(".py"))
    return path.as_posix(), path.name


def _find(name: str, configs: Iterable[str]) -> str:
    """The config that ``name`` means; raises RuntimeError with the nearest ones."""
    wanted = PurePosixPath(name).as_posix().removesuffix(".yaml").removesuffix(".py")
    known = {form: config for config in configs for form in _forms(config)}
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, n=6, cutoff=0.5)
    near = list(dict.fromkeys(known[form] for form in near))[:3]
    hint = f"Nearest: {', '.join(near)}" if near else "list_models() gives all of them"
    if name.endswith((".yaml", ".yml", ".py")):
        raise ModelZooError(
            f"{name!r} is not a file, and its name is not in the model zoo either. {hint}"
        )
    raise ModelZooError(f"{name!r} is not in the model zoo. {hint}")
