"""The LazyConfigs of ``configs/lazy/``: each is its YAML twin, to the bit."""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog
from detectron2.engine import hooks
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.solver import LRMultiplier, build_lr_scheduler
from detectron2.utils.events import EventStorage
from torch import nn

from hrnet_d2 import model_zoo
from hrnet_d2.checkpoint import Checkpointer
from hrnet_d2.config_file import ConfigError
from hrnet_d2.data import HRNetDatasetMapper
from hrnet_d2.modeling import build_model
from hrnet_d2.solver import build_optimizer, clipped_sgd
from tests.configs import FOLDER, WIDTHS, family_leaves
from tests.depth import SHALLOW, of_depth
from tests.test_configs import batch

TWINS = {
    name: f"lazy/{name.split('/')[1].removesuffix('.yaml')}.py"
    for name in family_leaves()
    if "x101" not in name
}
PARTS = {"model", "dataloader", "optimizer", "lr_multiplier", "train"}


def load(name: str, *overrides: str):
    """The LazyConfig of a twin, as ``lazyconfig_train_net.py`` loads it."""
    return LazyConfig.apply_overrides(LazyConfig.load(str(FOLDER / TWINS[name])), list(overrides))


def yaml_config(name: str):
    cfg = model_zoo.get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def test_every_family_has_one_and_there_are_no_others():
    assert len(TWINS) == 6
    found = {path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("lazy/*.py")}
    assert found == set(TWINS.values())


def measure_statistics(model: nn.Module) -> None:
    """Give the norms statistics of noise: with their initial ones, signals grow without bound."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        model.backbone(torch.randn(2, 3, 128, 128))
    for norm in norms:
        norm.momentum = 0.1
    model.train()


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """The depth is no setting: twins of any depth are the same."""
    with of_depth(SHALLOW):
        yield


@pytest.fixture(scope="module", params=TWINS)
def twins(request):
    """Name, LazyConfig and YAML config of a family, and both models with the same weights."""
    lazy, cfg = load(request.param), yaml_config(request.param)
    assert set(lazy) == PARTS
    torch.manual_seed(0)
    models = instantiate(lazy.model), build_model(cfg)
    # Loaded into both, since NORM_EVAL asks whether statistics were loaded.
    measured = build_model(cfg)
    measure_statistics(measured)
    for model in models:
        model.load_state_dict(measured.state_dict(), strict=True)
    return request.param, lazy, cfg, models


def optimizers(lazy, cfg, models):
    lazy.optimizer.params.model = models[0]
    return instantiate(lazy.optimizer), build_optimizer(cfg, models[1])


def plain(value):
    """A setting as plain Python; None for what is no setting (tensors, modules, caches)."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    if isinstance(value, Matcher | Box2BoxTransform):
        return {"class": type(value).__name__, **plain(vars(value))}
    if callable(value) and not isinstance(value, nn.Module):
        return getattr(value, "__name__", repr(value))
    return None


def test_the_model_is_the_same(twins):
    """Every setting of every module, as shipped."""
    _, _, _, (first, second) = twins
    assert [(n, type(m)) for n, m in first.named_modules()] == [
        (n, type(m)) for n, m in second.named_modules()
    ]
    seen = 0
    for (name, a), b in zip(first.named_modules(), second.modules(), strict=True):
        settings = [
            {k: plain(v) for k, v in vars(m).items() if not k.startswith("_")} for m in (a, b)
        ]
        for values in settings:
            if isinstance(values.get("loss_weight"), dict):  # a loss that is left out has weight 1
                weights = values["loss_weight"].items()
                values["loss_weight"] = {k: v for k, v in weights if v != 1.0}
        assert settings[0] == settings[1], name
        seen += len(settings[0])
    assert seen > 1000
    for buffer, other in zip(first.buffers(), second.buffers(), strict=True):
        assert torch.equal(buffer, other)  # also those that are not saved: pixel_mean, anchors, ...


def small(model: nn.Module) -> nn.Module:
    """A copy that samples few regions, and whose untrained classifier finds objects."""
    model = copy.deepcopy(model)
    if hasattr(model, "roi_heads"):
        model.roi_heads.batch_size_per_image = 32
        model.proposal_generator.post_nms_topk = {True: 50, False: 20}
    for name, module in model.named_modules():
        if name.split(".")[-1] == "cls_score":
            module.bias.data[1] = 5.0
    return model


def test_losses_and_steps_are_the_same_to_the_bit(twins):
    name, lazy, cfg, models = twins
    models = [small(model) for model in models]
    with EventStorage(0):
        # The first backward pass of a process may round otherwise than later ones do.
        sum(copy.deepcopy(models[0])(batch()).values()).backward()
    losses = []
    for model, optimizer in zip(models, optimizers(lazy, cfg, models), strict=True):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] *= 0.01  # as if warming up
        rows = []
        for iteration in range(2):
            torch.manual_seed(iteration)
            with EventStorage(0):
                row = model(batch())
            optimizer.zero_grad()
            sum(row.values()).backward()
            optimizer.step()
            rows.append({key: value.item() for key, value in row.items()})
        losses.append(rows)
    assert losses[0] == losses[1], name
    assert losses[0][0] != losses[0][1] and np.isfinite(list(losses[0][1].values())).all()
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])


