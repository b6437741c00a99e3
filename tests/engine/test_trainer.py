import contextlib
import json
import logging
import pickle

import pytest
import torch
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from hrnet_d2.config_file import ConfigError
from hrnet_d2.engine import Trainer, evaluate
from hrnet_d2.engine.trainer import step_trainer
from tests.engine.tiny import tiny_config


def train(cfg, resume=False) -> Trainer:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An unbroken run, its config and its trainer."""
    cfg = tiny_config(tmp_path_factory.mktemp("trained"))
    return cfg, train(cfg)


def test_every_parameter_moves_and_losses_are_logged(trained):
    cfg, trainer = trained
    fresh = Trainer.build_model(cfg).state_dict()
    assert trainer.iter == 6
    moved = [k for k, v in trainer.model.named_parameters() if not torch.equal(fresh[k], v)]
    assert len(moved) > 0.9 * len(list(trainer.model.parameters()))
    with open(f"{cfg.OUTPUT_DIR}/metrics.json") as lines:
        metrics = json.loads(lines.readline())
    assert {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc", "lr"} <= metrics.keys()


def test_a_run_killed_midway_resumes_where_it_was(tmp_path):
    cfg = tiny_config(tmp_path, "SOLVER.CHECKPOINT_PERIOD", "3")
    first = Trainer(cfg)
    first.resume_or_load(resume=False)
    first.max_iter = 3
    first.train()
    # What a kill leaves behind: the periodic checkpoint, named as the last.
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")

    second = Trainer(cfg)
    second.resume_or_load(resume=True)
    assert second.start_iter == 3
    assert second.scheduler.last_epoch == first.scheduler.last_epoch
    for a, b in zip(
        first.optimizer.state_dict()["param_groups"],
        second.optimizer.state_dict()["param_groups"],
        strict=True,
    ):
        assert a["lr"] == b["lr"]
    momentum = [s["momentum_buffer"] for s in first.optimizer.state.values()]
    restored = [s["momentum_buffer"] for s in second.optimizer.state.values()]
    assert len(momentum) == len(restored) > 0
    assert all(torch.equal(a, b) for a, b in zip(momentum, restored, strict=True))
    second.train()
    assert second.iter == 6


def test_evaluation_of_the_saved_checkpoint_is_that_of_the_model(trained):
    cfg, trainer = trained
    cfg = cfg.clone()
    cfg.DATASETS.TEST = ("shapes_val",)
    expected = Trainer.test(cfg, trainer.model)["bbox"]
    cfg.MODEL.WEIGHTS = f"{cfg.OUTPUT_DIR}/model_final.pth"
    result = evaluate(cfg)["bbox"]
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, abs=1e-3, nan_ok=True), name


def test_nothing_to_evaluate_is_said(tmp_path):
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS is empty"):
        evaluate(tiny_config(tmp_path, "DATASETS.TEST", "('shapes_val',)"))
    with pytest.raises(ConfigError, match="DATASETS.TEST names no dataset"):
        evaluate(tiny_config(tmp_path))
    with pytest.raises(ConfigError, match="'shapes_vall' is not.*did you mean 'shapes_val'"):
        Trainer(tiny_config(tmp_path, "DATASETS.TEST", "('shapes_vall',)"))


def test_a_wrong_number_of_classes_is_refused_before_training(tmp_path):
    cfg = tiny_config(tmp_path, "MODEL.ROI_HEADS.NUM_CLASSES", "80")
    with pytest.raises(ValueError, match=r"(?s)80.*4|4.*80"):
        Trainer(cfg)


def test_weights_that_are_not_there_are_named(tmp_path):
    cfg = tiny_config(tmp_path, "MODEL.WEIGHTS", str(tmp_path / "lost.pth"))
    with pytest.raises(Exception, match="lost.pth"):
        Trainer(cfg).resume_or_load(resume=False)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["SOLVER.REFERENCE_BATCH_SIZE", "16", "SOLVER.REFERENCE_LR", "0.01"], "BASE_LR 0.00125"),
        (["MODEL.HRNETV2P.NORM_EVAL", "True"], "NORM_EVAL to None (auto) or False"),
        ([], None),
    ],
)
def test_departures_that_spoil_training_are_said(tmp_path, caplog, overrides, message):
    with caplog.at_level(logging.WARNING):
        Trainer(tiny_config(tmp_path, *overrides))
    said = [r.getMessage() for r in caplog.records if r.name.startswith("hrnet_d2.engine")]
    assert (message in said[0]) if message else not said


def test_batch_rate_and_schedule_follow_the_world_size(tmp_path):
    cfg = tiny_config(tmp_path, "SOLVER.REFERENCE_WORLD_SIZE", "2", "SOLVER.IMS_PER_BATCH", "2")
    scaled = Trainer(cfg).cfg
    assert scaled.SOLVER.IMS_PER_BATCH == 1
    assert pytest.approx(cfg.SOLVER.BASE_LR / 2) == scaled.SOLVER.BASE_LR
    assert scaled.SOLVER.MAX_ITER == 12


def test_bf16_trains_and_evaluates_in_fp32(tmp_path):
    cfg = tiny_config(
        tmp_path,
        "SOLVER.AMP.ENABLED", "True",
        "SOLVER.AMP.DTYPE", "bfloat16",
        "SOLVER.MAX_ITER", "2",
    )  # fmt: skip
    trainer = Trainer(cfg)
    seen = []
    conv = trainer.model.backbone.reduction_conv
    conv.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert seen == [torch.bfloat16] * 2
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    with torch.no_grad():
        trainer.model.eval()([{"image": torch.zeros(3, 64, 64)}])
    assert seen[-1] == torch.float32 and not torch.is_autocast_enabled("cpu")


def test_a_model_that_trains_in_bf16_can_be_pickled_and_fails_cleanly(tmp_path):
    options = ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16"]
    model = Trainer(tiny_config(tmp_path, *options)).model
    seen = []
    other = pickle.loads(pickle.dumps(model)).train()
    other.backbone.reduction_conv.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    with pytest.raises(KeyError, match="image"):
        other([{}])
    assert not torch.is_autocast_enabled("cpu")
    with EventStorage(), contextlib.suppress(AssertionError):  # there are no objects to learn
        other([{"image": torch.zeros(3, 64, 64)}])
    assert seen == [torch.bfloat16] and not torch.is_autocast_enabled("cpu")


def test_training_in_channels_last_learns_the_same(tmp_path):
    losses = []
    for channels_last in ("False", "True"):
        seed_all_rng(1)
        folder = tmp_path / channels_last
        trainer = train(
            tiny_config(folder, "MODEL.CHANNELS_LAST", channels_last, "SOLVER.MAX_ITER", "2")
        )
        losses.append([loss for loss, _ in trainer.storage.history("total_loss").values()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    outputs = []
    conv = trainer.model.backbone.reduction_conv
    conv.register_forward_hook(lambda m, i, output: outputs.append(output))
    with torch.no_grad():
        trainer.model.eval()([{"image": torch.zeros(3, 64, 64)}])
    assert outputs[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype, message", [("float16", "GPU"), ("int8", "int8")])
def test_unusable_precision_is_said(tmp_path, dtype, message):
    cfg = tiny_config(tmp_path, "SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", dtype)
    with pytest.raises(ConfigError, match=message):
        Trainer(cfg)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_resumed_run_with_a_seed_is_exact(tmp_path, workers):
    """Images, augmentation and sampling continue where they were, to the bit."""
    options = ["SOLVER.CHECKPOINT_PERIOD", "3", "DATALOADER.NUM_WORKERS", workers]

    def run(name, stop=None):
        seed_all_rng(1)
        trainer = Trainer(tiny_config(tmp_path / name, *options))
        trainer.resume_or_load(resume=True)
        trainer.max_iter = stop or trainer.max_iter
        trainer.train()
        return trainer

    whole = run("whole")
    run("parts", stop=3)
    # What a kill leaves behind: the periodic checkpoint, named as the last.
    (tmp_path / "parts" / "model_final.pth").unlink()
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000002.pth")
    resumed = run("parts")
    assert resumed.start_iter == 3 and resumed.iter == whole.iter == 6
    for (name, a), b in zip(
        whole.model.named_parameters(), resumed.model.parameters(), strict=True
    ):
        assert torch.equal(a, b), name


def test_losses_are_read_in_gathered_iterations_only(tmp_path):
    cfg = tiny_config(tmp_path)
    model = torch.nn.Linear(1, 1)
    step = step_trainer(cfg, model, [], torch.optim.SGD(model.parameters(), lr=1.0))
    step.gather_metric_period = 2
    loss = {"loss": torch.zeros((), device="meta")}  # which cannot be copied to the host
    step._write_metrics(loss, 0.0, iter=0)
    with pytest.raises(NotImplementedError):
        step._write_metrics(loss, 0.0, iter=1)
    step._write_metrics(loss, 0.0, iter=2)
