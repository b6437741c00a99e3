"""Weights & Biases and MLflow, by their own libraries and without a network."""

import logging

import pytest
from detectron2.utils.events import EventStorage

from hrnet_d2.config_file import ConfigError
from hrnet_d2.engine import Trainer, argument_parser
from hrnet_d2.engine.trackers import build_trackers
from tests.engine.tiny import tiny_config

OPTIONS = ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "TEST.PICTURES", "1"]


def train(folder, name):
    cfg = tiny_config(folder, *OPTIONS, "TRACKER.NAMES", f"['{name}']", "TRACKER.PROJECT", "shapes")
    cfg.DATASETS.TEST = ("shapes_val",)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()


def test_a_library_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.import_module", lambda name: __import__("no_such_module"))
    with pytest.raises(ConfigError, match=r"--tracker mlflow.*hrnet_d2\[mlflow\]"):
        build_trackers(tiny_config(tmp_path, "TRACKER.NAMES", "['mlflow']"))


def test_the_argument(capsys):
    assert argument_parser().parse_args(["--tracker", "wandb"]).tracker == ["wandb"]
    with pytest.raises(SystemExit):
        argument_parser().parse_args(["--tracker", "excel"])
    assert "mlflow" in capsys.readouterr().err


def test_pictures_of_the_validation_images_reach_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = tiny_config(tmp_path, *OPTIONS)
    cfg.DATASETS.TEST = ("shapes_val",)
    trainer = Trainer(cfg)
    with EventStorage() as storage:
        trainer._pictures.put(storage, trainer.model)
        (writer,) = [w for w in trainer.build_writers() if "ensorboard" in type(w).__name__]
        writer.write()
        writer.close()
    assert trainer.model.training
    events = EventAccumulator(str(tmp_path)).Reload()
    (picture,) = events.Images("validation/0")
    assert picture.width >= 2 * 64 and picture.height >= 64


@pytest.mark.slow
def test_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tmp_path, "wandb")
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert (tmp_path / ".wandb_run").read_text() in run.name
    (data,) = run.glob("*.wandb")
    content = data.read_bytes()
    assert b"bbox/AP" in content and b"total_loss" in content
    assert list(run.rglob("validation/0*.png"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the database that it uses
def test_mlflow(tmp_path, monkeypatch, caplog):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING):
        train(tmp_path / "mine", "mlflow")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("shapes").experiment_id])
    assert run.info.run_name == "mine" and run.info.status == "FINISHED"
    assert run.data.metrics["total_loss"] > 0 and "bbox/AP" in run.data.metrics
    assert "SOLVER:" in mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.yaml")
    assert any("images" in f.path for f in client.list_artifacts(run.info.run_id))
