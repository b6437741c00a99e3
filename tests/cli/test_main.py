"""The console script: its commands, exit statuses, and errors in one line."""

import json
import subprocess
import sys

import cv2
import pytest

from hrnet_d2.cli import COMMANDS, env, main


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(f"  {name} " in output for name in COMMANDS)
    assert main([]) == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"hrnet-d2 {name}" in capsys.readouterr().out


def test_an_unknown_command_suggests_the_nearest(capsys):
    assert main(["trian"]) == 2
    assert "no command 'trian'; did you mean train?" in capsys.readouterr().err


def test_errors_of_the_user_are_one_line(capsys):
    assert main(["train", "--config-file", "faster_rcnn_hrnetv2p_w81_1x_coco"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("hrnet-d2 train: ModelZooError: ") and "Traceback" not in error
    assert "faster_rcnn_hrnetv2p_w18_1x_coco" in error
    assert main(["eval", "--config-file", "", "SOLVER.MAX_ITERS", "5"]) == 1
    assert "did you mean SOLVER.MAX_ITER " in capsys.readouterr().err


def test_runs_in_another_folder(tmp_path):
    command = [sys.executable, "-m", "hrnet_d2.cli", "env"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    for word in ("hrnet_d2 ", "Detectron2 ", "pure Python", "threads", "GPU", cv2.__version__):
        assert word in result.stdout


def test_env_names_two_opencvs_and_what_to_do(monkeypatch, capsys):
    versions = {"opencv-python": "4.1.0.25", "opencv-python-headless": f"{cv2.__version__}.93"}
    monkeypatch.setattr(env, "_version", versions.get)
    assert main(["env"]) == 1
    output = capsys.readouterr().out
    assert "opencv-python 4.1.0.25 and opencv-python-headless" in output
    assert f"imported is {cv2.__version__}" in output and "(of opencv-python-headless)" in output
    assert "pip uninstall -y opencv-python opencv-python-headless" in output


@pytest.fixture
def dataset(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), cv2.UMat(32, 32, cv2.CV_8UC3).get())
    annotation = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 9, 9], "area": 81}
    data = {
        "images": [{"id": 1, "file_name": "a.png", "height": 32, "width": 32}],
        "annotations": [{**annotation, "iscrowd": 0}],
        "categories": [{"id": 3, "name": "cat"}],
    }
    path = tmp_path / "data.json"
    path.write_text(json.dumps(data))
    return path, data


def test_check_reports_sound_data(dataset, capsys):
    path, _ = dataset
    assert main(["check", str(path), str(path.parent)]) == 0
    output = capsys.readouterr().out
    assert "1 images (0 without objects), 1 objects" in output and "1  cat" in output


def test_check_reports_problems_in_its_status(dataset, capsys, tmp_path):
    path, data = dataset
    data["annotations"][0]["category_id"] = 4
    path.write_text(json.dumps(data))
    assert main(["check", str(path), str(path.parent)]) == 1
    assert "category_id" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "gone.json"), str(tmp_path)]) == 1
    assert "gone.json" in capsys.readouterr().out


def test_check_compares_the_categories(dataset, capsys, tmp_path):
    path, data = dataset
    data["categories"][0]["name"] = "dog"
    other = tmp_path / "val.json"
    other.write_text(json.dumps(data))
    arguments = ["check", str(path), str(tmp_path), "--val-data", str(other), str(tmp_path)]
    assert main(arguments) == 1
    assert "dog" in capsys.readouterr().out
