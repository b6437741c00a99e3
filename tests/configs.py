"""The configs of the table, once for all tests, and how a test reads one."""

from pathlib import Path

from detectron2.config import CfgNode, get_cfg

from hrnet_d2 import add_hrnet_config

FOLDER = Path(__file__).parents[1] / "configs"
WIDTHS = (18, 32, 40, 48)

# Written out, not globbed: a file that is lost or misnamed must fail a test.
LEAVES = [
    f"{family}/{stem}_coco.yaml"
    for family, stems in {
        "faster_rcnn": [f"faster_rcnn_hrnetv2p_w{w}_{s}" for w in WIDTHS for s in ("1x", "2x")],
        "mask_rcnn": [f"mask_rcnn_hrnetv2p_w{w}_{s}" for w in WIDTHS for s in ("1x", "2x")],
        "cascade_rcnn": [f"cascade_rcnn_hrnetv2p_w{w}_20e" for w in WIDTHS],
        "cascade_mask_rcnn": [f"cascade_mask_rcnn_hrnetv2p_w{w}_20e" for w in WIDTHS],
        "htc": [
            *(f"htc_hrnetv2p_w{w}_20e" for w in WIDTHS),
            *(f"htc_hrnetv2p_w{w}_28e" for w in (40, 48)),
            "htc_x101_64x4d_fpn_28e",
        ],
        "fcos": [
            *(f"fcos_hrnetv2p_w{w}_gn-head_4x4_{s}" for w in (18, 32) for s in ("1x", "2x")),
            *(f"fcos_hrnetv2p_w{w}_gn-head_mstrain_640-800_4x4_2x" for w in WIDTHS),
        ],
    }.items()
    for stem in stems
]
QUICK_START = sorted(
    path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("quick_start/*.yaml")
)


def family_leaves() -> list[str]:
    """The first leaf of each family: leaves of a family differ only in width and schedule."""
    return list({name.split("/")[0]: name for name in reversed(LEAVES)}.values())


def load_config(name: str) -> CfgNode:
    """Config ``name`` (relative to ``configs/``) over the defaults, not frozen."""
    cfg = get_cfg()
    add_hrnet_config(cfg)
    cfg.merge_from_file(str(FOLDER / name))
    return cfg
