"""What may be written where, and what is left when an export fails."""

import errno
import os
from pathlib import Path

import pytest
import torch

from hrnet_d2.cli import main
from hrnet_d2.export import ExportError, export, settings, torch_formats
from hrnet_d2.export.folder import WRITTEN, new_folder, refuse_existing
from hrnet_d2.export.settings import check_arguments


def fill(target, text, overwrite=False):
    with new_folder(target, overwrite) as folder:
        (folder / "settings.json").write_text(text)


def test_a_folder_appears_complete(tmp_path):
    target = tmp_path / "made" / "here"
    with new_folder(target, overwrite=False) as folder:
        (folder / "settings.json").write_text("{}")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["settings.json"]
    assert [path.name for path in target.parent.iterdir()] == ["here"]
    assert target.stat().st_mode & 0o777 == target.parent.stat().st_mode & 0o777


def test_an_earlier_export_is_replaced_only_if_asked(tmp_path):
    target = tmp_path / "exported"
    fill(target, "first")
    with pytest.raises(ExportError, match="--overwrite"):
        fill(target, "second")
    assert (target / "settings.json").read_text() == "first"
    fill(target, "second", overwrite=True)
    assert (target / "settings.json").read_text() == "second"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_what_was_there(tmp_path):
    target = tmp_path / "exported"
    fill(target, "first")
    with pytest.raises(RuntimeError), new_folder(target, overwrite=True) as folder:
        (folder / "settings.json").write_text("half")
        raise RuntimeError
    assert (target / "settings.json").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
)
def test_a_full_disk_names_the_folder_and_the_space(tmp_path, error):
    full = pytest.raises(OSError, match=r"1\.0 MiB of the export were written.*free now.*exported'")
    with full, new_folder(tmp_path / "exported", overwrite=False) as folder:
        (folder / "detector.onnx").write_bytes(bytes(2**20))
        raise error
    assert not list(tmp_path.iterdir())
    # Of another disk, such as that of temporary files.
    other = OSError(errno.ENOSPC, "No space left on device", "/tmp/detector.onnx")
    with (
        pytest.raises(OSError, match="/tmp/detector.onnx"),
        new_folder(tmp_path / "exported", overwrite=False),
    ):
        raise other


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_a_full_disk_does_not_end_the_process(tmp_path, monkeypatch, format):
    """torch's writers abort when they cannot write to a file."""
    module, inputs = torch.nn.Linear(300, 300), (torch.zeros(1, 300),)
    monkeypatch.setattr(torch_formats, "example_inputs", lambda graph: inputs)
    path = tmp_path / "detector"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        if format == "pt2":
            torch_formats.write_program(torch.export.export(module, inputs), path)
        else:
            torch_formats.write_torchscript(module, path)


def test_other_folders_and_files_are_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    for target, words in (("photos", "no exported detector"), ("photos/a.jpg", "is a file")):
        with pytest.raises(ExportError, match=words):
            fill(tmp_path / target, "text", overwrite=True)
    with pytest.raises(ExportError, match="a.jpg is a file, not a folder"):
        fill(tmp_path / "photos" / "a.jpg" / "exported", "text")
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty", "text")
    assert (tmp_path / "empty" / "settings.json").exists()


def test_other_files_beside_an_export_are_never_deleted(tmp_path):
    """Other programs have a settings.json too."""
    fill(tmp_path / "project", "{}")
    (tmp_path / "project" / "thesis.tex").touch()
    with pytest.raises(ExportError, match="also holds thesis.tex, which no export wrote"):
        fill(tmp_path / "project", "text", overwrite=True)
    assert (tmp_path / "project" / "thesis.tex").exists()


def test_all_that_an_export_writes_may_be_replaced(tmp_path):
    target = tmp_path / "exported"
    for name in sorted(WRITTEN):
        fill(target, "first", overwrite=True)
        (target / name).touch()
    fill(target, "second", overwrite=True)
    assert [path.name for path in target.iterdir()] == ["settings.json"]


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(ExportError, match="cannot be written to"):
        fill(tmp_path / "exported", "text")


