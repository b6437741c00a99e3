"""The models of the table: their configs, checkpoints and published results.

    from hrnet_d2 import model_zoo
    cfg = model_zoo.get_config("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml")
    model = model_zoo.get("mask_rcnn_hrnetv2p_w32_2x_coco", trained=True)

A name is a config's path under ``configs/``; ".yaml" and the folder may be left out.  The data
are in ``model_zoo.json``, from which ``tools/build_model_zoo.py`` writes MODEL_ZOO.md.
"""

import difflib
import fnmatch
import functools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from torch import nn

from .config import add_hrnet_config
from .config_file import ConfigError, merge_file, merge_options

# "...-c24bac34.pth": the first digits of the file's SHA-256.
_DIGEST = re.compile(r"-([0-9a-f]{8})\b[^/\\]*$")

__all__ = [
    "ModelZooError",
    "config_from_checkpoint",
    "config_of",
    "get",
    "get_checkpoint_url",
    "get_config",
    "config_path",
    "get_config_file",
    "info",
    "list_models",
    "load_config",
    "published_file",
    "sources",
]


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

    Raises:
        ModelZooError: if there is no such config.
    """
    folder = _config_folder()
    leaves = [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*.yaml"))
        if not path.name.startswith("Base-")
    ]
    return str(folder / _find(name, leaves))


def get_config(name: str, trained: bool = False) -> CfgNode:
    """The config of a model, with this package's keys.

    Args:
        name: of a config.
        trained: whether ``MODEL.WEIGHTS`` is the published checkpoint of the whole detector and
            not the ImageNet one to train from; input and rules are then those of that file.

    Raises:
        ModelZooError: if there is no such config, or no checkpoint of it.
    """
    cfg = load_config(get_config_file(name))
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint_url(name)
        for key, value in _file_keys(info(name)).items():
            cfg.merge_from_list([key, value])
    return cfg


def load_config(path: str, opts: Sequence[str] = ()) -> CfgNode:
    """The config of a file, or of a model by its name, with overrides.

    Files are read safely: one that would run code is refused.

    Args:
        path: of a YAML file; if there is none, a name as in :func:`get_config`. Empty: the config
            that the checkpoint of ``MODEL.WEIGHTS`` in ``opts`` brings, or else the defaults of
            every key.
        opts: keys and values in turn, which override the file's.

    Raises:
        ModelZooError: if there is neither such a file nor such a config.
        ConfigError: if the file cannot be used, or a key or value is wrong.
        CheckpointError: if the checkpoint brings no config.
    """
    weights = dict(zip(opts[::2], opts[1::2], strict=False)).get("MODEL.WEIGHTS")
    if not path and weights:
        cfg = config_from_checkpoint(weights, keep=True)
        merge_options(cfg, opts)
        return cfg
    cfg = get_cfg()
    add_hrnet_config(cfg)
    if path:
        merge_file(cfg, config_path(path))
    merge_options(cfg, opts)
    return cfg


def config_path(path: str) -> str:
    """``path`` if there is such a file, else the path of the config of this name.

    Raises:
        ModelZooError: if there is neither.
        ConfigError: if it is a folder.
    """
    if os.path.isdir(path):
        raise ConfigError(f"{path} is a folder: give a config file, or a name of the model zoo")
    return path if os.path.exists(path) else get_config_file(path)


def get(name: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """A model, in training mode as Detectron2's ``model_zoo.get`` returns it.

    Args:
        name: of a config.
        trained: load the published checkpoint (downloaded on first use). Otherwise the weights are
            initialized at random and nothing is downloaded.
        device: where the model goes; default: the GPU if there is one.

    Raises:
        ModelZooError: if there is no such config, or no checkpoint of it.
    """
    from .checkpoint import Checkpointer
    from .modeling import build_model

    cfg = get_config(name, trained)
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    if device is not None:
        cfg.MODEL.DEVICE = device
    model = build_model(cfg)
    if trained:
        Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    return model


def config_from_checkpoint(path: str, keep: bool = False) -> CfgNode:
    """The full config of a detector's checkpoint, from the file alone.

    Args:
        path: a file or URL, as for ``MODEL.WEIGHTS``: of MMDetection 1.x, 2.x or 3.x, or of this
            package.
        keep: the file is going to be loaded; see :func:`hrnet_d2.checkpoint.load_file`.

    Returns:
        The config, with ``MODEL.WEIGHTS`` set to ``path``.  What the file does not say is as in
        the family's config; what was assumed so is logged.

    Raises:
        UnsafeCheckpointError: if the file refers to code.
        CheckpointError: if it cannot be downloaded or read, if it holds no detector, or if the
            file states a setting that this package does not support; the message names it.
    """
    from . import checkpoint_config

    return checkpoint_config.config_from_checkpoint(path, keep)


def config_of(name: str | os.PathLike) -> CfgNode:
    """The config of a trained model.

    Args:
        name: a checkpoint's path or URL, or a name in the table, for its published checkpoint.

    Raises:
        ModelZooError: if it is neither, or if no checkpoint was published.
        CheckpointError: what :func:`config_from_checkpoint` raises.
    """
    name = os.fspath(name)
    if "://" in name or os.path.isfile(name):
        return config_from_checkpoint(name, keep=True)
    if name.partition("?")[0].endswith((".pth", ".safetensors", ".pt", ".pkl", ".bin", ".tar")):
        raise ModelZooError(f"{name} is not a file")
    return get_config(name, trained=True)


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
                files[digest[1]] = {"config": row["config"], "keys": _file_keys(file)}
    return files


def _file_keys(file: Mapping[str, Any]) -> dict[str, Any]:
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
    return json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


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
    path = PurePosixPath(config.removesuffix(".yaml"))
    return path.as_posix(), path.name


def _find(name: str, configs: Iterable[str]) -> str:
    """The config that ``name`` means; raises RuntimeError with the nearest ones."""
    wanted = PurePosixPath(name).as_posix().removesuffix(".yaml")
    known = {form: config for config in configs for form in _forms(config)}
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, n=6, cutoff=0.5)
    near = list(dict.fromkeys(known[form] for form in near))[:3]
    hint = f"Nearest: {', '.join(near)}" if near else "list_models() gives all of them"
    if name.endswith((".yaml", ".yml")):
        raise ModelZooError(
            f"{name!r} is no file, and its name is not in the model zoo either. {hint}"
        )
    raise ModelZooError(f"{name!r} is not in the model zoo. {hint}")
