"""What a training on one's own data keeps, evaluates and averages, also through --resume."""

import json
import logging
import math

import pytest
import torch
from detectron2.utils.env import seed_all_rng

from hrnet_d2.engine import Predictor, Trainer, val_loss
from hrnet_d2.engine.averaging import WeightAverage
from hrnet_d2.engine.hooks import HookBase
from hrnet_d2.engine.schedule import Epochs, resolve_schedule
from tests.engine.tiny import tiny_config

EMA = ["SOLVER.EMA.ENABLED", "True", "SOLVER.EMA.DECAY", "0.9", "SOLVER.CHECKPOINT_PERIOD", "2"]
TESTED = ["DATASETS.TEST", "('shapes_val',)", "TEST.EVAL_PERIOD", "2", "TEST.PICTURES", "0"]


class Scored(Trainer):
    """With results that are given, one for each evaluation."""

    scores: list = []

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        return {"bbox": {"AP": cls.scores.pop(0)}}


def scored(folder, scores, *options, resume=False, until=None):
    kind = type("Scored", (Scored,), {"scores": scores})
    trainer = kind(tiny_config(folder, *TESTED, *options))
    trainer.resume_or_load(resume=resume)
    trainer.max_iter = until or trainer.max_iter
    trainer.train()
    return trainer


def run(folder, *options, until=None):
    seed_all_rng(1)
    trainer = Trainer(tiny_config(folder, *options))
    trainer.resume_or_load(resume=True)
    trainer.max_iter = until or trainer.max_iter
    trainer.train()
    return trainer