def test_a_link_is_followed(tmp_path):
    fill(tmp_path / "v1", "first")
    (tmp_path / "current").symlink_to("v1")
    with pytest.raises(ExportError, match="current has an exported detector"):
        fill(tmp_path / "current", "second")
    fill(tmp_path / "current", "second", overwrite=True)
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "v1" / "settings.json").read_text() == "second"
    (tmp_path / "next").symlink_to("v2")
    fill(tmp_path / "next", "third")
    assert (tmp_path / "v2" / "settings.json").read_text() == "third"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "next", "v1", "v2"]


def test_folders_that_cannot_be_renamed(tmp_path, monkeypatch):
    """Told before the work, not after it."""
    (tmp_path / "volume").mkdir()
    monkeypatch.chdir(tmp_path / "volume")
    for target in (".", tmp_path):
        with pytest.raises(ExportError, match="is the folder that this runs in: give a folder in"):
            refuse_existing(Path(target), overwrite=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "ismount", lambda path: path.name == "volume")
    with pytest.raises(ExportError, match="volume is mounted and cannot be replaced"):
        refuse_existing(tmp_path / "volume", overwrite=True)


def test_what_cannot_be_renamed_leaves_what_was_there(tmp_path, monkeypatch):
    target = tmp_path / "exported"
    fill(target, "first")
    rename = Path.rename

    def failing(path, new):
        if path.suffix == ".part":
            raise PermissionError("in use")
        return rename(path, new)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(PermissionError):
        fill(target, "second", overwrite=True)
    assert (target / "settings.json").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupt_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "exported", False) as folder:
        (folder / "settings.json").write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_made_is_refused_before_anything_is_loaded(tmp_path, capsys):
    output = str(tmp_path / "exported")
    words = ["export", "no_such_file.pth", "--output", output]
    assert main([*words, "--format", "onnx", "--dtype", "bfloat16", "--config-file", ""]) == 1
    assert not (tmp_path / "exported").exists()
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(ExportError, match="no bfloat16 convolutions"):
        check_arguments("onnx", "bfloat16")
    with pytest.raises(ExportError, match="no format 'tflite'"):
        check_arguments("tflite", "float32")
    assert main([*words, "--format", "pt2", "--keep", "stage4"]) == 1
    assert "--keep is for --calibrate" in capsys.readouterr().err
    assert main([*words, "--format", "pt2", "--calibrate", str(tmp_path)]) == 1
    assert "quantizes for openvino" in capsys.readouterr().err
    with pytest.raises(ExportError, match="int8 needs --calibrate"):
        export("no_such_file.pth", output, format="openvino", dtype="int8")
    assert main([*words, "--format", "openvino", "--dtype", "int8"]) == 1
    assert "int8 needs --calibrate" in capsys.readouterr().err
    assert main([*words, "--opts", "MODEL.WEIGHTS", "other.pth"]) == 1
    assert "the option MODEL.WEIGHTS is other.pth" in capsys.readouterr().err
    assert main([*words, "--opts", "MODEL.DEVICE"]) == 1
    assert "got 1 words: MODEL.DEVICE\n" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--format", "tflite"])
    assert "invalid choice: 'tflite'" in capsys.readouterr().err


@pytest.fixture
def recent(monkeypatch):
    """A PyTorch that every export can be made by."""
    monkeypatch.setattr(torch, "__version__", "2.7.0")


def test_int8_may_be_said_with_calibrate(monkeypatch, recent):
    monkeypatch.setattr(settings, "_version", lambda name: "1")
    for dtype in ("float32", "int8"):
        found = settings.check_options(
            "openvino", dtype, calibrate=True, keep=False, compile_backbone=False
        )
        assert found == "int8"


@pytest.mark.parametrize("version", ["2.4.1+cu121", "2.6.0"])
def test_an_old_pytorch_is_named(monkeypatch, version):
    monkeypatch.setattr(torch, "__version__", version)
    for format in ("onnx", "openvino", "pt2"):
        with pytest.raises(ExportError, match=f"{format} needs PyTorch 2.7 or newer"):
            check_arguments(format, "float32")
    check_arguments("torchscript", "float32")


def test_a_missing_library_is_named(monkeypatch, recent):
    monkeypatch.setattr(settings, "_version", lambda name: None)
    with pytest.raises(ExportError, match=r"pip install 'hrnet_d2\[openvino\]'"):
        check_arguments("openvino", "float32")
