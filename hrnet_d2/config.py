"""Every key that this package adds to a Detectron2 config, its default and what it does.

The defaults are MMDetection's arithmetic.  Each departure from stock Detectron2 is a key of its
own, and its comment says which value turns it back.
"""

from detectron2.config import CfgNode as CN

__all__ = ["add_hrnet_config"]


def add_hrnet_config(cfg: CN) -> None:
    """Add this package's keys to ``cfg``, in place; those already there keep their values.

    Args:
        cfg: a Detectron2 config, for example of ``detectron2.config.get_cfg()``.
    """
    _add(
        cfg.MODEL,
        # Load MODEL.WEIGHTS although layers outside the backbone differ from the file's: these are
        # re-initialized, as for fine-tuning on other classes. False: such a file is an error.
        PARTIAL_LOAD=False,
        # Train with maps in channels-last memory format: the same to rounding, faster with 16-bit
        # types on a GPU. (For inference see OPTIMIZE.CHANNELS_LAST.)
        CHANNELS_LAST=False,
    )
    _add_backbone(cfg)
    _add_input(cfg)
    _add_two_stage(cfg)
    _add_htc(cfg)
    _add_fcos(cfg)
    _add_solver(cfg)
    _add_optimize(cfg)


def _add(node: CN, **defaults) -> CN:
    """Give ``node`` the keys that it lacks; returns it."""
    for key, value in defaults.items():
        if key not in node:
            node[key] = value
    return node


def _child(node: CN, name: str) -> CN:
    """The sub-node ``name``, made where it is missing."""
    return _add(node, **{name: CN()})[name]


def _add_backbone(cfg: CN) -> None:
    hrnet = _add(
        _child(cfg.MODEL, "HRNETV2P"),
        # Channels of the finest branch: 18, 32, 40 or 48 have published weights.
        WIDTH=32,
        # "BN", "FrozenBN", "SyncBN" or "GN".
        NORM="BN",
        # Batch-normalization layers keep their running statistics in training while weight and
        # bias learn. False to train from scratch.
        NORM_EVAL=True,
        # In training, make normalization on running statistics part of the convolution before it:
        # same results and gradients to rounding, less memory and time. False computes one after
        # the other.
        FOLD_NORM=True,
        # Stages that do not learn, counted from the stem: 0 is none, 1 the stem, up to 5 all.
        # MODEL.BACKBONE.FREEZE_AT has no effect on HRNet, since its default of 2 is ResNet's.
        FREEZE_AT=0,
        # Stages among "stage1" ... "stage4" that compute their activations again in the backward
        # pass: same results, less memory, more time.
        ACT_CHECKPOINT=[],
        # Levels of the backbone (strides 4, 8, 16, 32) that it returns and the neck uses.
        OUT_FEATURES=["res2", "res3", "res4", "res5"],
    )
    _add(
        _child(hrnet, "NECK"),
        OUT_CHANNELS=256,
        NUM_OUTS=5,
        # Of the output convolutions: 1 gives p2 ... p6 (two-stage), 2 gives p3 ... p7 (FCOS).
        STRIDE=1,
        # Normalization after each convolution; "" is none.
        NORM="",
        # "" (none) or "relu" after each convolution.
        ACTIVATION="",
        # "avg" or "max", from the mixed map to the coarser levels.
        POOLING="avg",
        # Concatenate the upsampled branches and mix them by a 1x1 convolution (True, as published),
        # or mix each branch at its own resolution, then upsample and sum: the same to rounding,
        # less memory in training.
        CONCAT=True,
    )


def _add_input(cfg: CN) -> None:
    _add(
        cfg.INPUT,
        # What reads and resizes images: "opencv" as MMDetection does, or "detectron2" (Pillow,
        # which smooths before it shrinks).
        BACKEND="opencv",
        # Annotated boxes narrower or lower than this many pixels (of the image file) are dropped;
        # 0 keeps them all.
        MIN_BOX_SIZE=1.0,
        # Images with more pixels than this are refused before they are decoded, since a small file
        # may claim a size that takes all memory.
        MAX_PIXELS=2**28,
    )
    # Names of the classes, written by train_net.py for own data, so that a saved config is enough
    # to draw predictions.
    _add(cfg.DATASETS, CLASS_NAMES=[])
    # Accept file names in annotation files of custom data that lead out of the folder of images,
    # by "..", as absolute paths or through links.
    _add(cfg.DATASETS, ALLOW_OUTSIDE_FILES=False)


