"""The models of the table: their configs, checkpoints and published results.

    from hrnet_d2 import model_zoo
    cfg = model_zoo.get_config("faster_rcnn/faster_rcnn_hrnetv2p_w18_1x_coco.yaml")
    model = model_zoo.get("mask_rcnn_hrnetv2p_w32_2x_coco", trained=True)

A name is a config's path under ``configs/``; ".yaml" and the folder may be left out. A name that
ends in ".py" is that of a LazyConfig in ``configs/lazy/``. The data are in ``model_zoo.json``, from
which ``tools/build_model_zoo.py`` writes MODEL_ZOO.md.
"""

import os
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from .checkpoint_config import config_from_checkpoint
from .config import add_hrnet_config
from .config_file import ConfigError, check_pairs, merge_file, merge_options
from .published import (
    ModelZooError,
    file_keys,
    get_checkpoint_url,
    get_config_file,
    info,
    is_lazy,
    list_models,
    published_file,
    sources,
)

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


# Where a LazyConfig has what a published file needs.
_LAZY_PATHS = {
    "INPUT.FORMAT": ("model.input_format", "dataloader.train.mapper.image_format"),
    "MODEL.PIXEL_MEAN": ("model.pixel_mean",),
    "MODEL.PIXEL_STD": ("model.pixel_std",),
    "MODEL.FCOS.TOPK_BY": ("model.test_topk_by",),
}


def get_config(name: str, trained: bool = False) -> CfgNode | DictConfig:
    """The config of a model, with this package's keys; for a name that ends in ".py" a LazyConfig
    with ``model``, ``dataloader``, ``optimizer``, ``lr_multiplier`` and ``train``.

    Args:
        name: of a config.
        trained: whether ``MODEL.WEIGHTS`` (``train.init_checkpoint``) is the published checkpoint
            of the whole detector and not the ImageNet one to train from; input and rules are then
            those of that file.

    Raises:
        ModelZooError: if there is no such config, or no checkpoint of it.
    """
    if is_lazy(name):
        return _lazy_config(name, trained)
    cfg = load_config(get_config_file(name))
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint_url(name)
        for key, value in file_keys(info(name)).items():
            cfg.merge_from_list([key, value])
    return cfg


def _lazy_config(name: str, trained: bool) -> DictConfig:
    cfg: DictConfig = LazyConfig.load(get_config_file(name))
    if trained:
        cfg.train.init_checkpoint = get_checkpoint_url(name)
        for key, value in file_keys(info(name)).items():
            if key == "MODEL.ARITHMETIC":
                if value != "mmdet2":
                    raise ModelZooError(
                        f"{cfg.train.init_checkpoint} was computed with MMDetection 1.x "
                        "conventions, which LazyConfigs do not have: use the YAML config"
                    )
            else:
                for path in _LAZY_PATHS[key]:
                    OmegaConf.update(cfg, path, value)
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
    check_pairs(opts)
    weights = dict(zip(opts[::2], opts[1::2], strict=True)).get("MODEL.WEIGHTS")
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
        ConfigError: if it is a folder or a LazyConfig.
    """
    if os.path.isdir(path):
        raise ConfigError(f"{path} is a folder: give a config file, or a name of the model zoo")
    _refuse_lazy(path)
    return path if os.path.exists(path) else get_config_file(path)


def _refuse_lazy(name: str) -> None:
    if is_lazy(name):
        raise ConfigError(
            f"{name} is a LazyConfig, which is a program: train it with Detectron2's "
            "lazyconfig_train_net.py, or give the YAML config of the same name"
        )


def config_of(name: str | os.PathLike) -> CfgNode:
    """The config of a trained model.

    Args:
        name: a checkpoint's path or URL, or a name in the table, for its published checkpoint.

    Raises:
        TypeError: if it is no text and no path.
        ModelZooError: if it is neither, or if no checkpoint was published.
        ConfigError: if it is the name of a LazyConfig.
        CheckpointError: what :func:`config_from_checkpoint` raises.
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(
            "Give a config, a checkpoint's path or URL, or a name of the model zoo; got "
            f"{type(name).__name__}"
        )
    name = os.fspath(name)
    if "://" in name or os.path.isfile(name):
        return config_from_checkpoint(name, keep=True)
    if name.partition("?")[0].endswith((".pth", ".safetensors", ".pt", ".pkl", ".bin", ".tar")):
        raise ModelZooError(f"{name} is not a file")
    _refuse_lazy(name)
    try:
        return get_config(name, trained=True)
    except ModelZooError:
        if os.path.isdir(name):
            config_from_checkpoint(name)  # says what the folder is, such as an exported detector
        raise


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
    if is_lazy(name):
        model = instantiate(cfg.model).to(device or cfg.train.device)
        weights = cfg.train.init_checkpoint
    else:
        if device is not None:
            cfg.MODEL.DEVICE = device
        model = build_model(cfg)
        weights = cfg.MODEL.WEIGHTS
    if trained:
        Checkpointer(model).load(weights)
    return model
