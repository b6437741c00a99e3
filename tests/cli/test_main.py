"""The console script: its commands, exit statuses, and errors in one line."""

import json
import subprocess
import sys

import cv2
import pytest
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.engine import default_argument_parser

from hrnet_d2.arguments import choices
from hrnet_d2.benchmark import inference, runtimes, training
from hrnet_d2.cli import COMMANDS, benchmark, env, main
from hrnet_d2.cli.errors import run
from hrnet_d2.engine import argument_parser, trackers
from hrnet_d2.export import DTYPES, FORMATS
from hrnet_d2.inference import openvino_backend
from hrnet_d2.modeling import HRNet


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


HELP = """
import sys
sys.argv[0] = "hrnet-d2"  # as the console script has it
from hrnet_d2.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    heavy = {"torch", "numpy", "cv2", "detectron2"} & set(sys.modules)
    sys.exit(f"imported: {heavy}" if heavy else end.code)
"""


@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_help_needs_no_pytorch(name):
    words = [*([name] if name else []), "--help"]
    code = HELP if name else HELP + "sys.exit(bool(set(sys.modules) & {'torch'}))"
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert result.returncode == 0 and "usage: hrnet-d2" in result.stdout, result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--num-gpus", "two"],
        ["predict", "--input", "a.jpg"],
        ["predict", "--input", "a.jpg", "--output", "b", "--confidence-threshold", "2"],
        ["export", "w.pth", "--output", "e", "--format", "tflite"],
        ["browse", "--images", "0"],
        ["report", "r.json", "--annotations", "a.json", "--output", "page.pdf"],
        ["benchmark", "train", "--switches", "faster"],
    ],
    ids=" ".join,
)
def test_errors_of_arguments_need_no_pytorch(words):
    result = subprocess.run([sys.executable, "-c", HELP, *words], capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    assert f"hrnet-d2 {words[0]}: error: " in result.stderr


def test_module_is_as_quick_as_the_script():
    code = "import hrnet_d2, sys; sys.exit('torch' not in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0, "a plain import registers"
    command = [sys.executable, "-X", "importtime", "-m", "hrnet_d2.cli", "train", "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "--train-data" in result.stdout
    assert "argparse" in result.stderr and "torch" not in result.stderr


def test_choices_are_those_of_the_modules_that_use_them():
    assert set(choices.TRACKERS) == set(trackers.WRITERS)
    assert choices.EXPORT_FORMATS == tuple(FORMATS)
    assert choices.EXPORT_DTYPES == (*DTYPES, "int8")
    assert choices.TASKS == tuple(benchmark.TASKS)
    assert choices.CLOCKS == tuple(inference.CLOCKS)
    assert choices.SWITCHES == tuple(training.SWITCHES)
    assert choices.VARIANTS == tuple(inference.VARIANTS)
    assert choices.RUNTIMES == runtimes.RUNTIMES


def test_training_takes_every_argument_of_detectron2():
    def properties(parser):
        return {a.dest: (a.option_strings, a.nargs, a.type) for a in parser._actions}

    ours, theirs = argument_parser(), default_argument_parser()
    assert properties(theirs).items() <= properties(ours).items()
    values = vars(theirs.parse_args(["A.KEY", "1"]))
    del values["dist_url"]  # a port by user there; any that is free here
    assert values.items() <= vars(ours.parse_args(["A.KEY", "1"])).items()


def test_options_may_follow_the_keys():
    """As --resume does, added to the end of the command."""
    parse = argument_parser().parse_args
    words = ["--config-file", "c.yaml", "--train-data", "a.json", "images", "A.KEY", "1"]
    found = parse([*words, "--resume", "B.KEY", "-2", "--val-data", "b", "--num-gpus=2"])
    assert found.resume and found.num_gpus == 2 and found.config_file == "c.yaml"
    assert found.train_data == ["a.json", "images"] and found.val_data == ["b"]
    assert found.opts == ["A.KEY", "1", "B.KEY", "-2"]
    assert parse(["A.KEY", "--resume"]).opts == ["A.KEY", "--resume"]  # a value
    assert parse(["--train-data=DATA", "A.KEY", "1"]).train_data == ["DATA"]


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


def check(dataset, capsys, *options, **changes):
    """The status and the findings of `check` after changes of the first annotation."""
    path, data = dataset
    data["annotations"][0].update(changes)
    path.write_text(json.dumps(data))
    status = main(["check", str(path), str(path.parent), *options])
    return status, capsys.readouterr().out


def test_check_refuses_what_training_would_refuse(dataset, capsys):
    status, text = check(dataset, capsys, "--masks")
    assert status == 1 and "1 of 1 objects" in text and "have no segmentation" in text
    status, text = check(dataset, capsys, iscrowd=1)
    assert status == 1 and "no object to learn from: of 1 annotations 1 are crowds" in text
    path, data = dataset
    data["annotations"] = []
    path.write_text(json.dumps(data))
    assert main(["check", str(path), str(path.parent)]) == 1
    assert "has no annotations" in capsys.readouterr().out


def test_check_knows_fractions_of_the_image(dataset, capsys):
    _, data = dataset
    first = data["annotations"][0]
    data["annotations"] = [{**first, "id": i, "bbox": [0.1, 0.2, 0.3, i / 9]} for i in range(1, 6)]
    status, text = check(dataset, capsys)
    assert status == 1 and "fractions of the image" in text


@pytest.mark.parametrize("name", ["/dev/zero", "../outside.png", "\ud800.png"])
def test_check_reads_no_file_but_the_images(dataset, capsys, name):
    path, data = dataset
    folder = path.parent / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes((path.parent / "a.png").read_bytes())
    (path.parent / "outside.png").write_bytes(b"secret")
    data["images"].append({**data["images"][0], "id": 2, "file_name": name})
    path.write_text(json.dumps(data))
    assert main(["check", str(path), str(folder)]) == 1
    output = capsys.readouterr().out
    assert "is not an image" not in output and "damaged" not in output
    assert ("lead out of" in output) == (not name.startswith("\ud800"))


def test_an_error_of_a_loaders_worker_is_one_line(capsys):
    def fail(*_):
        raise SizeMismatchError(
            "Caught SizeMismatchError in DataLoader worker process 0.\nOriginal Traceback (most "
            'recent call last):\n  File "x.py", line 1, in f\ndetectron2.data.detection_utils.'
            "SizeMismatchError: Image a.jpg is 8 x 9 pixels\n"
        )

    assert run(fail, None, "hrnet-d2 train") == 1
    error = capsys.readouterr().err
    assert error == "hrnet-d2 train: SizeMismatchError: Image a.jpg is 8 x 9 pixels\n"


def test_a_backend_that_is_missing_is_one_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)

    def convert(*_):
        openvino_backend.convert(HRNet(4).eval())

    assert run(convert, None, "hrnet-d2 predict") == 1
    error = capsys.readouterr().err
    assert error.startswith(
        "hrnet-d2 predict: BackendError: OpenVINO is not installed: pip install"
    )
    assert error.count("\n") == 1