def test_detections_are_the_same_to_the_bit(twins):
    _, _, _, models = twins
    torch.manual_seed(3)
    inputs = [{"image": entry["image"], "height": 60, "width": 80} for entry in batch()]
    found = []
    for model in map(small, models):
        with torch.no_grad():
            found.append([output["instances"] for output in model.eval()(inputs)])
    assert sum(map(len, found[0]))
    for first, second in zip(*found, strict=True):
        assert torch.equal(first.pred_boxes.tensor, second.pred_boxes.tensor)
        assert torch.equal(first.scores, second.scores)
        assert torch.equal(first.pred_classes, second.pred_classes)
        assert first.has("pred_masks") == second.has("pred_masks")
        if first.has("pred_masks"):
            assert torch.equal(first.pred_masks, second.pred_masks)


def test_the_optimizer_is_the_same(twins):
    _, lazy, cfg, models = twins
    groups = []
    for model, optimizer in zip(models, optimizers(lazy, cfg, models), strict=True):
        names = {id(p): n for n, p in model.named_parameters()}
        groups.append(
            [
                # "fused" False and None are the same.
                {**group, "params": [names[id(p)] for p in group["params"]], "fused": None}
                for group in optimizer.param_groups
            ]
        )
    assert groups[0] == groups[1]
    assert ("max_norm" in lazy.optimizer) == cfg.SOLVER.CLIP_GRADIENTS.ENABLED
    if "max_norm" in lazy.optimizer:
        assert lazy.optimizer.max_norm == cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE


def test_the_schedule_is_the_same(twins):
    _, lazy, cfg, _ = twins
    assert lazy.train.max_iter == cfg.SOLVER.MAX_ITER
    assert lazy.train.eval_period == cfg.TEST.EVAL_PERIOD
    assert lazy.train.checkpointer.period == cfg.SOLVER.CHECKPOINT_PERIOD
    assert lazy.train.init_checkpoint == cfg.MODEL.WEIGHTS
    assert lazy.dataloader.train.total_batch_size == cfg.SOLVER.IMS_PER_BATCH
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=cfg.SOLVER.BASE_LR)
    expected = build_lr_scheduler(cfg, optimizer)._multiplier
    hook = hooks.LRScheduler(optimizer, instantiate(lazy.lr_multiplier))
    hook.trainer = type("Trainer", (), {"max_iter": lazy.train.max_iter, "iter": 0})
    hook.before_train()
    assert isinstance(hook.scheduler, LRMultiplier)
    near = {step + k for step in (0, 500, *cfg.SOLVER.STEPS) for k in (-1, 0, 1)}
    for iteration in sorted(near | set(range(0, cfg.SOLVER.MAX_ITER, 997))):
        where = iteration / cfg.SOLVER.MAX_ITER
        if iteration >= 0:
            assert hook.scheduler._multiplier(where) == expected(where), iteration


@pytest.mark.parametrize("train", [True, False])
def test_the_data_are_the_same(twins, train):
    name, lazy, cfg, _ = twins
    part = lazy.dataloader["train" if train else "test"]
    names = cfg.DATASETS.TRAIN if train else cfg.DATASETS.TEST
    assert (part.dataset.names,) == names and part.num_workers == cfg.DATALOADER.NUM_WORKERS
    assert part.dataset.get("filter_empty", True) == train
    record = DatasetCatalog.get("shapes_train")[0]
    results = []
    for mapper in (instantiate(part.mapper), HRNetDatasetMapper(cfg, train)):
        for seed in range(3):  # flipped and not
            np.random.seed(seed)
            results.append(mapper(record))
    for first, second in zip(results[:3], results[3:], strict=True):
        assert set(first) == set(second)
        assert torch.equal(first["image"], second["image"])
        if train:
            a, b = first["instances"], second["instances"]
            assert torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor)
            assert a.has("gt_masks") == b.has("gt_masks") == cfg.MODEL.MASK_ON
            if a.has("gt_masks"):
                assert torch.equal(a.gt_masks.tensor, b.gt_masks.tensor)
        assert ("sem_seg" in first) == (train and name.startswith("htc"))
        assert "sem_seg" not in first or torch.equal(first["sem_seg"], second["sem_seg"])
    settings = [vars(m) for m in (instantiate(part.mapper), HRNetDatasetMapper(cfg, train))]
    kept = ["is_train", "image_format", "backend", "max_pixels"]
    if train:
        kept += ["use_instance_mask", "instance_mask_format", "min_box_size", "use_sem_seg"]
        kept += ["use_keypoint", "recompute_boxes", "proposal_topk"]
    for key in kept:
        assert settings[0][key] == settings[1][key], key


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TWINS)
def test_every_width_is_one_override(name, width):
    lazy = load(name, f"model.backbone.bottom_up.width={width}")
    cfg = yaml_config(name)
    cfg.MODEL.HRNETV2P.WIDTH = width
    cfg.MODEL.DEVICE = "meta"
    assert f"hrnetv2_w{width}-" in lazy.train.init_checkpoint
    assert any(
        lazy.train.init_checkpoint == model_zoo.get_config(other).MODEL.WEIGHTS
        for other in model_zoo.list_models(f"*hrnetv2p_w{width}_*")
    )
    with torch.device("meta"):
        shapes = [
            {key: value.shape for key, value in model.state_dict().items()}
            for model in (instantiate(lazy.model), build_model(cfg))
        ]
    assert shapes[0] == shapes[1]


