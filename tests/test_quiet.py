"""Noise of others is silent where it is false or nobody can act on it, and nowhere else."""

import subprocess
import sys
import textwrap

SCRIPT = """
    import logging, sys, warnings
    warnings.simplefilter("always")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    import torch
    from detectron2.data import DatasetCatalog
    import hrnet_d2
    from hrnet_d2.evaluation import build_evaluator
    from hrnet_d2.modeling import build_model

    filters = list(warnings.filters)
    from tests.configs import load_config
    cfg = load_config("quick_start/faster_rcnn_hrnetv2p_w18_shapes.yaml")
    cfg.MODEL.HRNETV2P.WIDTH = 4
    model = build_model(cfg).eval()
    with torch.no_grad():
        model([{"image": torch.zeros(3, 64, 64)}])  # pools, if there are proposals
    DatasetCatalog.get("shapes_val")  # writes the built-in data
    build_evaluator(cfg, "shapes_val", sys.argv[1])
    assert warnings.filters == filters, "the user's filters changed"
    assert not logging.getLogger("torch.fx._symbolic_trace").filters
    warnings.warn("torch.meshgrid: in an upcoming release, said by the user", UserWarning)
    warnings.warn("the user's own", UserWarning)
"""


def test_training_and_evaluating_say_nothing_false(tmp_path):
    result = subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(SCRIPT), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    said = result.stderr
    assert "pass the indexing argument" not in said
    assert "Fast COCO eval is not built" not in said
    assert "is_fx_tracing" not in said
    assert "pkg_resources" not in said
    # What others say to the user stays.
    assert "said by the user" in said and "the user's own" in said


def filters_after(imports):
    """The process, which prints the filters of warnings that there are after some imports."""
    code = f"import {imports}, warnings; print(*warnings.filters, sep='\\n')"
    result = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result


def test_importing_says_nothing_of_what_others_use():
    """PyTorch calls deprecated what modules of Detectron2 and fvcore do when they are imported."""
    ours = filters_after("hrnet_d2, hrnet_d2.engine, hrnet_d2.evaluation")
    assert "torch.jit" not in ours.stderr
    theirs = filters_after("torchvision, detectron2.modeling, detectron2.engine")
    assert "TracerWarning" in theirs.stdout
    assert set(theirs.stdout.splitlines()) <= set(ours.stdout.splitlines())
