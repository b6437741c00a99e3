"""Every key that this package adds to a Detectron2 config: full name, default and meaning.

The defaults reproduce MMDetection.  Each departure from stock Detectron2 is a key of its own, and
the comment says which value gives Detectron2's behavior.
"""

import copy
from typing import Any

from detectron2.config import CfgNode

__all__ = ["DEFAULTS", "add_hrnet_config", "upgrade_config"]

DEFAULTS: dict[str, Any] = {
    # "highest": matrix products and convolutions in full float32. "high": on an NVIDIA GPU both
    # round what they multiply to TF32 (10 bits of mantissa). "" leaves PyTorch as it is, which is
    # TF32 for convolutions alone. The key of later versions of Detectron2, for which it is about
    # matrix products.
    "FLOAT32_PRECISION": "",
    # Load MODEL.WEIGHTS even if layers outside the backbone differ from the file's: these are
    # re-initialized, as for fine-tuning on other classes. False: such a file is an error.
    "MODEL.PARTIAL_LOAD": False,
    # Train with feature maps in channels-last memory format: the same results to rounding, faster
    # with 16-bit types on a GPU. (For inference see MODEL.OPTIMIZE.CHANNELS_LAST.)
    "MODEL.CHANNELS_LAST": False,
    # Train in float32 on the CPU with faster kernels for large layers and RoIAlign: the same
    # results to rounding. Nothing changes on a GPU.
    "MODEL.CPU_KERNELS": True,
    # "mmdet2", or "mmdet1" for checkpoints trained by MMDetection 1.x (inference only).
    "MODEL.ARITHMETIC": "mmdet2",
    #
    # ---- Backbone: HRNet
    # Channels of the finest branch: 18, 32, 40 and 48 have published weights.
    "MODEL.HRNETV2P.WIDTH": 32,
    # "BN", "FrozenBN", "SyncBN" or "GN".
    "MODEL.HRNETV2P.NORM": "BN",
    # In training, batch-normalization layers keep their running statistics while their weight and
    # bias learn (True), or measure them (False). None, or "auto": keep those that were loaded and
    # measure others, as to train from scratch; decided once and kept when the run is resumed. The
    # default is None because a Detectron2 config takes no True or False in place of a text.
    "MODEL.HRNETV2P.NORM_EVAL": None,
    # In training, make normalization on running statistics part of the convolution before it: the
    # same results and gradients to rounding, less memory and time. False computes them separately.
    "MODEL.HRNETV2P.FOLD_NORM": True,
    # Number of stages that do not learn, counted from the stem: 0 is none, 1 the stem, 5 all.
    # MODEL.BACKBONE.FREEZE_AT has no effect on HRNet, since its default of 2 is meant for ResNet.
    "MODEL.HRNETV2P.FREEZE_AT": 0,
    # Stages among "stage1" ... "stage4" whose activations are recomputed in the backward pass: the
    # same results, less memory, more time.
    "MODEL.HRNETV2P.ACT_CHECKPOINT": [],
    # Levels of the backbone (strides 4, 8, 16, 32) that it returns and the neck uses.
    "MODEL.HRNETV2P.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    #
    # ---- Neck: HRFPN
    # Channels of every output level.
    "MODEL.HRNETV2P.NECK.OUT_CHANNELS": 256,
    # Number of output levels.
    "MODEL.HRNETV2P.NECK.NUM_OUTS": 5,
    # Stride of the output convolutions: 1 gives p2 ... p6 (two-stage), 2 gives p3 ... p7 (FCOS).
    "MODEL.HRNETV2P.NECK.STRIDE": 1,
    # Normalization after each convolution; "" is none.
    "MODEL.HRNETV2P.NECK.NORM": "",
    # "" (none) or "relu" after each convolution.
    "MODEL.HRNETV2P.NECK.ACTIVATION": "",
    # "avg" or "max": how the coarser levels are pooled from the mixed map.
    "MODEL.HRNETV2P.NECK.POOLING": "avg",
    # Concatenate the upsampled branches and mix them by a 1x1 convolution (True, as published), or
    # mix each branch at its own resolution, then upsample and sum: the same to rounding, less
    # memory in training.
    "MODEL.HRNETV2P.NECK.CONCAT": True,
    #
    # ---- Input
    # What reads and resizes images: "opencv", as MMDetection does, or "detectron2" (Pillow, which
    # smooths before it downscales).
    "INPUT.BACKEND": "opencv",
    # If MODEL.WEIGHTS is a whole detector that states its pixel mean, deviation and channel order
    # (and FCOS's TOPK_BY, and at test MODEL.ARITHMETIC), the file's hold in place of the config's.
    # False: the config's hold.
    "INPUT.FROM_CHECKPOINT": True,
    # With INPUT.CROP.ENABLED (Detectron2's keys TYPE and SIZE): crops that have the center of a
    # random object, if the image has one.
    "INPUT.CROP.AROUND_OBJECTS": False,
    # Large-scale jitter in place of INPUT.MIN_SIZE_TRAIN: the image is scaled to fit SIZE (height,
    # width) times a random number from MIN_SCALE to MAX_SCALE, then cropped or padded to SIZE.
    "INPUT.SCALE_JITTER.ENABLED": False,
    "INPUT.SCALE_JITTER.MIN_SCALE": 0.1,
    "INPUT.SCALE_JITTER.MAX_SCALE": 2.0,
    "INPUT.SCALE_JITTER.SIZE": [1024, 1024],
    # Random changes of colors: factors from 1 - x to 1 + x. 0 is none.
    "INPUT.COLOR_JITTER.BRIGHTNESS": 0.0,
    "INPUT.COLOR_JITTER.CONTRAST": 0.0,
    "INPUT.COLOR_JITTER.SATURATION": 0.0,
    # Probability that an image becomes a mosaic of itself and three others, at half their size.
    "INPUT.MOSAIC.PROB": 0.0,
    # Probability that objects of another image are pasted into an image: at most MAX_OBJECTS, along
    # their segmentations, or with their boxes if they have none.
    "INPUT.COPY_PASTE.PROB": 0.0,
    "INPUT.COPY_PASTE.MAX_OBJECTS": 10,
    # Annotated boxes narrower or shorter than this many pixels (of the image file) are dropped; 0
    # keeps all.
    "INPUT.MIN_BOX_SIZE": 1.0,
    # Images with more pixels than this are refused before they are decoded, since a small file may
    # claim a size that takes all memory.
    "INPUT.MAX_PIXELS": 2**28,
    # Names of the classes. train_net.py writes them for custom data, so that a saved config is
    # enough to draw predictions.
    "DATASETS.CLASS_NAMES": [],
    # Custom data by path, as train_net.py writes them for --train-data and --val-data, so that a
    # saved config is enough to resume or evaluate: a list of {NAME: dataset in TRAIN or TEST, JSON:
    # annotation file, IMAGES: folder, SEM_SEG: folder of semantic maps, if any}. Registered by
    # hrnet_d2.data.register_from_config; a checkpoint's own config does not set it.
    "DATASETS.OWN": [],
    # Accept file names in annotation files of custom data that lead out of the folder of images,
    # by "..", as absolute paths or through links.
    "DATASETS.ALLOW_OUTSIDE_FILES": False,
    # Draw the first batch, as the network sees it, into OUTPUT_DIR/first_batch.jpg: "on", "off", or
    # "auto" for custom data only.
    "VIS_FIRST_BATCH": "auto",
    #
    # ---- Region proposals, for MODEL.PROPOSAL_GENERATOR.NAME "MaxIoURPN" ("RPN" is Detectron2's)
    # Least IoU at which an object without a good anchor takes the anchors that overlap it most.
    # -1 is stock: any IoU, and an anchor stays with the object that it overlaps most.
    "MODEL.RPN.MIN_POS_IOU": 0.3,
    # Leave out anchors outside the padded image, or out of bounds by MODEL.RPN.BOUNDARY_THRESH,
    # before matching. False is stock: match all anchors and discard afterwards.
    "MODEL.RPN.MATCH_VALID_ANCHORS": True,
    # Divide the losses by the number of "sampled" anchors, or by the configured "batch_size"
    # (stock).
    "MODEL.RPN.LOSS_NORMALIZER": "sampled",
    #
    # ---- ROI heads of this package
    # An object takes the proposals that overlap it most, from the IoU threshold on, even if they
    # overlap another object more. False is stock.
    "MODEL.ROI_HEADS.MATCH_LOW_QUALITY": False,
    # Linear Soft-NMS of the detections: boxes that overlap a better one by more than
    # MODEL.ROI_HEADS.NMS_THRESH_TEST lose score instead of being removed.
    "MODEL.ROI_HEADS.SOFT_NMS.ENABLED": False,
    # Detections whose score falls below this are removed.
    "MODEL.ROI_HEADS.SOFT_NMS.MIN_SCORE": 0.001,
    # Weights of the losses of each stage; stock: 1, 1, 1.
    "MODEL.ROI_BOX_CASCADE_HEAD.STAGE_LOSS_WEIGHTS": [1.0, 0.5, 0.25],
    # Average the scores of the stages as "logits", or as "probabilities" (stock).
    "MODEL.ROI_BOX_CASCADE_HEAD.SCORE_FUSION": "logits",
    # Assign and sample proposals again at each stage. False is stock: boxes of the first stage's
    # sample are relabeled.
    "MODEL.ROI_BOX_CASCADE_HEAD.RESAMPLE": True,
    # Factor on the gradient from the heads into the features; stock: 1/3, one over the stages.
    "MODEL.ROI_BOX_CASCADE_HEAD.FEATURE_GRADIENT_SCALE": 1.0,
    #
    # ---- Hybrid Task Cascade
    # Semantic branch, trained on stuff maps. False for data without maps.
    "MODEL.HTC.SEMANTIC_ON": True,
    # Masks at test: "avg" of the three stages' probabilities (published numbers), or those of the
    # "last" stage alone (as MMDetection 3.x computes them).
    "MODEL.HTC.MASK_TEST": "avg",
    #
    # ---- FCOS
    "MODEL.FCOS.NUM_CLASSES": 80,
    "MODEL.FCOS.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    # Convolutions in each tower, and their normalization.
    "MODEL.FCOS.NUM_CONVS": 4,
    "MODEL.FCOS.NORM": "GN",
    # Bounds between the levels: an object belongs to the level in whose range the largest distance
    # from a location to its sides lies.
    "MODEL.FCOS.SIZES_OF_INTEREST": [64, 128, 256, 512],
    # Probability of every class at the start of training.
    "MODEL.FCOS.PRIOR_PROB": 0.01,
    "MODEL.FCOS.FOCAL_LOSS_GAMMA": 2.0,
    "MODEL.FCOS.FOCAL_LOSS_ALPHA": 0.25,
    # "iou" (-log IoU), "giou" or "diou".
    "MODEL.FCOS.BOX_LOSS": "iou",
    # Only locations within this many strides of an object's center are positive; 0 turns it off.
    "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 0.0,
    # Regress distances in units of the level's stride through ReLU, not in pixels through exp.
    "MODEL.FCOS.NORM_ON_BBOX": False,
    # Predict the centerness from the regression tower, not from the classification tower.
    "MODEL.FCOS.CENTERNESS_ON_REG": False,
    # A location is a candidate for a class if the class's probability is above this.
    "MODEL.FCOS.SCORE_THRESH_TEST": 0.05,
    # Candidates of each level before NMS.
    "MODEL.FCOS.TOPK_CANDIDATES_TEST": 1000,
    # What these are: the best "pairs" of location and class (MMDetection 2.18 and later), or all
    # classes of the best "locations" (before).
    "MODEL.FCOS.TOPK_BY": "pairs",
    "MODEL.FCOS.NMS_THRESH_TEST": 0.5,
    #
    # ---- Solver
    # Factor on the learning rate of the biases of convolutions and linear layers, and their weight
    # decay (negative: that of the other parameters). Unlike SOLVER.BIAS_LR_FACTOR and
    # SOLVER.WEIGHT_DECAY_BIAS these do not apply to the biases of normalization layers.
    "SOLVER.CONV_BIAS_LR_FACTOR": 1.0,
    "SOLVER.CONV_BIAS_WEIGHT_DECAY": -1.0,
    # With CLIP_TYPE "norm": clip the norm of the whole gradient at CLIP_VALUE, not that of each
    # parameter (stock). CLIP_TYPE "full_model", of earlier versions, means both.
    "SOLVER.CLIP_GRADIENTS.FULL_MODEL": False,
    # Batch size and learning rate of the recipe: a run that changes the batch size but not the
    # rate logs a warning. A batch size of 0 turns the warning off.
    "SOLVER.REFERENCE_BATCH_SIZE": 0,
    "SOLVER.REFERENCE_LR": 0.0,
    # One kernel for the whole step of the optimizer, instead of one for each of its operations: the
    # same to float rounding. Not with float16 gradients, which would be clipped while still scaled.
    # None: on a CPU, unless SOLVER.CLIP_GRADIENTS is enabled.
    "SOLVER.FUSED": None,
    # "float16" (with a gradient scaler) or "bfloat16" (without), for SOLVER.AMP.ENABLED.
    "SOLVER.AMP.DTYPE": "float16",
    # Length of the run in epochs; above 0 it replaces SOLVER.MAX_ITER: SOLVER.STEPS move in
    # proportion, and SOLVER.WARMUP_ITERS is at most a tenth of the run.
    "SOLVER.EPOCHS": 0,
    # Run the batch of an iteration in so many parts, one after the other, and add up their
    # gradients: less memory. SOLVER.IMS_PER_BATCH remains the whole batch.
    "SOLVER.ACCUMULATE_STEPS": 1,
    # "SGD" or "AdamW".
    "SOLVER.OPTIMIZER": "SGD",
    # Coefficients of AdamW's averages of the gradient and of its square.
    "SOLVER.BETAS": [0.9, 0.999],
    # Factor on the learning rate for each stage of the backbone below the neck: with 0.8 the last
    # stage learns at 0.8 of the rate, the one before at 0.64, the stem slowest. 1 turns it off.
    "SOLVER.LAYER_DECAY": 1.0,
    # Average the weights exponentially during training. The average is what is evaluated, and the
    # model in every checkpoint; a resumed run continues both.
    "SOLVER.EMA.ENABLED": False,
    "SOLVER.EMA.DECAY": 0.999,
    # Let the decay grow from 0.1 to DECAY: (1 + n) / (10 + n) after n iterations.
    "SOLVER.EMA.WARMUP": True,
    # Batches with NaN or infinite losses that are skipped before the run ends with an error.
    "SOLVER.MAX_NONFINITE": 0,
    # SOLVER.CHECKPOINT_PERIOD takes 0: about an epoch (as for data given by --train-data).
    # Save model_last.pth if the last checkpoint is so many minutes old; 0 turns it off.
    "SOLVER.CHECKPOINT_MINUTES": 0,
    # Numbered checkpoints that stay in the folder, the newest ones; 0 keeps all.
    "SOLVER.CHECKPOINTS_TO_KEEP": 0,
    # Image files that cannot be read or used and are left out, in each process, before training
    # ends with an error.
    "DATALOADER.MAX_BAD_IMAGES": 0,
    #
    # ---- Evaluation during training
    # TEST.EVAL_PERIOD takes -1: about an epoch (as for data given by --train-data).
    # The metric whose best evaluation is saved as model_best.pth, as it is named in metrics.json;
    # "" is segm/AP for models with masks and bbox/AP for others.
    "TEST.BEST_METRIC": "",
    # End the run if that metric has not risen in so many evaluations; 0 turns it off.
    "TEST.PATIENCE": 0,
    # Measure the losses on the validation data at each evaluation (val_loss... in metrics.json).
    "TEST.VAL_LOSS": False,
    # Validation images whose predictions are drawn beside the truth at each evaluation, for
    # TensorBoard and trackers.
    "TEST.PICTURES": 4,
    #
    # ---- Trackers (--tracker)
    # "wandb" and "mlflow": where metrics and pictures go besides TensorBoard.
    "TRACKER.NAMES": [],
    "TRACKER.PROJECT": "hrnet_d2",
    # Name of the run there; "" is the name of OUTPUT_DIR's folder.
    "TRACKER.RUN": "",
    #
    # ---- Inference: the arguments of hrnet_d2.optimize
    # Rewrite the network for inference (Predictor, --eval-only): the same results to rounding.
    "MODEL.OPTIMIZE.ENABLED": True,
    # "on", "off", or "auto": on the CPU, and on a GPU with a 16-bit DTYPE or TF32 (see
    # FLOAT32_PRECISION).
    "MODEL.OPTIMIZE.CHANNELS_LAST": "auto",
    # Winograd's algorithm for large 3x3 convolutions on the CPU.
    "MODEL.OPTIMIZE.WINOGRAD": True,
    # "float32"; "bfloat16" or "float16": faster where the processor has the type, results change
    # by its precision; or "auto", which is bfloat16 where the processor has it.
    "MODEL.OPTIMIZE.DTYPE": "float32",
    # What runs the backbone, the neck and the dense head: "torch"; "openvino" on the CPU (the extra
    # of that name; converts in some seconds); "auto", where OpenVINO is installed the faster of the
    # two on this machine, measured when the model is built; or "inductor", the same as COMPILE.
    "MODEL.OPTIMIZE.BACKEND": "torch",
    # Compile the backbone's modules with torch.compile: the first image takes a minute.
    "MODEL.OPTIMIZE.COMPILE": False,
    # Replay the network as CUDA graphs, for each input size: on a GPU, three to six times as fast
    # for single images.
    "MODEL.OPTIMIZE.CUDA_GRAPHS": False,
    # Pad images to multiples of this, so that COMPILE and CUDA_GRAPHS see fewer sizes; 0 pads to
    # the backbone's own 32.
    "MODEL.OPTIMIZE.SIZE_BUCKET": 0,
}


def add_hrnet_config(cfg: CfgNode) -> None:
    """Add this package's keys to ``cfg``, in place; keys that are already there keep their values.

    Args:
        cfg: a Detectron2 config, for example from ``detectron2.config.get_cfg()``.
    """
    for name, default in DEFAULTS.items():
        *parents, key = name.split(".")
        node = cfg
        for parent in parents:
            if parent not in node:
                node[parent] = CfgNode()
            node = node[parent]
        if key not in node:
            node[key] = copy.deepcopy(default)


def upgrade_config(cfg: CfgNode) -> None:
    """Write values of earlier versions as Detectron2 knows them, in place, so that its own tools
    can read the config that a run saves: ``CLIP_TYPE "full_model"``.

    Args:
        cfg: a full config, not frozen.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.CLIP_TYPE == "full_model":
        clip.CLIP_TYPE = "norm"
        clip.FULL_MODEL = True