def test_a_width_without_imagenet_weights_starts_from_scratch():
    name = next(iter(TWINS))
    assert load(name, "model.backbone.bottom_up.width=4").train.init_checkpoint == ""


def test_htc_without_its_semantic_branch():
    (name,) = (name for name in TWINS if name.startswith("htc"))
    off = ("model.roi_heads.semantic_head=null", "model.roi_heads.semantic_pooler=null")
    model = instantiate(load(name, *off).model)
    assert model.roi_heads.semantic_head is None
    with EventStorage(0):
        assert "loss_sem_seg" not in model.train()(batch())


def test_a_saved_config_is_the_same(twins, tmp_path):
    """``default_setup`` writes config.yaml, from which the run can be built again."""
    name, _, _, models = twins
    LazyConfig.save(load(name), str(tmp_path / "config.yaml"))
    again = instantiate(LazyConfig.load(str(tmp_path / "config.yaml")).model)
    assert str(again) == str(models[0])
    assert not (tmp_path / "config.yaml.pkl").exists()


@pytest.mark.parametrize("name", TWINS.values())
def test_model_zoo_returns_it(name):
    for form in (name, name.removeprefix("lazy/")):
        cfg = model_zoo.get_config(form)
        assert set(cfg) == PARTS
        assert model_zoo.get_config_file(form).endswith(name)
        assert model_zoo.info(form)["config"] in TWINS


def test_model_zoo_gives_the_input_of_the_published_file():
    """FCOS's first files were trained on other input, and chose candidates by location."""
    for name in TWINS:
        expected = model_zoo.get_config(name, trained=True)
        cfg = model_zoo.get_config(TWINS[name], trained=True)
        assert cfg.train.init_checkpoint == expected.MODEL.WEIGHTS
        assert cfg.train.init_checkpoint == model_zoo.get_checkpoint_url(TWINS[name])
        assert list(cfg.model.pixel_mean) == expected.MODEL.PIXEL_MEAN
        assert list(cfg.model.pixel_std) == expected.MODEL.PIXEL_STD
        assert cfg.model.input_format == expected.INPUT.FORMAT
        assert cfg.dataloader.test.mapper.image_format == expected.INPUT.FORMAT
        if name.startswith("fcos"):
            assert cfg.model.test_topk_by == expected.MODEL.FCOS.TOPK_BY == "locations"


def test_model_zoo_builds_the_model(tmp_path, monkeypatch):
    model = model_zoo.get("fcos_hrnetv2p_w18_gn-head_4x4_1x_coco.py", device="cpu")
    assert model.training and model.device.type == "cpu"
    Checkpointer(model, str(tmp_path)).save("published")
    # In place of the download.
    monkeypatch.setattr(
        model_zoo, "get_checkpoint_url", lambda name: str(tmp_path / "published.pth")
    )
    trained = model_zoo.get("fcos_hrnetv2p_w18_gn-head_4x4_1x_coco.py", trained=True, device="cpu")
    state = model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in trained.state_dict().items())
    assert trained.test_topk_by == "locations"


@pytest.mark.parametrize("ask", [model_zoo.load_config, model_zoo.config_of])
def test_where_yaml_is_needed_a_lazy_config_is_refused(ask):
    with pytest.raises(ConfigError, match=r"is a LazyConfig.*YAML config"):
        ask("faster_rcnn_hrnetv2p_w18_1x_coco.py")


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(model_zoo.ModelZooError, match=r"lazy/htc_hrnetv2p_w18_20e_coco\.py"):
        model_zoo.get_config("htc_hrnetv2p_w32_20e_coco.py")


def test_the_whole_gradient_is_clipped():
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    optimizer = clipped_sgd(weights, max_norm=1.0, lr=1.0, momentum=0.0)
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    optimizer.step()
    torch.testing.assert_close(weights[0].detach(), torch.tensor([-0.6, 0.0]))
    torch.testing.assert_close(weights[1].detach(), torch.tensor([-0.8]))
    with pytest.raises(ValueError, match="must be positive"):
        clipped_sgd(weights, max_norm=0.0, lr=1.0)
