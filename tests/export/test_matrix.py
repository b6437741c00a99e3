import importlib.util
import json
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def matrix():
    return load_tool("build_export_matrix")


@pytest.mark.parametrize("name", ["build_export_matrix", "check_backends", "check_export_ap"])
def test_the_page_holds_the_table_of_the_results(name):
    tool = load_tool(name)
    rows = json.loads(tool.RESULT.read_text("utf-8"))["rows"]
    assert rows
    written = tool.write(tool.PAGE, tool.MARKERS, tool.table(rows), check=True)
    assert written == 0, f"run python tools/{name}.py write"


def chosen(matrix, rows, missing, names=("fcos_hrnetv2p_w18", "htc_w48")):
    columns = [(format, dtype) for format, dtype in matrix.COLUMNS if dtype == "float32"]
    return matrix.chosen_cells(rows, names, columns, missing)


def row(case, format, dtype="float32", **values):
    return {"case": case, "format": format, "dtype": dtype, "made": True, "equal": True, **values}


def test_missing_leaves_out_what_has_a_result(matrix):
    rows = [
        row("fcos_hrnetv2p_w18", "onnx"),
        row("fcos_hrnetv2p_w18", "openvino", "float16"),
        row("htc_w48", "onnx"),
        row("htc_w48", "openvino", made=False),
    ]
    assert chosen(matrix, rows, missing=True) == {
        "fcos_hrnetv2p_w18": [
            ("openvino", "float32"),
            ("pt2", "float32"),
            ("torchscript", "float32"),
        ]
    }
    assert chosen(matrix, rows, missing=False)["htc_w48"] == matrix.FEW


def test_a_run_that_stops_keeps_what_it_did(matrix, tmp_path, monkeypatch):
    """The next one with --missing goes on behind it."""
    result = tmp_path / "export_matrix.json"
    monkeypatch.setattr(matrix, "RESULT", result)

    def stops_in_the_second_column(name, columns, bare):
        yield row(name, *columns[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(matrix, "run_case", stops_in_the_second_column)
    old = [row("fcos_hrnetv2p_w18", "onnx", mebibytes=1), row("htc_hrnetv2p_w18", "onnx")]
    first = chosen(matrix, old, missing=False, names=["fcos_hrnetv2p_w18"])
    result.write_text(json.dumps({"rows": old}))
    with pytest.raises(KeyboardInterrupt):
        matrix.run("python", first)

    rows = json.loads(result.read_text("utf-8"))["rows"]
    assert [matrix.key(r)[:2] for r in rows] == [
        ("htc_hrnetv2p_w18", "onnx"),
        ("fcos_hrnetv2p_w18", "onnx"),
    ]
    assert "mebibytes" not in rows[1], "the old result is replaced"
    (left,) = chosen(matrix, rows, missing=True, names=["fcos_hrnetv2p_w18"]).values()
    assert left == first["fcos_hrnetv2p_w18"][1:]
