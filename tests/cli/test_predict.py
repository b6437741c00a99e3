"""Drawing detections: inputs are safe, drawings stay apart, the status tells of failures."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from hrnet_d2.cli import main
from tests.engine.tiny import tiny_config


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    cfg = tiny_config(folder)
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


@pytest.fixture
def photos(tmp_path):
    """Two folders with images of the same names."""
    for seed, folder in enumerate(("one", "two")):
        (tmp_path / folder).mkdir()
        image = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        for name in ("a.jpg", "b.png"):
            cv2.imwrite(str(tmp_path / folder / name), image)
    return tmp_path


def predict(model, *inputs, output):
    words = ["predict", "--config-file", str(model / "config.yaml"), "--input", *map(str, inputs)]
    return main([*words, "--output", str(output), "--opts", "MODEL.WEIGHTS", f"{model}/model.pth"])


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def test_equal_names_of_two_folders_stay_apart(model, photos):
    output = photos / "drawn"
    assert predict(model, photos / "one", photos / "two", output=output) == 0
    drawn = contents(output)
    assert drawn.keys() == {"one/a.jpg", "one/b.png", "two/a.jpg", "two/b.png"}
    assert len(set(drawn.values())) == 4


def test_unique_names_lie_in_the_folder_and_an_image_is_drawn_once(model, photos):
    output = photos / "drawn"
    assert predict(model, photos / "one", photos / "one" / "a.jpg", output=output) == 0
    assert contents(output).keys() == {"a.jpg", "b.png"}


def test_inputs_are_never_overwritten(model, photos, capsys):
    before = contents(photos / "one")
    assert predict(model, photos / "one", output=photos / "one") == 1
    assert "would replace the input" in capsys.readouterr().err
    link = photos / "link"
    link.symlink_to(photos / "one", target_is_directory=True)
    assert predict(model, photos / "one", output=link) == 1
    assert contents(photos / "one") == before


def test_an_output_that_is_a_file_is_refused(model, photos, capsys):
    target = photos / "file.txt"
    target.write_text("mine")
    assert predict(model, photos / "one", output=target) == 1
    assert "file.txt is a file" in capsys.readouterr().err and target.read_text() == "mine"


def test_bmp_is_drawn(model, photos):
    cv2.imwrite(str(photos / "c.bmp"), np.zeros((40, 60, 3), np.uint8))
    assert predict(model, photos / "c.bmp", output=photos / "drawn") == 0
    assert cv2.imread(str(photos / "drawn" / "c.bmp")) is not None


def test_a_damaged_image_is_named_and_the_others_are_drawn(model, photos, capsys):
    path = photos / "one" / "a.jpg"
    path.write_bytes(path.read_bytes()[:-400])
    (photos / "one" / "c.png").write_bytes(b"")
    assert predict(model, photos / "one", output=photos / "drawn") == 1
    captured = capsys.readouterr()
    assert "a.jpg" in captured.err and "c.png" in captured.err
    assert "1 of 3 images drawn" in captured.out
    assert contents(photos / "drawn").keys() == {"b.png"}


def test_inputs_that_are_not_there_are_named(model, photos, capsys):
    assert predict(model, photos / "gone.jpg", output=photos / "drawn") == 1
    assert "gone.jpg" in capsys.readouterr().err
    (photos / "empty").mkdir()
    assert predict(model, photos / "empty", output=photos / "drawn") == 1
    assert "no image in the folder" in capsys.readouterr().err
    assert not (photos / "drawn").exists()


@pytest.mark.parametrize("value", ["nan", "2", "-0.1"])
def test_a_threshold_that_is_no_score_is_refused(photos, capsys, value):
    arguments = ["--input", str(photos), "--output", str(photos / "drawn")]
    with pytest.raises(SystemExit) as end:
        main(["predict", *arguments, f"--confidence-threshold={value}"])
    assert end.value.code == 2
    assert f"{value} is no score: give a number from 0 to 1" in capsys.readouterr().err