def kill(folder, last):
    """What a kill leaves behind: the periodic checkpoint, named as the last."""
    (folder / "model_final.pth").unlink()
    (folder / "last_checkpoint").write_text(last)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A run with averaged weights, its trainer, and the weights after each iteration."""
    folder = tmp_path_factory.mktemp("averaged")
    seen = []

    class Watch(HookBase):
        def after_step(self):
            seen.append({k: v.clone() for k, v in self.trainer.model.named_parameters()})

    seed_all_rng(1)
    trainer = Trainer(tiny_config(folder, *EMA))
    trainer.register_hooks([Watch()])
    trainer.resume_or_load(resume=True)
    trainer.train()
    return folder, trainer, seen


def test_the_average_is_that_of_the_formula(averaged):
    folder, trainer, seen = averaged
    expected = dict(seen[0])
    for n, weights in enumerate(seen[1:], 1):
        decay = min(0.9, (1 + n) / (10 + n))
        expected = {k: decay * expected[k] + (1 - decay) * weights[k] for k in weights}
    saved = torch.load(folder / "model_final.pth", weights_only=False)
    moved = 0
    for name, value in expected.items():
        torch.testing.assert_close(saved["model"][name], value, rtol=1e-5, atol=1e-7)
        assert torch.equal(saved["trainer"]["average"]["weights"][name], seen[-1][name])
        moved += not torch.equal(saved["model"][name], seen[-1][name])
    assert moved > 100


def test_whatever_reads_a_checkpoint_gets_the_average(averaged):
    folder, trainer, seen = averaged
    predictor = Predictor(str(folder / "model_final.pth"), optimize=False)
    name = "roi_heads.box_predictor.cls_score.weight"
    with trainer.average.in_place():
        expected = dict(trainer.model.named_parameters())[name].clone()
    assert torch.equal(dict(predictor.model.named_parameters())[name], expected)
    # The training goes on with its own weights.
    assert torch.equal(dict(trainer.model.named_parameters())[name], seen[-1][name])


def test_a_resumed_run_continues_weights_and_average(averaged, tmp_path):
    whole = averaged[1]
    run(tmp_path, *EMA, until=4)
    kill(tmp_path, "model_0000003.pth")
    resumed = run(tmp_path, *EMA)
    assert resumed.start_iter == 4 and resumed.average.updates == whole.average.updates == 6
    for exchange in (False, True):
        for trainer in (whole, resumed):
            if exchange:
                trainer.average._exchange()
        for (name, a), b in zip(
            whole.model.named_parameters(), resumed.model.parameters(), strict=True
        ):
            assert torch.equal(a, b), name
    whole.average._exchange()


def test_averaging_may_begin_and_end_on_resume(tmp_path, caplog):
    run(tmp_path, *EMA, until=2)
    raw = torch.load(tmp_path / "model_final.pth", weights_only=False)["trainer"]["average"]
    with caplog.at_level(logging.WARNING, "hrnet_d2"):
        ended = Trainer(tiny_config(tmp_path))
        ended.resume_or_load(resume=True)
    assert "the average ends here" in caplog.text
    for name, value in ended.model.named_parameters():
        assert torch.equal(raw["weights"][name], value), name


def test_buffers_are_those_of_the_model():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    average = WeightAverage(model, 0.5, warmup=False)
    first = model[0].weight.detach().clone()
    average.update()
    with torch.no_grad():
        model[0].weight.add_(1)
    model(torch.randn(8, 3, 4, 4))
    average.update()
    mean = model[1].running_mean.clone()
    with average.in_place():
        assert torch.equal(model[1].running_mean, mean) and mean.abs().sum() > 0
        torch.testing.assert_close(model[0].weight.detach(), first + 0.5)
    torch.testing.assert_close(model[0].weight.detach(), first + 1)


def test_the_best_model_is_kept_and_known_after_a_resume(tmp_path):
    nan = math.nan
    options = ["SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.MAX_ITER", "8"]
    scored(tmp_path, [nan, 30.0, 20.0], *options, until=6)
    kill(tmp_path, "model_0000003.pth")
    best = torch.load(tmp_path / "model_best.pth", weights_only=False)
    assert best["best_metric"] == {"bbox/AP": 30.0} and best["iteration"] == 3
    assert "trainer" not in best and best["class_names"]
    expected = torch.load(tmp_path / "model_0000003.pth", weights_only=False)["model"]
    assert all(torch.equal(value, expected[k]) for k, value in best["model"].items())
    # Resumed after 4 iterations, whose evaluation is known; 6 and 8 follow.
    scored(tmp_path, [29.0, 30.0], *options, resume=True)
    assert torch.load(tmp_path / "model_best.pth", weights_only=False)["iteration"] == 3
    saved = json.loads((tmp_path / "evaluations.json").read_text())["evaluations"]
    assert saved == [[2, None], [4, 30.0], [6, 29.0], [8, 30.0]]


def test_an_evaluation_that_was_interrupted_is_repeated(tmp_path):
    options = ["SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.MAX_ITER", "6"]
    scored(tmp_path, [10.0, 20.0], *options, until=4)
    kill(tmp_path, "model_0000003.pth")
    (tmp_path / "evaluations.json").write_text(
        json.dumps({"metric": "bbox/AP", "evaluations": [[2, 10.0]]})
    )
    scored(tmp_path, [25.0, 5.0], *options, resume=True)
    saved = json.loads((tmp_path / "evaluations.json").read_text())["evaluations"]
    assert saved == [[2, 10.0], [4, 25.0], [6, 5.0]]
    assert torch.load(tmp_path / "model_best.pth", weights_only=False)["iteration"] == 3


def test_nothing_resumes_from_the_best_model(tmp_path):
    scored(tmp_path, [10.0, 20.0, 30.0], "SOLVER.CHECKPOINT_PERIOD", "4")
    for name in ("model_final.pth", "model_last.pth", "last_checkpoint"):
        (tmp_path / name).unlink()
    trainer = Trainer(tiny_config(tmp_path))
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 4


def test_patience_ends_a_run_and_its_resumption(tmp_path, caplog):
    options = ["TEST.PATIENCE", "2", "SOLVER.MAX_ITER", "20"]
    trainer = scored(tmp_path, [10.0, 12.0, 12.0, 11.0], *options)
    assert trainer.iter == 7 and (tmp_path / "model_final.pth").exists()
    with caplog.at_level(logging.WARNING, "hrnet_d2"):
        again = scored(tmp_path, [], *options, resume=True)
    assert "bbox/AP has not risen in 2 evaluations (TEST.PATIENCE 2)" in caplog.text
    assert again.start_iter == again.iter == 8
    more = scored(tmp_path, [13.0, 1.0], *options[:1], "9", *options[2:3], "12", resume=True)
    assert more.iter == 12


def test_the_newest_checkpoints_stay(tmp_path):
    options = ["SOLVER.CHECKPOINTS_TO_KEEP", "2", "SOLVER.CHECKPOINT_PERIOD", "1"]
    run(tmp_path, *options, "SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "()")
    names = sorted(path.name for path in tmp_path.glob("model_*.pth"))
    numbered = ["model_0000002.pth", "model_0000003.pth"]
    assert names == [*numbered, "model_final.pth", "model_last.pth"]
    assert (tmp_path / "model_last.pth").samefile(tmp_path / "model_final.pth")


def test_a_late_checkpoint_is_saved_in_between(tmp_path, monkeypatch):
    now = [0.0]

    class Late(HookBase):
        def before_step(self):
            now[0] += 35.0

    monkeypatch.setattr("hrnet_d2.engine.saved_runs.time.monotonic", lambda: now[0])
    trainer = Trainer(tiny_config(tmp_path, "SOLVER.CHECKPOINT_MINUTES", "1"))
    trainer.register_hooks([Late()])
    trainer.resume_or_load(resume=False)
    trainer.max_iter = 3
    seen = []
    trainer.checkpointer.save = lambda name, iteration: seen.append((name, iteration))
    monkeypatch.setattr("hrnet_d2.engine.saved_runs.link_last", lambda *_: None)
    trainer.train()
    assert seen == [("model_last", 1), ("model_final", 2)]


def test_validation_losses_leave_the_run_as_it_is(tmp_path):
    """The same weights and statistics with and without them; the same losses each time."""
    short = ["SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "()"]
    norm = [*short, "MODEL.HRNETV2P.NORM", "BN", "MODEL.HRNETV2P.NORM_EVAL", "False", *TESTED]
    seed_all_rng(1)
    plain = scored(tmp_path / "plain", [1.0, 2.0], *norm)
    seed_all_rng(1)
    measured = scored(tmp_path / "measured", [1.0, 2.0], *norm, "TEST.VAL_LOSS", "True")
    states = plain.model.state_dict(), measured.model.state_dict()
    assert all(torch.equal(a, states[1][name]) for name, a in states[0].items())
    lines = (tmp_path / "measured" / "metrics.json").read_text().splitlines()
    found = [json.loads(line) for line in lines if "val_loss" in line]
    assert {"val_loss_cls", "val_loss_rpn_loc"} <= found[-1].keys()
    parts = [v for k, v in found[-1].items() if k.startswith("val_loss_")]
    assert found[-1]["val_loss"] == pytest.approx(sum(parts))
    assert measured._losses(measured.model) == measured._losses(measured.model)


@pytest.mark.parametrize(
    "options",
    [
        ["INPUT.MOSAIC.PROB", "1.0"],
        ["INPUT.COPY_PASTE.PROB", "1.0"],
        ["INPUT.SCALE_JITTER.ENABLED", "True", "INPUT.SCALE_JITTER.SIZE", "(48, 48)"],
        ["INPUT.COLOR_JITTER.BRIGHTNESS", "0.9", "INPUT.CROP.ENABLED", "True"],
        ["INPUT.MIN_SIZE_TRAIN", "(32, 96)", "INPUT.RANDOM_FLIP", "vertical"],
    ],
    ids=lambda options: options[0],
)
def test_validation_losses_are_of_images_as_in_evaluation(tmp_path, options):
    words = ["DATASETS.TEST", "('shapes_val',)", "DATALOADER.NUM_WORKERS", "0"]
    plain, augmented = (
        val_loss._loader(tiny_config(tmp_path, *words, *more))[0]
        for more in (["INPUT.RANDOM_FLIP", "none"], options)
    )
    for _, ((expected,), (found,)) in zip(
        range(3), zip(plain, augmented, strict=True), strict=False
    ):
        assert torch.equal(expected["image"], found["image"])
        boxes = (record["instances"].gt_boxes.tensor for record in (expected, found))
        assert torch.equal(*boxes)


def schedule(tmp_path, *options, images=90):
    cfg = tiny_config(tmp_path, "DATASETS.TEST", "('shapes_val',)", *options)
    solver = resolve_schedule(cfg, Epochs(images, cfg.SOLVER.IMS_PER_BATCH))
    return solver.SOLVER, solver.TEST.EVAL_PERIOD


def test_epochs_scale_the_schedule(tmp_path):
    words = ["SOLVER.EPOCHS", "4", "SOLVER.MAX_ITER", "90", "SOLVER.STEPS", "(60, 80)"]
    solver, _ = schedule(tmp_path, *words, "SOLVER.WARMUP_ITERS", "500")
    assert (solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS) == (180, (120, 160), 18)


@pytest.mark.parametrize("length, period", [(900, 45), (9000, 90), (40, 4)])
def test_periods_of_about_an_epoch(tmp_path, length, period):
    words = ["SOLVER.MAX_ITER", str(length), "SOLVER.CHECKPOINT_PERIOD", "0"]
    solver, evaluation = schedule(tmp_path, *words, "TEST.EVAL_PERIOD", "-1")
    assert solver.CHECKPOINT_PERIOD == evaluation == period
    assert schedule(tmp_path, *words)[1] == 0
