"""OpenVINO's intermediate representation, converted from ONNX."""

from pathlib import Path

from torch.export import ExportedProgram

from .onnx_format import write_onnx

__all__ = ["convert", "save"]


def convert(program: ExportedProgram, outputs: list[str], folder: Path) -> "openvino.Model":  # type: ignore[name-defined]  # noqa: F821
    """The program as an OpenVINO model.

    Args:
        program: of the graph.
        outputs: names of its outputs.
        folder: for a temporary file.
    """
    import openvino

    path = folder / "openvino_source.onnx"
    write_onnx(program, outputs, path)
    try:
        model = openvino.convert_model(str(path))
    finally:
        for file in folder.glob(f"{path.name}*"):
            file.unlink()
    return model


def save(model: "openvino.Model", path: Path, half_weights: bool) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Write ``path`` and the weights beside it, as float16 where ``half_weights``."""
    import openvino

    openvino.save_model(model, str(path), compress_to_fp16=half_weights)
