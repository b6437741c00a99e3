"""Values of configs that cannot work are named before anything is built."""

import pytest

from hrnet_d2 import model_zoo
from hrnet_d2.config_check import check_config
from hrnet_d2.config_file import ConfigError
from hrnet_d2.config_rules import RULES

FASTER = "faster_rcnn_hrnetv2p_w18_1x_coco"
CASCADE = "cascade_rcnn_hrnetv2p_w18_20e_coco"
FCOS = "fcos_hrnetv2p_w18_gn-head_4x4_1x_coco"


@pytest.mark.parametrize("name", model_zoo.list_models())
def test_every_model_of_the_zoo_passes(name):
    check_config(model_zoo.get_config(name))


def test_configs_of_the_quick_start_pass():
    check_config(model_zoo.load_config("quick_start/fcos_hrnetv2p_w18_shapes.yaml"))


def test_every_rule_is_of_a_key_that_exists():
    known = model_zoo.load_config("")
    for key in RULES:
        node = known
        for part in key.split("."):
            node = node[part]


@pytest.mark.parametrize(
    "name, key, value, message",
    [
        (FASTER, "SOLVER.MAX_ITER", "0", "at least 1"),
        (FASTER, "SOLVER.MAX_ITER", "None", "or write one, such as 40000"),
        (FASTER, "SOLVER.WARMUP_ITERS", "None", "has no value"),
        (FASTER, "INPUT.MOSAIC.PROB", "None", "or write one, such as 0.0"),
        (FASTER, "MODEL.MASK_ON", "None", "or write one, such as False"),
        (FASTER, "SOLVER.MAX_ITER", "-5", "at least 1"),
        (FASTER, "SOLVER.STEPS", "(2, 1)", "increase"),
        (FASTER, "SOLVER.STEPS", "(-1,)", "at least 1"),
        (FASTER, "SOLVER.CHECKPOINT_PERIOD", "-1", "at least 0"),
        (FASTER, "SOLVER.BASE_LR", "0.0", "above 0"),
        (FASTER, "SOLVER.BASE_LR", "float('nan')", "above 0"),
        (FASTER, "SOLVER.IMS_PER_BATCH", "0", "at least 1"),
        (FASTER, "SOLVER.IMS_PER_BATCH", "1000000000", "at most 65536"),
        (FASTER, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosinLR", "did you mean 'WarmupCosineLR'"),
        (FASTER, "SOLVER.AMP.DTYPE", "float8", "'float16', 'bfloat16'"),
        (FASTER, "MODEL.HRNETV2P.NORM", "XX", "'BN', 'FrozenBN', 'SyncBN', 'GN'"),
        (FASTER, "MODEL.HRNETV2P.NORM", "bn", "did you mean 'BN'"),
        (FASTER, "MODEL.HRNETV2P.WIDTH", "0", "at least 1"),
        (FASTER, "MODEL.HRNETV2P.NECK.NUM_OUTS", "2", "the neck makes p2, p3"),
        (FASTER, "MODEL.HRNETV2P.NECK.POOLING", "mean", "'avg', 'max'"),
        (FASTER, "MODEL.HRNETV2P.ACT_CHECKPOINT", "['stage9']", "stage1"),
        (FASTER, "MODEL.PIXEL_MEAN", "[1.0]", "3 channels"),
        (FASTER, "MODEL.PIXEL_STD", "[0.0, 1.0, 1.0]", "above 0"),
        (FASTER, "MODEL.DEVICE", "gpu", "'cpu', 'cuda'"),
        (FASTER, "INPUT.RANDOM_FLIP", "both", "'horizontal'"),
        (FASTER, "INPUT.MASK_FORMAT", "foo", "'bitmask'"),
        (FASTER, "INPUT.MIN_SIZE_TRAIN", "()", "at least one"),
        (FASTER, "OUTPUT_DIR", "", "a folder's path"),
        (FCOS, "MODEL.FCOS.PRIOR_PROB", "1.0", "between 0 and 1"),
        (FCOS, "MODEL.FCOS.SIZES_OF_INTEREST", "[64, 128]", "one less"),
        (FCOS, "MODEL.FCOS.IN_FEATURES", "['p2', 'p3', 'p4', 'p5', 'p6']", "names p2"),
        (FASTER, "MODEL.ANCHOR_GENERATOR.OFFSET", "1.0", "from 0 to below 1"),
        (FASTER, "MODEL.RPN.IN_FEATURES", "[2, 3]", "names of levels"),
        (FASTER, "MODEL.ROI_HEADS.IN_FEATURES", "[[]]", "names of levels"),
        (FCOS, "MODEL.FCOS.IN_FEATURES", "[3]", "names of levels"),
        (FASTER, "MODEL.RPN.IOU_THRESHOLDS", "['a', 'b']", "numbers"),
        (FASTER, "MODEL.RPN.CONV_DIMS", "[0]", "at least 1, or -1"),
        (FASTER, "MODEL.RPN.LOSS_WEIGHT", "float('nan')", "at least 0"),
        (FASTER, "MODEL.RPN.MIN_POS_IOU", "-1.0", "set MODEL.RPN.MATCH_VALID_ANCHORS False"),
        (FASTER, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", "-1.0", "at least 0"),
        (FASTER, "MODEL.RPN.BBOX_REG_WEIGHTS", "()", "x, y, width and height"),
        (FASTER, "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", "(1.0, 1.0)", "x, y, width and height"),
        (FASTER, "MODEL.META_ARCHITECTURE", "FCOSS", "did you mean 'FCOS'"),
        (FASTER, "MODEL.BACKBONE.NAME", "build_hrnetv2p_backbon", "'build_hrnetv2p_backbone'"),
        (FASTER, "MODEL.ROI_HEADS.NAME", "Foo", "registered: "),
        (FASTER, "MODEL.ROI_BOX_HEAD.NAME", "", "FastRCNNConvFCHead"),
        (FASTER, "MODEL.PROPOSAL_GENERATOR.NAME", "Rpn", "registered: "),
        (FASTER, "MODEL.ANCHOR_GENERATOR.NAME", "foo", "DefaultAnchorGenerator"),
        (FASTER, "MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [16]]", "each of the 5 levels"),
        (FASTER, "MODEL.ANCHOR_GENERATOR.SIZES", "[[-8]]", "above 0"),
        (FASTER, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[0.0]]", "above 0"),
        (FASTER, "MODEL.RPN.IOU_THRESHOLDS", "[0.7, 0.3]", "increasing"),
        (FASTER, "MODEL.ROI_HEADS.IOU_LABELS", "[0]", "each of the 2 ranges"),
        (FASTER, "MODEL.ROI_HEADS.IN_FEATURES", "[]", "name the levels"),
        (FASTER, "MODEL.RPN.BBOX_REG_WEIGHTS", "(0.0, 1.0, 1.0, 1.0)", "above 0"),
        (FASTER, "MODEL.RPN.BBOX_REG_LOSS_TYPE", "l2", "'smooth_l1'"),
        (FASTER, "MODEL.RPN.SMOOTH_L1_BETA", "-1.0", "at least 0"),
        (FASTER, "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "foo", "'ROIAlignV2'"),
        (FASTER, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "0", "at least 1"),
        (FASTER, "MODEL.ROI_BOX_HEAD.FC_DIM", "0", "at least 1"),
        (CASCADE, "MODEL.ROI_BOX_CASCADE_HEAD.IOUS", "(0.5,)", "each stage"),
        (FASTER, "TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 1]]", "[task, metric"),
        (FASTER, "DATALOADER.NUM_WORKERS", "100000", "from 0 to 1024"),
        (FASTER, "SEED", "4294967296", "below 2**32"),
        (FASTER, "MODEL.OPTIMIZE.DTYPE", "bf16", "did you mean 'bfloat16'"),
        (FASTER, "MODEL.OPTIMIZE.SIZE_BUCKET", "33", "a multiple of 32"),
        (FASTER, "SOLVER.FUSED", "yes", "True or False"),
    ],
)
def test_a_value_that_cannot_work_is_named(name, key, value, message):
    cfg = model_zoo.load_config(name)
    node = cfg
    *path, last = key.split(".")
    for part in path:
        node = node[part]
    if "nan" in value:
        node[last] = float("nan")
    else:
        cfg = model_zoo.load_config(name, [key, value])
    with pytest.raises(ConfigError) as error:
        check_config(cfg)
    assert message in str(error.value) and key.split(".")[-1] in str(error.value)


def test_all_problems_are_reported_at_once_and_prediction_skips_the_solver():
    options = ["SOLVER.MAX_ITER", "0", "MODEL.PIXEL_STD", "[0.0, 1.0, 1.0]"]
    cfg = model_zoo.load_config(FASTER, options)
    with pytest.raises(ConfigError, match=r"(?s)PIXEL_STD.*MAX_ITER"):
        check_config(cfg)
    with pytest.raises(ConfigError) as error:
        check_config(cfg, train=False)
    assert "MAX_ITER" not in str(error.value)


@pytest.mark.parametrize(
    "options, message",
    [
        (["INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "foo"], "CROP.TYPE.*'relative_range'"),
        (["INPUT.CROP.ENABLED", "True", "INPUT.CROP.SIZE", "[0.0, 0.5]"], "CROP.SIZE.*fractions"),
        (
            ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", "5.0"],
            "BASE_LR_END is 5.0.*from 0 to SOLVER.BASE_LR",
        ),
        (
            ["MODEL.OPTIMIZE.BACKEND", "openvino", "MODEL.OPTIMIZE.COMPILE", "True"],
            "COMPILE is for MODEL.OPTIMIZE.BACKEND 'torch'",
        ),
    ],
)
def test_values_that_depend_on_another_key(options, message):
    with pytest.raises(ConfigError, match=message):
        check_config(model_zoo.load_config(FASTER, options))


def test_what_a_model_does_not_read_is_not_checked():
    options = ["MODEL.ROI_HEADS.NAME", "Foo", "MODEL.ANCHOR_GENERATOR.SIZES", "[[-8]]"]
    check_config(model_zoo.load_config(FCOS, options))
    check_config(model_zoo.load_config(FASTER, ["INPUT.CROP.SIZE", "[0.0, 0.0]", "SEED", "-5"]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["SOLVER.STEPS", "(50, 81)", "SOLVER.MAX_ITER", "80"], "not reduced at 81, since"),
        (["SOLVER.STEPS", "(900, 950)", "SOLVER.MAX_ITER", "81"], "not reduced at 900, 950"),
        (["SOLVER.WARMUP_ITERS", "83", "SOLVER.MAX_ITER", "82"], "the warmup never ends"),
    ],
)
def test_schedules_that_outlast_the_training(caplog, options, words):
    cfg = model_zoo.load_config(FASTER, ["SOLVER.STEPS", "(5,)", *options])
    check_config(cfg, train=False)
    assert words not in caplog.text
    check_config(cfg)
    assert words in caplog.text and "SOLVER.MAX_ITER" in caplog.text
