#!/usr/bin/env python
"""Hold every reference case through the Predictor's backends, in float32.

python tools/check_backends.py --backend openvino       exits with 1 if a case falls short

A case holds if at least 98 of 100 detections have their counterpart in what MMDetection computed
(same class, IoU > 0.99, scores within 2e-3) and the masks of these an IoU above 0.98; see
tests/reference/README.md. Backends are values of MODEL.OPTIMIZE.BACKEND. Results go to
benchmarks/reference_backends.json; those of cases and backends that were not run stay. Exports are
held by tools/build_export_matrix.py.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULT = ROOT / "benchmarks" / "reference_backends.json"
BACKENDS = ("torch", "openvino")
MATCHED, MASK_IOU = 0.98, 0.98


def hold(name: str, backend: str) -> dict:
    """What came of a case with one backend."""
    from hrnet_d2 import Predictor
    from tests.export.models import case_config
    from tests.parity import load_case

    case = load_case(name)
    with tempfile.TemporaryDirectory() as folder:
        cfg = case_config(name, Path(folder))
        cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST = case.spec["scale"]
        cfg.MODEL.OPTIMIZE.BACKEND = backend
        found = Predictor(cfg)(case.image)["instances"]
    return {"case": name, "backend": backend} | against_reference(case, found)


def against_reference(case: Any, found: Any) -> dict:
    """How many detections match the case's, and how far these are apart.

    Args:
        case: a reference case.
        found: Instances in its photograph.
    """
    from tests.parity import mask_ious, match_detections

    arrays = case.arrays
    pairs = match_detections(case, found)
    expected, made = (list(rows) for rows in zip(*pairs, strict=True)) if pairs else ([], [])
    boxes = arrays["pred_boxes"][expected] - found.pred_boxes.tensor.numpy()[made]
    scores = arrays["pred_scores"][expected] - found.scores.numpy()[made]
    row = {
        "expected": len(arrays["pred_boxes"]),
        "made": len(found),
        "matched": len(pairs),
        "box": float(abs(boxes).max(initial=0)),
        "score": float(abs(scores).max(initial=0)),
    }
    holds = len(pairs) >= MATCHED * row["expected"]
    if "pred_masks_packed_first20" in arrays:
        row["mask_iou"] = min(mask_ious(case, found, pairs), default=0.0)
        holds = holds and row["mask_iou"] > MASK_IOU
    return row | {"holds": holds}


def main() -> int:
    from tests.export.models import CASES, MMDET1_CASES, OTHER_CASES

    names = [*CASES, *OTHER_CASES, *MMDET1_CASES]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--case", nargs="+", choices=names, default=names)
    args = parser.parse_args()
    rows = json.loads(RESULT.read_text("utf-8"))["rows"] if RESULT.exists() else []
    failed = 0
    for name in args.case:
        for backend in args.backend:
            row = hold(name, backend)
            print(json.dumps(row), flush=True)
            failed += not row["holds"]
            rows = [r for r in rows if (r["case"], r["backend"]) != (name, backend)] + [row]
            result = {"command": "python tools/check_backends.py", "rows": rows}
            RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
