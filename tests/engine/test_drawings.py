"""``VIS_PERIOD``: training writes drawings of all families to TensorBoard."""

import numpy as np
import pytest
from PIL import Image

from hrnet_d2.engine import Trainer, run_folder
from tests.configs import family_leaves, load_config
from tests.inference.test_tta import SMALL

EventAccumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator"
).EventAccumulator

PROPOSALS = "Left: GT bounding boxes;  Right: Predicted proposals"
MASKS = "Left: mask prediction;   Right: mask GT"
DETECTIONS = "Top: GT bounding boxes; Bottom: 20 Highest Scoring Results"
FAMILIES = {name.split("/")[0]: name for name in family_leaves()}


def run(folder, family, *options):
    cfg = load_config(FAMILIES[family])
    cfg.merge_from_list([*SMALL, "OUTPUT_DIR", str(folder), "DATASETS.TEST", "()"])
    cfg.merge_from_list(["SOLVER.MAX_ITER", 3, "SOLVER.STEPS", (), "SOLVER.IMS_PER_BATCH", 2])
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (96,), "INPUT.MAX_SIZE_TRAIN", 160, "SEED", 1])
    cfg.merge_from_list(["MODEL.RPN.PRE_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 20])
    cfg.merge_from_list(["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16])
    cfg.merge_from_list(["DATALOADER.NUM_WORKERS", 0, *options])
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    run_folder.release(str(folder))
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return events


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_draws(tmp_path, family):
    events = run(tmp_path, family, "VIS_PERIOD", 2)
    tags = set(events.Tags()["images"])
    if family == "fcos":
        assert tags == {DETECTIONS}
    else:
        masks = "mask" in family or family == "htc"
        assert PROPOSALS in tags
        assert any(MASKS in tag for tag in tags) == masks
    for tag in tags & {PROPOSALS, DETECTIONS}:
        images = events.Images(tag)
        assert [image.step for image in images] == [0, 2]
        (tmp_path / "drawn.png").write_bytes(images[0].encoded_image_string)
        assert np.asarray(Image.open(tmp_path / "drawn.png")).std() > 1


def test_none_by_default(tmp_path):
    assert run(tmp_path, "faster_rcnn").Tags()["images"] == []