def _add_two_stage(cfg: CN) -> None:
    _add(
        cfg.MODEL.RPN,
        # For PROPOSAL_GENERATOR.NAME "MaxIoURPN" ("RPN" is stock Detectron2's).
        # Least IoU at which an object without a good anchor takes its best ones for its own;
        # -1 is stock: any IoU, and the anchors keep the object that they overlap most.
        MIN_POS_IOU=0.3,
        # Anchors outside the padded image, or out of bounds by BOUNDARY_THRESH, are left out
        # before matching; stock matches first and discards after.
        MATCH_VALID_ANCHORS=True,
        # Divide the losses by the number of anchors "sampled", or by the configured "batch_size"
        # (stock).
        LOSS_NORMALIZER="sampled",
    )
    _add(
        cfg.MODEL.ROI_HEADS,
        # For ROI heads of this package. An object takes the proposals that overlap it most, from
        # the IoU threshold on, even where those overlap another object more. False is stock.
        MATCH_LOW_QUALITY=False,
    )
    _add(
        cfg.MODEL.ROI_BOX_CASCADE_HEAD,
        # For ROI heads of this package ("CascadeROIHeads" is stock Detectron2's).
        # Weights of the losses of each stage; stock: 1, 1, 1.
        STAGE_LOSS_WEIGHTS=[1.0, 0.5, 0.25],
        # Scores of the stages are averaged as "logits", or as "probabilities" (stock).
        SCORE_FUSION="logits",
        # Assign and sample proposals afresh at each stage; False is stock: boxes of the first
        # stage's sample are relabeled.
        RESAMPLE=True,
        # Factor on the gradient from the heads into the features; stock: 1/3, the stages' share.
        FEATURE_GRADIENT_SCALE=1.0,
    )


def _add_htc(cfg: CN) -> None:
    _add(
        _child(cfg.MODEL, "HTC"),
        # Semantic branch, trained on stuff maps. False for data without maps.
        SEMANTIC_ON=True,
        # Masks at test: "avg" of the three stages' probabilities (published numbers), or the "last"
        # stage's alone (as MMDetection 3.x computes).
        MASK_TEST="avg",
    )


def _add_fcos(cfg: CN) -> None:
    _add(
        _child(cfg.MODEL, "FCOS"),
        NUM_CLASSES=80,
        IN_FEATURES=["p3", "p4", "p5", "p6", "p7"],
        # Convolutions in each tower, and their normalization.
        NUM_CONVS=4,
        NORM="GN",
        # Objects whose longest side to a location lies in between these belong to a level.
        SIZES_OF_INTEREST=[64, 128, 256, 512],
        PRIOR_PROB=0.01,
        FOCAL_LOSS_GAMMA=2.0,
        FOCAL_LOSS_ALPHA=0.25,
        # "iou" (-log IoU), "giou" or "diou".
        BOX_LOSS="iou",
        # Only locations within this many strides of an object's center are positive; 0 is off.
        CENTER_SAMPLING_RADIUS=0.0,
        # Regress distances in units of the level's stride through ReLU, not in pixels through exp.
        NORM_ON_BBOX=False,
        # Predict the centerness from the regression tower, not from the classification tower.
        CENTERNESS_ON_REG=False,
        # Class probability from which on a location is a candidate.
        SCORE_THRESH_TEST=0.05,
        # Candidates for each level before NMS.
        TOPK_CANDIDATES_TEST=1000,
        NMS_THRESH_TEST=0.5,
    )


def _add_solver(cfg: CN) -> None:
    _add(
        cfg.SOLVER,
        # Factor on the learning rate of biases of convolutions and linear layers, and their weight
        # decay (negative: as the other parameters). Unlike BIAS_LR_FACTOR and WEIGHT_DECAY_BIAS
        # these leave the biases of normalization layers alone.
        # CLIP_GRADIENTS.CLIP_TYPE takes "full_model" beside Detectron2's "value" and "norm": the
        # norm of the whole gradient is clipped at CLIP_VALUE, not that of each parameter.
        CONV_BIAS_LR_FACTOR=1.0,
        CONV_BIAS_WEIGHT_DECAY=-1.0,
    )
    _add(
        cfg.SOLVER,
        # Batch and learning rate of the recipe: a run with another batch and this rate is warned.
        # A batch of 0 says nothing.
        REFERENCE_BATCH_SIZE=0,
        REFERENCE_LR=0.0,
    )
    # One kernel for the whole step of SGD, instead of one for each of its operations. Not with
    # gradients of float16, which clipping must see unscaled.
    _add(cfg.SOLVER, FUSED=False)
    # "float16" (with a gradient scaler) or "bfloat16" (without), for SOLVER.AMP.ENABLED.
    _add(cfg.SOLVER.AMP, DTYPE="float16")


def _add_optimize(cfg: CN) -> None:
    _add(
        _child(cfg.MODEL, "OPTIMIZE"),
        # Rewrite the network for inference (Predictor, --eval-only): same results to rounding.
        # The keys below are the arguments of hrnet_d2.optimize.
        ENABLED=True,
        # "on", "off", or "auto": on the CPU, and on a GPU with a 16-bit DTYPE.
        CHANNELS_LAST="auto",
        # Winograd's algorithm for large 3x3 convolutions on the CPU.
        WINOGRAD=True,
        # "float32", or "bfloat16" or "float16": faster, results change by the type's precision.
        DTYPE="float32",
        # torch.compile the backbone's modules: the first image takes a minute.
        COMPILE=False,
        # Replay the backbone as one CUDA graph for each input size.
        CUDA_GRAPHS=False,
        # Pad images to multiples of this, so that COMPILE and CUDA_GRAPHS meet fewer sizes; 0 is
        # the backbone's own 32.
        SIZE_BUCKET=0,
    )
